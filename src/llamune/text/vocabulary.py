"""A model file's vocabulary as llama.cpp understands it: tokens, their kinds, special ids.

The keys of the file are not the whole truth: llama.cpp adds defaults by tokenizer model, finds
end-of-generation tokens by their text, and overrides the kind of some tokens. What is decided
there decides the ids that a served prompt has, so it is decided in the same way here.

Source: llama.cpp, `llama_vocab::impl::load` (src/llama-vocab.cpp).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from llamune.errors import UnsupportedError
from llamune.gguf import Metadata, ModelFile
from llamune.text.errors import TextError
from llamune.text.pretokenizers import PreTokenizer, pre_tokenizer
from llamune.text.special import TokenKind, override
from llamune.text.texts import PREFIX, read_texts

__all__ = ["Vocabulary", "digest_of", "read_vocabulary"]

KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # the format's own spelling
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "fim_pre": "fim_pre_token_id",
    "fim_suf": "fim_suf_token_id",
    "fim_mid": "fim_mid_token_id",
    "fim_pad": "fim_pad_token_id",
    "fim_rep": "fim_rep_token_id",
    "fim_sep": "fim_sep_token_id",
}
OLD_KEYS = {
    "fim_pre": "prefix_token_id",
    "fim_suf": "suffix_token_id",
    "fim_mid": "middle_token_id",
}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model file and how text becomes them.

    Attributes:
        model: `llama` (SentencePiece), `gpt2` or `gemma4` (byte-pair merges).
        pre: how text is cut before merging; None for SentencePiece.
        tokens: the token texts as they stand in the file; the index is the id.
        ids: the id of each token text.
        kinds: the kind of each token after llama.cpp's overrides.
        scores: SentencePiece only: the higher, the earlier merged.
        merges: byte-pair models only: `left right`, the earliest first.
        special: ids by name (`bos`, `eos`, `eot`, `pad` …), those that exist.
        end_ids: tokens that end a generation.
        adds_bos: whether a prompt starts with BOS.
        adds_eos: whether a tokenized text ends with EOS.
        space_prefix: whether a space is put before a text that starts a fragment.
        joins_space: characters from which a merge can cross to the `▁` after them; before any
            other `▁` a new word begins.
        right_strip: special tokens that swallow white space after them.
        left_strip: special tokens that swallow white space before them.
        digest: SHA-256 of the file's tokenizer keys, 64 hex digits.
    """

    model: str
    pre: PreTokenizer | None
    tokens: list[str]
    ids: dict[str, int]
    kinds: np.ndarray[tuple[int], np.dtype[np.int32]]
    scores: list[float]
    merges: list[str]
    special: Mapping[str, int]
    end_ids: frozenset[int]
    adds_bos: bool
    adds_eos: bool
    space_prefix: bool
    joins_space: str
    right_strip: frozenset[int]
    left_strip: frozenset[int]
    digest: str

    @property
    def escapes_spaces(self) -> bool:
        """Whether spaces are written as `▁` in the tokens."""
        return self.pre is None or self.pre.escapes_spaces

    def ids_of_kind(self, *kinds: TokenKind) -> list[int]:
        """Return the ids of the tokens of some kinds, in order."""
        found: list[int] = np.flatnonzero(np.isin(self.kinds, kinds)).tolist()
        return found


def read_vocabulary(file: ModelFile, *, digest: str) -> Vocabulary:
    """Read the vocabulary of a model file.

    Args:
        file: the opened model file.
        digest: what `digest_of` gives for it; large lists are kept under it between runs.

    Raises:
        UnsupportedError: a tokenizer model or pre-tokenizer that we do not know, by name.
        TextError: lists of different lengths, repeated tokens, no tokens at all.
    """
    metadata = file.metadata
    model = metadata.text(PREFIX + "model")
    if model not in {"llama", "gpt2", "gemma4"}:
        raise UnsupportedError(
            f"{file.path}: tokenizer model {model!r} is not one that llamune knows",
            hint="known: llama (SentencePiece), gpt2 and gemma4 (byte-pair merges)",
        )
    pre = pre_of(file, model)
    texts = read_texts(
        file, digest, merges=pre is not None, escapes_spaces=pre is None or pre.escapes_spaces
    )
    tokens = texts.tokens
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) != len(tokens):
        raise TextError(f"{file.path}: {PREFIX}tokens: {len(tokens) - len(ids)} tokens stand twice")
    kinds = read_kinds(file, len(tokens))
    special = read_special(metadata, model, pre, len(tokens))
    end_ids = override(ids, kinds, special)
    adds_bos = flag(metadata, "add_bos_token", pre.adds_bos if pre else True)
    if pre is not None and pre.always_bos:
        adds_bos = True
    check_added(file, special, adds_bos=adds_bos)
    right_strip, left_strip = strips(file, ids, kinds)
    return Vocabulary(
        model=model,
        pre=pre,
        tokens=tokens,
        ids=ids,
        kinds=kinds,
        scores=read_scores(file, len(tokens)) if pre is None else [],
        merges=texts.merges,
        special=special,
        end_ids=end_ids,
        adds_bos=adds_bos,
        adds_eos=flag(metadata, "add_eos_token", False),
        space_prefix=flag(metadata, "add_space_prefix", pre is None),
        joins_space=texts.joins_space,
        right_strip=right_strip,
        left_strip=left_strip,
        digest=digest,
    )


