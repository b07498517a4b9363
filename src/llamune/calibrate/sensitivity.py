"""How much the loss minds a change of each layer's outputs: squared gradients over some text.

A change δ of an output changes the loss by about half of (g δ)², g being the loss's gradient there:
the mean of g² over text is the diagonal of the empirical Fisher information of the outputs.
Source: Optimal Brain Damage (LeCun, Denker, Solla 1990), with the Fisher information in place of
the Hessian as in SqueezeLLM, arXiv:2306.07629, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from llamune.arch import Family, PermuteRows, Role
from llamune.calibrate.windows import Windows

__all__ = ["IGNORED", "Sensitivity", "sensitivity_of"]

IGNORED = -100  # a label that no loss is taken of
MOST_TOKENS = 2048  # a squared gradient's mean settles soon; backward is dear


@dataclass
class Sensitivity:
    """Means over tokens of what a squared error of an output costs, twice over, in nats.

    Args:
        linear: tensor name → (rows,), in the file's row order.
        embedding: of each column of what the token embedding gives, (d_model,).
        output: of each row of the output matrix: p (1 - p), p being the probability that the model
            gives that token, (n_vocab,). That is exact for the logits.
    """

    linear: dict[str, Tensor] = field(default_factory=dict)
    embedding: Tensor = field(default_factory=lambda: torch.zeros(()))
    output: Tensor = field(default_factory=lambda: torch.zeros(()))


def sensitivity_of(model: Any, family: Family, windows: Windows) -> Sensitivity:
    """Run some windows forward and backward, one at a time, and gather squared gradients.

    Args:
        model: what `nn.load` returned; nothing in it need be trainable.
        family: its family.
        windows: the text; the first `MOST_TOKENS` of it are used.
    """
    device = next(iter(model.parameters())).device
    n_windows = max(1, MOST_TOKENS // windows.ids.shape[1])
    ids, positions = windows.ids[:n_windows].to(device), windows.positions[:n_windows].to(device)
    sums: dict[str, Tensor] = {}
    output = torch.zeros(family.sizes.n_vocab, device=device)
    with gathering(model, family, sums):
        for row in range(len(ids)):
            one, places = ids[row : row + 1], positions[row : row + 1]
            labels = one.masked_fill(places == 0, IGNORED)  # no text tells how the next begins
            loss = model(input_ids=one, position_ids=places, labels=labels, num_items_in_batch=1)
            loss.loss.backward()
            output += probability_spread(model, one, places)
    n_tokens = ids.numel()
    result = Sensitivity(embedding=sums.pop("") / n_tokens, output=output / n_tokens)
    for rule in family.rules.values():
        if rule.gguf not in sums or rule.role is not Role.LINEAR:
            continue
        mean = sums[rule.gguf] / n_tokens
        if isinstance(rule.transform, PermuteRows):
            mean = mean[torch.from_numpy(rule.transform.file_rows(len(mean))).to(device)]
        result.linear[rule.gguf] = mean
    return result


@contextmanager
def gathering(model: Any, family: Family, sums: dict[str, Tensor]) -> Iterator[None]:
    """Sum up squared gradients of outputs while the block runs; the embedding's under ""."""
    handles = [
        model.get_submodule(rule.module).register_forward_hook(adder(sums, rule.gguf))
        for rule in family.rules.values()
        if rule.role is Role.LINEAR and rule.module.startswith("model.")
    ]
    table: nn.Module = model.get_input_embeddings()

    def begin(_module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
        return out.requires_grad_()  # the weights need no gradient, so that nothing else would

    handles.append(table.register_forward_hook(begin))
    handles.append(table.register_forward_hook(adder(sums, "")))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def adder(sums: dict[str, Tensor], name: str) -> Callable[..., None]:
    """Return the hook that waits for the gradient of a layer's output."""

    def seen(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
        def add(gradient: Tensor) -> None:
            squares = gradient.detach().flatten(0, -2).float().square().sum(dim=0)
            sums[name] = sums[name] + squares if name in sums else squares

        if out.requires_grad:
            out.register_hook(add)

    return seen


def probability_spread(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """Return the sum over positions of p (1 - p) for every token, (n_vocab,)."""
    with torch.no_grad():
        hidden = model.model(
            input_ids=ids, position_ids=positions, use_cache=False
        ).last_hidden_state
        total = torch.zeros(model.lm_head.out_features, device=ids.device)
        for part in hidden.flatten(0, 1).split(128):  # the logits of a large vocabulary are many
            chances = torch.softmax(model.lm_head(part).float(), dim=-1)
            total += (chances * (1 - chances)).sum(dim=0)
    return total
