"""Keeps what libraries tell each other away from the person."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import CRITICAL

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the log lines and deprecation notes of transformers and PEFT."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        with warnings.catch_warnings():
            for kind in (FutureWarning, UserWarning):
                warnings.filterwarnings("ignore", category=kind, module="transformers|peft")
            yield
    finally:
        logging.set_verbosity(level)
