"""A packed layer's `weight`: its shape, type and device at once, its values only when used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["LazyWeight"]


class LazyWeight(Tensor):
    """Stands for a dense weight that is unpacked by the first operation on it.

    PEFT asks every layer's weight for its device and type; unpacking each for that would take
    seconds and hundreds of megabytes.
    """

    make: Callable[[], Tensor]

    @staticmethod
    def __new__(  # noqa: D102  a tensor's attributes are set here, not in __init__
        cls: type[LazyWeight],
        make: Callable[[], Tensor],
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> LazyWeight:
        weight: LazyWeight = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        weight.make = make
        return weight

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer what needs no values; unpack for everything else."""
        if func in WITHOUT_VALUES:
            # torch's own has no types
            return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        return func(*dense(args), **dense(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it otherwise than it calls
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Unpack for an operation that came past `__torch_function__`."""
        _ = types
        return func(*dense(args), **dense(kwargs or {}))


def dense(value: Any) -> Any:
    """Return a value, or values in lists, tuples and dicts, with lazy weights unpacked."""
    if isinstance(value, LazyWeight):
        return value.make()
    if isinstance(value, tuple | list):
        return type(value)(dense(one) for one in value)
    if isinstance(value, dict):
        return {key: dense(one) for key, one in value.items()}
    return value


def getter(name: str) -> Any:
    """Return the function that torch passes for reading an attribute."""
    return getattr(Tensor, name).__get__


WITHOUT_VALUES = {
    *(getter(name) for name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad")),
    *(getter(name) for name in ("is_meta", "is_cuda", "is_cpu", "is_mps", "is_quantized")),
    *(getter(name) for name in ("grad", "grad_fn", "is_leaf", "is_sparse", "is_nested")),
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.is_floating_point,
    Tensor.is_complex,
    Tensor.element_size,
    Tensor.__len__,
}
