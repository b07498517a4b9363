"""What a run must remember beside its weights, so that it goes on as if never stopped."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["PROGRESS", "Progress"]

PROGRESS = "progress.json"  # its file in a checkpoint


@dataclass
class Progress:
    """Counts that grow with the run."""

    best_loss: float = math.inf  # lowest validation loss, nats a token
    best_step: int | None = None
    passes_without_gain: int = 0  # validation passes since the best
    seconds: float = 0.0  # of training steps
    tokens: int = 0  # trained on, without padding
    validation_before: float | None = None

    def saw(self, loss: float, step: int) -> bool:
        """Take note of a validation loss; return whether it is the lowest so far."""
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.passes_without_gain = loss, step, 0
            return True
        self.passes_without_gain += 1
        return False

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON can hold them."""
        known = asdict(self)
        if not math.isfinite(self.best_loss):
            del known["best_loss"]
        return known

    @classmethod
    def read(cls, path: Path) -> Progress:
        """Read what `as_dict` gave."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))
