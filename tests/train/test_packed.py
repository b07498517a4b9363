"""Every weight trained in its blocks: the right gradients, bit-equal after a stop, whole files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llamune.gguf import ModelFile
from llamune.nn import to_pairs, train_packed, train_tables
from llamune.runs import Run
from llamune.train import (
    TRAINED_MODEL,
    checkpoint_steps,
    forecast_noise,
)
from llamune.train.packed_moments import Factored
from llamune.train.packed_updates import Course, PackedUpdate
from tests.tiny import FAMILIES, tiny_model
from tests.train import packed_tiny, tiny


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, packed_tiny.N_VOCAB, (2, 24), generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < 0.5, ids, -100)
    return {"input_ids": ids, "labels": labels}


def losses(run: Run) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    return [(line["step"], line.get("loss", line.get("validation_loss"))) for line in lines]


@pytest.mark.parametrize("name", [*FAMILIES, "llama-biased"])
def test_gradients_are_those_of_the_dense_model(name: str, bases: Path, tmp_path: Path) -> None:
    chosen = packed_tiny.recipe(train_embeddings=True)
    with packed_tiny.opened(tiny_model(bases, name, "Q8_0"), chosen, tmp_path) as (file, family):
        dense = packed_tiny.loaded(file, family, unpack=True)
        packed = packed_tiny.loaded(file, family)
    found: dict[str, torch.Tensor] = {}
    modules = family.linear_modules("all")
    for path, layer in train_packed(packed, list(modules)).items():
        layer.learn = lambda gradient, path=path: found.update({path: gradient.clone()})  # type: ignore[misc]  # a default binds the name
    tables = train_tables(packed, tied=family.tied)
    slices: dict[str, dict[int, torch.Tensor]] = {}
    for table_name, table in tables.items():
        slices[table_name] = {}
        table.learn = slices[table_name].__setitem__
    dense(**batch()).loss.backward()
    packed(**batch()).loss.backward()
    parameters = dict(dense.named_parameters())
    for path, rule in modules.items():
        wanted = parameters[f"{path}.weight"].grad
        heads = rule.transform.n_head if rule.transform is not None else 0  # type: ignore[union-attr]  # rows are permuted, nothing else
        torch.testing.assert_close(
            found[path], to_pairs(wanted, heads, dim=0), rtol=2e-4, atol=2e-6
        )
    judges = {"token_embd.weight": dense.get_input_embeddings().weight.grad}
    judges["output.weight"] = dense.lm_head.weight.grad
    for table_name, gradients in slices.items():
        whole = torch.cat([gradients[number] for number in sorted(gradients)])
        torch.testing.assert_close(whole, judges[table_name], rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("keep_type", "optimizer"),
    [
        ("Q8_0", "factored"),
        pytest.param("BF16", "factored", marks=pytest.mark.slow),
        pytest.param("Q6_K", "adamw8", marks=pytest.mark.slow),
    ],
)
def test_it_learns_in_every_type(keep_type: str, optimizer: str, bases: Path) -> None:
    chosen = packed_tiny.recipe(keep_type=keep_type, optimizer=optimizer, steps=16)
    run = packed_tiny.new_run(chosen)
    result = packed_tiny.go(tiny_model(bases, "llama", "Q4_0"), chosen, run)
    assert result.validation_loss < result.validation_before - 0.05  # type: ignore[operator]
    with ModelFile.open(run.folder / TRAINED_MODEL) as file:
        kinds = {info.type.name for info in file.tensors.values() if ".attn_q.w" in info.name}
        assert kinds == {keep_type}
        assert file.tensors["token_embd.weight"].type.name == "Q4_0"
        assert file.tensors["blk.0.attn_norm.weight"].type.name == "F32"


@pytest.mark.parametrize(
    "choices",
    [
        {},
        pytest.param(
            {"optimizer": "adamw8", "train_embeddings": True, "clip": "global"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_that_is_stopped_goes_on_bit_equal(choices: dict[str, Any], bases: Path) -> None:
    base = tiny_model(bases, "gemma2", "Q8_0")  # norms with an offset
    chosen = packed_tiny.recipe(steps=5, recompute=True, **choices)
    whole, halted = packed_tiny.new_run(chosen), packed_tiny.new_run(chosen)
    packed_tiny.go(base, chosen, whole)

    assert not packed_tiny.go(base, chosen, halted, on_event=tiny.interrupt_after(2)).finished
    assert packed_tiny.go(base, chosen, halted, resume=True).finished
    assert losses(halted) == losses(whole)
    first, second = (run.folder / TRAINED_MODEL for run in (whole, halted))
    assert first.read_bytes() == second.read_bytes()


PROGRAM = """
import sys
from pathlib import Path
from llamune.runs import Run
from tests.train import packed_tiny, tiny
run = Run.find(sys.argv[1])
packed_tiny.go(Path(sys.argv[2]), run.recipe, run, on_event=tiny.die_after_a_checkpoint)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_equal(bases: Path, tmp_path: Path) -> None:
    base = tiny_model(bases, "llama", "Q8_0")
    chosen = packed_tiny.recipe(steps=200, evaluations=2)
    whole, killed = packed_tiny.new_run(chosen), packed_tiny.new_run(chosen)
    packed_tiny.go(base, chosen, whole)
    script = tmp_path / "train.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(script), killed.reference, str(base)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert checkpoint_steps(killed.checkpoints)
    assert packed_tiny.go(base, chosen, killed, resume=True).finished
    assert losses(killed) == losses(whole)
    first, second = (run.folder / TRAINED_MODEL for run in (whole, killed))
    assert first.read_bytes() == second.read_bytes()


