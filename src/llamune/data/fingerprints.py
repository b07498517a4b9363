"""What names rendered data: a hash of its token ids and masks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from llamune.data.rendering import Rendered

__all__ = ["fingerprint"]


def fingerprint(rendered: Sequence[Rendered]) -> str:
    """Return the SHA-256 of the records' ids and masks, in order, as 64 hex digits.

    Hashed for each record: its number of tokens, the ids and the mask, as little-endian 32-bit
    numbers and bytes. The same examples under another template or tokenizer differ.
    """
    digest = hashlib.sha256()
    for record in rendered:
        digest.update(np.asarray([len(record.ids), *record.ids], dtype="<u4").tobytes())
        digest.update(np.asarray(record.trained, dtype="u1").tobytes())
    return digest.hexdigest()
