"""The loop on a tiny model: it learns, stops, saves whole, and goes on as if never stopped."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llamune.runs import Run
from llamune.train import (
    CheckpointWritten,
    Event,
    LossError,
    OutOfMemory,
    Said,
    TrainError,
    checkpoint_steps,
    train,
    what_to_lower,
)
from llamune.train.checkpoints import checkpoint_folder, newest_sound
from tests.train import tiny


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]


def losses(run: Run) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in lines(run) if "loss" in line]


def weights(run: Run) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return {
        name: value.tobytes()
        for name, value in load_file(run.adapter / "adapter_model.safetensors").items()
    }


def go(chosen: Any, run: Run, **options: Any) -> Any:
    return train(
        tiny.adapted(chosen), tiny.records(), tiny.records(8, seed=5),
        recipe=chosen, run=run, layers=tiny.MODULES, **options,
    )  # fmt: skip


def test_it_learns_and_keeps_the_best() -> None:
    chosen = tiny.recipe(steps=30, evaluations=6, learning_rate=2e-2)
    run = tiny.new_run(chosen)
    result = go(chosen, run)
    assert result.finished
    assert result.validation_loss < result.validation_before - 0.1
    seen = {line["step"]: line["validation_loss"] for line in lines(run) if "best" in line}
    assert result.validation_loss == min(seen.values()) == seen[result.kept_step]
    assert result.tokens == sum(line["tokens"] for line in lines(run) if "loss" in line)
    assert [step for step, _ in losses(run)] == list(range(1, 31))


def test_the_adapter_loads_with_plain_peft() -> None:
    import torch
    from peft import PeftModel

    chosen = tiny.recipe(steps=4, evaluations=0)
    run = tiny.new_run(chosen)
    trained = tiny.adapted(chosen)
    train(trained, tiny.records(), [], recipe=chosen, run=run, layers=tiny.MODULES)
    loaded = PeftModel.from_pretrained(tiny.tiny_llama(), run.adapter)
    ids = torch.tensor([tiny.records(1)[0].ids])
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, trained.eval()(ids).logits)


def test_the_same_seed_gives_the_same_adapter() -> None:
    chosen = tiny.recipe(steps=5)
    first, second = tiny.new_run(chosen), tiny.new_run(chosen)
    go(chosen, first)
    go(chosen, second)
    assert weights(first) == weights(second)
    assert losses(first) == losses(second)


@pytest.mark.parametrize("packing", [False, True])
def test_a_run_that_is_asked_to_stop_goes_on_bit_equal(packing: bool) -> None:
    chosen = tiny.recipe(steps=10, evaluations=2, packing=packing)
    whole, halted = tiny.new_run(chosen), tiny.new_run(chosen)
    go(chosen, whole)

    stopped = go(chosen, halted, on_event=tiny.interrupt_after(3))
    assert not stopped.finished
    assert not halted.adapter.exists()
    assert stopped.steps_done in {3, 4}
    assert go(chosen, halted, resume=True).finished
    assert losses(halted) == losses(whole)
    assert weights(halted) == weights(whole)


def test_packed_and_filled_batches_have_the_same_loss() -> None:
    seen = {}
    for packing in (False, True):
        chosen = tiny.recipe(steps=3, dropout=0.0, packing=packing)
        run = tiny.new_run(chosen)
        go(chosen, run)
        seen[packing] = [loss for _, loss in losses(run)]
    assert seen[True] == pytest.approx(seen[False], rel=1e-5)


def test_recomputed_activations_give_the_same_losses() -> None:
    seen = []
    for recompute in (False, True):
        chosen = tiny.recipe(steps=3, recompute=recompute)
        run = tiny.new_run(chosen)
        go(chosen, run)
        seen.append(losses(run))
    assert seen[0] == seen[1]


KILLED = """
import sys
from llamune.runs import Run
from llamune.train import train
from tests.train import tiny
run = Run.find(sys.argv[1])
chosen = run.recipe
train(tiny.adapted(chosen), tiny.records(), tiny.records(8, seed=5), recipe=chosen, run=run,
      layers=tiny.MODULES, on_event=tiny.die_after_a_checkpoint)
