"""One training, from a loaded model with an adapter to the finished adapter on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamune.files import write_text
from llamune.runs import Recipe, Run
from llamune.train import checkpoints
from llamune.train.batches import Example, batch_order, largest_micro_batch
from llamune.train.errors import OutOfMemory, TrainError
from llamune.train.events import AdapterWritten, OnEvent, Said, Sampled, TrainingStarted
from llamune.train.memory import PeakMemory, return_large
from llamune.train.progress import PROGRESS, Progress
from llamune.train.quiet import quiet
from llamune.train.signals import StopRequest

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from llamune.train.loop import Loop
    from llamune.train.watch import Watch

__all__ = ["TrainResult", "train", "what_to_lower"]

SHORTEST_TOKENS = 8  # that a recipe may cut records to

# what torch says when an allocation fails on the CPU; on devices it raises OutOfMemoryError
ALLOCATION_FAILED = ("can't allocate memory", "not enough memory", "out of memory")
# what gloo says when a process that shares the training is gone
CONNECTION_LOST = ("connection closed by peer", "connection reset by peer", "socket timeout")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What came of a training."""

    finished: bool  # False: stopped by the person, to be resumed
    steps_done: int
    kept_step: int  # whose weights are the adapter
    training_loss: float | None  # nats a trained token, of the last step
    validation_before: float | None
    validation_loss: float | None  # of the weights that were kept
    seconds: float  # of training steps, without validation and saving
    tokens: int  # trained on, without padding
    peak_bytes: int
    parameters_trained: int

    @property
    def tokens_per_second(self) -> float:
        """Speed over the whole training."""
        return self.tokens / self.seconds if self.seconds else 0.0


def train(
    model: PeftModel | PreTrainedModel,
    training: Sequence[Example],
    validation: Sequence[Example],
    *,
    recipe: Recipe,
    run: Run,
    on_event: OnEvent = lambda _: None,
    resume: bool = False,
    layers: Sequence[str] = (),
    sampler: Callable[[Any], str] | None = None,
    make_loop: Callable[..., Loop] | None = None,
) -> TrainResult:
    """Train by a recipe; the run's folder gets metrics, checkpoints and the adapter.

    Args:
        model: a model with a fresh adapter (`attach_adapter`), or what `make_loop` trains.
        training: rendered records, each with a trained token.
        validation: held-out records; none means no early stopping.
        recipe: the settled recipe.
        run: its folder.
        on_event: called with each event.
        resume: go on from the newest sound checkpoint, if there is one.
        layers: leaf names of the trained layers, for the adapter's config.
        sampler: answers a prompt with the model; called at each validation pass.
        make_loop: makes the loop of another way to train; default `Loop`, for adapters.

    Raises:
        LossError: loss or gradient is no number.
        OutOfMemory: there is not enough, with what to lower.
        TrainError: a record has no trained token, or the disk is full.
    """
    refuse_untrained(training, "training")
    refuse_untrained(validation, "validation")
    with (
        quiet(),
        faults_in_plain_words(recipe, run),
        PeakMemory(model.device) as memory,
        StopRequest() as stop,
    ):
        loop, watch, start = prepare(
            model,
            training,
            validation,
            recipe=recipe,
            run=run,
            stop=stop,
            on_event=on_event,
            resume=resume,
            make_loop=make_loop,
        )
        if sampler is not None:
            loop.after_validation = lambda step: on_event(Sampled(step=step, text=sampler(model)))
        rehearse(loop)
        on_event(
            TrainingStarted(
                steps=recipe.steps,
                steps_done=0 if start is None else step_of(start),
                parameters_trained=loop.n_trained(),
            )
        )
        if validation and start is None:
            watch.progress.validation_before = loop.evaluate_quietly()
        make_steps(loop, watch, start)
        finished = watch.stopped_early or loop.state.global_step >= recipe.steps
        if finished:
            finish(loop, run=run, layers=layers, on_event=on_event)
    return result_of(loop, watch.progress, finished=finished, peak_bytes=memory.highest_bytes)


