"""The type of each tensor chosen for the least predicted loss within a size."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from llamune.arch import Role
from llamune.convert import QuantizePlan, TypeOptions, plan_quantize
from llamune.errors import LlamuneError
from llamune.gguf import ModelFile, QuantType, file_type, quant_type
from llamune.jobs.calibrating import OnStep, calibration_windows, counted
from llamune.jobs.preparing import Opened

if TYPE_CHECKING:
    from llamune.calibrate import Choice

__all__ = ["Fit", "MixComparison", "fit_types"]

STANDARD = (
    "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0"
)  # fmt: skip
# the smallest first; rows that do not divide by 256 take the second
LADDERS = (
    ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0"),
    ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
)


@dataclass(frozen=True, kw_only=True)
class MixComparison:
    """A standard mix beside the best types at its size.

    Args:
        name: the file type.
        nbytes: its file's size.
        loss: what its types are predicted to add to the loss, nats a token.
        best_loss: the same of the best types within its size.
    """

    name: str
    nbytes: int
    loss: float
    best_loss: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Types chosen within a size.

    Args:
        plan: what will be written.
        loss: what its types are predicted to add to the loss, nats a token.
        standard: the standard mixes nearest to its size.
    """

    plan: QuantizePlan
    loss: float
    standard: tuple[MixComparison, ...]


