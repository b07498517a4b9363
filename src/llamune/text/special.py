"""Special tokens that no key names: llama.cpp knows them by their text.

Source: llama.cpp, `llama_vocab::impl::load` (src/llama-vocab.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np

__all__ = ["TokenKind", "override"]


class TokenKind(IntEnum):
    """What a token is, as `tokenizer.ggml.token_type` numbers it."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Texts that mark a special token where the file's keys do not name it, in our order of preference.
NAMED_BY_TEXT: Mapping[str, tuple[str, ...]] = {
    "eot": (
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "<｜end▁of▁sentence｜>",
        "<end_of_utterance>",
    ),
    "eom": ("<|eom_id|>",),
    "fim_pre": (
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    ),
    "fim_suf": (
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
    ),
    "fim_mid": (
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
        "<|middle|>",
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}

# Tokens that end a generation wherever they stand in a vocabulary.
ENDS_BY_TEXT = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
)

# gpt-oss: parts of its message frame, always kept in the text
ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


def override(
    ids: Mapping[str, int],
    kinds: np.ndarray[tuple[int], np.dtype[np.int32]],
    special: dict[str, int],
) -> frozenset[int]:
    """Find special tokens by their text, as llama.cpp does; return those that end a generation.

    Args:
        ids: id of each token text.
        kinds: changed in place where a token's text overrides its kind.
        special: gains the ids found by text.
    """
    for name, texts in NAMED_BY_TEXT.items():
        if name in special:
            continue
        for text in texts:
            if text in ids:
                special[name] = ids[text]
                kinds[ids[text]] = TokenKind.CONTROL
                break
    ends = {special[name] for name in ("fim_pad", "fim_rep", "fim_sep") if name in special}
    for text in ENDS_BY_TEXT:
        if text in ids:
            ends.add(ids[text])
            kinds[ids[text]] = TokenKind.CONTROL
    for text in ALWAYS_SHOWN:
        if text in ids:
            kinds[ids[text]] = TokenKind.USER_DEFINED
    ends |= {special[name] for name in ("eos", "eot", "eom") if name in special}
    return frozenset(ends - not_ends(ids, ends, kinds))


def not_ends(
    ids: Mapping[str, int], ends: set[int], kinds: np.ndarray[tuple[int], np.dtype[np.int32]]
) -> set[int]:
    """Return tokens that look like an end but are something else in this vocabulary."""

    def ending(text: str) -> bool:
        return ids.get(text) in ends

    found: set[int] = set()
    calls = ending("<|call|>") or ending("<|calls|>")
    if ending("<|end|>") and calls and (ending("<|return|>") or ending("<|flush|>")):
        found.add(ids["<|end|>"])  # ends a message of several, not the answer
        kinds[ids["<|end|>"]] = TokenKind.USER_DEFINED
    if ending("</s>") and (ending("<|tool_response>") or ending("<|plamo:eos|>")):
        found.add(ids["</s>"])  # an ordinary HTML tag here
        kinds[ids["</s>"]] = TokenKind.NORMAL
    return found
