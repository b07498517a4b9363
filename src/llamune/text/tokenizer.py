"""Text to token ids and back, exactly as llama.cpp does it for the same file."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cached_property

from llamune.gguf import ModelFile
from llamune.text.errors import TextError
from llamune.text.merging import merge
from llamune.text.partition import Partition
from llamune.text.special import TokenKind
from llamune.text.texts import SPACE
from llamune.text.unicode import surrogate_at
from llamune.text.vocabulary import Vocabulary, digest_of, read_vocabulary

__all__ = ["Tokenizer", "tokenizer_of"]

MAX_REMEMBERED = 1 << 18  # words whose ids are kept: some tens of MB at most
MAX_REMEMBERED_LENGTH = 64  # characters; longer words seldom come back
KEPT_TOKENIZERS = 2  # one with 256,000 tokens takes about 100 MB


def byte_letters() -> list[str]:
    """Return the letter that stands for each byte in a byte-level vocabulary.

    Source: OpenAI's GPT-2 release, `bytes_to_unicode` (encoder.py).
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(0x100)]


BYTE_LETTERS = byte_letters()
BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}
TO_LETTERS = dict(enumerate(BYTE_LETTERS))


class Tokenizer:
    """The tokenizer of a model file.

    Args:
        vocabulary: what the file says of its tokens.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.remembered: dict[str, tuple[int, ...]] = {}

    @property
    def n_vocab(self) -> int:
        """How many tokens there are."""
        return len(self.vocabulary.tokens)

    @property
    def digest(self) -> str:
        """SHA-256 of the file's tokenizer keys, 64 hex digits."""
        return self.vocabulary.digest

    @property
    def bos_id(self) -> int | None:
        """The token that starts a text, if there is one."""
        return self.vocabulary.special.get("bos")

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text, if there is one."""
        return self.vocabulary.special.get("eos")

    @property
    def pad_id(self) -> int | None:
        """The token that fills up a batch, if the file names one."""
        return self.vocabulary.special.get("pad")

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens at which llama.cpp ends a generation."""
        return self.vocabulary.end_ids

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """The tokens that steer the model and are no text."""
        return frozenset(self.vocabulary.ids_of_kind(TokenKind.CONTROL, TokenKind.UNKNOWN))

    @property
    def adds_bos(self) -> bool:
        """Whether the file asks for BOS at the start of a prompt."""
        return self.vocabulary.adds_bos

    @property
    def adds_eos(self) -> bool:
        """Whether the file asks for EOS after a text."""
        return self.vocabulary.adds_eos

    def id_of(self, text: str) -> int | None:
        """Return the id of the token that is written `text` in the file."""
        return self.vocabulary.ids.get(text)

    def encode(
        self, text: str, *, parse_special: bool = True, add_special: bool = False
    ) -> list[int]:
        """Return the token ids of `text`.

        Args:
            text: any text that UTF-8 can hold.
            parse_special: whether control tokens written in the text become those tokens.
            add_special: whether BOS and EOS are added as the file asks.

        Raises:
            TextError: the text holds a lone surrogate, or a byte that has no token.
        """
        if (at := surrogate_at(text)) >= 0:
            raise TextError(
                f"character {at} of the text is half of a surrogate pair (U+{ord(text[at]):04X})",
                hint="the text was cut or decoded wrongly; no UTF-8 text can hold it",
            )
        ids: list[int] = []
        if add_special and self.adds_bos and self.bos_id is not None:
            ids.append(self.bos_id)
        fresh = True
        for part in (self.with_control if parse_special else self.without_control)(text):
            if isinstance(part, int):
                ids.append(part)
                fresh = True
            else:
                self.encode_plain(part, ids, fresh=fresh)
                fresh = False
        if add_special and self.adds_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def encode_batch(
        self, texts: Iterable[str], *, parse_special: bool = True, add_special: bool = False
    ) -> list[list[int]]:
        """Return the token ids of each text."""
        return [
            self.encode(text, parse_special=parse_special, add_special=add_special)
            for text in texts
        ]

    def encode_plain(self, text: str, ids: list[int], *, fresh: bool) -> None:
        """Append the ids of a text without special tokens.

        Args:
            text: the text between two special tokens.
            ids: where the ids go.
            fresh: whether the text starts the whole or follows a special token.
        """
        if self.vocabulary.pre is None and self.vocabulary.space_prefix and fresh:
            text = f" {text}"
        if self.vocabulary.escapes_spaces:
            text = text.replace(" ", SPACE)
        known = self.remembered.get
        for word in self.words(text):
            found = known(word)
            ids.extend(self.encode_word(word) if found is None else found)

    def words(self, text: str) -> list[str]:
        """Return the parts of `text` that are merged each on its own."""
        pre = self.vocabulary.pre
        words = [text] if pre is None else pre.words(text)
        if not self.vocabulary.escapes_spaces:
            return words
        return [part for word in words for part in self.spaced_word.findall(word)]

    @cached_property
    def spaced_word(self) -> re.Pattern[str]:
        """Cuts at every `▁` that no merge can reach from before it: it saves time alone."""
        joins = re.escape(self.vocabulary.joins_space)
        crossing = f"(?:(?<=[{joins}]){SPACE}+[^{SPACE}]*)*" if joins else ""
        return re.compile(f"{SPACE}*[^{SPACE}]+{crossing}|{SPACE}+")

    @cached_property
    def priorities(self) -> dict[str, float]:
        """Return when a pair merges, the lowest first; the keys are as `merge` wants them."""
        vocabulary = self.vocabulary
        if vocabulary.pre is None:
            scores = [-score for score in vocabulary.scores]
            return dict(zip(vocabulary.tokens, scores, strict=True))
        last = len(vocabulary.merges) - 1  # of equal merges the first counts: fill from the end
        return dict(zip(reversed(vocabulary.merges), range(last, -1, -1), strict=True))

    @cached_property
    def with_control(self) -> Partition:
        """Cuts a text at every special token."""
        return self.partition(TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN)

    @cached_property
    def without_control(self) -> Partition:
        """Cuts a text at the tokens that a person may type."""
        return self.partition(TokenKind.USER_DEFINED)

    def partition(self, *kinds: TokenKind) -> Partition:
        """Return what cuts texts at the tokens of some kinds."""
        vocabulary = self.vocabulary
        return Partition(
            {vocabulary.tokens[id_]: id_ for id_ in vocabulary.ids_of_kind(*kinds)},
            right_strip=vocabulary.right_strip,
            left_strip=vocabulary.left_strip,
        )

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Return the ids of one word, merged from its characters or bytes; remembers them."""
        vocabulary = self.vocabulary
        pre = vocabulary.pre
        spelled = word if vocabulary.escapes_spaces else spell(word)
        taken_whole = pre is not None and (
            pre.whole_words or (pre.newlines_whole and not word.strip("\n"))
        )
        if taken_whole and spelled in vocabulary.ids:
            symbols = [spelled]
        else:
            joint = "" if pre is None else " "
            symbols = merge(list(spelled), self.priorities, joint)
        ids: list[int] = []
        for symbol in symbols:
            id_ = vocabulary.ids.get(symbol)
            if id_ is None:
                ids.extend(self.fall_back(symbol))
            else:
                ids.append(id_)
        found = tuple(ids)
        if len(word) <= MAX_REMEMBERED_LENGTH and len(self.remembered) < MAX_REMEMBERED:
            self.remembered[word] = found
        return found

    def fall_back(self, symbol: str) -> list[int]:
        """Return the ids of the bytes of a symbol that is no token.

        Raises:
            TextError: a SentencePiece vocabulary lacks a token for one of the bytes.
        """
        vocabulary = self.vocabulary
        if not vocabulary.escapes_spaces:
            return [vocabulary.ids[letter] for letter in symbol if letter in vocabulary.ids]
        ids = []
        for byte in symbol.encode():
            id_ = vocabulary.ids.get(f"<0x{byte:02X}>")
            if id_ is None and vocabulary.pre is None:
                id_ = vocabulary.ids.get(chr(byte)) if byte < 0x80 else None
                if id_ is None:
                    raise TextError(
                        f"the vocabulary has no token for {symbol!r} nor for its byte 0x{byte:02X}"
                    )
            if id_ is not None:
                ids.append(id_)
        return ids

    def kind(self, id_: int) -> TokenKind:
        """Return what a token is."""
        return TokenKind(int(self.vocabulary.kinds[id_]))

    def token_bytes(self, id_: int) -> bytes:
        """Return what a token adds to a text, as bytes; empty for tokens that add nothing."""
        vocabulary = self.vocabulary
        text = vocabulary.tokens[id_]
        kind = self.kind(id_)
        if kind in {TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.USER_DEFINED}:
            return text.encode()
        if kind is TokenKind.BYTE:
            return byte_of(text)
        if kind is not TokenKind.NORMAL:
            return b""
        if vocabulary.escapes_spaces:
            return text.replace(SPACE, " ").encode()
        return unspell(text)

    def piece(self, id_: int) -> str:
        """Return what a token adds to a text, for people to read."""
        return self.token_bytes(id_).decode(errors="replace")

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Return the text of some tokens.

        Args:
            ids: token ids.
            special: whether control tokens are written out.
        """
        shown = ids if special else [id_ for id_ in ids if id_ not in self.control_ids]
        data = b"".join(map(self.token_bytes, shown))
        if shown and self.vocabulary.pre is None and self.vocabulary.space_prefix:
            data = data.removeprefix(b" ")
        return data.decode(errors="replace")


