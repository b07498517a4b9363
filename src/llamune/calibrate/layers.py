"""A model one decoder layer at a time: what goes in, what its linear layers see, what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from llamune.arch import Family, Role, TensorRule
from llamune.calibrate.windows import Windows
from llamune.nn import PackedLinear

__all__ = ["Layers", "Moments", "watching"]


@dataclass
class Moments:
    """Second moments of what linear layers were given.

    Args:
        sums: tensor name → sum of x xᵀ, float32 (columns, columns); tensors with the same input
            share one.
        n_tokens: how many inputs were summed.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    n_tokens: int = 0

    def mean(self, name: str) -> Tensor:
        """Return the mean of x xᵀ, float32 (columns, columns)."""
        return self.sums[name] / max(1, self.n_tokens)

    def groups(self) -> list[list[str]]:
        """Return the names in groups that share their input."""
        found: dict[int, list[str]] = {}
        for name, total in self.sums.items():
            found.setdefault(id(total), []).append(name)
        return list(found.values())


class Layers:
    """The decoder layers of a loaded model, with their calls' arguments for some windows.

    Args:
        model: what `nn.load` returned.
        family: its family.
        windows: the calibration text.
    """

    def __init__(self, model: Any, family: Family, windows: Windows) -> None:
        self.model = model
        self.layers: list[nn.Module] = list(model.model.layers)
        self.rules = linear_rules(family, len(self.layers))
        self.hidden: list[Tensor] = []
        self.calls: list[list[dict[str, Any]]] = []  # of each batch, of each layer
        device = next(iter(model.parameters())).device
        for ids, positions in windows.batches():
            hidden, calls = recorded(model, ids.to(device), positions.to(device))
            self.hidden.append(hidden)
            self.calls.append(calls)

    def __len__(self) -> int:
        return len(self.layers)

    def linears(self, index: int) -> dict[str, PackedLinear]:
        """Return the linear layers of one decoder layer by their tensors' names."""
        return {
            rule.gguf: self.model.get_submodule(rule.module) for rule in self.rules.get(index, ())
        }

    def moments(self, index: int, *, advance: bool = False) -> Moments:
        """Run one decoder layer and return what its linear layers were given.

        Args:
            index: the layer.
            advance: whether to go on with what it gave, as `advance` does; for weights that stay.
        """
        with watching(self.linears(index)) as moments:
            for batch in range(len(self.hidden)):
                out = self.run(index, batch)
                if advance:
                    self.hidden[batch] = out
        return moments

    def advance(self, index: int) -> None:
        """Replace every batch's hidden states by what one decoder layer makes of them."""
        for batch in range(len(self.hidden)):
            self.hidden[batch] = self.run(index, batch)

    def output_moments(self, name: str) -> Moments:
        """Return what the output matrix is given, after the last layer."""
        moments = Moments()
        watcher = Watcher(moments, [name])
        for hidden in self.hidden:
            with torch.no_grad():
                watcher.add(name, self.model.model.norm(hidden))
        return moments

    def run(self, index: int, batch: int) -> Tensor:
        """Return one decoder layer's output for one batch, (batch, length, d_model)."""
        with torch.no_grad():
            out = self.layers[index](self.hidden[batch], **self.calls[batch][index])
        found: Tensor = out[0] if isinstance(out, tuple) else out
        return found


def linear_rules(family: Family, n_layer: int) -> dict[int, list[TensorRule]]:
    """Return the rules of the linear layers of each decoder layer."""
    found: dict[int, list[TensorRule]] = {index: [] for index in range(n_layer)}
    for rule in family.rules.values():
        parts = rule.module.split(".")
        if rule.role is Role.LINEAR and parts[:2] == ["model", "layers"]:
            found[int(parts[2])].append(rule)
    return found


def recorded(model: Any, ids: Tensor, positions: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return what the first decoder layer is given, and how each layer is called.

    The layers themselves do nothing meanwhile, so that this costs next to nothing.
    """
    calls: list[dict[str, Any]] = []
    entered: list[Tensor] = []

    def record(hidden: Tensor, **arguments: Any) -> Tensor:
        entered.append(hidden)
        calls.append(arguments)
        return hidden

    with ExitStack() as stack:
        for layer in model.model.layers:
            stack.enter_context(answered_by(layer, record))
        with torch.no_grad():
            model.model(input_ids=ids, position_ids=positions, use_cache=False)
    return entered[0], calls


@contextmanager
def answered_by(layer: nn.Module, answer: Any) -> Iterator[None]:
    """Let a function stand in for a layer's forward."""
    layer.forward = answer  # an instance attribute hides the class's method
    try:
        yield
    finally:
        del layer.forward


@contextmanager
def watching(linears: Mapping[str, nn.Module]) -> Iterator[Moments]:
    """Sum up what linear layers are given while the block runs."""
    moments = Moments()
    watcher = Watcher(moments, list(linears))
    hooks = [
        module.register_forward_pre_hook(watcher.hook(name)) for name, module in linears.items()
    ]
    try:
        yield moments
    finally:
        for hook in hooks:
            hook.remove()


class Watcher:
    """Adds inputs to moments; layers that are given the same tensor are counted once."""

    def __init__(self, moments: Moments, names: Sequence[str]) -> None:
        self.moments = moments
        self.first = names[0] if names else ""
        self.last_input: Tensor | None = None
        self.last_name = ""

    def hook(self, name: str) -> Any:
        """Return the hook of one layer."""

        def seen(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            (value,) = arguments
            self.add(name, value)

        return seen

    def add(self, name: str, value: Tensor) -> None:
        """Add one input."""
        sums = self.moments.sums
        flat = value.detach().reshape(-1, value.shape[-1]).float()
        if name == self.first:
            self.moments.n_tokens += len(flat)
        if self.last_input is value:
            sums.setdefault(name, sums[self.last_name])
            return
        self.last_input, self.last_name = value, name
        if name not in sums:
            sums[name] = flat.T @ flat
        else:
            sums[name].addmm_(flat.T, flat)
