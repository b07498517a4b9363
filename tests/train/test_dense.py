"""Weights as floats: which optimizers can be chosen, and 16 bits that keep a step on average."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.training_args import OptimizerNames

from llamune.errors import UnsupportedError
from llamune.gguf import ModelFile
from llamune.runs import Run
from llamune.train import DENSE_OPTIMIZERS, TRAINED_MODEL, check_dense
from llamune.train.dense_optimizers import RoundedAtRandom, over_parts
from tests.tiny import tiny_model
from tests.train import dense_tiny, packed_tiny, tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"), "llama", "Q8_0")


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]


def losses(run: Run) -> list[tuple[int, float]]:
    return [(line["step"], line.get("loss", line.get("validation_loss"))) for line in lines(run)]


def test_every_optimizer_is_one_of_transformers() -> None:
    assert set(DENSE_OPTIMIZERS) <= {one.value for one in OptimizerNames}


@pytest.mark.parametrize(
    ("choices", "n_processes", "message"),
    [
        ({"optimizer": "adam"}, 1, "no optimizer of dense weights is called 'adam'"),
        ({"optimizer": "galore_adamw"}, 1, "no optimizer of dense weights"),
        ({"optimizer": "grokadamw"}, 1, "comes with grokadamw, which is not installed"),
        ({"optimizer": "adafactor"}, 2, "adafactor looks at whole matrices"),
        ({"sample": "Red or green?"}, 2, "no one of 2 processes holds the weights"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    choices: dict[str, Any], n_processes: int, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        check_dense(dense_tiny.recipe(**choices), n_processes=n_processes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "weight_type", "rate"),
    [
        ("adafactor", "float32", 3e-4),
        ("adafactor", "bfloat16", 3e-4),
        ("adamw_torch", "bfloat16", 3e-4),
        ("adamw_torch_fused", "float32", 3e-4),
        ("sgd", "float32", 0.3),
        ("adagrad", "bfloat16", 1e-3),
        ("rmsprop", "float32", 1e-4),
    ],
)
def test_it_learns_by_each_optimizer(
    optimizer: str, weight_type: str, rate: float, base: Path
) -> None:
    chosen = dense_tiny.recipe(
        optimizer=optimizer, weight_type=weight_type, learning_rate=rate, steps=12
    )
    run = packed_tiny.new_run(chosen)
    result = dense_tiny.go(base, chosen, run)
    assert result.validation_loss < result.validation_before - 0.03  # type: ignore[operator]
    with ModelFile.open(run.folder / TRAINED_MODEL) as file:
        wanted = {"float32": "F32", "bfloat16": "BF16"}[weight_type]
        assert file.tensors["blk.0.attn_q.weight"].type.name == wanted


@pytest.mark.slow
@pytest.mark.parametrize("weight_type", ["float32", "bfloat16"])
def test_a_run_that_is_stopped_goes_on_bit_equal(weight_type: str, base: Path) -> None:
    chosen = dense_tiny.recipe(steps=6, weight_type=weight_type, recompute=True)
    whole, halted = packed_tiny.new_run(chosen), packed_tiny.new_run(chosen)
    dense_tiny.go(base, chosen, whole)

    assert not dense_tiny.go(base, chosen, halted, on_event=tiny.interrupt_after(3)).finished
    assert dense_tiny.go(base, chosen, halted, resume=True).finished
    assert losses(halted) == losses(whole)
    first, second = (run.folder / TRAINED_MODEL for run in (whole, halted))
    assert first.read_bytes() == second.read_bytes()


def test_the_recipes_weight_decay_reaches_matrices_only(base: Path) -> None:
    decayed, plain = (
        dense_tiny.recipe(steps=1, weight_decay=decay, learning_rate=0.1, evaluations=0)
        for decay in (0.5, 0.0)
    )
    files = []
    for chosen in (decayed, plain):
        run = packed_tiny.new_run(chosen)
        dense_tiny.go(base, chosen, run)
        files.append(run.folder / TRAINED_MODEL)
    with ModelFile.open(files[0]) as smaller, ModelFile.open(files[1]) as larger:
        with ModelFile.open(base) as before:
            start = before.floats("blk.0.ffn_up.weight")
        # AdamW takes off rate × decay of a weight, whatever its gradient
        found = larger.floats("blk.0.ffn_up.weight") - smaller.floats("blk.0.ffn_up.weight")
        assert found == pytest.approx(0.05 * start, abs=1e-6)
        norms = [file.floats("blk.0.attn_norm.weight") for file in (smaller, larger)]
        assert norms[0] == pytest.approx(norms[1])


def test_16_bit_steps_are_right_on_average() -> None:
    start = torch.linspace(-1, 1, 64).bfloat16().view(4, 16)
    gradient = torch.linspace(-2, 3, 64).view(4, 16)
    ends = []
    for seed in range(400):
        weight = torch.nn.Parameter(start.clone())
        optimizer = RoundedAtRandom(
            lambda groups: torch.optim.SGD(groups, lr=1e-4), [(weight, 0.0)], key=(seed,)
        )
        weight.grad = gradient.bfloat16()
        optimizer.step()
        assert weight.dtype is torch.bfloat16
        ends.append(weight.detach().float())
    found = torch.stack(ends)
    move = -1e-4 * gradient.bfloat16().float()
    step = start.float().abs() * 2**-7  # at most: a number has eight bits
    error = (move.abs() * step).sqrt() / 20  # standard error of the mean of 400
    assert float(((found.mean(dim=0) - start.float() - move).abs() / error).max()) < 4.5
    assert 0.001 < float((found != start.float()).float().mean()) < 0.5


def test_an_optimizer_over_parts_moves_the_weights_themselves() -> None:
    start = torch.linspace(-1, 1, 64).view(4, 16)
    weight, judge = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizer = over_parts(lambda groups: torch.optim.AdamW(groups, lr=1e-2), [(weight, 0.1)])
    wanted = torch.optim.AdamW([judge], lr=1e-2, weight_decay=0.1)
    for factor in (1.0, -0.5, 2.0):
        for parameter, one in ((weight, optimizer), (judge, wanted)):
            parameter.grad = factor * start
            one.step()
    assert torch.equal(weight, judge)
