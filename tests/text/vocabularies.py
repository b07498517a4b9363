"""Small vocabularies, written as GGUF files that llama.cpp and we both read."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llamune.gguf import Entry, NewTensor, quant_type, write_gguf

CONTROL, USER_DEFINED, NORMAL, UNKNOWN, BYTE = 3, 4, 1, 2, 6
VISIBLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}


def byte_letters() -> list[str]:
    """Return GPT-2's letter for each byte, worked out apart from the product's own table."""
    hidden = [byte for byte in range(256) if byte not in VISIBLE]
    return [chr(byte) if byte in VISIBLE else chr(256 + hidden.index(byte)) for byte in range(256)]


def write_vocabulary(path: Path, keys: dict[str, Any]) -> Path:
    """Write a GGUF file that holds a tokenizer and nothing else."""
    metadata = {
        "general.architecture": Entry.of("llama"),
        **{
            key: value if isinstance(value, Entry) else Entry.of(value)
            for key, value in keys.items()
        },
    }
    write_gguf(path, metadata=metadata, tensors=[])
    return path


def byte_pair_keys(
    pre: str,
    *,
    texts: Iterable[str],
    n_merges: int = 400,
    special: Sequence[tuple[str, int]] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Return the keys of a byte-level vocabulary with merges that occur in some texts."""
    letters = byte_letters()
    words = ["".join(letters[byte] for byte in text.encode()) for text in texts if text]
    taken = {text for text, _ in special}
    tokens, merges = merged_tokens(letters, words, n_merges=n_merges, taken=taken, seed=seed)
    rows = [*((token, NORMAL) for token in tokens), *special]
    return merging_keys(pre, rows, merges)


def spaced_pair_keys(
    pre: str, *, texts: Iterable[str], n_merges: int = 400, special: Sequence[tuple[str, int]] = ()
) -> dict[str, Any]:
    """Return the keys of a vocabulary of letters, `▁` for a space, and tokens for single bytes."""
    words = [text.replace(" ", "▁").replace("\0", "") for text in texts if text.strip("\0")]
    letters = sorted({letter for word in words for letter in word if ord(letter) < 0x3000})
    taken = {"\n\n", *(text for text, _ in special)}
    tokens, merges = merged_tokens(letters, words, n_merges=n_merges, taken=taken, seed=0)
    bytes_ = [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    rows = [*bytes_, *((token, NORMAL) for token in tokens), ("\n\n", NORMAL), *special]
    return merging_keys(pre, rows, merges)


def merged_tokens(
    letters: Sequence[str], words: Sequence[str], *, n_merges: int, taken: set[str], seed: int
) -> tuple[list[str], list[str]]:
    """Return tokens and merges such that each merge joins two tokens that stand side by side."""
    choose = random.Random(seed)
    tokens = dict.fromkeys(letters)
    merges: dict[str, None] = {}
    while len(merges) < n_merges:
        word = choose.choice(words)
        at = choose.randrange(len(word))
        length = choose.randint(2, 6)
        parts = beginnings(word, at, tokens)
        if not parts:
            continue
        left = choose.choice(parts)
        rest = beginnings(word, at + len(left), tokens)
        if not rest:
            continue
        right = choose.choice(rest)
        whole = left + right
        if len(whole) <= length and whole not in taken and not whole.startswith("<0x"):
            tokens[whole] = None
            merges[f"{left} {right}"] = None
    return list(tokens), list(merges)


def beginnings(word: str, at: int, tokens: Container[str]) -> list[str]:
    """Return the tokens of up to six letters that stand at a place of a word."""
    found = (word[at : at + length] for length in range(1, 7) if at + length <= len(word))
    return [part for part in found if part in tokens]


def merging_keys(
    pre: str, rows: Sequence[tuple[str, int]], merges: Sequence[str]
) -> dict[str, Any]:
    """Return the keys of a vocabulary with merges."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [token for token, _ in rows],
        "tokenizer.ggml.token_type": np.array([kind for _, kind in rows], dtype=np.int32),
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def sentence_piece_keys(scored: Sequence[tuple[str, float, int]], **extra: Any) -> dict[str, Any]:
    """Return the keys of a SentencePiece vocabulary with byte fallback."""
    rows = [
        *(("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)),
        *((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)),
        *scored,
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [text for text, _, _ in rows],
        "tokenizer.ggml.scores": np.array([score for _, score, _ in rows], dtype=np.float32),
        "tokenizer.ggml.token_type": np.array([kind for _, _, kind in rows], dtype=np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **extra,
    }


def write_model(path: Path, keys: dict[str, Any]) -> Path:
    """Write a model of one empty layer around a tokenizer: what a server needs to start."""
    width, n_vocab = 32, len(keys["tokenizer.ggml.tokens"])
    layer = {
        "attn_norm": (width,),
        "ffn_norm": (width,),
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width)),
        **dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down"), (width, width)),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (n_vocab, width),
        "output_norm": (width,),
        **{f"blk.0.{name}": shape for name, shape in layer.items()},
    }
    sizes = {
        "context_length": 64,
        "embedding_length": width,
        "block_count": 1,
        "feed_forward_length": width,
        "attention.head_count": 1,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    metadata = {
        "general.architecture": Entry.of("llama"),
        **{f"llama.{name}": Entry.of(value) for name, value in sizes.items()},
        **{key: Entry.of(value) for key, value in keys.items()},
    }
    tensors = [
        NewTensor(
            f"{name}.weight",
            shape,
            quant_type("F32"),
            lambda shape=shape: [np.zeros(shape, dtype=np.float32)],
        )
        for name, shape in shapes.items()
    ]
    write_gguf(path, metadata=metadata, tensors=tensors)
    return path