def refuse_untrained(records: Sequence[Example], what: str) -> None:
    """Refuse a record that would teach nothing: its batch could have a loss of 0 / 0."""
    for number, record in enumerate(records):
        if not any(record.trained[1:]):
            raise TrainError(f"{what} record {number + 1} has no token that is trained")


def prepare(
    model: PeftModel | PreTrainedModel,
    training: Sequence[Example],
    validation: Sequence[Example],
    *,
    recipe: Recipe,
    run: Run,
    stop: StopRequest,
    on_event: OnEvent,
    resume: bool,
    make_loop: Callable[..., Loop] | None,
) -> tuple[Loop, Watch, Path | None]:
    """Lay out the run; return its loop, its watcher, and the checkpoint to go on from."""
    from transformers import PrinterCallback

    from llamune.nn import without_adapter
    from llamune.train.loop import Loop, arguments
    from llamune.train.watch import Watch

    start = newest_checkpoint(run, on_event) if resume else None
    progress = Progress() if start is None else Progress.read(start / PROGRESS)
    if recipe.recompute:
        without_adapter(model).gradient_checkpointing_enable({"use_reentrant": False})
    return_large(int(model.config.get_text_config().hidden_size))
    settings = arguments(recipe, folder=run.folder, on_cpu=model.device.type == "cpu")
    lengths = [len(record.ids) for record in training]
    order = batch_order(
        lengths,
        steps=recipe.steps,
        batch=recipe.batch,
        micro_batch=recipe.micro_batch,
        n_processes=settings.world_size,
        seed=recipe.seed,
        row_tokens=recipe.row_tokens,
    )
    settings.gradient_accumulation_steps = len(order[0]) // settings.world_size
    leader = settings.process_index == 0
    if leader:
        forget_after(run.metrics_path, 0 if start is None else step_of(start))
        if start is None:
            shutil.rmtree(run.checkpoints, ignore_errors=True)
    watch = Watch(
        recipe,
        tokens=[sum(lengths[i] for part in step for i in part) for step in order],
        progress=progress,
        metrics=run.metrics_path if leader else None,
        checkpoints=run.checkpoints,
        stop=stop,
        on_event=on_event,
    )
    make: Callable[..., Loop] = make_loop or Loop
    loop = make(
        model,
        settings,
        recipe=recipe,
        order=[
            part for step in order for part in step[settings.process_index :: settings.world_size]
        ],
        training=training,
        validation=validation,
        folder=run.checkpoints,
        progress=progress,
    )
    watch.validates = bool(validation) and recipe.evaluations > 0
    loop.remove_callback(PrinterCallback)
    loop.add_callback(watch)
    return loop, watch, start


def newest_checkpoint(run: Run, on_event: OnEvent) -> Path | None:
    """Return the checkpoint that a run goes on from; without one it begins anew, which is said."""
    newest = checkpoints.newest_sound(run.checkpoints, say=lambda text: on_event(Said(text=text)))
    if newest is None:
        on_event(Said(text="no checkpoint to go on from: the training begins anew"))
    return newest


def rehearse(loop: Loop) -> None:
    """Send the largest micro-batch forward and backward, and forget it.

    So memory runs out in the first minute or not at all. No step is made, and the random
    numbers that the run will draw stay the same.
    """
    import torch

    lengths = [len(record.ids) for record in loop.training_records]
    numbers = largest_micro_batch(lengths, [loop.order], packing=loop.recipe.packing)
    inputs = loop.collator([loop.training_records[i] for i in numbers])
    on_cuda = loop.args.device.type == "cuda"
    with torch.random.fork_rng(devices=[loop.args.device] if on_cuda else []):
        loop.adapted.train()
        loop.adapted(**loop._prepare_inputs(inputs)).loss.backward()
        loop.adapted.zero_grad(set_to_none=True)


