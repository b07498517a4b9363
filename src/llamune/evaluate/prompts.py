"""The prompts that a proof uses where nobody names others."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources

__all__ = ["default_conversations"]

ROLES = ("system", "user", "assistant")


@cache
def default_conversations() -> tuple[tuple[dict[str, str], ...], ...]:
    """Return conversations as lists of `{"role": …, "content": …}`."""
    text = resources.files("llamune.evaluate").joinpath("prompts.toml").read_text("utf-8")
    return tuple(
        tuple({"role": role, "content": entry[role]} for role in ROLES if role in entry)
        for entry in tomllib.loads(text)["conversation"]
    )
