"""A tiny Llama with random weights and records that can be learnt, for tests of the loop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamune.runs import Recipe, Run, Situation, settle
from llamune.train import CheckpointWritten, Event, StepDone, attach_adapter

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Record:
    ids: list[int]
    trained: list[bool]


def records(n: int = 24, *, seed: int = 0, n_vocab: int = 64) -> list[Record]:
    """Prompts whose answer is the prompt backwards."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        prompt = random.integers(3, n_vocab, size=int(random.integers(3, 9))).tolist()
        ids = [1, *prompt, 2, *prompt[::-1], 0]
        made.append(Record(ids, [position > len(prompt) + 1 for position in range(len(ids))]))
    return made


def interrupt_after(step: int) -> Callable[[Event], None]:
    """Ask this process to stop, as Ctrl-C does, once a step is done."""

    def on_event(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return on_event


def tiny_llama() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.1,  # large enough for the adapter to move the logits
    )
    return LlamaForCausalLM(config)


def recipe(**choices: Any) -> Recipe:
    asked = {
        "base": "tiny", "name": "tiny-tuned", "data": "tiny.json", "steps": 12, "batch": 4,
        "micro_batch": 2, "learning_rate": 1e-2, "dropout": 0.1, "evaluations": 4, **choices,
    }  # fmt: skip
    situation = Situation(n_records=24, longest_tokens=20, context_length=128, d_model=32)
    return settle(asked, situation)


def adapted(chosen: Recipe) -> Any:
    model = tiny_llama()
    modules = [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in MODULES]
    return attach_adapter(model, chosen, modules=modules)


def die_after_a_checkpoint(event: Event) -> None:
    """Kill this process a moment after its first checkpoint, wherever it is by then."""
    if isinstance(event, CheckpointWritten):
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()


def new_run(chosen: Recipe) -> Run:
    return Run.create(chosen.name, recipe=chosen)
