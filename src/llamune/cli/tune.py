"""`llamune tune`: train an adapter on the model file you run, prove it, publish it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen
from llamune.cli._device import DeviceOption, use_device
from llamune.errors import LlamuneError

if TYPE_CHECKING:
    from llamune.runs import Run
    from llamune.store import Sharing

FEWEST_STEPS_DRAWN = 8
COURSE = "Course of the training"
ADAPTER = "The adapter"
FULL = "Every weight (--method full)"
DATA = "Data"
JOB = "The job"


def command(
    base: Annotated[
        str | None, typer.Argument(metavar="REF", help="base model: a name, a path, or starter")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="file of examples, FILE or FILE=WEIGHT; may be repeated", rich_help_panel=DATA
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="what to call the tuned model")] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            help="held-out examples, scored before and after; default the validation records",
            rich_help_panel=DATA,
        ),
    ] = None,
    validation: Annotated[
        float | None, typer.Option(help="share of records held out (0.1)", rich_help_panel=DATA)
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(help="tokens; longer records are cut", rich_help_panel=DATA),
    ] = None,
    train_on: Annotated[
        str | None,
        typer.Option(help="answers, last or all: what the loss counts", rich_help_panel=DATA),
    ] = None,
    chosen_answers: Annotated[
        bool | None,
        typer.Option("--chosen", help="of pairs, train on the better", rich_help_panel=DATA),
    ] = None,
    packing: Annotated[
        bool | None,
        typer.Option("--packing", help="join records into rows", rich_help_panel=DATA),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help="chat template: a common one's name, or a file", rich_help_panel=DATA),
    ] = None,
    add_token: Annotated[
        list[str] | None,
        typer.Option(help="text that becomes one token; may be repeated", rich_help_panel=DATA),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="lora (on packed weights: this is QLoRA), dora, or full", rich_help_panel=ADAPTER
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="8, 16 or 32 by data size", rich_help_panel=ADAPTER)
    ] = None,
    rank_of: Annotated[
        list[str] | None,
        typer.Option(help="LAYER=RANK for one kind of layer", rich_help_panel=ADAPTER),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="strength; the scale is alpha / rank (32)", rich_help_panel=ADAPTER),
    ] = None,
    rslora: Annotated[
        bool | None,
        typer.Option("--rslora", help="scale by alpha / √rank", rich_help_panel=ADAPTER),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="0, or 0.05 when data are few", rich_help_panel=ADAPTER)
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(help="all, attention, mlp, or q_proj,v_proj,…", rich_help_panel=ADAPTER),
    ] = None,
    from_adapter: Annotated[
        str | None,
        typer.Option(help="go on from this adapter: name, run, folder", rich_help_panel=ADAPTER),
    ] = None,
    keep_type: Annotated[
        str | None,
        typer.Option(help="type the weights are kept in: q8_0, bf16, q6_k", rich_help_panel=FULL),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="factored or adamw8; dense: adamw_torch, …", rich_help_panel=FULL),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(help="by update, or global (two passes)", rich_help_panel=FULL),
    ] = None,
    train_embeddings: Annotated[
        bool | None,
        typer.Option("--train-embeddings", help="and token embedding", rich_help_panel=FULL),
    ] = None,
    final_type: Annotated[
        str | None,
        typer.Option(help="file type of the result (the keep type)", rich_help_panel=FULL),
    ] = None,
    dense: Annotated[
        bool | None,
        typer.Option("--dense", help="keep weights as floats", rich_help_panel=FULL),
    ] = None,
    weight_type: Annotated[
        str | None,
        typer.Option(help="dense: float32 or bfloat16", rich_help_panel=FULL),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="learning rate; default by size, batch, steps", rich_help_panel=COURSE),
    ] = None,
    search_lr: Annotated[
        bool,
        typer.Option(
            "--search-lr", help="try half, once and twice the rate first", rich_help_panel=COURSE
        ),
    ] = False,
    b_rate_ratio: Annotated[
        float | None, typer.Option(help="rate of B over A; 16 is LoRA+", rich_help_panel=COURSE)
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="linear, cosine or constant", rich_help_panel=COURSE)
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="passes over the data", rich_help_panel=COURSE)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="optimizer steps", rich_help_panel=COURSE)
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(help="fit steps, rank and length to this time", rich_help_panel=COURSE),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="sequences a step (8 or 16)", rich_help_panel=COURSE)
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(help="sequences at once; default what fits", rich_help_panel=COURSE),
    ] = None,
    recompute: Annotated[
        bool | None,
        typer.Option("--recompute", help="less memory, slower", rich_help_panel=COURSE),
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(help="validation passes (10)", rich_help_panel=COURSE)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="passes without gain before stopping (3)", rich_help_panel=COURSE),
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(help="prompt answered at each validation", rich_help_panel=COURSE),
    ] = None,
    compute_type: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16", rich_help_panel=COURSE),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="of every choice", rich_help_panel=COURSE)
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file; options go before it", rich_help_panel=JOB)
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="classic: the usual tutorial's", rich_help_panel=JOB)
    ] = None,
    device: DeviceOption = None,
    resume: Annotated[
        str | None, typer.Option(help="go on with a stopped run", rich_help_panel=JOB)
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(help="publish also to ollama, lmstudio or a path", rich_help_panel=JOB),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="the name may be taken already", rich_help_panel=JOB)
    ] = False,
    report_to: Annotated[
        str | None, typer.Option(help="trackers such as tensorboard", rich_help_panel=JOB)
    ] = None,
    lang: Annotated[
        str | None, typer.Option(help="of the report: en or ja", rich_help_panel=JOB)
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="a file may be copied into the library")
    ] = False,
    no_copy: Annotated[
        bool, typer.Option("--no-copy", help="refer to a file where it lies")
    ] = False,
    allow_sleep: Annotated[
        bool, typer.Option("--allow-sleep", help="the machine may sleep", rich_help_panel=JOB)
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="start long runs unasked", rich_help_panel=JOB)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the run's record as JSON")] = False,
) -> int:
    """Train an adapter on a model file, prove it, publish it under a name.

    `llamune tune gemma2:9b --data medical.json --name medical` is enough: what is left open is
    chosen for this model, data and machine. The base file is only read. Ctrl-C saves, and
    `--resume NAME` goes on from there.
    """
    options = {
        "method": method, "rank": rank, "ranks": ranks_of(rank_of), "alpha": alpha,
        "rslora": rslora, "dropout": dropout, "targets": targets, "from_adapter": from_adapter,
        "learning_rate": lr, "b_rate_ratio": b_rate_ratio, "schedule": schedule, "steps": steps,
        "batch": batch, "micro_batch": micro_batch, "recompute": recompute,
        "evaluations": evaluations, "patience": patience, "sample": sample,
        "compute_type": compute_type, "seed": seed, "validation": validation,
        "template": template, "add_tokens": add_token, "max_length": max_length,
        "train_on": train_on, "packing": packing,
        "chosen": chosen_answers, "keep_type": keep_type, "optimizer": optimizer, "clip": clip,
        "train_embeddings": train_embeddings, "final_type": final_type, "dense": dense,
        "weight_type": weight_type,
        "report_to": report_to, "test": files(test), "data": files(data),
    }  # fmt: skip
    chosen: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    settled = (chosen, base, recipe, name, preset, epochs, hours, search_lr, to, replace)
    if resume is not None and any(settled):
        raise LlamuneError(
            "a run goes on by its own recipe, to where it was to go",
            hint=f"llamune tune --resume {resume}",
        )
    use_device(device)
    from llamune import jobs
    from llamune.cli._training import TrainingView

    code = jobs.supervise()
    if code is not None:
        return code
    if not jobs.leads():
        jobs.follow()
        return 0
    sharing = sharing_for(base, recipe, copy=copy, no_copy=no_copy)
    with TrainingView() as view, jobs.awake(allow_sleep=allow_sleep, say=_screen.note):
        if resume is not None:
            run = jobs.resume(
                resume,
                language=lang,
                confirm=lambda question: view.ask(question, yes=yes),
                on_event=view,
            )
        else:
            run = jobs.tune(
                base, name=name, recipe=recipe, preset=preset, epochs=epochs, hours=hours,
                search_learning_rate=search_lr, replace=replace, sharing=sharing, to=to,
                language=lang, confirm=lambda question: view.ask(question, yes=yes),
                on_event=view, **chosen,
            )  # fmt: skip
    return show(run, as_json=as_json)


def sharing_for(base: str | None, recipe: Path | None, *, copy: bool, no_copy: bool) -> Sharing:
    """Return how the base comes into the library, after asking where it must be copied."""
    from llamune.cli._taking import agreed_sharing
    from llamune.runs import read_choices
    from llamune.store import resolve

    reference = base or (read_choices(recipe).get("base") if recipe is not None else None)
    if reference is None:  # a resumed run's base is there already; `tune` says what is missing
        return "link"
    return agreed_sharing(resolve(reference), copy=copy, no_copy=no_copy)


def files(arguments: list[str] | None) -> list[dict[str, Any]] | None:
    """Return what `FILE` and `FILE=WEIGHT` mean, as a recipe says it."""
    if not arguments:
        return None
    from llamune.data import data_files

    return [{"path": file.path, "weight": file.weight} for file in data_files(arguments)]


def ranks_of(arguments: list[str] | None) -> dict[str, int] | None:
    """Return the ranks of `LAYER=RANK` arguments.

    Raises:
        LlamuneError: an argument is not of that form.
    """
    if not arguments:
        return None
    ranks = {}
    for argument in arguments:
        layer, _, rank = argument.partition("=")
        if not rank.isdecimal():
            raise LlamuneError(f"--rank-of {argument}: write it as down_proj=32")
        ranks[layer] = int(rank)
    return ranks


def show(run: Run, *, as_json: bool) -> int:
    """Print what came of a run; the exit code says whether to trust it."""
    from llamune import jobs
    from llamune.cli._main import INTERRUPTED
    from llamune.train import loss_curve, plot_text

    record = run.record
    if as_json:
        _screen.data(record.model_dump_json(indent=2))
    if record.state == "stopped":
        _screen.note(f"stopped after step {record.steps_done}; nothing is lost")
        if look := jobs.look_hint(run):
            _screen.note(f"to look at it meanwhile: {look}")
        _screen.note(f"\nhint: {jobs.stopped_hint(run)}")
        return INTERRUPTED
    if not as_json:
        losses = [loss for _, loss in loss_curve(run.metrics_path).training]
        for line in plot_text(losses) if len(losses) >= FEWEST_STEPS_DRAWN else ():
            _screen.note(line)
        _screen.data(jobs.summary(run))
        for score in record.scores:
            _screen.data(jobs.score_line(score))
        for place in record.published:
            _screen.data(f"published: {place}")
        _screen.data(f"report: {run.report_path}")
    jobs.check_verdict(run)
    if not as_json:
        _screen.note(f'\nhint: llamune run {run.name} "…"')
    return 0