def test_two_passes_clip_the_norm_of_all_gradients(bases: Path) -> None:
    base = tiny_model(bases, "llama", "Q8_0")
    loose, tight = (
        packed_tiny.recipe(steps=2, clip="global", clip_norm=norm, evaluations=0)
        for norm in (1e9, 1e-3)
    )
    norms = []
    for chosen in (loose, tight):
        run = packed_tiny.new_run(chosen)
        packed_tiny.go(base, chosen, run)
        first = json.loads(run.metrics_path.read_text().splitlines()[0])
        norms.append(first["gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)  # shown as it was before clipping


def test_the_noise_of_rounding_was_foretold(bases: Path) -> None:
    base = tiny_model(bases, "llama", "Q8_0")
    chosen = packed_tiny.recipe(steps=40, learning_rate=1e-4, evaluations=0)
    run = packed_tiny.new_run(chosen)
    with packed_tiny.opened(base, chosen, run.folder) as (file, family):
        names = [rule.gguf for rule in family.linear_modules("all").values()]
        foretold, bf16 = forecast_noise(file, names, chosen)
    packed_tiny.go(base, chosen, run)
    measured = json.loads((run.folder / "rounding.json").read_text())["measured"]
    assert measured == pytest.approx(foretold.added, rel=0.3)
    assert bf16.added < foretold.added
    assert foretold.quiet_rate < chosen.learning_rate or not foretold.exceeds


def test_a_gradient_that_is_no_number_stops_before_the_weight_changes(bases: Path) -> None:
    chosen = packed_tiny.recipe(steps=3, learning_rate=1.0, clip_norm=0.0, evaluations=0)
    run = packed_tiny.new_run(chosen)
    with packed_tiny.opened(tiny_model(bases, "llama", "Q8_0"), chosen, run.folder) as opened:
        model = packed_tiny.loaded(*opened)
        layer = next(iter(train_packed(model, ["model.layers.0.mlp.up_proj"]).values()))
        shape = (layer.out_features, layer.in_features)
        update = PackedUpdate(
            layer.packed, layer.kind, 0, Factored(shape, torch.device("cpu")), Course(seed=0)
        )
        before = layer.packed.clone()
        with pytest.raises(FloatingPointError):
            update(torch.full(shape, float("nan")))
        assert torch.equal(layer.packed, before)