def make_steps(loop: Loop, watch: Watch, start: Path | None) -> None:
    """Make the steps that are left: none where a run was killed after its last one."""
    if start is not None and watch.is_over(step_of(start)):
        loop.take_up(start)
    else:
        loop.train(resume_from_checkpoint=None if start is None else str(start))


def finish(loop: Loop, *, run: Run, layers: Sequence[str], on_event: OnEvent) -> None:
    """Take the best weights and write what the training made."""
    best = loop.progress.best_step
    if best is not None and best != loop.state.global_step:
        folder = checkpoints.checkpoint_folder(run.checkpoints, best)
        if fault := checkpoints.sound(folder):
            on_event(Said(text=f"{folder}: {fault}: the weights of the last step are kept"))
            best = loop.progress.best_step = None
        else:
            loop.load_weights(folder)
    leads = loop.args.process_index == 0
    if leads or loop.is_shared_out:
        folder = loop.write_result(run, layers=layers)
    if leads:
        on_event(AdapterWritten(folder=folder, step=best or loop.state.global_step))


def result_of(loop: Loop, progress: Progress, *, finished: bool, peak_bytes: int) -> TrainResult:
    """Gather what the loop and the watcher know."""
    losses = [line["loss"] for line in loop.state.log_history if "loss" in line]
    steps = loop.state.global_step
    has_best = progress.best_step is not None
    return TrainResult(
        finished=finished,
        steps_done=steps,
        kept_step=progress.best_step or steps,
        training_loss=losses[-1] if losses else None,
        validation_before=progress.validation_before,
        validation_loss=progress.best_loss if has_best else None,
        seconds=progress.seconds,
        tokens=progress.tokens,
        peak_bytes=peak_bytes,
        parameters_trained=loop.n_trained(),
    )


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint was written after."""
    return int(checkpoint.name.removeprefix("step-"))


def forget_after(metrics: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will make again, and a half-written last one."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:  # cut when the process was killed
            break
    write_text(metrics, "".join(f"{line}\n" for line in kept), replace=True)


@contextmanager
def faults_in_plain_words(recipe: Recipe, run: Run) -> Iterator[None]:
    """Turn a failed allocation or a full disk into one clear line with what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(part in text for part in ALLOCATION_FAILED):
            raise out_of_memory(recipe) from error
        if any(part in text for part in CONNECTION_LOST):
            raise TrainError(
                "another process of this training ended, so this one stops",
                hint="what that process said last tells why",
            ) from error
        raise
    except OSError as error:
        if error.errno in checkpoints.FULL_DISK:
            steps = checkpoints.checkpoint_steps(run.checkpoints)
            kept = f"the checkpoint of step {steps[-1]} is whole" if steps else "no checkpoint yet"
            raise TrainError(
                f"{run.folder}: the disk is full; {kept}",
                hint=f"make room, then: llamune tune --resume {run.reference}",
            ) from error
        raise


def out_of_memory(recipe: Recipe) -> OutOfMemory:
    """Return the error that says what to lower, and by how much."""
    return OutOfMemory("out of memory in training", hint=what_to_lower(recipe))


def what_to_lower(recipe: Recipe) -> str:
    """Return the option that saves most of the memory for the least loss, and what it saves."""
    if recipe.micro_batch > 1:
        # packed weights change in every pass: there the micro-batch is the batch
        option = "--batch" if recipe.is_packed else "--micro-batch"
        half = recipe.micro_batch // 2
        return f"{option} {half} (now {recipe.micro_batch}) halves what activations take"
    if not recipe.recompute:
        return "--recompute keeps a tenth of the activations, for a third more time"
    half = max(SHORTEST_TOKENS, recipe.max_length // 2)
    return f"--max-length {half} (now {recipe.max_length}) halves what activations take"
