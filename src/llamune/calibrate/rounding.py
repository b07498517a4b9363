"""The pass that rounds a whole model: each layer sees the layers before it as already rounded."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llamune.arch import Family
from llamune.calibrate.compensate import Inputs, compensate
from llamune.calibrate.grids import has_grid
from llamune.calibrate.layers import Layers, Moments
from llamune.calibrate.windows import Windows
from llamune.files import new_file
from llamune.gguf import QuantType, floats_to_rows
from llamune.nn import PackedLinear

__all__ = ["OUTPUT", "Compensated", "TensorGain", "WeightOf", "round_model"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
WeightOf = Callable[[str, int, int], Floats]
"""(tensor, start, stop) → its intended rows start to stop, float32 (rows, columns), file order"""

OUTPUT = "output.weight"
SLAB_ROWS = 4096  # rounded at once: rows do not depend on each other, memory does on them


@dataclass(frozen=True)
class TensorGain:
    """What compensation won for one tensor.

    Args:
        name: the tensor.
        type: its new quant type.
        error: relative error of the layer's output, as stored: root of mean squares.
        nearest_error: the same with ggml's rounding to nearest.
        damping: added to the diagonal of the second moments, as a share of its mean; 0 where no
            damping made them fit to compensate with, and the tensor was rounded to nearest.
        n_dead: inputs that were 0 throughout; their weights were rounded by themselves.
    """

    name: str
    type: str
    error: float
    nearest_error: float
    damping: float
    n_dead: int


class Compensated:
    """Rounded tensors in a folder; callable as the `Rounding` that `adapter` and `convert` take.

    A tensor that the pass did not round, such as the token embedding, goes to nearest.
    """

    def __init__(self, folder: Path, gains: Sequence[TensorGain]) -> None:
        self.folder = folder
        self.gains = tuple(gains)
        self.types = {gain.name: gain.type for gain in gains}
        self.next_row: dict[str, int] = {}

    def __call__(self, name: str, rows: Floats, kind: QuantType) -> Bytes:
        """Return the packed rows that belong to the next `rows` of a tensor."""
        if self.types.get(name) != kind.name:
            return floats_to_rows(rows, kind)
        stored = np.load(packed_path(self.folder, name), mmap_mode="r")
        start = self.next_row.get(name, 0)
        stop = start + len(rows)
        self.next_row[name] = 0 if stop >= len(stored) else stop
        return np.ascontiguousarray(stored[start:stop])

    def discard(self) -> None:
        """Delete the rounded tensors: they stand in the new file now."""
        shutil.rmtree(self.folder, ignore_errors=True)


def round_model(
    model: Any,
    family: Family,
    windows: Windows,
    *,
    weight_of: WeightOf,
    types: Mapping[str, QuantType],
    folder: Path,
    fingerprint: Mapping[str, Any],
    advance: Callable[[int], object] | None = None,
) -> Compensated:
    """Round the linear layers of a model with error compensation.

    Memory: one decoder layer's weights as floats and its inputs' second moments. The model is used
    up: a layer that is behind gives up its weights.

    Args:
        model: what `nn.load` returned; its weights may be other ones than those to be rounded.
        family: its family.
        windows: calibration text.
        weight_of: gives rows of a tensor's intended weights.
        types: tensor name → its new quant type; tensors that are not named stay as they are.
        folder: where the rounded tensors are kept; a pass that was stopped goes on from there.
        fingerprint: what the result depends on; a folder of another one is begun anew.
        advance: called with the number of layers just finished.

    Raises:
        CalibrateError: NaN or infinity among the weights or inputs.
    """
    kept = Progress.open(folder, fingerprint)
    layers = Layers(model, family, windows)
    for index in range(len(layers)):
        linears = layers.linears(index)
        chosen = {name: types[name] for name in linears if name in types}
        if not kept.has(chosen):
            weights = {name: weight_of(name, 0, linears[name].out_features) for name in chosen}
            for name, weight in weights.items():
                set_floats(linears[name], weight)
            kept.add(round_layer(layers.moments(index), chosen, weights, folder))
        for name in chosen:
            set_packed(linears[name], np.load(packed_path(folder, name)), types[name])
        layers.advance(index)
        for (
            name
        ) in chosen:  # it does not run again, and rounded weights are no part of a mapped file
            linears[name].packed = linears[name].packed[:0].clone()
        if advance is not None:
            advance(1)
    if OUTPUT in types and not family.tied and not kept.has({OUTPUT: types[OUTPUT]}):
        inputs = Inputs.of(layers.output_moments(OUTPUT).mean(OUTPUT), name=OUTPUT)
        slabs = (
            weight_of(OUTPUT, rows.start, rows.stop) for rows in slabs_of(family.sizes.n_vocab)
        )
        kept.add([round_tensor(OUTPUT, slabs, inputs, types[OUTPUT], folder)])
    return Compensated(folder, list(kept.gains.values()))


def round_layer(
    moments: Moments, types: Mapping[str, QuantType], weights: Mapping[str, Floats], folder: Path
) -> list[TensorGain]:
    """Round the tensors of one layer; those with the same inputs share the factor."""
    gains = []
    for group in moments.groups():
        names = [name for name in group if name in types]
        if not names:
            continue
        inputs = Inputs.of(moments.mean(names[0]), name=" + ".join(names))
        for name in names:
            weight = weights[name]
            slabs = (weight[rows] for rows in slabs_of(len(weight)))
            gains.append(round_tensor(name, slabs, inputs, types[name], folder))
    return gains


def slabs_of(n_rows: int) -> list[slice]:
    """Return the rows that are rounded at once, in order."""
    return [slice(start, min(start + SLAB_ROWS, n_rows)) for start in range(0, n_rows, SLAB_ROWS)]


def round_tensor(
    name: str, slabs: Iterable[Floats], inputs: Inputs, kind: QuantType, folder: Path
) -> TensorGain:
    """Round a tensor slab by slab, keep it, and return what that won."""
    packed = []
    error = nearest_error = output = 0.0
    for slab in slabs:
        weight = torch.from_numpy(slab).to(inputs.moments.device)
        rounded = compensate(weight, inputs, kind, name=name)
        packed.append(rounded.packed)
        error += float(rounded.errors.sum())
        nearest_error += float(rounded.nearest_errors.sum())
        output += float(rounded.outputs.sum())
    save(packed_path(folder, name), np.concatenate(packed))
    return TensorGain(
        name=name,
        type=kind.name,
        error=math.sqrt(max(error, 0.0) / (output or 1.0)),
        nearest_error=math.sqrt(max(nearest_error, 0.0) / (output or 1.0)),
        damping=inputs.damping if has_grid(kind) else 0.0,
        n_dead=inputs.n_dead,
    )


class Progress:
    """Which tensors of a pass are done, kept in its folder."""

    FILE = "progress.json"

    def __init__(self, folder: Path, fingerprint: str, gains: dict[str, TensorGain]) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.gains = gains

    @classmethod
    def open(cls, folder: Path, fingerprint: Mapping[str, Any]) -> Progress:
        """Return what a folder holds of the same pass; of another pass, nothing."""
        text = json.dumps(fingerprint, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / cls.FILE
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["fingerprint"] == digest:
                gains = [TensorGain(**entry) for entry in record["gains"]]
                return cls(folder, digest, {gain.name: gain for gain in gains})
        return cls(folder, digest, {})

    def has(self, types: Mapping[str, QuantType]) -> bool:
        """Whether these tensors are all done."""
        return types.keys() <= self.gains.keys()

    def add(self, gains: Sequence[TensorGain]) -> None:
        """Keep that tensors are done; their files are there already."""
        self.gains |= {gain.name: gain for gain in gains}
        record = {
            "fingerprint": self.fingerprint,
            "gains": [asdict(gain) for gain in self.gains.values()],
        }
        with new_file(self.folder / self.FILE, replace=True) as out:
            out.write(json.dumps(record).encode())


def set_floats(linear: PackedLinear, weight: Floats) -> None:
    """Give a layer its intended weights, as floats in the file's row order."""
    linear.packed = torch.from_numpy(weight.view(np.uint8)).to(linear.packed.device)
    linear.kind = "F32"


def set_packed(linear: PackedLinear, packed: Bytes, kind: QuantType) -> None:
    """Give a layer its rounded weights."""
    linear.packed = torch.from_numpy(packed).to(linear.packed.device)
    linear.kind = kind.name


def packed_path(folder: Path, name: str) -> Path:
    """Return where a rounded tensor is kept; its name comes from a file, so it is no path."""
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.npy"


def save(path: Path, array: Bytes) -> None:
    """Keep an array, whole or not at all."""
    with new_file(path, replace=True) as out:
        np.save(out, array)
