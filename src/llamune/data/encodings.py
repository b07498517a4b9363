"""Which encoding a text file is in, with the Japanese ones told apart.

UTF-8 and UTF-16 are recognised by their marks and rules; the rest is charset-normalizer's
field, asked only about the encodings that Japanese and Western files really come in.
"""

from __future__ import annotations

import codecs

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
CANDIDATES = ("cp932", "euc_jp", "iso2022_jp", "cp1252")


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
    japanese = [name for name in possible if name != "cp1252"]
    best = from_bytes(sample, cp_isolation=list(possible)).best()
    if best is not None and best.encoding in possible:
        return str(best.encoding)
    return (japanese or possible)[0]
