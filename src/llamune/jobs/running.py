"""The long part of a training: load, train, export, prove, score, publish, report."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llamune
from llamune.adapter import write_gguf_adapter
from llamune.errors import LlamuneError
from llamune.files import sha256_of
from llamune.jobs.adapters import adapter_folder, adapter_named
from llamune.jobs.events import OnJobEvent, Stage
from llamune.jobs.finishing import drawn_loss, licence_of, prove_run, publish_run, score_run
from llamune.jobs.full_tuning import keep_paused_full, load_full
from llamune.jobs.log import logged
from llamune.jobs.preparing import Prepared
from llamune.jobs.products import needs_whole_file, product_of
from llamune.jobs.refitting import refitting
from llamune.jobs.report import write_report
from llamune.jobs.telling import describe
from llamune.license import summary_lines
from llamune.runs import Base, DataFacts, Loss, Memory, Run, Seconds, State, machine
from llamune.store import Sharing
from llamune.text import prompt_ids
from llamune.train import (
    Team,
    TrainResult,
    attach_adapter,
    checkpoint_folder,
    checkpoint_steps,
    load_adapter_weights,
    newest_sound,
    train,
)

if TYPE_CHECKING:
    from peft import PeftModel

    from llamune.nn import Compute
    from llamune.train.loop import Loop

__all__ = ["Assignment", "adapted", "carry_out", "compute_for", "trained"]

SAMPLE_TOKENS = 64
PAUSED = "paused.gguf"  # the newest checkpoint of a stopped run, for llama.cpp


def carry_out(
    run: Run,
    prepared: Prepared,
    *,
    language: str | None,
    on_event: OnJobEvent,
    sharing: Sharing = "copy",
    resume: bool = False,
    team: Team | None = None,
) -> Run:
    """Do the long work of a run; its record says at any moment how far it is.

    Args:
        run: its folder.
        prepared: model, data, recipe and plan.
        language: of the report.
        on_event: called with each stage and each event of the training.
        sharing: how far to go when the base can be neither linked nor cloned.
        resume: go on from the newest sound checkpoint.
        team: the processes that train together; this one leads them.
    """
    team = team or Team()
    with recorded(run), logged(run, on_event, head=describe(prepared)) as tell:
        tell(Stage(name="checking the base file"))
        begin(run, prepared, digest_of(prepared))
        compute = compute_for(prepared)
        team.tell(Assignment.of(run, prepared, compute, resume=resume))
        run.update(environment=environment(compute))
        result = trained(run, prepared, compute, team=team, on_event=tell, resume=resume)
        note_result(run, result)
        if not result.finished:
            keep_paused(run, prepared)
            run.update(state="stopped", process=None)
            return run
        finish(run, prepared, sharing=sharing, language=language, on_event=tell)
    return run


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Keep the record's state true, whatever happens."""
    run.update(state="running", fault=None, finished=None, process=os.getpid())
    try:
        yield
    except LlamuneError as error:
        note_end(run, "failed", error.message)
        raise
    except KeyboardInterrupt:
        note_end(run, "stopped", "interrupted")
        raise
    except BaseException as error:
        note_end(run, "failed", f"{type(error).__name__}: {error}")
        raise


def note_end(run: Run, state: State, fault: str) -> None:
    """Record how a run ended early; a full disk must not hide why."""
    with suppress(OSError):
        run.update(state=state, fault=fault, finished=datetime.now(UTC), process=None)


def digest_of(prepared: Prepared) -> str:
    """Return the SHA-256 of the base's files, several joined by blanks."""
    return " ".join(sha256_of(path) for path in prepared.opened.model.paths)


def begin(run: Run, prepared: Prepared, digest: str) -> None:
    """Record what is about to be trained on what.

    Raises:
        LlamuneError: the base is another file than when the run began.
    """
    base, training, plan = prepared.opened, prepared.training, prepared.plan
    known = run.record.base
    if known is not None and known.sha256_before not in {None, digest}:
        raise LlamuneError(
            f"{base.model.path}: not the file that {run.reference} began with",
            hint="put the base back, or start a new run",
        )
    file_type = base.file.metadata.get("general.file_type")
    files = [entry.path.resolve() for entry in prepared.recipe.data]
    run.update(
        base=Base(
            reference=str(base.model),
            paths=tuple(path.resolve() for path in base.model.paths),
            size_bytes=base.file.size,
            architecture=base.family.name,
            file_type=None if file_type is None else name_of_file_type(int(file_type)),
            parameters=sum(tensor.n_elements for tensor in base.file.tensors.values()),
            sha256_before=digest,
        ),
        data=DataFacts(
            files=tuple(str(path) for path in files),
            sha256=tuple(sha256_of(path) if path.is_file() else "" for path in files),
            fingerprint=training.fingerprint,
            training_records=len(training.rendered),
            validation_records=len(prepared.validation_rendered),
            tokens=training.n_tokens,
            trained_tokens=training.n_trained,
            padding=round(prepared.padding, 4),
            cut_records=training.n_cut,
            skipped_records=training.n_untrained + len(prepared.problems),
        ),
        parent=prepared.recipe.from_adapter,
        plan=plan.as_json(),
        memory=Memory(predicted_bytes=plan.memory.total_bytes),
        seconds=Seconds(predicted_low=plan.time.low, predicted_high=plan.time.high),
    )


