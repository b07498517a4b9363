"""Llamune: an LLM is a file on disk; fine-tuning is a file transformation.

The public names load on first use, so that `import llamune` needs neither torch nor
transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

PUBLIC: dict[str, str] = {
    "LlamuneError": "llamune.errors",
    "Recipe": "llamune.runs",
    "Run": "llamune.runs",
    "UnsupportedError": "llamune.errors",
    "load": "llamune.nn",
    "merge": "llamune.jobs",
    "resume": "llamune.jobs",
    "tune": "llamune.jobs",
}

__all__ = ["__version__", *PUBLIC]  # noqa: PLE0604  names from the table above


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(importlib.import_module(PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
