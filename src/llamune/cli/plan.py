"""`llamune plan`: what running and training a model takes on a machine, before anything is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from llamune.cli import _plan_views, _screen

if TYPE_CHECKING:
    from llamune.jobs import Wishes
    from llamune.plan import Machine, Purpose

METHODS = ("lora", "dora", "full")  # as `plan.METHODS`, which is slow to import
KEEP_TYPES = ("Q8_0", "BF16", "Q6_K")


def command(
    refs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REF]...", help="models; a known name works without the file"),
    ] = None,
    method: Annotated[str, typer.Option(help=", ".join(METHODS))] = "lora",
    dense: Annotated[
        bool, typer.Option("--dense", help="of full: weights as floats, not in packed blocks")
    ] = False,
    keep_type: Annotated[
        str, typer.Option(help="of full: quant type of the blocks: Q8_0, BF16, Q6_K")
    ] = "Q8_0",
    rank: Annotated[int | None, typer.Option(min=1, help="columns of the adapter")] = None,
    targets: Annotated[str, typer.Option(help="layers: all, attention, mlp, or a name")] = "all",
    max_length: Annotated[int | None, typer.Option(min=8, help="tokens of a record")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="records that go through the model at once")
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="recompute activations: less memory, slower")
    ] = False,
    data: Annotated[list[Path] | None, typer.Option(help="examples to train on")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="to train on, without --data")] = 1_000_000,
    context: Annotated[int, typer.Option(min=1, help="tokens of a conversation")] = 4096,
    parallel: Annotated[int, typer.Option(min=1, help="conversations at once")] = 1,
    cache_type: Annotated[str, typer.Option(help="of the key/value cache: f16, q8_0 …")] = "f16",
    file_type: Annotated[
        str | None, typer.Option("--type", help="file type of a model that is not at hand")
    ] = None,
    purpose: Annotated[str, typer.Option(help="task, domain or language")] = "task",
    variants: Annotated[int, typer.Option(min=1, help="tunings of this base to keep")] = 1,
    memory: Annotated[str | None, typer.Option(help="another machine, e.g. 16GB")] = None,
    device: Annotated[str | None, typer.Option(help='another machine, e.g. "M1 Max 32GB"')] = None,
    gpu: Annotated[str | None, typer.Option(help='a GPU, e.g. "RTX 4090"')] = None,
    machine: Annotated[
        bool,
        typer.Option("--machine", help="known models on this machine, or those named, as a table"),
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="measure this machine on REF first: about 15 seconds"),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="show every formula with its numbers")
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="how right the plans of past runs were")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Predict memory, time, money and disk from the file's header, before a byte is trained.

    Exits 1 when the training, or running several models together, will not fit.
    """
    from llamune.errors import LlamuneError
    from llamune.jobs import Wishes

    if audit:
        _plan_views.show_audit(as_json=as_json)
        return
    check(method, purpose, cache_type, keep_type)
    if calibrate:
        measure(refs or [])
    where = machine_of(memory, device, gpu)
    wishes = Wishes(
        method=method,
        dense=dense,
        keep_type=keep_type.upper(),
        rank=rank,
        targets=targets,
        max_length=max_length,
        batch=batch,
        recompute=recompute,
        data=tuple(data or ()),
        tokens=tokens,
        context=context,
        n_parallel=parallel,
        cache_type=cache_type,
        file_type=file_type,
        purpose=cast("Purpose", purpose),
        n_variants=variants,
    )
    if machine:
        _plan_views.show_machine(where, wishes, refs or (), as_json=as_json)
    elif not refs:
        raise LlamuneError("which model?", hint="llamune plan REF, or llamune plan --machine")
    elif len(refs) > 1:
        several(refs, wishes, where, as_json=as_json)
    else:
        one(refs[0], wishes, where, explain=explain, as_json=as_json)


def check(method: str, purpose: str, cache_type: str, keep_type: str) -> None:
    """Refuse words that no plan knows.

    Raises:
        LlamuneError: naming the word and those that are known.
    """
    from llamune.errors import LlamuneError
    from llamune.plan import CACHE_TYPES, PURPOSES

    known: dict[str, tuple[str, Any]] = {
        "method": (method, METHODS),
        "purpose": (purpose, PURPOSES),
        "cache type": (cache_type, tuple(CACHE_TYPES)),
        "keep type": (keep_type.upper(), KEEP_TYPES),
    }
    for what, (word, words) in known.items():
        if word not in words:
            raise LlamuneError(f"{what} {word!r} is not known", hint=f"one of: {', '.join(words)}")


def machine_of(memory: str | None, device: str | None, gpu: str | None) -> Machine:
    """Return the machine that the options describe, this one without any.

    Raises:
        LlamuneError: more than one of them, or a device that is not known.
    """
    from llamune.errors import LlamuneError
    from llamune.plan import bytes_of, detect, device_machine, machine_of_memory

    if device is not None and (gpu or memory):
        raise LlamuneError("--device says the whole machine; leave --gpu and --memory out")
    if gpu is not None:
        return device_machine(gpu, host_memory=bytes_of(memory) if memory else None)
    if device is not None:
        return device_machine(device)
    return machine_of_memory(bytes_of(memory)) if memory else detect()


def measure(refs: list[str]) -> None:
    """Measure this machine on models' shapes and say what was found.

    Raises:
        LlamuneError: no model is named.
    """
    from llamune.errors import LlamuneError
    from llamune.jobs import calibrate

    if not refs:
        raise LlamuneError("calibrate on which model?", hint="llamune plan REF --calibrate")
    for ref in refs:
        _plan_views.show_calibration(ref, calibrate(ref))


def one(ref: str, wishes: Wishes, machine: Machine, *, explain: bool, as_json: bool) -> None:
    """Plan one model."""
    from llamune.errors import AnswerNo
    from llamune.jobs import plan_model

    plan = plan_model(ref, wishes, machine=machine)
    if as_json:
        _screen.data_json(plan.as_json())
    else:
        _plan_views.show_model(plan, wishes, explain=explain)
    if not plan.training.fits:
        advice = plan.training.advice
        hint = f"this would: {advice[0]}" if advice else "no settings of this method would fit"
        kind = plan.training.settings.kind
        raise AnswerNo(f"{ref}: training by {kind} will not fit here", hint=hint)


def several(refs: list[str], wishes: Wishes, machine: Machine, *, as_json: bool) -> None:
    """Say which models can be loaded at once."""
    from llamune.errors import AnswerNo
    from llamune.jobs import plan_model, resident_together

    plans = [plan_model(ref, wishes, machine=machine) for ref in refs]
    inside, outside = resident_together(plans, machine.budget_bytes)
    if as_json:
        _screen.data_json(
            {
                "budget_bytes": machine.budget_bytes,
                "together": [plan.shape.name for plan in inside],
                "left_out": [plan.shape.name for plan in outside],
                "fits": not outside,
                "models": [plan.as_json() for plan in plans],
            }
        )
    else:
        _plan_views.show_together(inside, outside, machine)
    if outside:
        names = ", ".join(plan.shape.name for plan in outside)
        raise AnswerNo(f"not all at once: {names} would have to wait")