def spell(word: str) -> str:
    """Return the letters that stand for the bytes of a word."""
    return word.encode().decode("latin-1").translate(TO_LETTERS)


def unspell(text: str) -> bytes:
    """Return the bytes of a byte-level token; a letter of no byte as llama.cpp shows it."""
    try:
        return bytes(map(BYTE_OF_LETTER.__getitem__, text))
    except KeyError:
        shown = (
            bytes([BYTE_OF_LETTER[letter]])
            if letter in BYTE_OF_LETTER
            else f"[UNK_BYTE_0x{letter.encode().hex()}{text}]".encode()
            for letter in text
        )
        return b"".join(shown)


def byte_of(text: str) -> bytes:
    """Return the byte that a token such as `<0x0A>` stands for."""
    try:
        return bytes([int(text[3:5], 16)])
    except ValueError:
        return b""


KEPT: OrderedDict[str, Tokenizer] = OrderedDict()


def tokenizer_of(file: ModelFile) -> Tokenizer:
    """Return the tokenizer of a model file, the same one for files of the same vocabulary.

    Raises:
        UnsupportedError: a tokenizer model or pre-tokenizer that we do not know, by name.
        TextError: the vocabulary is broken.
    """
    metadata = file.metadata
    # the model's name counts too: llama.cpp reads off it which tokens swallow white space
    digest = digest_of(metadata)
    key = f"{digest} {metadata.text('general.name', default='')}"
    found = KEPT.pop(key, None) or Tokenizer(read_vocabulary(file, digest=digest))
    KEPT[key] = found
    while len(KEPT) > KEPT_TOKENIZERS:
        KEPT.popitem(last=False)
    return found
