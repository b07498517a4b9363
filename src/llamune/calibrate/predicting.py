"""What rounding each tensor to each type would cost in loss, before anything is written.

An error E of a weight changes the outputs by E x; with the inputs' second moments M and the
loss's sensitivity s of each output, that costs half of sum over rows r of s_r (E M Eᵀ)_rr. Rows are
rounded independently of each other, so a sample of them is rounded with compensation and the rest
is taken to be alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llamune.arch import Family, Role
from llamune.calibrate.compensate import Inputs, least_errors
from llamune.calibrate.layers import Layers
from llamune.calibrate.rounding import OUTPUT, WeightOf
from llamune.calibrate.sensitivity import Sensitivity, sensitivity_of
from llamune.calibrate.windows import Windows
from llamune.gguf import QuantType, floats_to_rows, rows_to_floats

__all__ = ["predicted_losses"]

SAMPLE_ROWS = 48
VOCABULARY_ROWS = 512  # of the output matrix and the embedding: the tokens that matter most

Losses = dict[str, dict[str, float]]


def predicted_losses(
    model: Any,
    family: Family,
    windows: Windows,
    *,
    weight_of: WeightOf,
    candidates: Mapping[str, Sequence[QuantType]],
    advance: Callable[[int], object] | None = None,
) -> Losses:
    """Return how much each type of each tensor would add to the loss, nats a token.

    Args:
        model: what `nn.load` returned.
        family: its family.
        windows: calibration text.
        weight_of: gives rows of a tensor's weights.
        candidates: tensor name → types to try.
        advance: called with the number of layers just finished.

    Returns:
        tensor name → type name → predicted loss.
    """
    sensitivity = sensitivity_of(model, family, windows)
    layers = Layers(model, family, windows)
    found: Losses = {}
    for index in range(len(layers)):
        moments = layers.moments(index, advance=True)
        for group in moments.groups():
            names = [name for name in group if name in candidates]
            if names:
                inputs = Inputs.of(moments.mean(names[0]), name=" + ".join(names))
                found |= group_losses(names, inputs, sensitivity, weight_of, candidates)
        if advance is not None:
            advance(1)
    if not family.tied and OUTPUT in candidates:
        inputs = Inputs.of(layers.output_moments(OUTPUT).mean(OUTPUT), name=OUTPUT)
        slopes = sensitivity.output
        rows = slopes.topk(min(VOCABULARY_ROWS, len(slopes))).indices.sort().values
        weight = weight_rows(OUTPUT, rows, weight_of).to(slopes.device)
        found[OUTPUT] = {
            kind.name: scaled_loss(least_errors(weight, inputs, kind), slopes, rows)
            for kind in candidates[OUTPUT]
        }
    return found | embedding_losses(
        model,
        family,
        windows,
        layers=layers,
        sensitivity=sensitivity,
        weight_of=weight_of,
        candidates=candidates,
    )


def group_losses(
    names: Sequence[str],
    inputs: Inputs,
    sensitivity: Sensitivity,
    weight_of: WeightOf,
    candidates: Mapping[str, Sequence[QuantType]],
) -> Losses:
    """Return the losses of tensors with one input; their sampled rows are rounded together."""
    device = inputs.moments.device
    samples = {}
    for name in names:
        n_rows = len(sensitivity.linear[name])
        samples[name] = torch.linspace(0, n_rows - 1, min(n_rows, SAMPLE_ROWS)).long()
    weights = torch.cat([weight_rows(name, samples[name], weight_of) for name in names]).to(device)
    ends = np.cumsum([len(samples[name]) for name in names]).tolist()
    kinds = {kind.name: kind for name in names for kind in candidates[name]}
    losses: Losses = {name: {} for name in names}
    for kind in kinds.values():
        errors = least_errors(weights, inputs, kind)
        for name, start, end in zip(names, [0, *ends], ends, strict=False):
            if kind in candidates[name]:
                slopes = sensitivity.linear[name]
                rows = samples[name].to(device)
                losses[name][kind.name] = scaled_loss(errors[start:end], slopes, rows)
    return losses


def scaled_loss(errors: Tensor, slopes: Tensor, rows: Tensor) -> float:
    """Return the loss of all rows from some rows' errors: their mean weighted by the slopes.

    Args:
        errors: mean squared errors of the sampled rows' outputs, (n,).
        slopes: sensitivity of every row, (rows,).
        rows: which rows were sampled, (n,).
    """
    sampled = slopes[rows]
    share = float(sampled.sum() / slopes.sum()) if float(slopes.sum()) > 0 else 1.0
    return 0.5 * float((sampled * errors).sum()) / max(share, 1e-9)


def weight_rows(name: str, rows: Tensor, weight_of: WeightOf) -> Tensor:
    """Return chosen rows of a tensor, float32 (n, columns)."""
    parts = [weight_of(name, row, row + 1) for row in rows.tolist()]
    return torch.from_numpy(np.concatenate(parts))


def embedding_losses(
    model: Any,
    family: Family,
    windows: Windows,
    *,
    layers: Layers,
    sensitivity: Sensitivity,
    weight_of: WeightOf,
    candidates: Mapping[str, Sequence[QuantType]],
) -> Losses:
    """Return the losses of the token embedding, which is rounded to nearest.

    A tied one is the output matrix too: what each role costs is added.
    """
    rule = next(rule for rule in family.rules.values() if rule.role is Role.EMBEDDING)
    name = rule.gguf
    if name not in candidates:
        return {}
    counts = torch.bincount(windows.ids.flatten(), minlength=family.sizes.n_vocab)
    rows = counts.topk(min(VOCABULARY_ROWS, int((counts > 0).sum()))).indices.sort().values
    weight = weight_rows(name, rows, weight_of)
    chances = counts[rows] / counts[rows].sum()
    scale = getattr(model.get_input_embeddings(), "scale", None) or 1.0
    slopes = sensitivity.embedding.cpu()
    moments = layers.output_moments(OUTPUT).mean(OUTPUT) if family.tied else None
    losses = {}
    for kind in candidates[name]:
        stored = torch.from_numpy(rows_to_floats(floats_to_rows(weight.numpy(), kind), kind))
        difference = (weight - stored) * scale
        loss = 0.5 * float(((chances[:, None] * difference.square()).sum(dim=0) * slopes).sum())
        if moments is not None:
            error = (weight - stored).to(moments.device)
            errors = ((error @ moments) * error).sum(dim=1)
            loss += scaled_loss(errors, sensitivity.output, rows.to(moments.device))
        losses[kind.name] = loss
    return {name: losses}
