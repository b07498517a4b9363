"""Another precision, written: every refusal first, then the new file, whole or not at all."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from llamune.convert.planning import QuantizePlan, new_tensors
from llamune.convert.slabs import in_order, pack, slabs_of, sum_of_squares
from llamune.errors import LlamuneError, UnsupportedError
from llamune.gguf import (
    QuantType,
    Rounding,
    TensorInfo,
    floats_to_rows,
    rows_to_floats,
    write_gguf,
)

__all__ = ["TensorError", "check_plan", "quantize", "sample_errors"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

SPARE_BYTES = 16 << 20  # left free on the disk
SAMPLE_ROWS = 16


@dataclass(frozen=True)
class TensorError:
    """What rounding did to a tensor.

    Args:
        name: the tensor.
        kind: its new type.
        squared: sum of squared differences.
        squared_before: sum of squared weights.
    """

    name: str
    kind: QuantType
    squared: float
    squared_before: float

    @property
    def relative(self) -> float:
        """Root mean square of the differences over that of the weights."""
        return math.sqrt(self.squared / self.squared_before) if self.squared_before else 0.0


def quantize(
    plan: QuantizePlan,
    out: Path,
    *,
    round: Rounding | None = None,  # noqa: A002  the word of the commands
    requantize: bool = False,
    replace: bool = False,
    threads: int | None = None,
    measure: bool = False,
    advance: Callable[[int], object] | None = None,
) -> list[TensorError]:
    """Write the new file, whole or not at all.

    Args:
        plan: from `plan_quantize`.
        out: the new file.
        round: how floats become blocks; default ggml's rounding to nearest, weighted by the
            plan's importance matrix.
        requantize: allow rounding weights that were rounded before.
        replace: whether a file already at `out` may be replaced.
        threads: at most this many; default all cores.
        measure: whether to unpack what was packed, and return what rounding did.
        advance: called with the number of bytes just written.

    Returns:
        What rounding did to each changed tensor when `measure` is set, else nothing.

    Raises:
        LlamuneError: a refusal (see `check_plan`), a full disk, or weights that are no numbers.
    """
    check_plan(plan, out, requantize=requantize)
    errors: list[TensorError] = []
    slabs = {name: slabs_of(plan, name) for name in plan.types}
    packed = in_order(
        partial(pack, plan, round_=round, measure=measure),
        (slab for ones in slabs.values() for slab in ones),
        # a rounding of one's own sees a tensor's slices one after the other
        threads=1 if round is not None else threads or os.cpu_count() or 1,
    )

    def chunks(tensor: TensorInfo) -> Iterator[Bytes]:
        squared = squared_before = 0.0
        for done in islice(packed, len(slabs[tensor.name])):
            squared += done.squared
            squared_before += done.squared_before
            yield done.rows
        kind = plan.types[tensor.name]
        if measure and kind != tensor.type:
            errors.append(TensorError(tensor.name, kind, squared, squared_before))

    with closing(packed):
        write_gguf(
            out,
            metadata=plan.metadata,
            tensors=new_tensors(plan, chunks),
            alignment=plan.source.alignment,
            version=plan.source.version,
            replace=replace,
            advance=advance,
        )
    return errors


def check_plan(plan: QuantizePlan, out: Path, *, requantize: bool) -> None:
    """Refuse before anything is written.

    Raises:
        LlamuneError: an importance matrix is missing, weights were rounded before and that
            was not asked for, a type cannot be unpacked, or the disk is too full.
    """
    tensors = plan.source.tensors
    if out.exists() and any(out.samefile(path) for path in plan.source.paths):
        raise LlamuneError(
            f"{out}: is the model itself, which is never changed", hint="choose another name"
        )
    if missing := plan.needs_importance:
        raise LlamuneError(
            f"{plan.types[missing[0]]} needs an importance matrix for {missing[0]!r} and "
            f"{len(missing) - 1} more",
            hint="make one with `llamune imatrix`, then give it with --imatrix",
        )
    for name in plan.changed:
        if tensors[name].type.is_integer or tensors[name].type.name == "F64":
            raise UnsupportedError(f"tensor {name!r} is stored as {tensors[name].type}")
    if plan.requantized and not requantize:
        kinds = sorted({tensors[name].type.name for name in plan.requantized})
        error = sample_errors(plan)
        raise LlamuneError(
            f"{plan.source.path}: {len(plan.requantized)} tensors are quantized already "
            f"({', '.join(kinds)}); rounding them again adds an error of {100 * error:.1f} % of "
            "their size (measured on a sample)",
            hint="start from the 16- or 32-bit model, or say --requantize",
        )
    folder = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if plan.nbytes + SPARE_BYTES > free:
        raise LlamuneError(
            f"{out}: needs {plan.nbytes:,} bytes, and {folder} has {free:,} free",
            hint="free some space, or write to another disk",
        )


def sample_errors(plan: QuantizePlan) -> float:
    """Return the relative error of rounding again, over a few rows of each tensor."""
    total = [0.0, 0.0]
    for name in plan.requantized:
        tensor, kind = plan.source.tensors[name], plan.types[name]
        floats = plan.source.floats(name, 0, SAMPLE_ROWS)
        weights = plan.importance.of(tensor) if plan.importance else None
        packed = floats_to_rows(floats, kind, None if weights is None else weights[0])
        total[0] += sum_of_squares(rows_to_floats(packed, kind) - floats)
        total[1] += sum_of_squares(floats)
    return math.sqrt(total[0] / total[1]) if total[1] else 0.0
