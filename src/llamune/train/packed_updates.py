"""The optimizer step inside backward: each gradient changes its weight and is gone.

What all weights share is in `Course`: the rate and the number of the step, whether gradients are
only measured (the first of two passes of `clip: global`), what was seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from llamune.nn import repack, rounding_variance, uniform, unpack
from llamune.train.packed_file import row_slices
from llamune.train.packed_moments import Moments, Single

__all__ = ["Course", "PackedUpdate", "VectorUpdate", "rows_update"]

SAMPLED_ROWS = 16  # of each weight, whose rounding noise is added up
ROUNDING, STATE = 0, 1  # what random numbers are for


@dataclass
class Course:
    """Where training stands, as every weight's update reads it.

    Args:
        seed: of the roundings.
        largest_update: root mean square that a weight's update may have in units of the rate; 0
            does not clip.
        weight_decay: share of a weight that a step takes off, a unit of rate.
        rate: of this step.
        step: 1 is the first.
        scale: factor on gradients, from a first pass.
        measuring: gradients are only measured.
        squared_gradient: of this pass, summed over weights.
    """

    seed: int
    largest_update: float = 0.0
    weight_decay: float = 0.0
    rate: float = 0.0
    step: int = 1
    scale: float = 1.0
    measuring: bool = False
    squared_gradient: float = 0.0

    def begin(self, *, step: int, rate: float, measuring: bool = False, scale: float = 1.0) -> None:
        """Start a pass backward."""
        self.step, self.rate, self.measuring, self.scale = step, rate, measuring, scale
        self.squared_gradient = 0.0

    @property
    def gradient_norm(self) -> float:
        """The norm of all gradients of the last pass together."""
        return math.sqrt(self.squared_gradient)

    def take(self, gradient: Tensor) -> bool:
        """Note a gradient and scale it; whether its weight is to change now.

        Raises:
            FloatingPointError: it holds NaN or infinity; the weight is as it was.
        """
        squared = float(torch.linalg.vector_norm(gradient)) ** 2
        if not math.isfinite(squared):
            raise FloatingPointError(str(squared))
        self.squared_gradient += squared
        if self.measuring:
            return False
        if self.scale != 1.0:
            gradient.mul_(self.scale)
        return True

    def rate_for(self, direction: Tensor) -> float:
        """Return the rate, lowered where the update is larger than allowed."""
        if not self.largest_update:
            return self.rate
        size = float(torch.linalg.vector_norm(direction)) / math.sqrt(direction.numel())
        return self.rate / max(1.0, size / self.largest_update)


def rows_update(
    packed: Tensor, kind: str, direction: Tensor, *, rate: float, key: tuple[int, ...], decay: float
) -> float:
    """Move packed rows by -rate × direction; return the variance that rounding gave some of them.

    Args:
        packed: uint8, (rows, row_bytes), written.
        kind: quant type.
        direction: f32, (rows, columns).
        rate: learning rate.
        key: of the random numbers.
        decay: share of each weight that is taken off.

    Returns:
        Mean over the first rows, squared units of a weight.
    """
    on_cpu = packed.device.type == "cpu"
    variance = 0.0
    for start, stop in row_slices(*direction.shape):
        rows = packed[start:stop]
        values = unpack(rows, kind, torch.float32, how="ggml" if on_cpu else "torch")
        if decay:
            values.mul_(1.0 - decay)
        values.sub_(direction[start:stop], alpha=rate)
        noise = uniform((stop - start, values.shape[1]), key=(*key, start), device=rows.device)
        repack(rows, values, kind, noise)
        if start == 0:
            some = slice(0, SAMPLED_ROWS)
            variance = float(rounding_variance(rows[some], values[some], kind).mean())
    return variance


@dataclass
class PackedUpdate:
    """What becomes of the gradient of one packed weight.

    Args:
        packed: its rows, uint8.
        kind: its quant type.
        number: tells its random numbers from those of other weights.
        moments: what is remembered of its gradients.
        course: where training stands.
        variance: what rounding has added so far, a sample's mean, f64 of one element.
    """

    packed: Tensor
    kind: str
    number: int
    moments: Moments
    course: Course
    variance: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))

    def __call__(self, gradient: Tensor) -> None:
        """Change the weight.

        Args:
            gradient: f32, (rows, columns); its memory is used.
        """
        course = self.course
        if not course.take(gradient):
            return
        place = (course.seed, course.step, self.number)
        direction = self.moments.direction(gradient, step=course.step, key=(*place, STATE))
        rate = course.rate_for(direction)
        self.variance += rows_update(
            self.packed,
            self.kind,
            direction,
            rate=rate,
            key=(*place, ROUNDING),
            decay=course.rate * course.weight_decay,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return what must be saved beside the weight."""
        return {**self.moments.tensors(), "variance": self.variance}


@dataclass
class VectorUpdate:
    """What becomes of the gradient of a norm or a bias: kept in f32, exactly as the file has it.

    Args:
        parameter: what layers compute with, in their own type.
        values: f32, the file's numbers in transformers' order.
        offset: what the file adds (Gemma's norms).
        course: where training stands.
    """

    parameter: nn.Parameter
    values: Tensor
    offset: float
    course: Course

    def __post_init__(self) -> None:
        self.moments = Single(self.values.shape, self.values.device)
        self.show()
        self.parameter.requires_grad_(True)
        hook = self.parameter.register_post_accumulate_grad_hook
        hook(self)  # type: ignore[no-untyped-call]  # torch's own

    def __call__(self, parameter: Tensor) -> None:
        """Change the numbers; called by autograd when the gradient is complete."""
        assert parameter.grad is not None  # noqa: S101  that is when autograd calls
        gradient = parameter.grad.to(torch.float32, copy=True)
        parameter.grad = None
        if not self.course.take(gradient):
            return
        direction = self.moments.direction(gradient, step=self.course.step, key=())
        self.values.sub_(direction, alpha=self.course.rate_for(direction))
        self.show()

    def show(self) -> None:
        """Give the layers the numbers as they are now."""
        with torch.no_grad():
            self.parameter.copy_(self.values - self.offset)

    def tensors(self) -> dict[str, Tensor]:
        """Return what must be saved beside the numbers."""
        return self.moments.tensors()
