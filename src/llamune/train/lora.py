"""PEFT's LoRA layer over packed rows, its products done by one operator of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import Linear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn

from llamune.nn import PackedLinear, adapted

if TYPE_CHECKING:
    from peft import LoraConfig

__all__ = ["PackedLora", "with_packed_layers"]

COMPUTE_TYPES = (torch.float32, torch.bfloat16)
"""what the thin products can be made in; the range of f16 is too small for their gradients"""


def with_packed_layers(config: LoraConfig) -> LoraConfig:
    """Have PEFT put `PackedLora` beside packed layers, and its own beside any others."""
    config._register_custom_module({PackedLinear: PackedLora})  # PEFT's way in for layers of others
    return config


class PackedLora(Linear):
    """LoRA or DoRA beside a `PackedLinear`; all else goes PEFT's own way.

    Of DoRA too only what the thin matrices multiply is dropped; PEFT drops it of the weight itself.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output with the adapter: (…, columns) -> (…, rows)."""
        name = self.only_adapter(x.dtype)
        if name is None or args or kwargs:
            out: Tensor = super().forward(x, *args, **kwargs)
            return out
        parts: Any = self  # PEFT says only that they are modules
        magnitude = parts.lora_magnitude_vector[name].weight if name in self.lora_variant else None
        return adapted(
            parts.base_layer,
            x,
            parts.lora_A[name].weight,
            parts.lora_B[name].weight,
            scale=self.scaling[name],
            dropout=self.drop_share(name),
            magnitude=magnitude,
        )

    def only_adapter(self, dtype: torch.dtype) -> str | None:
        """Return the active adapter's name if it is the only one, and LoRA or DoRA."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        (name,) = self.active_adapters
        if name not in self.lora_A or self.lora_bias[name]:
            return None
        variant = self.lora_variant.get(name)
        if variant is not None and not isinstance(variant, DoraLinearVariant):
            return None
        return name if dtype in COMPUTE_TYPES else None

    def drop_share(self, name: str) -> float:
        """Return the share that dropout leaves out now."""
        dropout = self.lora_dropout[name]
        return dropout.p if self.training and isinstance(dropout, nn.Dropout) else 0.0
