"""The training loop where each layer takes its own optimizer step inside backward."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llamune.files import write_text
from llamune.runs import Run
from llamune.train.loop import Loop
from llamune.train.packed_file import ROUNDING, TRAINED_MODEL
from llamune.train.packed_weights import PackedWeights

__all__ = ["PackedLoop"]


class NoOptimizer(torch.optim.Optimizer):
    """Holds the learning rate that the schedule sets; the steps were taken in backward.

    Args:
        rate: at its highest.
    """

    def __init__(self, rate: float) -> None:
        super().__init__([torch.zeros(1)], {"lr": rate})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # nothing to return
        """Do nothing."""


class PackedLoop(Loop):
    """The loop of one run that trains packed weights; a step is one micro-batch.

    Args:
        *args: of `Loop`: the model and its settings.
        weights: what is trained of the model.
        **kwargs: of `Loop`.
    """

    def __init__(self, *args: Any, weights: PackedWeights, **kwargs: Any) -> None:
        self.weights = weights
        super().__init__(*args, **kwargs)
        self.weights.course.begin(step=1, rate=0.0, measuring=True)  # a rehearsal changes nothing

    def create_optimizer(self, *_: Any) -> torch.optim.Optimizer:
        """Return what holds the learning rate."""
        if self.optimizer is None:
            self.optimizer = NoOptimizer(self.recipe.learning_rate)
        return self.optimizer

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Any:
        """Run the batch forward and backward, which changes the weights.

        With `clip: global` it goes through twice: the first pass measures the gradient's norm,
        which scales the second.
        """
        model.train()
        prepared = self._prepare_inputs(inputs)
        assert self.lr_scheduler is not None  # noqa: S101  the trainer made it
        step, rate = self.state.global_step + 1, float(self.lr_scheduler.get_last_lr()[0])
        course, scale = self.weights.course, 1.0
        if self.recipe.clip == "global" and self.recipe.clip_norm:
            course.begin(step=step, rate=rate, measuring=True)
            on_gpu = [self.args.device] if self.args.device.type == "cuda" else []
            with torch.random.fork_rng(devices=on_gpu):  # both passes draw the same numbers
                self.pass_through(model, prepared, num_items_in_batch)
            scale = min(1.0, self.recipe.clip_norm / max(course.gradient_norm, 1e-12))
        course.begin(step=step, rate=rate, scale=scale)
        loss = self.pass_through(model, prepared, num_items_in_batch)
        return loss.detach()

    def pass_through(self, model: Any, inputs: dict[str, Any], n_items: Any) -> torch.Tensor:
        """Return the loss of a pass forward and backward.

        Raises:
            LossError: the loss or a gradient is no number.
        """
        with self.compute_loss_context_manager():
            loss: torch.Tensor = self.compute_loss(model, inputs, num_items_in_batch=n_items)  # type: ignore[assignment]  # no outputs asked for
        if not math.isfinite(loss.item()):
            raise self.diverged("loss", loss.item())
        try:
            self.accelerator.backward(loss)
        except FloatingPointError as error:
            raise self.diverged("gradient", float(str(error))) from error
        return loss

    def _clip_grad_norm(self, model: Any) -> float:  # noqa: ARG002  the trainer's signature
        return self.weights.course.gradient_norm  # as it was before it was clipped

    def n_trained(self) -> int:
        """Return how many numbers are trained."""
        return self.weights.n_trained

    def save_weights(self, folder: Path) -> None:
        """Write the packed model, and what is remembered of its gradients."""
        self.weights.save(folder)

    def load_weights(self, folder: Path) -> None:
        """Put back what `save_weights` wrote."""
        self.weights.load(folder)

    def write_result(self, run: Run, *, layers: Sequence[str]) -> Path:  # noqa: ARG002  of adapters
        """Write the trained model as a whole file into the run's folder."""
        out = run.folder / TRAINED_MODEL
        self.weights.write(out)
        found = {"measured": self.weights.rounding_noise}
        write_text(run.folder / ROUNDING, json.dumps(found), replace=True)
        return out