def pre_of(file: ModelFile, model: str) -> PreTokenizer | None:
    """Return how this file's text is cut before merging; None for SentencePiece."""
    if model == "llama":
        return None
    if model == "gemma4":
        return pre_tokenizer("gemma4", where=file.path)
    return pre_tokenizer(file.metadata.text(PREFIX + "pre", default="default"), where=file.path)


def read_kinds(file: ModelFile, n_tokens: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Return the kind of each token; normal where the file does not say."""
    key = PREFIX + "token_type"
    if key not in file.metadata:
        return np.full(n_tokens, TokenKind.NORMAL, dtype=np.int32)
    kinds = np.array(file.metadata.array(key), dtype=np.int32)
    check_length(file, key, len(kinds), n_tokens)
    kinds = kinds[:n_tokens]
    kinds[(kinds < 0) | (kinds > TokenKind.BYTE)] = TokenKind.UNDEFINED
    return kinds


def read_scores(file: ModelFile, n_tokens: int) -> list[float]:
    """Return the score of each token; zeros where the file has none."""
    key = PREFIX + "scores"
    if key not in file.metadata:
        return [0.0] * n_tokens
    scores = np.asarray(file.metadata.array(key), dtype=np.float32)
    check_length(file, key, len(scores), n_tokens)
    if np.isnan(scores).any():
        raise TextError(f"{file.path}: {key}: a score is not a number")
    values: list[float] = scores[:n_tokens].tolist()
    return values


def check_length(file: ModelFile, key: str, found: int, n_tokens: int) -> None:
    """Raise if a list has fewer entries than there are tokens."""
    if found < n_tokens:
        raise TextError(f"{file.path}: {key}: {found} entries for {n_tokens} tokens")


def flag(metadata: Metadata, name: str, default: bool) -> bool:
    """Return a yes-or-no key of the tokenizer, or its default."""
    return metadata.flag(PREFIX + name, default=default)


def read_special(
    metadata: Metadata, model: str, pre: PreTokenizer | None, n_tokens: int
) -> dict[str, int]:
    """Return the special ids that the keys name; ids outside the vocabulary are ignored."""
    defaults: dict[str, int] = {}
    if model == "llama":
        defaults = {"bos": 1, "eos": 2, "unk": 0}
    elif model == "gpt2":
        defaults = {"bos": 11, "eos": 11}
    if pre is not None and pre.no_default_bos:
        defaults.pop("bos", None)
    special = {name: id_ for name, id_ in defaults.items() if id_ < n_tokens}
    for names in (KEYS, OLD_KEYS):
        for name, key in names.items():
            value = metadata.integer(PREFIX + key, default=-1)
            if 0 <= value < n_tokens:
                special[name] = value
    return special


def check_added(file: ModelFile, special: Mapping[str, int], *, adds_bos: bool) -> None:
    """Raise if the file asks for a BOS token that it does not have."""
    if adds_bos and "bos" not in special:
        raise TextError(f"{file.path}: {PREFIX}add_bos_token is set, but there is no BOS token")


def strips(
    file: ModelFile, ids: Mapping[str, int], kinds: np.ndarray[tuple[int], np.dtype[np.int32]]
) -> tuple[frozenset[int], frozenset[int]]:
    """Return the special tokens that swallow white space after, and before, themselves.

    No key says so; llama.cpp goes by the model's name, and so must we.
    """
    name = file.metadata.text("general.name", default="").lower()
    pre = file.metadata.text(PREFIX + "pre", default="")
    if any(part in pre for part in ("jina-v2-de", "jina-v2-es", "jina-v2-code")):
        return frozenset(), members(ids, ["<mask>"])
    if "phi-3" in name or "phi3" in name:
        kept = {TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.USER_DEFINED}
        special = frozenset(np.flatnonzero(np.isin(kinds, list(kept))).tolist())
        plain = members(ids, ["<unk>", "<s>", "<|endoftext|>"])
        return (special | members(ids, ["</s>"])) - plain, frozenset()
    if "modern-bert" in name:
        return frozenset(), members(ids, ["[MASK]"])
    return frozenset(), frozenset()


def members(ids: Mapping[str, int], texts: Iterable[str]) -> frozenset[int]:
    """Return the ids of those texts that are tokens."""
    return frozenset(ids[text] for text in texts if text in ids)


def digest_of(metadata: Metadata) -> str:
    """Return the SHA-256 of every tokenizer key and its bytes in the file."""
    digest = hashlib.sha256()
    for key in sorted(key for key in metadata if key.startswith(PREFIX)):
        entry = metadata.entry(key)
        digest.update(f"{key}\0{int(entry.value_type)}\0{len(entry.raw)}\0".encode())
        digest.update(entry.raw)
    return digest.hexdigest()
