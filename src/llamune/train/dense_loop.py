"""The training loop over ordinary float weights, with the optimizers that transformers offers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from llamune.nn import part_of, to_pairs, whole
from llamune.runs import Recipe, Run
from llamune.train.dense_optimizers import RoundedAtRandom, over_parts
from llamune.train.errors import CheckpointError
from llamune.train.loop import Loop
from llamune.train.packed_file import (
    EMBEDDINGS,
    TRAINED_MODEL,
    Replaced,
    row_slices,
    write_replaced,
)

__all__ = ["DenseLoop", "freeze_tables"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.pt"
FILE_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}


class DenseLoop(Loop):
    """The loop of one run that trains float weights.

    Several processes hold a part of the weights each; what gathers them concerns all of them.

    Args:
        model: the ordinary transformers model, shared out where there are several processes.
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
        recipe: Recipe = kwargs["recipe"]
        settings.optim = OptimizerNames(recipe.optimizer)
        settings.weight_decay = recipe.weight_decay
        self.is_shared_out = settings.world_size > 1
        if self.is_shared_out:
            model._is_accelerate_prepared = True  # accelerate would keep a whole model everywhere
        super().__init__(model, settings, **kwargs)

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        if not self.is_shared_out:  # else each part is where it belongs
            super()._move_model_to_device(model, device)

    def create_optimizer(self, *_: Any) -> torch.optim.Optimizer:
        """Return what transformers makes of the name; over bf16 weights, rounding at random."""
        if self.optimizer is not None:
            return self.optimizer
        is_rounded = self.recipe.weight_type == "bfloat16"
        if not (is_rounded or self.is_shared_out):
            return Trainer.create_optimizer(self)
        kind, options = Trainer.get_optimizer_cls_and_kwargs(self.args)
        decaying = set(self.get_decay_parameter_names(self.adapted))
        groups = [
            (parameter, self.recipe.weight_decay if name in decaying else 0.0)
            for name, parameter in self.trained().items()
        ]
        make = partial(kind, **options)
        if is_rounded:
            key = (self.recipe.seed, self.args.process_index)
            self.optimizer = RoundedAtRandom(make, groups, key=key)
        else:
            self.optimizer = over_parts(make, groups)
        return self.optimizer

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters that are trained, by name."""
        return {
            name: parameter
            for name, parameter in self.adapted.named_parameters()
            if parameter.requires_grad
        }

    def evaluate_quietly(self) -> float:
        """Return the validation loss; every process goes through the model equally often."""
        n_batches, n_processes = len(self.validation_order), self.args.world_size
        if self.is_shared_out and self.args.process_index >= n_batches % n_processes > 0:
            batch = [self.validation_records[i] for i in self.validation_order[0]]
            with torch.no_grad():  # for the weights that the others gather; it does not count
                self.adapted(**self._prepare_inputs(self.collator(batch)))
        return super().evaluate_quietly()

    def own(self, name: str) -> str:
        """Return the name of this process's file in a checkpoint."""
        if not self.is_shared_out:
            return name
        return f"{self.args.process_index + 1}-of-{self.args.world_size}.{name}"

    def save_weights(self, folder: Path) -> None:
        """Write the trained floats, or this process's part of them."""
        weights = {name: part_of(one).contiguous() for name, one in self.trained().items()}
        save_file(weights, folder / self.own(WEIGHTS))

    def load_weights(self, folder: Path) -> None:
        """Put back what `save_weights` wrote.

        Raises:
            CheckpointError: it is of another model or recipe, or of another number of processes.
        """
        path = folder / self.own(WEIGHTS)
        if not path.is_file():
            raise CheckpointError(
                f"{folder}: written by another number of processes than {self.args.world_size}",
                hint="go on with as many as the run began with",
            )
        wanted = {name: part_of(one) for name, one in self.trained().items()}
        found = load_file(path)
        if {k: v.shape for k, v in wanted.items()} != {k: v.shape for k, v in found.items()}:
            raise CheckpointError(f"{folder}: does not fit this recipe")
        for name, part in wanted.items():
            part.copy_(found[name])

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)  # the leading process's
        if self.args.process_index:
            assert self.optimizer is not None  # noqa: S101  the trainer made it
            torch.save(self.optimizer.state_dict(), Path(output_dir) / self.own(OPTIMIZER))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.args.process_index and checkpoint is not None:
            assert self.optimizer is not None  # noqa: S101  the trainer made it
            path = Path(checkpoint) / self.own(OPTIMIZER)
            self.optimizer.load_state_dict(torch.load(path, weights_only=True))

    def write_result(self, run: Run, *, layers: Sequence[str]) -> Path:  # noqa: ARG002  of adapters
        """Write the trained model as a whole file, its floats as they are."""
        trained = self.trained()
        kind = FILE_TYPES[next(iter(trained.values())).dtype]
        rules = {rule.gguf: rule for rule in self.family.rules.values() if rule.name in trained}
        out = run.folder / TRAINED_MODEL
        if self.args.process_index:  # each matrix is gathered when the first process writes it
            for name in self.source.tensors:
                if name in rules:
                    whole(trained[rules[name].name])
            return out
        changed = {}
        for name, rule in rules.items():
            wide = kind if len(rule.shape) > 1 else "F32"
            changed[name] = Replaced(
                type=quant_type(wide), chunks=partial(file_rows, trained[rule.name], rule, wide)
            )
        write_replaced(self.source, changed, out, entries=self.entries)
        return out


def file_rows(parameter: Tensor, rule: TensorRule, kind: str) -> Iterator[Bytes]:
    """Yield a parameter's rows as the file has them."""
    values = whole(parameter)
    if isinstance(rule.transform, PermuteRows):
        values = to_pairs(values, rule.transform.n_head, dim=0)
    elif isinstance(rule.transform, OffsetNorm):
        values = values.float() + rule.transform.offset
    rows = values if values.ndim > 1 else values.unsqueeze(0)
    for start, stop in row_slices(*rows.shape):
        part = rows[start:stop].float().cpu().contiguous().numpy()
        yield floats_to_rows(part, quant_type(kind))


def freeze_tables(model: torch.nn.Module, family: Family, recipe: Recipe) -> None:
    """Leave token embedding and output as they are, unless the recipe trains them."""
    if recipe.train_embeddings:
        return
    for rule in family.rules.values():
        if rule.gguf in EMBEDDINGS:
            model.get_submodule(rule.module).get_parameter(rule.parameter).requires_grad_(False)
