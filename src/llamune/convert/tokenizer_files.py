"""A model file's tokenizer as the files that transformers reads.

`tokenizer.json` (byte-level BPE, or BPE with byte fallback for a SentencePiece vocabulary, whose
scores become an order of merges), `tokenizer_config.json` and `chat_template.jinja`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llamune.convert.tokenizer_keys import (
    CONTROL,
    DIGITS_THEN_GPT2,
    GPT2_PATTERN,
    PATTERNS,
    USER_DEFINED,
)
from llamune.errors import UnsupportedError
from llamune.gguf import ModelFile
from llamune.text import Tokenizer, tokenizer_of

__all__ = ["write_tokenizer_files"]

PREFIX = "tokenizer.ggml."
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
# names in GGUF files that cut text as another one does
SAME_CUTS = {
    "deepseek-r1-qwen": "qwen2",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "gpt2": "gpt-2",
}
BYTE_LETTERS = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def write_tokenizer_files(file: ModelFile, folder: Path) -> None:
    """Write the tokenizer of a model file into a transformers folder.

    Raises:
        UnsupportedError: how the file's tokenizer cuts text has no known pattern.
    """
    tokenizer = tokenizer_of(file)
    tokens = file.metadata.strings(f"{PREFIX}tokens")
    kind = file.metadata.text(f"{PREFIX}model")
    if kind == "gpt2":
        body = byte_level(file, tokens)
    elif kind == "llama":
        body = sentencepiece(file, tokens)
    else:
        raise UnsupportedError(f"{file.path}: tokenizer model {kind!r} is not converted")
    names = special_names(file, tokens)
    if tokenizer.adds_bos and "bos_token" in names:
        body["post_processor"] = put_before(names["bos_token"], tokenizer)
    write_json(folder / "tokenizer.json", {"version": "1.0", **body})
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": file.metadata.integer(f"{file.architecture}.context_length"),
        **names,
    }
    write_json(folder / "tokenizer_config.json", settings)
    if "tokenizer.chat_template" in file.metadata:
        template = file.metadata.text("tokenizer.chat_template")
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def special_names(file: ModelFile, tokens: list[str]) -> dict[str, str]:
    """Return transformers' names of special tokens and their texts."""
    names = {}
    for name, key in SPECIAL.items():
        full = f"{PREFIX}{key}_token_id"
        index = file.metadata.integer(full, default=-1)
        if 0 <= index < len(tokens):
            names[name] = tokens[index]
    return names


def added_tokens(file: ModelFile, tokens: list[str]) -> list[dict[str, Any]]:
    """Return the tokens that are matched before text is cut, in the order of their ids."""
    kinds = file.metadata.array(f"{PREFIX}token_type")
    return [
        {
            "id": index,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": int(kinds[index]) == CONTROL,
        }
        for index, text in enumerate(tokens)
        if kinds[index] in {CONTROL, USER_DEFINED}
    ]


def byte_level(file: ModelFile, tokens: list[str]) -> dict[str, Any]:
    """Return `tokenizer.json` of a byte-level BPE vocabulary."""
    return {
        "added_tokens": added_tokens(file, tokens),
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer(file),
        "post_processor": None,
        "decoder": BYTE_LETTERS,
        "model": {
            "type": "BPE",
            "ignore_merges": file.metadata.text(f"{PREFIX}pre", default="") == "llama-bpe",
            "vocab": {text: index for index, text in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in file.metadata.strings(f"{PREFIX}merges")],
        },
    }


def pre_tokenizer(file: ModelFile) -> dict[str, Any]:
    """Return how text is cut before merging.

    Raises:
        UnsupportedError: there is no pattern for the file's name of it.
    """
    name = file.metadata.text(f"{PREFIX}pre", default="default")
    name = SAME_CUTS.get(name, name)
    if name == DIGITS_THEN_GPT2:
        digits = {"type": "Digits", "individual_digits": True}
        return {"type": "Sequence", "pretokenizers": [digits, BYTE_LETTERS]}
    patterns = {known: pattern for pattern, known in PATTERNS.items()}
    if name not in patterns:
        raise UnsupportedError(
            f"{file.path}: the tokenizer cuts text as {name!r}, for which no pattern is known",
            hint=f"known: {', '.join(sorted({*patterns, *SAME_CUTS, DIGITS_THEN_GPT2}))}",
        )
    pattern = patterns[name]
    if pattern is GPT2_PATTERN:
        return BYTE_LETTERS
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, {**BYTE_LETTERS, "use_regex": False}]}


def sentencepiece(file: ModelFile, tokens: list[str]) -> dict[str, Any]:
    """Return `tokenizer.json` of a SentencePiece vocabulary: BPE with byte fallback."""
    scores = file.metadata.array(f"{PREFIX}scores")
    prefix = file.metadata.flag(f"{PREFIX}add_space_prefix", default=True)
    unknown = file.metadata.integer(f"{PREFIX}unknown_token_id", default=0)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    before = {"type": "Prepend", "prepend": SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "added_tokens": added_tokens(file, tokens),
        "normalizer": {"type": "Sequence", "normalizers": [*([before] if prefix else []), spaces]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "unk_token": tokens[unknown],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {text: index for index, text in enumerate(tokens)},
            "merges": merges_of(tokens, scores.tolist()),
        },
    }


def merges_of(tokens: list[str], scores: list[float]) -> list[list[str]]:
    """Return the merges that make the tokens, the best score first.

    SentencePiece joins the two neighbours whose union scores best; a BPE model joins the pair
    that comes first in its list. So each way to put a token together is listed at its score.
    """
    known = set(tokens)
    ways = [
        (-score, index, cut, [text[:cut], text[cut:]])
        for index, (text, score) in enumerate(zip(tokens, scores, strict=True))
        for cut in range(1, len(text))
        if text[:cut] in known and text[cut:] in known
    ]
    ways.sort(key=lambda way: way[:3])
    return [pair for *_, pair in ways]


def put_before(bos: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the step that puts BOS before each text."""
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, second],
        "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
    }