"""


def test_kill_9_anywhere_then_resume_is_bit_equal(tmp_path: Path) -> None:
    chosen = tiny.recipe(steps=40, evaluations=2, patience=0)
    whole, killed = tiny.new_run(chosen), tiny.new_run(chosen)
    go(chosen, whole)
    script = tmp_path / "train.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), killed.reference]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    done = len(losses(killed)) if killed.metrics_path.exists() else 0
    assert 0 < done < 40
    assert go(chosen, killed, resume=True).finished
    assert losses(killed) == losses(whole)
    assert weights(killed) == weights(whole)


def test_a_damaged_checkpoint_is_passed_over() -> None:
    chosen = tiny.recipe(steps=10, evaluations=0)
    run = tiny.new_run(chosen)
    go(chosen, run)
    newest, second = sorted(checkpoint_steps(run.checkpoints), reverse=True)[:2]
    path = checkpoint_folder(run.checkpoints, newest) / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    said: list[str] = []
    assert newest_sound(run.checkpoints, say=said.append) == checkpoint_folder(
        run.checkpoints, second
    )
    assert "optimizer.pt is damaged" in said[0]
    events: list[Event] = []
    assert go(chosen, run, resume=True, on_event=events.append).finished
    assert any(isinstance(event, Said) and "damaged" in event.text for event in events)


def test_killed_before_its_first_checkpoint_a_run_begins_anew() -> None:
    chosen = tiny.recipe()
    whole, killed = tiny.new_run(chosen), tiny.new_run(chosen)
    go(chosen, whole)
    killed.metrics_path.write_text('{"step": 1, "loss": 9.0}\n{"st')
    said: list[Event] = []
    assert go(chosen, killed, resume=True, on_event=said.append).finished
    assert any(isinstance(event, Said) and "begins anew" in event.text for event in said)
    assert losses(killed) == losses(whole)
    assert weights(killed) == weights(whole)


@pytest.mark.parametrize("stops_early", [False, True])
def test_killed_after_its_last_step_a_run_makes_no_other(stops_early: bool) -> None:
    choices = {"patience": 2, "learning_rate": 0.3} if stops_early else {"patience": 0}
    chosen = tiny.recipe(steps=20, evaluations=10, **choices)
    run = tiny.new_run(chosen)
    before = go(chosen, run)
    assert (before.steps_done < 20) == stops_early
    seen, kept = lines(run), weights(run)
    after = go(chosen, run, resume=True)
    assert (after.finished, after.steps_done, after.kept_step) == (
        True, before.steps_done, before.kept_step,
    )  # fmt: skip
    assert after.validation_loss == before.validation_loss
    assert lines(run) == seen
    assert weights(run) == kept


def test_a_checkpoint_is_written_before_five_minutes_are_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import TrainerControl, TrainerState

    from llamune.train import watch
    from llamune.train.progress import Progress
    from llamune.train.signals import StopRequest

    now = 0.0
    monkeypatch.setattr(watch.time, "monotonic", lambda: now)
    chosen = tiny.recipe(steps=1000, evaluations=0)
    run = tiny.new_run(chosen)
    watcher = watch.Watch(
        chosen, tokens=[10] * 1000, progress=Progress(), metrics=None,
        checkpoints=run.checkpoints, stop=StopRequest(), on_event=lambda _: None,
    )  # fmt: skip
    saved_at = []
    for step in range(1, 30):  # of 80 seconds: a fourth would end after 320
        watcher.on_step_begin()
        now += 80.0
        state = TrainerState(global_step=step)
        if watcher.on_step_end(None, state, TrainerControl()).should_save:
            saved_at.append(now)
            watcher.on_save(None, state, None)
    assert saved_at[0] <= 300
    assert all(later - sooner <= 300 for sooner, later in itertools.pairwise(saved_at))


def test_a_loss_that_is_no_number_stops_before_the_weights_take_harm() -> None:
    import torch

    chosen = tiny.recipe(steps=10, evaluations=0)
    run = tiny.new_run(chosen)
    model = tiny.adapted(chosen)

    def poison(event: Event) -> None:
        if isinstance(event, CheckpointWritten) and event.step == 4:
            with torch.no_grad():
                model.base_model.model.model.embed_tokens.weight.fill_(float("nan"))

    with pytest.raises(LossError, match=r"step 5: the loss is nan.*step 4 is sound") as caught:
        train(model, tiny.records(), [], recipe=chosen, run=run, on_event=poison)
    assert "--lr 5.0e-03" in (caught.value.hint or "")
    assert go(chosen, run, resume=True).finished


@pytest.mark.parametrize(
    "choices", [{"method": "dora"}, {"rslora": True}, {"ranks": {"down_proj": 16}}]
)
def test_every_kind_of_adapter_learns(choices: dict[str, Any]) -> None:
    from safetensors import safe_open

    chosen = tiny.recipe(steps=12, evaluations=2, **choices)
    run = tiny.new_run(chosen)
    result = go(chosen, run)
    assert result.validation_loss < result.validation_before
    with safe_open(run.adapter / "adapter_model.safetensors", "numpy") as weights:
        names = list(weights.keys())
        ranks = {n.split(".")[-3]: weights.get_slice(n).get_shape()[0] for n in names if "_A" in n}
    assert any("magnitude" in name for name in names) == (chosen.method == "dora")
    assert ranks["down_proj"] == chosen.ranks.get("down_proj", chosen.rank)
    assert ranks["up_proj"] == chosen.rank


def test_lora_plus_gives_b_its_own_rate() -> None:
    seen = []
    for ratio in (1.0, 16.0):
        chosen = tiny.recipe(steps=1, warmup_steps=0, b_rate_ratio=ratio, learning_rate=1e-4)
        run = tiny.new_run(chosen)
        go(chosen, run)
        from safetensors.numpy import load_file

        tensors = load_file(run.adapter / "adapter_model.safetensors")
        seen.append(max(abs(t).max() for name, t in tensors.items() if "lora_B" in name))
    # B begins at zero, and Adam's first step is as long as the rate
    assert seen[1] == pytest.approx(16 * seen[0], rel=1e-3)


def test_early_stopping_ends_the_run_with_the_best_weights() -> None:
    chosen = tiny.recipe(steps=200, evaluations=100, patience=2, learning_rate=0.3)
    run = tiny.new_run(chosen)
    result = go(chosen, run)
    assert result.finished
    assert result.steps_done < 200
    assert result.kept_step < result.steps_done


def test_a_damaged_best_checkpoint_is_not_taken() -> None:
    chosen = tiny.recipe(steps=200, evaluations=100, patience=2, learning_rate=0.3)
    run = tiny.new_run(chosen)
    said: list[str] = []

    def damage(event: Event) -> None:
        if isinstance(event, Said):
            said.append(event.text)
            if "has not fallen since step" in event.text:
                step = int(event.text.rpartition("step ")[2].removesuffix(": done"))
                folder = checkpoint_folder(run.checkpoints, step)
                (folder / "adapter_model.safetensors").write_bytes(b"cut")

    result = go(chosen, run, on_event=damage)
    assert result.finished
    assert (result.kept_step, result.validation_loss) == (result.steps_done, None)
    assert "is damaged: the weights of the last step are kept" in said[-1]
    assert weights(run)


def test_a_record_that_teaches_nothing_is_refused() -> None:
    chosen = tiny.recipe()
    hidden = tiny.Record([1, 2, 3], [True, False, False])
    with pytest.raises(TrainError, match="training record 25 has no token"):
        train(
            tiny.adapted(chosen), [*tiny.records(), hidden], [],
            recipe=chosen, run=tiny.new_run(chosen),
        )  # fmt: skip


def test_out_of_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    from llamune.train import training

    def no_memory(_: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(training, "rehearse", no_memory)
    chosen = tiny.recipe()
    with pytest.raises(OutOfMemory) as caught:
        go(chosen, tiny.new_run(chosen))
    assert "--micro-batch 1 (now 2)" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"batch": 8, "micro_batch": 8}, "--micro-batch 4 (now 8)"),
        ({"micro_batch": 1}, "--recompute"),
        ({"micro_batch": 1, "recompute": True, "max_length": 100}, "--max-length 50 (now 100)"),
        ({"method": "full", "batch": 6, "micro_batch": 6}, "--batch 3 (now 6)"),
    ],
)
def test_what_to_lower_can_be_lowered(choices: dict[str, Any], said: str) -> None:
    chosen = tiny.recipe(**choices)
    hint = what_to_lower(chosen)
    assert hint.startswith(said)
    option, _, rest = hint.removeprefix("--").partition(" ")
    field, value = option.replace("-", "_"), rest.split()[0]
    lowered = {**choices, field: int(value) if value.isdecimal() else True}
    if chosen.is_packed:
        lowered["micro_batch"] = lowered["batch"]
    assert tiny.recipe(**lowered) != chosen


def test_the_rehearsal_changes_nothing() -> None:
    import torch

    from llamune.train import training

    chosen = tiny.recipe(steps=3)
    rehearsed, plain = tiny.new_run(chosen), tiny.new_run(chosen)
    go(chosen, rehearsed)
    state = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "rehearse", lambda _: None)
        go(chosen, plain)
    assert weights(rehearsed) == weights(plain)
    assert torch.equal(state, torch.get_rng_state())
