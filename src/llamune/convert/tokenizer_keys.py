"""A transformers folder's tokenizer and chat template as GGUF keys.

Byte-level BPE (`tokenizer.json`) becomes `tokenizer.ggml.model = gpt2`, SentencePiece
(`tokenizer.model`) becomes `llama`. How text is cut before merging has a name in GGUF files
(`tokenizer.ggml.pre`); it is found by the pattern in `tokenizer.json`, and a pattern that no
name stands for is refused: a near guess would give other tokens than the model learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llamune.convert.sentencepiece import read_pieces
from llamune.errors import LlamuneError, UnsupportedError

__all__ = ["tokenizer_keys"]

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
# the split pattern of `tokenizer.json` -> the name that llama.cpp gives it; its own cutting of
# text has been written for these
GPT2_PATTERN = None  # ByteLevel's built-in
PATTERNS: Mapping[str | None, str] = {
    GPT2_PATTERN: "gpt-2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}
DIGITS_THEN_GPT2 = "smollm"


def tokenizer_keys(folder: Path, n_vocab: int) -> dict[str, Any]:
    """Return the `tokenizer.*` keys of a folder.

    Args:
        folder: with `tokenizer.json` or `tokenizer.model`, `tokenizer_config.json`.
        n_vocab: rows of the embedding; ids without a token are filled up as unused.

    Raises:
        LlamuneError: there is no tokenizer, or it is damaged.
        UnsupportedError: a kind of tokenizer that we do not convert exactly.
    """
    settings = read_json(folder / "tokenizer_config.json") or {}
    if (folder / "tokenizer.model").is_file():
        keys = sentencepiece_keys(folder, n_vocab)
    elif (tokenizer := read_json(folder / "tokenizer.json")) is not None:
        keys = bpe_keys(folder / "tokenizer.json", tokenizer, n_vocab)
    else:
        raise LlamuneError(f"{folder}: no tokenizer.json or tokenizer.model")
    keys |= special_keys(settings, keys["tokenizer.ggml.tokens"])
    template = chat_template(folder, settings)
    return keys if template is None else {**keys, "tokenizer.chat_template": template}


def read_json(path: Path) -> Any:
    """Return a JSON file's value; None when there is no file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LlamuneError(f"{path}: no JSON: {error}") from None


def bpe_keys(path: Path, tokenizer: Any, n_vocab: int) -> dict[str, Any]:
    """Return the keys of a byte-level BPE tokenizer."""
    model = tokenizer.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise UnsupportedError(
            f"{path}: tokenizer {model.get('type')!r} without byte-level BPE is not converted",
            hint="a SentencePiece tokenizer needs its tokenizer.model in the folder",
        )
    tokens: list[str | None] = [None] * n_vocab
    kinds = np.full(n_vocab, UNUSED, dtype=np.int32)
    for text, index in model["vocab"].items():
        place(path, tokens, index, text)
        kinds[index] = NORMAL
    for added in tokenizer.get("added_tokens", []):
        place(path, tokens, added["id"], added["content"])
        kinds[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])
    ]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_name(path, tokenizer),
        "tokenizer.ggml.tokens": [
            f"[PAD{index}]" if text is None else text for index, text in enumerate(tokens)
        ],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
    }


def place(path: Path, tokens: list[str | None], index: int, text: str) -> None:
    """Put a token at its id."""
    if not 0 <= index < len(tokens):
        raise LlamuneError(
            f"{path}: token {text!r} has id {index}, the embedding {len(tokens)} rows"
        )
    tokens[index] = text


def pre_name(path: Path, tokenizer: Any) -> str:
    """Return the `tokenizer.ggml.pre` that stands for a tokenizer's cutting of text."""
    pre = tokenizer.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    kinds = [step.get("type") for step in steps]
    each_digit = kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits")
    if each_digit and steps[1].get("use_regex", True):
        return DIGITS_THEN_GPT2
    pattern: str | None = ""
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        pattern = GPT2_PATTERN
    elif kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        pattern = steps[0].get("pattern", {}).get("Regex", "")
    if pattern not in PATTERNS:
        raise UnsupportedError(
            f"{path}: no name is known for how it cuts text ({', '.join(map(str, kinds))})",
            hint="convert with llama.cpp's convert_hf_to_gguf.py, then use the GGUF file",
        )
    return PATTERNS[pattern]


def sentencepiece_keys(folder: Path, n_vocab: int) -> dict[str, Any]:
    """Return the keys of a SentencePiece tokenizer, added tokens included."""
    pieces = read_pieces(folder / "tokenizer.model")
    tokens = [piece.text for piece in pieces][:n_vocab]
    scores = [piece.score for piece in pieces][:n_vocab]
    kinds = [piece.kind for piece in pieces][:n_vocab]
    for index in range(len(tokens), n_vocab):
        tokens.append(f"[PAD{index}]")
        scores.append(-10000.0)
        kinds.append(UNUSED)
    for added in (read_json(folder / "tokenizer.json") or {}).get("added_tokens", []):
        index = added["id"]
        if not 0 <= index < n_vocab:
            raise LlamuneError(f"{folder}: token {added['content']!r} has id {index}")
        if index >= len(pieces) or kinds[index] == NORMAL:
            tokens[index], scores[index] = added["content"], -1000.0
            kinds[index] = CONTROL if added.get("special") else USER_DEFINED
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.asarray(scores, dtype=np.float32),
        "tokenizer.ggml.token_type": np.asarray(kinds, dtype=np.int32),
    }


def special_keys(settings: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    """Return the keys of special tokens that `tokenizer_config.json` names."""
    keys: dict[str, Any] = {}
    ids = {text: index for index, text in enumerate(tokens)}
    for name, key in SPECIAL.items():
        value = settings.get(name)
        text = value.get("content") if isinstance(value, Mapping) else value
        if text in ids:
            keys[f"tokenizer.ggml.{key}"] = ids[text]
    for name in ("add_bos_token", "add_eos_token"):
        if isinstance(settings.get(name), bool):
            keys[f"tokenizer.ggml.{name}"] = settings[name]
    return keys


def chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Return the folder's chat template, or None."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name
        named = {one.get("name"): one.get("template") for one in template}
        template = named.get("default")
    return template if isinstance(template, str) else None
