"""What can go wrong with calibration."""

from __future__ import annotations

from llamune.errors import LlamuneError

__all__ = ["CalibrateError"]


class CalibrateError(LlamuneError):
    """Weights or data that no rounding can be made from."""
