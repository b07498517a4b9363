"""How fast training steps of a model are on this machine: real steps of its first blocks.

A step's time is that of its blocks, all alike, and of the rest (embedding, output, loss); both
grow with the tokens, from a start that unpacking the weights takes. So four short measurements
(no block and some, few tokens and more) tell the time of any step, a large model's too.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llamune.arch import Family
from llamune.runs import Line, StepSpeed, measuring, remember_steps, steps_key

if TYPE_CHECKING:
    from llamune.gguf import ModelFile
    from llamune.nn import Compute

__all__ = ["MeasuredSteps", "measure_steps"]

RANK = 16
FEW_TOKENS, MOST_TOKENS = 64, 512
TRIAL_SECONDS = 10.0
FEWEST_STEPS = 2
MILDER = 0.01
LAYERS = "model.layers."


@dataclass(frozen=True, kw_only=True)
class MeasuredSteps:
    """What was measured.

    Args:
        speed: seconds of blocks and of the rest.
        cores_of_others: cores that other programs took meanwhile.
        kept: whether it was kept; not when those were too many.
    """

    speed: StepSpeed
    cores_of_others: float
    kept: bool


def measure_steps(
    file: ModelFile, family: Family, compute: Compute, *, file_type: str
) -> MeasuredSteps:
    """Time LoRA steps of the model's first blocks for about ten seconds, and keep the result.

    Args:
        file: the model; its packed weights stay mapped.
        family: what `arch.describe` said of it.
        compute: device, type and threads.
        file_type: quant types in one word, as plans name them.
    """
    import torch

    if compute.n_threads:
        torch.set_num_threads(compute.n_threads)
    n_blocks = blocks_to_time(family)
    few = min(FEW_TOKENS, family.sizes.context_length // 2)
    others = measuring.Others()
    no_block = Steps(file, cut(family, 0), compute)
    some_blocks = Steps(file, cut(family, n_blocks), compute)
    (first,) = fastest(some_blocks.make, few, seconds=0.0)
    more = longer(few, first, context=family.sizes.context_length)
    without = fastest(no_block.make, few, more, seconds=TRIAL_SECONDS / 4)
    with_blocks = fastest(some_blocks.make, few, more, seconds=TRIAL_SECONDS / 2)
    rest = Line.through(*zip((few, more), without, strict=True))
    whole = Line.through(*zip((few, more), with_blocks, strict=True))
    speed = StepSpeed(
        block=whole.minus(rest, over=n_blocks),
        rest=rest,
        length=few + more,
        update=some_blocks.seconds_of_update(),
        rank=RANK,
        compute_type=compute.dtype,
    )
    sizes = family.sizes
    key = steps_key(
        device=compute.device,
        architecture=family.name,
        d_model=sizes.d_model,
        d_ff=sizes.d_ff,
        file_type=file_type,
    )
    kept = compute.device != "cpu" or not others.disturbed(compute.n_threads)
    if kept:
        remember_steps(key, speed)
    return MeasuredSteps(speed=speed, cores_of_others=others.cores, kept=kept)


def blocks_to_time(family: Family) -> int:
    """Return how many blocks multiply about as much as the output matrix does: neither drowns."""
    head = family.sizes.n_vocab * family.sizes.d_model
    block = max(1, (family.multiplying_parameters - head) // family.sizes.n_layer)
    return min(family.sizes.n_layer, max(1, math.ceil(head / block)))


def cut(family: Family, n_blocks: int) -> Family:
    """Return a family with its first blocks only."""
    rules = {
        name: rule
        for name, rule in family.rules.items()
        if not rule.module.startswith(LAYERS)
        or int(rule.module.removeprefix(LAYERS).partition(".")[0]) < n_blocks
    }
    config = {**family.config, "num_hidden_layers": n_blocks}
    if (kinds := config.get("layer_types")) is not None:
        config["layer_types"] = list(kinds)[:n_blocks]
    return replace(
        family, rules=rules, config=config, sizes=replace(family.sizes, n_layer=n_blocks)
    )


class Steps:
    """Training steps of some blocks on random tokens."""

    def __init__(self, file: ModelFile, family: Family, compute: Compute) -> None:
        import torch

        from llamune.nn import load

        base: Any = load(
            file, family=family, device=compute.device, dtype=compute.torch_dtype, compiled=False
        )
        # without blocks logits lie hundreds apart, and where exp underflows it is slow
        base.get_decoder().norm.register_forward_hook(lambda _, __, out: out * MILDER)
        self.device = compute.device
        self.n_vocab = family.sizes.n_vocab
        self.model = with_adapter(base, list(family.linear_modules("all")))
        self.trained = [value for value in self.model.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=0.0) if self.trained else None

    def make(self, tokens: int) -> None:
        """Make one step of one sequence of so many tokens, but for the update."""
        import torch

        ids = torch.randint(0, self.n_vocab, (1, tokens), device=self.device)
        loss = self.model(input_ids=ids, labels=ids).loss
        loss.backward()
        loss.item()  # waits for the device
        if self.optimizer is not None:
            self.optimizer.zero_grad()

    def seconds_of_update(self) -> float:
        """Return the seconds that the optimizer takes for a trained number."""
        import torch

        optimizer = self.optimizer
        if optimizer is None:
            return 0.0
        for value in self.trained:
            value.grad = torch.zeros_like(value)
        n_trained: int = sum(value.numel() for value in self.trained)

        def update(_: int) -> None:
            optimizer.step()
            self.trained[0].sum().item()

        (seconds,) = fastest(update, n_trained, seconds=TRIAL_SECONDS / 50)
        optimizer.zero_grad()
        return seconds / n_trained


def with_adapter(base: Any, modules: list[str]) -> Any:
    """Return the model with a LoRA on every linear layer; without layers, its input has a gradient.

    So the output matrix makes the gradient of what it multiplies in either case.
    """
    if modules:
        from peft import LoraConfig, get_peft_model

        from llamune.train.lora import with_packed_layers

        config = LoraConfig(r=RANK, target_modules=modules, task_type="CAUSAL_LM")
        return get_peft_model(base, with_packed_layers(config)).train()
    base.enable_input_require_grads()
    return base.train()


def fastest(step: Any, *lengths: int, seconds: float) -> list[float]:
    """Return the seconds of the fastest step of each length, of at least two after a first.

    What else a machine does only ever adds to a step, and it comes and goes: so the fastest counts,
    and the lengths take turns.
    """
    for tokens in lengths:
        step(tokens)
    took: list[list[float]] = [[] for _ in lengths]
    began = time.perf_counter()
    while len(took[0]) < FEWEST_STEPS or time.perf_counter() - began < seconds:
        for times, tokens in zip(took, lengths, strict=True):
            start = time.perf_counter()
            step(tokens)
            times.append(time.perf_counter() - start)
    return [min(times) for times in took]


def longer(few: int, seconds: float, *, context: int) -> int:
    """Return the most tokens of which the trial can make some steps; at least twice.

    Args:
        few: tokens of a short sequence.
        seconds: that a step of one takes.
        context: the most tokens of a sequence.
    """
    affordable = int(few * TRIAL_SECONDS / 2 / 5 / seconds)
    return max(2 * few, min(MOST_TOKENS, context, affordable))