@dataclass(frozen=True, kw_only=True)
class Ways:
    """Every way to store each tensor that may change, and how to plan a file from a choice.

    Args:
        file: the model.
        losses: tensor name → type name → predicted loss.
    """

    file: ModelFile
    losses: Mapping[str, Mapping[str, float]]

    def nbytes(self, name: str, kind: QuantType) -> int:
        """Return the bytes of a tensor in the file, padding included."""
        tensor = self.file.tensors[name]
        size = kind.row_bytes(tensor.n_columns) * tensor.n_rows
        return -(-size // self.file.alignment) * self.file.alignment

    def fixed_bytes(self, rest: QuantizePlan) -> int:
        """Return the bytes of a file's header and of the tensors that are no matter of choice."""
        return rest.nbytes - sum(self.nbytes(name, rest.types[name]) for name in self.losses)

    def check(self, budget_bytes: int) -> None:
        """Refuse a size that even the smallest types are too large for.

        Raises:
            LlamuneError: it is too small.
        """
        least = self.fixed_bytes(self.nearest_mix(budget_bytes)) + sum(
            min(self.nbytes(name, quant_type(kind)) for kind in ways)
            for name, ways in self.losses.items()
        )
        if least > budget_bytes:
            text = f"{self.file.path}: {budget_bytes:,} bytes are too few, the smallest types take "
            hint = f"--fit {math.ceil(least / 1e6) / 1e3:.3f}GB, or a smaller model"
            if kept := [name for name in self.losses if self.keeps(name)]:
                text += f"{least:,}: {len(kept)} tensors are quantized already and keep their types"
                hint += ", or --requantize"
            else:
                text += f"{least:,}"
            raise LlamuneError(text, hint=hint)

    def keeps(self, name: str) -> bool:
        """Return whether a tensor was quantized before and has no other type to choose."""
        kind = self.file.tensors[name].type
        return kind.is_quantized and set(self.losses[name]) == {kind.name}

    def best(self, budget_bytes: int) -> tuple[QuantizePlan, float]:
        """Return the plan of the least predicted loss within a file's size, and that loss.

        Raises:
            CalibrateError: even the smallest types are too large.
        """
        from llamune.calibrate import Choice, best_choices

        rest = self.nearest_mix(budget_bytes)
        choices = {
            name: [
                Choice(kind, self.nbytes(name, quant_type(kind)), loss)
                for kind, loss in ways.items()
            ]
            for name, ways in self.losses.items()
        }
        chosen = best_choices(choices, budget_bytes=budget_bytes - self.fixed_bytes(rest))
        return self.plan(chosen, rest), sum(one.loss for one in chosen.values())

    def nearest_mix(self, budget_bytes: int) -> QuantizePlan:
        """Return the plan of the largest standard mix within a size, else of the smallest."""
        plans = sorted(self.standard.values(), key=lambda plan: plan.nbytes)
        return [plans[0], *(plan for plan in plans if plan.nbytes <= budget_bytes)][-1]

    @cached_property
    def standard(self) -> dict[str, QuantizePlan]:
        """The plans of the standard mixes."""
        return {name: plan_quantize(self.file, file_type(name)) for name in STANDARD}

    def plan(self, chosen: Mapping[str, Choice], rest: QuantizePlan) -> QuantizePlan:
        """Return the plan of a choice; tensors that are no matter of choice are as in `rest`."""
        patterns = tuple(
            (re.compile(f"^{re.escape(name)}$"), quant_type(one.type))
            for name, one in chosen.items()
        )
        return plan_quantize(self.file, rest.file_type, options=TypeOptions(tensors=patterns))

    def predicted(self, plan: QuantizePlan) -> float | None:
        """Return the predicted loss of a plan; None where it has types that were not tried."""
        total = 0.0
        for name, ways in self.losses.items():
            kind = plan.types[name].name
            if kind not in ways:
                return None
            total += ways[kind]
        return total


def fit_types(
    base: Opened,
    budget_bytes: int,
    own: Sequence[Sequence[int]],
    *,
    general_share: float,
    requantize: bool = False,
    on_step: OnStep = lambda _: None,
) -> Fit:
    """Choose the type of each tensor for the least predicted loss within a file's size.

    Args:
        base: the model.
        budget_bytes: the new file's size, at most.
        own: texts of the domain, as token ids.
        general_share: share of the calibration tokens that are general text.
        requantize: also choose for tensors that are quantized already, which else keep their types.
        on_step: called with each step, in words.

    Raises:
        LlamuneError: even the smallest types are too large, or there is nothing to choose.
        CalibrateError: NaN or infinity among the weights or inputs, or no text.
    """
    from llamune.calibrate import predicted_losses
    from llamune.nn import load

    file = base.file
    candidates = {
        name: types_to_try(file, name)
        if requantize or not file.tensors[name].type.is_quantized
        else []
        for name in tensors_to_choose(base)
    }
    untried = {
        name: {kind.name: 0.0 for kind in (*kinds, file.tensors[name].type)}
        for name, kinds in candidates.items()
    }
    Ways(file=file, losses=untried).check(budget_bytes)  # from the header alone, before the pass
    if not any(candidates.values()):
        raise LlamuneError(
            f"{file.path}: no tensor has a smaller type to choose",
            hint="start from the 16- or 32-bit model, or say --requantize",
        )
    windows = calibration_windows(base, list(own), general_share=general_share)
    on_step(f"trying up to {max(map(len, candidates.values()))} types for each tensor")
    losses = predicted_losses(
        load(file, family=base.family),
        base.family,
        windows,
        weight_of=file.floats,
        candidates=candidates,
        advance=counted("predicting losses", base.family.sizes.n_layer, on_step),
    )
    stays = {name: {file.tensors[name].type.name: 0.0} for name in losses}
    ways = Ways(file=file, losses={name: losses[name] | stays[name] for name in losses})
    plan, loss = ways.best(budget_bytes)
    return Fit(plan=plan, loss=loss, standard=tuple(neighbours(ways, plan.nbytes)))


def tensors_to_choose(base: Opened) -> list[str]:
    """Return the matrices whose type is a matter of choice."""
    roles = {Role.LINEAR, Role.EMBEDDING}
    return list(dict.fromkeys(r.gguf for r in base.family.rules.values() if r.role in roles))


def types_to_try(file: ModelFile, name: str) -> list[QuantType]:
    """Return the types that a tensor's rows divide into and that make it smaller."""
    tensor = file.tensors[name]
    for ladder in LADDERS:
        kinds = [quant_type(kind) for kind in ladder]
        if all(tensor.n_columns % kind.block_size == 0 for kind in kinds):
            return [kind for kind in kinds if kind.bpw < tensor.type.bpw]
    return []


def neighbours(ways: Ways, nbytes: int) -> list[MixComparison]:
    """Return the standard mixes nearest to a size, at most two on either side, by size."""
    known = [
        (plan, loss)
        for plan in ways.standard.values()
        if (loss := ways.predicted(plan)) is not None
    ]
    below = sorted((one for one in known if one[0].nbytes <= nbytes), key=lambda one: one[0].nbytes)
    above = sorted((one for one in known if one[0].nbytes > nbytes), key=lambda one: one[0].nbytes)
    found = []
    for plan, loss in [*below[-2:], *above[:2]]:
        assert plan.file_type is not None  # noqa: S101  a standard mix; for the type checker
        best_loss = ways.best(plan.nbytes)[1]
        found.append(
            MixComparison(
                name=plan.file_type.name, nbytes=plan.nbytes, loss=loss, best_loss=best_loss
            )
        )
    return found
