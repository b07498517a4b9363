"""All that is trained of a packed model: its layers, its norms, and what is remembered of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llamune.arch import Family, OffsetNorm, PermuteRows, Role, TensorRule
from llamune.gguf import Entry, ModelFile, quant_type
from llamune.nn import from_pairs, to_pairs, train_packed, train_tables
from llamune.runs import Recipe
from llamune.train.errors import CheckpointError
from llamune.train.packed_file import TRAINED_MODEL, Replaced, row_slices, write_replaced
from llamune.train.packed_moments import EightBit, Factored, Moments
from llamune.train.packed_updates import Course, PackedUpdate, VectorUpdate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["OPTIMIZERS", "PackedWeights"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

OPTIMIZERS: Mapping[str, Callable[[tuple[int, int], torch.device], Moments]] = {
    "factored": Factored,
    "adamw8": EightBit,
}
"""recipe's name -> what is remembered of each matrix"""

MOMENTS = "moments.safetensors"


class PackedWeights:
    """Makes the weights of a packed model trainable, and brings them to files and back.

    Args:
        model: from `load`, of a file that is not mapped.
        source: the file it was loaded from: tensors that are not trained come from there.
        family: what `describe` said of it.
        recipe: optimizer, clipping, decay and seed.
        entries: metadata for the files that are written, such as where they come from.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        source: ModelFile,
        family: Family,
        recipe: Recipe,
        *,
        entries: Mapping[str, Entry] | None = None,
    ) -> None:
        self.source = source
        self.entries = dict(entries or {})
        self.course = Course(
            seed=recipe.seed,
            largest_update=recipe.clip_norm if recipe.clip == "update" else 0.0,
            weight_decay=recipe.weight_decay,
        )
        self.matrices: dict[str, PackedUpdate] = {}  # by name in the file
        self.vectors: dict[str, tuple[TensorRule, VectorUpdate]] = {}
        self.tables: dict[str, tuple[Tensor, list[PackedUpdate]]] = {}  # slices of rows
        self.add_matrices(model, family, recipe)
        self.add_vectors(model, family)
        if recipe.train_embeddings:
            self.add_tables(model, family, recipe)

    def add_matrices(self, model: PreTrainedModel, family: Family, recipe: Recipe) -> None:
        """Make the blocks' linear layers learn."""
        rules = family.linear_modules("all")
        for number, (path, layer) in enumerate(train_packed(model, list(rules)).items()):
            shape = (layer.out_features, layer.in_features)
            update = PackedUpdate(
                packed=layer.packed,
                kind=layer.kind,
                number=number,
                moments=OPTIMIZERS[recipe.optimizer](shape, layer.packed.device),
                course=self.course,
            )
            layer.learn = update
            self.matrices[rules[path].gguf] = update

    def add_tables(self, model: PreTrainedModel, family: Family, recipe: Recipe) -> None:
        """Make token embedding and output learn, each slice of rows by itself."""
        number = len(self.matrices)
        for name, table in train_tables(model, tied=family.tied).items():
            updates = []
            for start, stop in table.slices():
                moments = OPTIMIZERS[recipe.optimizer](
                    (stop - start, table.n_columns), table.packed.device
                )
                rows = table.packed[start:stop]
                updates.append(PackedUpdate(rows, table.kind, number, moments, self.course))
                number += 1
            table.learn = partial(learn_slice, updates)
            self.tables[name] = (table.packed, updates)

    def add_vectors(self, model: PreTrainedModel, family: Family) -> None:
        """Make norms and biases learn."""
        for rule in family.rules.values():
            if rule.role in {Role.LINEAR, Role.EMBEDDING}:
                continue
            parameter = model.get_submodule(rule.module).get_parameter(rule.parameter)
            offset = rule.transform.offset if isinstance(rule.transform, OffsetNorm) else 0.0
            values = self.file_vector(self.source, rule).to(parameter.device)
            update = VectorUpdate(
                parameter=parameter, values=values, offset=offset, course=self.course
            )
            self.vectors[rule.gguf] = (rule, update)

    @staticmethod
    def file_vector(file: ModelFile, rule: TensorRule) -> Tensor:
        """Return a norm's or a bias's numbers as the file has them, in transformers' order."""
        values = torch.from_numpy(file.floats(rule.gguf).reshape(-1).copy())
        return from_pairs(values, n_pair_head(rule), dim=0)

    @property
    def n_trained(self) -> int:
        """How many numbers are trained."""
        names = (*self.matrices, *self.tables, *self.vectors)
        return sum(self.source.tensors[name].n_elements for name in names)

    @property
    def rounding_noise(self) -> float:
        """Root mean square that rounding has added to a weight so far (measured on a sample)."""
        sizes = {name: self.source.tensors[name].n_elements for name in self.matrices}
        total = sum(float(self.matrices[name].variance) * size for name, size in sizes.items())
        return float(np.sqrt(total / max(1, sum(sizes.values()))))

    def replaced(self) -> dict[str, Replaced]:
        """Return the trained tensors as they go into a file."""
        matrices = {
            name: Replaced(type=quant_type(one.kind), chunks=partial(rows_of, one.packed))
            for name, one in self.matrices.items()
        }
        vectors = {
            name: Replaced(
                type=quant_type("F32"),
                chunks=partial(rows_of, to_pairs(one.values, n_pair_head(rule), dim=0)),
            )
            for name, (rule, one) in self.vectors.items()
        }
        tables = {
            name: Replaced(type=quant_type(updates[0].kind), chunks=partial(rows_of, packed))
            for name, (packed, updates) in self.tables.items()
        }
        return matrices | tables | vectors

    def write(self, out: Path) -> None:
        """Write the model as it is now: a whole file, nothing rounded any more."""
        write_replaced(self.source, self.replaced(), out, entries=self.entries)

    def save(self, folder: Path) -> None:
        """Write the model and what is remembered of its gradients into a folder."""
        self.write(folder / TRAINED_MODEL)
        save_file(
            {key: value.contiguous() for key, value in self.moments().items()}, folder / MOMENTS
        )

    def moments(self) -> dict[str, Tensor]:
        """Return what is remembered, the tensors themselves."""
        updates: dict[str, PackedUpdate | VectorUpdate] = dict(self.matrices)
        updates |= {name: one for name, (_, one) in self.vectors.items()}
        for name, (_, slices) in self.tables.items():
            updates |= {f"{name}.{number}": one for number, one in enumerate(slices)}
        return {
            f"{name}.{key}": value
            for name, update in updates.items()
            for key, value in update.tensors().items()
        }

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote.

        Raises:
            CheckpointError: it is of another model or recipe.
        """
        wanted, found = self.moments(), load_file(folder / MOMENTS)
        shapes = {key: value.shape for key, value in wanted.items()}
        if shapes != {key: value.shape for key, value in found.items()}:
            raise CheckpointError(
                f"{folder}: does not fit this recipe", hint="the optimizer must be the same"
            )
        for key, value in wanted.items():
            value.copy_(found[key])
        with ModelFile.open(folder / TRAINED_MODEL, mapped=False) as file:
            packed = {name: one.packed for name, one in self.matrices.items()}
            packed |= {name: rows for name, (rows, _) in self.tables.items()}
            for name, rows in packed.items():
                rows.copy_(torch.from_numpy(file.packed(name).copy()))
            for rule, vector in self.vectors.values():
                vector.values.copy_(self.file_vector(file, rule))
                vector.show()


def learn_slice(updates: list[PackedUpdate], number: int, gradient: Tensor) -> None:
    """Let a slice of a table learn."""
    updates[number](gradient)


def n_pair_head(rule: TensorRule) -> int:
    """Return the heads whose rows the file keeps in pairs."""
    return rule.transform.n_head if isinstance(rule.transform, PermuteRows) else 0


def rows_of(values: Tensor) -> Iterator[Bytes]:
    """Yield a tensor's bytes, some rows at a time."""
    rows = values if values.ndim > 1 else values.unsqueeze(0)
    for start, stop in row_slices(*rows.shape):
        yield rows[start:stop].cpu().contiguous().view(torch.uint8).numpy()
