"""The loaded model: transformers' class with the fused loss, and nothing that undoes packing."""

from __future__ import annotations

from functools import cache
from typing import Any

import transformers
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast

from llamune.errors import UnsupportedError
from llamune.nn.loss import fused_loss, shifted

__all__ = ["FusedLossMixin", "class_of"]


class FusedLossMixin:
    """`forward(labels=…)` computes the loss without logits; without labels nothing changes."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return the loss (f32) when there are labels, else the logits.

        Args:
            input_ids: (batch, length).
            attention_mask: (batch, length), 1 where there is a token.
            position_ids: (batch, length); a position that does not follow the one before starts
                a new packed sequence.
            labels: (batch, length), as `input_ids`, -100 where nothing is learned.
            num_items_in_batch: what the summed loss is divided by; default the labels here.
            **kwargs: passed on to transformers.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            **kwargs,
        }
        if labels is None:
            return super().forward(**inputs)  # type: ignore[misc,no-any-return]  # the other base's
        inputs.pop("logits_to_keep", None)
        hidden = self.model(**{"use_cache": False, **inputs}).last_hidden_state  # type: ignore[attr-defined]
        loss = fused_loss(
            hidden.flatten(0, 1),
            self.lm_head,  # type: ignore[attr-defined]
            shifted(labels).flatten(),
            n_items=num_items_in_batch,
            softcap=getattr(self.config, "final_logit_softcapping", None),  # type: ignore[attr-defined]
        )
        return CausalLMOutputWithPast(loss=loss)

    def tie_weights(self, *_: Any, **__: Any) -> None:
        """Do nothing: a tied output shares its bytes already."""

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Refuse: the packed weights are no safetensors.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            "a packed model cannot be saved by transformers",
            hint="save the adapter, or `llamune convert REF DIR --to transformers`",
        )


@cache
def class_of(name: str) -> type[Any]:
    """Return the transformers class of that name with the fused loss in front."""
    base = getattr(transformers, name)
    return type(name, (FusedLossMixin, base), {"__module__": __name__, "__doc__": base.__doc__})
