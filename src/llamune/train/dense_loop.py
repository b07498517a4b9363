"""The training loop over ordinary float weights, with the optimizers that transformers offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from llamune.arch import Family, OffsetNorm, PermuteRows, TensorRule
from llamune.gguf import Entry, ModelFile, floats_to_rows, quant_type
from llamune.nn import to_pairs, uniform
from llamune.runs import Recipe, Run
from llamune.train.errors import CheckpointError, TrainError
from llamune.train.loop import Loop
from llamune.train.packed_file import (
    EMBEDDINGS,
    TRAINED_MODEL,
    Replaced,
    row_slices,
    write_replaced,
)

__all__ = ["DenseLoop", "RoundedAtRandom"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

WEIGHTS = "weights.safetensors"
FILE_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}


class RoundedAtRandom(torch.optim.Optimizer):
    """Any optimizer over 16-bit weights: each is made f32 for its step, then rounded at random.

    A step is usually smaller than half the distance of two bf16 numbers: rounded to nearest it
    would be lost. The optimizer's own state stays f32.

    Args:
        parameters: bf16.
        make: makes the optimizer of one parameter.
        seed: of the roundings.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
        *,
        seed: int,
    ) -> None:
        self.own = [make([parameter]) for parameter in parameters]
        self.seed = seed
        self.n_steps = 0
        super().__init__(parameters, {"lr": self.own[0].param_groups[0]["lr"]})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002  as above
        """Move each weight, one after the other."""
        self.n_steps += 1
        parameters = self.param_groups[0]["params"]
        for number, (parameter, own) in enumerate(zip(parameters, self.own, strict=True)):
            if parameter.grad is None:
                continue
            own.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            gradient, parameter.grad = parameter.grad, None
            parameter.data = parameter.data.float()
            parameter.grad = gradient.float()
            own.step()
            parameter.grad = None
            parameter.data = rounded(parameter.data, key=(self.seed, self.n_steps, number))

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all optimizers, and how many steps were made."""
        return {
            **super().state_dict(),
            "own": [one.state_dict() for one in self.own],
            "n_steps": self.n_steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self.n_steps = state_dict["n_steps"]
        for parameter, own, state in zip(
            self.param_groups[0]["params"], self.own, state_dict["own"], strict=True
        ):
            kept = parameter.data
            parameter.data = kept.float()  # states take the type of their parameter
            own.load_state_dict(state)
            parameter.data = kept


def rounded(values: Tensor, *, key: tuple[int, ...]) -> Tensor:
    """Return f32 numbers in bf16, each rounded up or down so that its mean is the number."""
    rows = values.view(values.shape[0], -1)
    noise = uniform((rows.shape[0], rows.shape[1]), key=key, device=values.device)
    bits = rows.view(torch.int32) + (noise * 2**16).to(torch.int32)
    return (bits >> 16).to(torch.int16).view(torch.bfloat16).view(values.shape)


class DenseLoop(Loop):
    """The loop of one run that trains float weights.

    Args:
        model: the ordinary transformers model.
        settings: from `arguments`.
        source: the base's file.
        family: what `describe` said of it.
        entries: metadata for the file that is written.
        **kwargs: of `Loop`.
    """

    def __init__(
        self,
        model: Any,
        settings: TrainingArguments,
        *,
        source: ModelFile,
        family: Family,
        entries: Mapping[str, Entry],
        **kwargs: Any,
    ) -> None:
        self.source = source
        self.family = family
        self.entries = entries
        settings.optim = optimizer_named(kwargs["recipe"].optimizer)
        super().__init__(model, settings, **kwargs)

    def create_optimizer(self, *_: Any) -> torch.optim.Optimizer:
        """Return what transformers makes of the name; over bf16 weights, rounding at random."""
        if self.optimizer is not None:
            return self.optimizer
        if self.recipe.weight_type == "float32":
            return Trainer.create_optimizer(self)
        kind, options = Trainer.get_optimizer_cls_and_kwargs(self.args)
        options = {**options, "weight_decay": self.recipe.weight_decay}
        self.optimizer = RoundedAtRandom(
            list(self.trained().values()), partial(kind, **options), seed=self.recipe.seed
        )
        return self.optimizer

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters that are trained, by name."""
        return {
            name: parameter
            for name, parameter in self.adapted.named_parameters()
            if parameter.requires_grad
        }

    def save_weights(self, folder: Path) -> None:
        """Write the trained floats."""
        weights = {name: one.detach().contiguous() for name, one in self.trained().items()}
        save_file(weights, folder / WEIGHTS)

    def load_weights(self, folder: Path) -> None:
        """Put back what `save_weights` wrote.

        Raises:
            CheckpointError: it is of another model or recipe.
        """
        wanted, found = self.trained(), load_file(folder / WEIGHTS)
        if {k: v.shape for k, v in wanted.items()} != {k: v.shape for k, v in found.items()}:
            raise CheckpointError(f"{folder}: does not fit this recipe")
        with torch.no_grad():
            for name, parameter in wanted.items():
                parameter.copy_(found[name])

    def write_result(self, run: Run, *, layers: Sequence[str]) -> Path:  # noqa: ARG002  of adapters
        """Write the trained model as a whole file, its floats as they are."""
        trained = self.trained()
        kind = FILE_TYPES[next(iter(trained.values())).dtype]
        changed = {}
        for rule in self.family.rules.values():
            if rule.name not in trained:
                continue
            wide = kind if len(rule.shape) > 1 else "F32"
            changed[rule.gguf] = Replaced(
                type=quant_type(wide), chunks=partial(file_rows, trained[rule.name], rule, wide)
            )
        out = run.folder / TRAINED_MODEL
        write_replaced(self.source, changed, out, entries=self.entries)
        return out


def file_rows(parameter: Tensor, rule: TensorRule, kind: str) -> Iterator[Bytes]:
    """Yield a parameter's rows as the file has them."""
    values = parameter.detach()
    if isinstance(rule.transform, PermuteRows):
        values = to_pairs(values, rule.transform.n_head, dim=0)
    elif isinstance(rule.transform, OffsetNorm):
        values = values.float() + rule.transform.offset
    rows = values if values.ndim > 1 else values.unsqueeze(0)
    for start, stop in row_slices(*rows.shape):
        part = rows[start:stop].float().cpu().contiguous().numpy()
        yield floats_to_rows(part, quant_type(kind))


def optimizer_named(name: str) -> OptimizerNames:
    """Return the optimizer that transformers knows by a name.

    Raises:
        TrainError: it knows none of that name.
    """
    try:
        return OptimizerNames(name)
    except ValueError as error:
        known = ", ".join(one.value for one in OptimizerNames)
        raise TrainError(f"no optimizer is called {name!r}", hint=f"known: {known}") from error


def freeze_tables(model: torch.nn.Module, family: Family, recipe: Recipe) -> None:
    """Leave token embedding and output as they are, unless the recipe trains them."""
    if recipe.train_embeddings:
        return
    for rule in family.rules.values():
        if rule.gguf in EMBEDDINGS:
            model.get_submodule(rule.module).get_parameter(rule.parameter).requires_grad_(False)
