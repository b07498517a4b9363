"""Makes the wide starter: the starter model written exactly in other numbers, for K-quants.

    python -m benchmarks.wide_starter            # makes it once, prints its path
    python -m benchmarks.wide_starter --check    # and holds its logits against the starter's

The starter's rows of 576 do not divide by 256, and its weights lie on a Q4_1 grid, so neither
K-quants nor the quality of rounding can be measured on it. Here the hidden state is padded from
576 to 768 and turned by a random orthogonal matrix, norm weights are folded into the layers after
them, and heads of zeros fill up the attention: every row divides by 256, nothing lies on a grid,
and the function is the same. The rotation evens outliers out, so a quality figure must say which
model it comes from. 229 M parameters in F32, 0.92 GB in the user's cache folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from llamune.gguf import Entry, ModelFile, NewTensor, quant_type, write_gguf
from llamune.store import starter

Matrix = np.ndarray[Any, np.dtype[np.float64]]

NARROW, WIDTH = 576, 768
WIDE_HEADS, WIDE_HEADS_KV = 12, 4  # the starter has 9 and 3; three still share a key
HEAD_DIM = 64
SHRINK = NARROW / WIDTH  # mean square of the padded hidden state over that of the narrow one
SEED = 20_261_124
FORMAT = 1  # part of the file's name: raise it when the recipe changes
LARGEST_DIFFERENCE = 1e-3
TEXT = "The wide model is the same function as the narrow one, written in other numbers."


def make() -> Path:
    """Return the path of the wide starter, made on the first call."""
    path = starter.cache_folder() / "starter" / f"wide-{FORMAT}.gguf"
    if not path.exists():
        with ModelFile.open(starter.fetch()) as narrow:
            write(narrow, path)
    return path


def write(narrow: ModelFile, path: Path) -> None:
    """Write the wide model, a tensor at a time."""
    recipe = Recipe(narrow)
    metadata = {key: narrow.metadata.entry(key) for key in narrow.metadata}
    epsilon = narrow.metadata.number("llama.attention.layer_norm_rms_epsilon")
    metadata |= {
        "general.name": Entry.of("SmolLM2 135M Instruct, wide"),
        "general.size_label": Entry.of("229M"),
        "general.file_type": Entry.of(0),
        "llama.embedding_length": Entry.of(WIDTH),
        "llama.attention.head_count": Entry.of(WIDE_HEADS),
        "llama.attention.head_count_kv": Entry.of(WIDE_HEADS_KV),
        "llama.attention.layer_norm_rms_epsilon": Entry.of(epsilon * SHRINK),
    }
    write_gguf(path, metadata=metadata, tensors=list(recipe.tensors()))


class Recipe:
    """What becomes of each tensor.

    Args:
        narrow: the starter model.
    """

    def __init__(self, narrow: ModelFile) -> None:
        self.narrow = narrow

    @cached_property
    def turn(self) -> Matrix:
        """The first columns of a random orthogonal matrix, (wide, narrow): pads and turns."""
        chance = np.random.default_rng(SEED)
        orthogonal, triangle = np.linalg.qr(chance.standard_normal((WIDTH, WIDTH)))
        return np.ascontiguousarray((orthogonal * np.sign(np.diag(triangle)))[:, :NARROW])

    def floats(self, name: str) -> Matrix:
        """Return a tensor of the starter, (rows, columns)."""
        return self.narrow.floats(name).astype(np.float64)

    def reads_hidden(self, name: str, norm: str) -> Matrix:
        """Return a layer that reads the normed hidden state, (rows, wide)."""
        weight = self.floats(name) * self.floats(norm)
        return np.asarray(np.sqrt(SHRINK) * weight @ self.turn.T)

    def writes_hidden(self, name: str) -> Matrix:
        """Return a layer that adds to the hidden state, (wide, columns)."""
        return self.turn @ self.floats(name)

    def tensors(self) -> Iterable[NewTensor]:
        """Yield the tensors of the wide model."""
        embedding = "token_embd.weight"
        n_vocab = self.narrow.tensors[embedding].n_rows
        ones = np.ones((1, WIDTH))
        yield new(embedding, (n_vocab, WIDTH), lambda: self.floats(embedding) @ self.turn.T)
        for block in range(self.narrow.metadata.integer("llama.block_count")):
            yield from self.block(f"blk.{block}")
        yield new("output_norm.weight", (WIDTH,), lambda: ones)
        yield new(
            "output.weight",
            (n_vocab, WIDTH),
            lambda: self.reads_hidden(embedding, "output_norm.weight"),
        )

    def padded_reader(self, name: str, norm: str, n_rows: int) -> Matrix:
        """Return a layer that reads the normed hidden state, with rows of zeros after its own."""
        return padded_rows(self.reads_hidden(name, norm), n_rows)

    def block(self, block: str) -> Iterable[NewTensor]:
        """Yield the tensors of one block."""
        rows_q, rows_kv = WIDE_HEADS * HEAD_DIM, WIDE_HEADS_KV * HEAD_DIM
        d_ff = self.narrow.tensors[f"{block}.ffn_up.weight"].n_rows
        norms = {part: f"{block}.{part}_norm.weight" for part in ("attn", "ffn")}
        for name in norms.values():
            yield new(name, (WIDTH,), lambda: np.ones((1, WIDTH)))
        for part, rows in (("q", rows_q), ("k", rows_kv), ("v", rows_kv)):
            name = f"{block}.attn_{part}.weight"
            yield new(
                name,
                (rows, WIDTH),
                partial(self.padded_reader, name, norms["attn"], rows),
            )
        output = f"{block}.attn_output.weight"
        yield new(
            output,
            (WIDTH, rows_q),
            lambda: padded_rows(self.writes_hidden(output).T, rows_q).T,
        )
        for part in ("gate", "up"):
            name = f"{block}.ffn_{part}.weight"
            yield new(name, (d_ff, WIDTH), partial(self.reads_hidden, name, norms["ffn"]))
        down = f"{block}.ffn_down.weight"
        yield new(down, (WIDTH, d_ff), lambda: self.writes_hidden(down))


def padded_rows(weight: Matrix, n_rows: int) -> Matrix:
    """Return the matrix with rows of zeros after its own: heads that do nothing."""
    return np.concatenate([weight, np.zeros((n_rows - len(weight), weight.shape[1]))])


def new(name: str, shape: tuple[int, ...], compute: Callable[[], Matrix]) -> NewTensor:
    """Return a tensor that is computed when its turn comes."""
    return NewTensor(
        name, shape, quant_type("F32"), lambda: [np.ascontiguousarray(compute(), np.float32)]
    )


def largest_difference(path: Path) -> float:
    """Return the largest difference of a logit between both models in llama.cpp, over a text."""
    from llamune.engine import prompt_logits
    from llamune.text import tokenizer_of

    with ModelFile.open(path) as file:
        ids = tokenizer_of(file).encode(TEXT)
    narrow, wide = (
        next(iter(prompt_logits(one, [ids], kv_type="f32", flash=False, n_threads=1)))
        for one in (unpacked_starter(path.parent), path)
    )
    return float(np.abs(narrow - wide).max())


def unpacked_starter(folder: Path) -> Path:
    """Return the starter in F32, which the wide one must equal; packed, llama.cpp rounds more."""
    from llamune.convert import file_type, plan_quantize, quantize

    path = folder / "starter-f32.gguf"
    if not path.exists():
        with ModelFile.open(starter.fetch()) as file:
            quantize(plan_quantize(file, file_type("f32")), path, requantize=True)
    return path


def main() -> None:
    """Make it, and check it where that is asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="hold its logits against the starter's"
    )
    chosen = parser.parse_args()
    path = make()
    print(path)
    if chosen.check:
        difference = largest_difference(path)
        print(json.dumps({"benchmark": "wide_starter", "largest_logit_difference": difference}))
        assert difference < LARGEST_DIFFERENCE, difference


if __name__ == "__main__":
    main()