def name_of_file_type(number: int) -> str:
    """Return `Q4_1` for 3, as GGUF's `general.file_type` counts."""
    from gguf import LlamaFileType

    try:
        return str(LlamaFileType(number).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return str(number)


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What the leading process tells the others to train.

    Args:
        folder: of the run, which every process must see.
        name, number: of the run.
        fingerprint: of the data.
        compute: what to compute in.
        resume: whether to go on from the newest sound checkpoint.
    """

    folder: Path
    name: str
    number: int
    fingerprint: str
    compute: Compute
    resume: bool

    @classmethod
    def of(cls, run: Run, prepared: Prepared, compute: Compute, *, resume: bool) -> Assignment:
        """Return the assignment of a run."""
        return cls(
            folder=run.folder,
            name=run.name,
            number=run.number,
            fingerprint=prepared.training.fingerprint,
            compute=compute,
            resume=resume,
        )


def compute_for(prepared: Prepared) -> Compute:
    """Return what to compute in: as the recipe says, else as the timed trial found."""
    from llamune.nn import best_device, choose_compute

    compute = choose_compute(prepared.opened.family, best_device())
    chosen = prepared.recipe.compute_type
    return compute if chosen == "auto" else replace(compute, dtype=chosen)


def trained(
    run: Run,
    prepared: Prepared,
    compute: Compute,
    *,
    team: Team,
    on_event: OnJobEvent,
    resume: bool,
) -> TrainResult:
    """Load what is trained and train it; the model is gone afterwards."""
    base, recipe = prepared.opened, prepared.recipe
    on_event(Stage(name="loading the base"))
    model, make_loop = loaded(run, prepared, compute, team=team, on_event=on_event, resume=resume)
    on_event(Stage(name="training"))
    modules = base.family.linear_modules(recipe.targets)
    result = train(
        model,
        prepared.training_rendered,
        prepared.validation_rendered,
        recipe=recipe,
        run=run,
        on_event=refitting(run, prepared, on_event) if team.leads else on_event,
        resume=resume,
        sampler=sampler_of(prepared),
        layers=sorted({path.rpartition(".")[2] for path in modules}),
        make_loop=make_loop,
    )
    team.part()
    del model
    gc.collect()  # the proof loads the base anew
    return result


def loaded(
    run: Run,
    prepared: Prepared,
    compute: Compute,
    *,
    team: Team,
    on_event: OnJobEvent,
    resume: bool,
) -> tuple[Any, Callable[..., Loop] | None]:
    """Return the model to train, and what makes its loop where that is not the usual one."""
    if prepared.recipe.method == "full":
        from llamune.nn import best_device

        return load_full(run, prepared, compute, best_device(), on_event=on_event)
    begins = not resume or newest_sound(run.checkpoints, say=lambda _: None) is None
    return adapted(prepared, compute, begins=begins, n_processes=team.local_size), None


def adapted(
    prepared: Prepared, compute: Compute, *, begins: bool = True, n_processes: int = 1
) -> PeftModel:
    """Return the base with a fresh adapter, or with the one that the training goes on from.

    Args:
        prepared: the training.
        compute: device, type and threads.
        begins: whether the training begins: no checkpoint will be put in the adapter's place.
        n_processes: how many share this machine's cores.
    """
    import torch

    from llamune.nn import best_device, compile_layers, load

    base, recipe = prepared.opened, prepared.recipe
    if compute.n_threads:
        torch.set_num_threads(max(1, compute.n_threads // n_processes))
    # compiling takes half a minute: the plan says whether the training earns it back
    compiled = None if prepared.plan.settings.compiled else False
    model = load(
        base.file,
        family=base.family,
        device=best_device(),
        dtype=compute.torch_dtype,
        compiled=compiled,
    )
    model_with_adapter = attach_adapter(
        model,
        recipe,
        modules=list(base.family.linear_modules(recipe.targets)),
        base_name=str(base.model),
    )
    compile_layers(model_with_adapter, compiled=compiled)
    if begins and recipe.from_adapter is not None:
        origin = adapter_named(recipe.from_adapter, base)
        with adapter_folder(origin, base.family) as folder:
            load_adapter_weights(model_with_adapter, folder)
    return model_with_adapter


def sampler_of(prepared: Prepared) -> Callable[[PeftModel], str] | None:
    """Return what answers the recipe's sample prompt, or None without one."""
    if (question := prepared.recipe.sample) is None:
        return None
    tokenizer, template = prepared.opened.tokenizer, prepared.opened.template
    turns = [{"role": "user", "content": question}]
    ids = prompt_ids(template, tokenizer, turns, add_generation_prompt=True)

    def answer(model: PeftModel) -> str:
        import torch

        found = model.generate(
            input_ids=torch.tensor([ids], device=model.device),
            max_new_tokens=SAMPLE_TOKENS,
            do_sample=False,
            eos_token_id=sorted(tokenizer.stop_ids),
            pad_token_id=0,
        )
        said = [int(token) for token in found[0, len(ids) :]]
        return tokenizer.decode([token for token in said if token not in tokenizer.stop_ids])

    return answer


def environment(compute: Compute) -> dict[str, str]:
    """Return what the figures of a run depend on."""
    import peft
    import torch
    import transformers

    return {
        "llamune": llamune.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "system": f"{platform.system()} {platform.release()}",
        "processor": machine.processor(),
        "device": compute.device,
        "compute type": f"{compute.dtype}, {compute.gflops:g} GFLOP/s measured",
        "threads": str(compute.n_threads),
    }


def note_result(run: Run, result: TrainResult) -> None:
    """Record what the training measured."""
    record = run.record
    run.update(
        parameters_trained=result.parameters_trained,
        steps_done=result.steps_done,
        tokens_per_second=round(result.tokens_per_second, 2),
        memory=record.memory.model_copy(update={"measured_bytes": result.peak_bytes}),
        seconds=record.seconds.model_copy(update={"measured": round(result.seconds, 3)}),
        loss=Loss(
            training=result.training_loss,
            validation_before=result.validation_before,
            validation=result.validation_loss,
            best_step=result.kept_step if result.validation_loss is not None else None,
        ),
    )


def keep_paused(run: Run, prepared: Prepared) -> None:
    """Write the newest checkpoint as a GGUF adapter, so that a stopped run can be looked at."""
    if prepared.recipe.method == "full":
        keep_paused_full(run)
        return
    steps = checkpoint_steps(run.checkpoints)
    if not steps or needs_whole_file(prepared.recipe):
        return
    base = prepared.opened
    paused = run.folder / PAUSED
    folder = checkpoint_folder(run.checkpoints, steps[-1])
    write_gguf_adapter(
        folder, base.file, base.family, paused, base_digest=base.model.digest, replace=True
    )
    run.update(files={**run.record.files, "paused": paused})


def finish(
    run: Run,
    prepared: Prepared,
    *,
    sharing: Sharing,
    language: str | None,
    on_event: OnJobEvent,
) -> None:
    """Bring what was trained back to files, prove, score, publish and report.

    What fails its proof is not published, and the run's state says so.
    """
    base = prepared.opened
    digest = base.model.digest or f"sha256:{run.record.base.sha256_before}"  # type: ignore[union-attr]  # set by `begin`
    product = product_of(run, prepared, digest=digest, on_event=on_event)
    files = {
        **({"adapter": run.adapter} if prepared.recipe.is_adapter else {}),
        **product.files,
        **drawn_loss(run),
    }
    run.update(files=files)
    (run.folder / PAUSED).unlink(missing_ok=True)
    on_event(Stage(name="proving that served = trained"))
    proof = prove_run(run, base, product, on_event=on_event)
    on_event(Stage(name="scoring before and after"))
    score_run(run, prepared, product)
    if proof.verdict != "fail":
        on_event(Stage(name="publishing"))
        publish_run(run, base, product, digest=digest, sharing=sharing)
    derivative = licence_of(run, base)
    on_event(Stage(name="checking the base file again"))
    record = run.record
    failed = proof.verdict == "fail"
    run.update(
        base=record.base and record.base.model_copy(update={"sha256_after": digest_of(prepared)}),
        files={**files, "report": run.report_path},
        state="failed" if failed else "done",
        fault=f"the proof failed: {'; '.join(proof.reasons)}" if failed else None,
        finished=datetime.now(UTC),
        process=None,
    )
    write_report(run, language=language, licence_lines=summary_lines(derivative, language=language))
