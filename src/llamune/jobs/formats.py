"""Numbers as people read them, with their units."""

from __future__ import annotations

__all__ = ["bytes_text", "range_text", "seconds_text"]


def bytes_text(n_bytes: float) -> str:
    """Return bytes in decimal GB beside GiB: people confuse them."""
    if n_bytes < 1e8:
        return f"{n_bytes / 1e6:,.1f} MB"
    return f"{n_bytes / 1e9:,.2f} GB ({n_bytes / 2**30:,.2f} GiB)"


def seconds_text(seconds: float) -> str:
    """Return a duration, to the precision that matters."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def range_text(low: float, high: float) -> str:
    """Return a range of durations."""
    one, other = seconds_text(low), seconds_text(high)
    return one if one == other else f"{one} – {other}"
