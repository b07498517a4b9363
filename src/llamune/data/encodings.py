"""Which encoding a text file is in, with the Japanese ones told apart.

UTF-8 and UTF-16 are recognised by their marks and rules; the rest is charset-normalizer's
field, asked only about the encodings that Japanese and Western files really come in.
"""

from __future__ import annotations

import codecs
import re

from llamune.data.errors import DataError

__all__ = ["SAMPLE_BYTES", "encoding_of"]

SAMPLE_BYTES = 1 << 20
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CANDIDATES = ("cp932", "euc_jp", "cp1252")
JAPANESE = {"cp932", "euc_jp"}
KANA = re.compile(r"[\u3041-\u30ff\u3001\u3002]")
HALF_WIDTH = re.compile(r"[\uff61-\uff9f]")


def encoding_of(sample: bytes, *, whole: bool) -> str:
    """Return Python's name of the encoding.

    Args:
        sample: the first `SAMPLE_BYTES` of the file.
        whole: whether that is all of it; if not, its last character may be cut.

    Raises:
        DataError: it is no text, or in no encoding that we know.
    """
    for mark, name in MARKS:
        if sample.startswith(mark):
            return name
    if b"\0" in sample:
        raise DataError("not a text file: it holds zero bytes")
    if b"\x1b$" in sample and decodes(sample, "iso2022_jp", whole=whole):
        return "iso2022_jp"
    if decodes(sample, "utf-8", whole=whole):
        return "utf-8"
    return guess(sample, whole=whole)


def decodes(sample: bytes, encoding: str, *, whole: bool) -> bool:
    """Tell whether a decoder takes the sample without a complaint."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(sample, final=whole)
    except UnicodeDecodeError:
        return False
    return True


def guess(sample: bytes, *, whole: bool) -> str:
    """Return the likeliest of `CANDIDATES`; UTF-8 with damage where nothing fits better."""
    from charset_normalizer import from_bytes

    possible = [name for name in CANDIDATES if decodes(sample, name, whole=whole)]
    damaged = sample.decode("utf-8", errors="ignore")
    n_lost = len(sample) - len(damaged.encode())
    if n_lost * 50 < len(sample) - sum(byte < 0x80 for byte in sample):
        return "utf-8"  # a few broken bytes among much valid UTF-8: its records are reported
    if not possible:
        raise DataError(
            "in no known encoding",
            hint="save it as UTF-8 (Shift_JIS, EUC-JP, ISO-2022-JP and UTF-16 are read too)",
        )
    best = from_bytes(sample, cp_isolation=possible).best()
    likely = str(best.encoding) if best is not None and best.encoding in possible else possible[0]
    if likely not in JAPANESE:
        return likely
    # On a line or two the statistics of CP932 and EUC-JP are close: kana decides.
    scores = {name: n_kana(sample.decode(name, "ignore")) for name in JAPANESE & set(possible)}
    best_japanese = max(sorted(scores), key=scores.__getitem__)
    if scores[best_japanese] < 0 and "cp1252" in possible:
        return "cp1252"
    return best_japanese


def n_kana(text: str) -> int:
    """Return how many full-width kana a text has, less the half-width ones."""
    return len(KANA.findall(text)) - len(HALF_WIDTH.findall(text))
