"""Transformers folder → GGUF → transformers folder: the same model, tokenizer and template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from llamune.cli._main import run
from llamune.convert import from_transformers, to_transformers
from llamune.convert.safetensors_folder import open_folder
from llamune.convert.sentencepiece import read_pieces
from llamune.errors import LlamuneError, UnsupportedError
from llamune.gguf import ModelFile, rows_to_floats
from llamune.nn import load
from llamune.text import tokenizer_of
from tests.tiny import FAMILIES, VARIANTS, tiny_folder, tiny_model

IDS = torch.arange(3, 27)[None]
TEXTS = [
    "Hello there, the world!",
    "  two  spaces\n\nand lines 1234567",
    "日本語とemoji 🙂",
    "<|im_start|>user\nhi<|im_end|>\n",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_back_and_forth_keeps_every_weight(family: str, folder: Path, tmp_path: Path) -> None:
    source = tiny_folder(folder, family)
    to_transformers(ModelFile.open(tiny_model(folder, family)), tmp_path / "back")
    before, after = open_folder(source), open_folder(tmp_path / "back")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        back = after[name]
        # a norm kept plus one loses its last bit
        np.testing.assert_allclose(back.data, tensor.data, rtol=0, atol=1.2e-7, err_msg=name)


@pytest.mark.parametrize("family", [*FAMILIES, "llama3-scaling", "phi3-longrope", "phi3-partial"])
def test_plain_transformers_loads_what_is_written(
    family: str, folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = ModelFile.open(tiny_model(folder, family, "Q8_0"))
    to_transformers(file, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    ours = load(file, device="cpu", dtype=torch.float32, unpack=True)
    assert theirs.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, ours(IDS).logits, atol=5e-5, rtol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    own = tokenizer_of(file)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == own.encode(text, add_special=True)
    messages = [{"role": "user", "content": "hi"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_the_starters_tokenizer_survives(starter_path: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from llamune.convert.tokenizer_files import write_tokenizer_files

    file = ModelFile.open(starter_path)
    write_tokenizer_files(file, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    own = tokenizer_of(file)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == own.encode(text, add_special=True)


@pytest.mark.parametrize(("kind", "bits"), [("F16", 11), ("BF16", 8)])
def test_sixteen_bit_folders_round_to_the_nearest(
    kind: str, bits: int, folder: Path, tmp_path: Path
) -> None:
    to_transformers(ModelFile.open(tiny_model(folder, "llama")), tmp_path / "out", kind)
    source = open_folder(tiny_folder(folder, "llama"))["model.layers.0.mlp.up_proj.weight"]
    found = open_folder(tmp_path / "out")["model.layers.0.mlp.up_proj.weight"].rows(0, 512)
    wanted = torch.from_numpy(source.data.copy())
    wanted = wanted.to(torch.float16 if kind == "F16" else torch.bfloat16).float()
    assert np.array_equal(found, wanted.numpy())
    assert np.abs(found - source.data).max() <= np.abs(source.data).max() * 2.0**-bits


def test_bf16_checkpoints_enter(folder: Path, tmp_path: Path) -> None:
    to_transformers(ModelFile.open(tiny_model(folder, "qwen3")), tmp_path / "half", "BF16")
    from_transformers(tmp_path / "half", tmp_path / "half.gguf", "BF16")
    file = ModelFile.open(tmp_path / "half.gguf")
    wanted = open_folder(tmp_path / "half")["model.layers.1.mlp.up_proj.weight"].rows(0, 512)
    assert np.array_equal(file.floats("blk.1.ffn_up.weight"), wanted)


def test_mixtures_choose_types_as_llama_cpp_does(folder: Path, tmp_path: Path) -> None:
    from_transformers(tiny_folder(folder, "llama"), tmp_path / "m.gguf", "q4_k_m")
    kinds = {
        name: info.type.name for name, info in ModelFile.open(tmp_path / "m.gguf").tensors.items()
    }
    assert kinds["token_embd.weight"] == "Q6_K"
    assert kinds["blk.0.attn_q.weight"] == "Q4_K"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_rows_are_what_ggml_rounds_them_to(folder: Path) -> None:
    file = ModelFile.open(tiny_model(folder, "qwen2", "Q4_0"))
    info = file.tensors["blk.0.ffn_up.weight"]
    source = open_folder(tiny_folder(folder, "qwen2"))["model.layers.0.mlp.up_proj.weight"]
    found = rows_to_floats(file.packed(info.name), info.type)
    assert np.abs(found - source.data).max() < np.abs(source.data).max() / 7


def edited(source: Path, out: Path, **changes: object) -> Path:
    """Copy a folder with other config entries."""
    shutil.copytree(source, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **changes}))
    return out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"hidden_act": "relu"}, "relu"),
        ({"sliding_window": 16}, "sliding_window = 16"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_key_value_heads": 3}, "4 heads over 3"),
        ({"num_hidden_layers": 4}, r"blk\.3\.attn_q\.weight: missing"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    changes: dict[str, object], said: str, folder: Path, tmp_path: Path
) -> None:
    source = edited(tiny_folder(folder, "llama"), tmp_path / "edited", **changes)
    with pytest.raises(LlamuneError, match=said):
        from_transformers(source, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    source = edited(tiny_folder(folder, "llama"), tmp_path / "edited")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(UnsupportedError, match="never loaded"):
        from_transformers(source, tmp_path / "out.gguf")


@pytest.mark.parametrize("cut", [4, 300, -1000])
def test_a_cut_safetensors_file_is_one_clear_error(cut: int, folder: Path, tmp_path: Path) -> None:
    source = edited(tiny_folder(folder, "llama"), tmp_path / "edited")
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(LlamuneError, match=r"model\.safetensors"):
        from_transformers(source, tmp_path / "out.gguf")


def test_a_tokenizer_that_cuts_text_otherwise_is_refused(folder: Path, tmp_path: Path) -> None:
    source = edited(tiny_folder(folder, "llama"), tmp_path / "edited")
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UnsupportedError, match="Whitespace"):
        from_transformers(source, tmp_path / "out.gguf")


def piece(text: str, score: float, kind: int) -> bytes:
    """Lay one SentencePiece piece by hand."""
    body = b"\x0a" + bytes([len(text.encode())]) + text.encode()
    body += b"\x15" + np.float32(score).tobytes() + b"\x18" + bytes([kind])
    return b"\x0a" + bytes([len(body)]) + body


def sentencepiece_folder(source: Path, out: Path) -> Path:
    """Copy a folder with a SentencePiece tokenizer in place of its own."""
    edited(source, out)
    (out / "tokenizer.json").unlink()
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    letters = "▁abcdefghijklmnopqrstuvwxyz"
    pairs = ["he", "th", "the", "▁t", "▁the", "in", "er", "▁a", "an", "and"]
    words = [*pairs, *letters]
    pieces += [(text, -float(rank), 1) for rank, text in enumerate(words)]
    (out / "tokenizer.model").write_bytes(b"".join(piece(*one) for one in pieces))
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings))
    return out


def test_sentencepiece_goes_in_and_out(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    source = sentencepiece_folder(tiny_folder(folder, "llama"), tmp_path / "spm")
    assert read_pieces(source / "tokenizer.model")[3].text == "<0x00>"
    from_transformers(source, tmp_path / "spm.gguf", "F32")
    file = ModelFile.open(tmp_path / "spm.gguf")
    own = tokenizer_of(file)
    to_transformers(file, tmp_path / "back")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "back")
    for text in ["the hand and the thing", "over there", "日本 x", " led"]:
        ids = own.encode(text, add_special=True)
        assert ids[0] == 1
        assert tokenizer(text)["input_ids"] == ids
    assert own.encode("the") == [own.id_of("▁the")]


@pytest.mark.parametrize("data", [b"", b"\x0a", b"\x0a\xff\xff\xff", b"\x0f" * 30, b"\xff" * 40])
def test_a_damaged_sentencepiece_file_is_one_clear_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(LlamuneError, match="no SentencePiece model"):
        read_pieces(path)


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, back = tiny_folder(folder, "qwen2"), tmp_path / "q.gguf", tmp_path / "q"
    assert run(["convert", str(source), str(out), "--type", "q8_0"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert run(["convert", str(out), str(back), "--to", "transformers"]) == 0
    assert (back / "model.safetensors").is_file()
    assert run(["convert", str(source), str(out)]) == 2
    assert run(["convert", str(tmp_path / "nothing"), str(tmp_path / "x.gguf")]) == 2
