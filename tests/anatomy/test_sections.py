"""Every byte of a file belongs to exactly one section."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llamune.anatomy import sections_of, summarize
from llamune.gguf import Entry, ModelFile, NewTensor, quant_type, write_gguf

SPECIAL = "tokenizer.ggml.bos_token_id"


def tensor(name: str, rows: int, columns: int, kind: str = "F32") -> NewTensor:
    stored = quant_type(kind)
    data = np.zeros((rows, stored.row_bytes(columns)), np.uint8)
    return NewTensor(name, (rows, columns), stored, lambda: [data])


def write(path: Path, *tensors: NewTensor, **metadata: object) -> Path:
    entries = {"general.architecture": Entry.of("llama")}
    entries |= {key: Entry.of(value) for key, value in metadata.items()}
    write_gguf(path, metadata=entries, tensors=tensors)
    return path


def test_sections_of_the_starter_add_up(starter_path: Path) -> None:
    with ModelFile.open(starter_path) as file:
        sections = sections_of(file)
        assert sum(section.nbytes for section in sections) == starter_path.stat().st_size
        assert [section.name for section in sections] == [
            "header",
            "tokenizer",
            "token embedding",
            *(f"block {number}" for number in range(30)),
            "output",
        ]
        assert {section.nbytes for section in sections if section.block is not None} == {2_216_448}


@pytest.mark.parametrize("extra_bytes", [0, 1, 1000])
def test_odd_shapes_and_trailing_bytes_are_counted(tmp_path: Path, extra_bytes: int) -> None:
    path = write(
        tmp_path / "odd.gguf",
        tensor("token_embd.weight", 3, 5),
        tensor("blk.10.attn_q.weight", 1, 1),
        tensor("blk.2.ffn_up.weight", 7, 32, "Q8_0"),
        tensor("rope_freqs.weight", 1, 3),
        tensor("v.patch_embd.weight", 2, 3),
        tensor("nobody.knows", 1, 2),
        tensor("output.weight", 1, 9),
    )
    path.write_bytes(path.read_bytes() + b"x" * extra_bytes)
    with ModelFile.open(path) as file:
        sections = sections_of(file)
        assert sum(section.nbytes for section in sections) == path.stat().st_size
        names = [section.name for section in sections]
        assert names[:5] == ["header", "token embedding", "block 2", "block 10", "output"]
        assert ("unused bytes" in names) == bool(extra_bytes)


def test_a_file_without_tensors_adds_up_too(tmp_path: Path) -> None:
    path = write(tmp_path / "vocabulary.gguf", **{"tokenizer.ggml.tokens": ["a", "b"]})
    with ModelFile.open(path) as file:
        assert sum(section.nbytes for section in sections_of(file)) == path.stat().st_size


def test_facts_of_the_starter(starter_path: Path) -> None:
    with ModelFile.open(starter_path) as file:
        facts = summarize(file)
    assert facts.n_parameters == 134_515_008
    assert (facts.n_layer, facts.n_head, facts.n_head_kv, facts.head_dim) == (30, 9, 3, 64)
    assert facts.file_type == "Q4_1"
    assert facts.bpw == pytest.approx(5.744, abs=5e-4)
    assert facts.tied_output
    assert facts.tokenizer is not None
    assert facts.tokenizer.special["end of text"] == (2, "<|im_end|>")


def test_facts_that_contradict_or_lack_everything_give_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "bare.gguf"
    metadata = {
        "llama.attention.head_count": Entry.of([0, 4]),
        "general.architecture": Entry.of("llama"),
        "llama.embedding_length": Entry.of("wide"),
        "llama.block_count": Entry.of(["a"]),
        "general.file_type": Entry.of(77),
        "general.name": Entry.of(3),
        "llama.rope.freq_base": Entry.of(True),
        "tokenizer.ggml.tokens": Entry.of(["a"]),
        "tokenizer.ggml.scores": Entry.of([1.0, 2.0]),
        SPECIAL: Entry.of(9),
    }
    write_gguf(path, metadata=metadata, tensors=[])
    with ModelFile.open(path) as file:
        facts = summarize(file)
    assert facts.n_head == (0, 4)
    assert facts.n_parameters == 0
    assert facts.bpw == 0
    assert facts.file_type == "unknown (77)"
    assert (facts.name, facts.d_model, facts.n_layer, facts.rope.base) == (None,) * 4
    assert facts.tokenizer is not None
    assert facts.tokenizer.special == {"begin of text": (9, None)}
    assert "tokenizer.ggml.scores has 2 entries" in facts.warnings[0]
