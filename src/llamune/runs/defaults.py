"""Every default of a recipe, in one place, from evidence rather than habit.

Sources: "LoRA Without Regret" (Thinking Machines, 2025: all layers, alpha 32 with alpha / rank,
ten times the full fine-tuning rate, half as much again in short runs, small batches), the
learning-rate fit of tinker-cookbook (5e-4 × (2000 / hidden)^p at batch 128, scaled by the root
of the batch), arXiv:2602.04998 (LoRA variants lie within 1-2 % of each other once each has its
own rate, so plain LoRA), arXiv:2405.14394 (loss on answers; prompts help when data are few).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from llamune.runs.recipe import Recipe, RecipeError, first_fault

__all__ = ["PRESETS", "Preset", "Situation", "default_learning_rate", "settle"]

LONGEST_DEFAULT_TOKENS = 2048
FEW_RECORDS, MORE_RECORDS, MANY_RECORDS = 300, 500, 10_000
SHORT_RUN_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings that go before the defaults and after what was chosen.

    Args:
        adapter: fields of the recipe, for adapters.
        full: fields of the recipe, where every weight is trained.
        epochs: passes over the data, where no steps are chosen.
    """

    adapter: Mapping[str, Any]
    full: Mapping[str, Any]
    epochs: float

    def settings(self, method: str) -> Mapping[str, Any]:
        """Return the fields for a method."""
        return self.full if method == "full" else self.adapter


PRESETS: Mapping[str, Preset] = {
    # the settings of the usual tutorial, for comparison
    "classic": Preset(
        adapter={
            "rank": 8,
            "alpha": 32.0,
            "dropout": 0.1,
            "targets": "attention",  # q, k, v and o, however a family joins them
            "learning_rate": 1e-4,
            "batch": 8,
        },
        full={"learning_rate": 2e-5, "batch": 4},
        epochs=3.0,
    )
}


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the defaults depend on."""

    n_records: int  # records trained on in one pass, weights included
    longest_tokens: int  # of the rendered records
    context_length: int  # tokens, of the model
    d_model: int
    architecture: str = "llama"
    largest_micro_batch: int | None = None  # sequences, what the plan says fits

    def __post_init__(self) -> None:
        if self.n_records < 1:
            raise RecipeError("no record is left to train on")


def settle(
    choices: Mapping[str, Any], situation: Situation, *, epochs: float | None = None
) -> Recipe:
    """Fill in what a person left open.

    Args:
        choices: the fields that were chosen; `base`, `name` and `data` among them.
        situation: the model and the data.
        epochs: passes over the data, in place of `steps`.

    Raises:
        RecipeError: the chosen values contradict each other.
    """
    chosen = dict(choices)
    if epochs is not None and "steps" in chosen:
        raise RecipeError("both steps and epochs are given", hint="give one of them")
    n = situation.n_records
    batch = chosen.setdefault("batch", min(8 if n < MORE_RECORDS else 16, n))
    steps = chosen.setdefault("steps", steps_for(n, batch, epochs or default_epochs(n)))
    full, dense = chosen.get("method") == "full", bool(chosen.get("dense", False))
    chosen.setdefault("optimizer", optimizer_for(full=full, dense=dense))
    # packed weights change in backward: a step is one micro-batch
    fit = batch if full and not dense else situation.largest_micro_batch or min(4, batch)
    chosen.setdefault("micro_batch", max(1, min(fit, batch)))
    chosen.setdefault("rank", 8 if n < FEW_RECORDS else 16 if n <= MANY_RECORDS else 32)
    chosen.setdefault("dropout", 0.05 if n < MORE_RECORDS else 0.0)
    chosen.setdefault("warmup_steps", min(steps // 10, 20))
    chosen.setdefault("evaluations", min(10, steps))
    chosen.setdefault(
        "max_length",
        max(8, min(situation.longest_tokens, LONGEST_DEFAULT_TOKENS, situation.context_length)),
    )
    chosen.setdefault(
        "learning_rate",
        default_learning_rate(
            d_model=situation.d_model,
            architecture=situation.architecture,
            batch=batch,
            steps=steps,
            full=full,
        ),
    )
    try:
        return Recipe(**{**FIXED, **chosen})
    except ValidationError as error:
        raise RecipeError(f"recipe: {first_fault(error)}") from error


FIXED: Mapping[str, Any] = {
    "method": "lora",
    "keep_type": "Q8_0",
    "clip": "update",
    "train_embeddings": False,
    "dense": False,
    "weight_type": "float32",
    "final_type": None,
    "ranks": {},
    "alpha": 32.0,
    "rslora": False,
    "targets": "all",
    "b_rate_ratio": 1.0,
    "schedule": "linear",
    "weight_decay": 0.0,
    "clip_norm": 1.0,
    "neftune": 0.0,
    "packing": False,
    "recompute": False,
    "train_on": "answers",
    "chosen": False,
    "compute_type": "auto",
    "validation": 0.1,
    "patience": 3,
    "checkpoint_minutes": 5.0,
    "test": (),
    "template": None,
    "add_tokens": (),
    "from_adapter": None,
    "sample": None,
    "report_to": (),
    "seed": 0,
}


def optimizer_for(*, full: bool, dense: bool) -> str:
    """Return the optimizer of a way to train."""
    if full and not dense:
        return "factored"
    return "adamw_torch" if full else "adamw"


def default_epochs(n_records: int) -> float:
    """Return passes over the data: small sets get more, with early stopping to end them."""
    return 5.0 if n_records < 1000 else 3.0


def steps_for(n_records: int, batch: int, epochs: float) -> int:
    """Return the optimizer steps of `epochs` passes."""
    return max(1, round(math.ceil(n_records / batch) * epochs))


def default_learning_rate(
    *, d_model: int, architecture: str, batch: int, steps: int, full: bool = False
) -> float:
    """Return the rate, to two digits.

    Args:
        d_model: hidden size of the model.
        architecture: GGUF name; Qwen's best rate hardly depends on its size.
        batch: sequences an optimizer step.
        steps: optimizer steps of the run.
        full: for the weights themselves: a tenth of an adapter's ("LoRA Without Regret").

    Source: the fit of tinker-cookbook, made at batch 128, times sqrt(batch / 128); short runs
    want half as much again.
    """
    power = 0.0775 if architecture.startswith("qwen") else 0.781
    rate = 5e-4 * (2000 / d_model) ** power * math.sqrt(batch / 128)
    if full:
        rate /= 10
    elif steps < SHORT_RUN_STEPS:
        rate *= 1.5
    return float(f"{rate:.1e}")
