"""What `llamune plan` prints: one model, several, a whole machine, and the audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llamune.cli import _screen

if TYPE_CHECKING:
    from llamune.jobs import Calibration, ModelPlan, Wishes
    from llamune.plan import Machine, MemoryPlan, Plan, Verdict

__all__ = ["show_audit", "show_calibration", "show_machine", "show_model", "show_together"]

VERDICTS = {"fits": "fits", "tight": "tight: close other programs", "no": "does not fit"}
MOST_CLOUDS = 3
TABLE_COLUMNS = ("run", "lora", "full packed", "full dense")


def gb(nbytes: float) -> str:
    """Return bytes in decimal GB."""
    return f"{nbytes / 1e9:,.2f} GB"


def show_model(plan: ModelPlan, wishes: Wishes, *, explain: bool) -> None:
    """Print everything about one model."""
    shape, machine = plan.shape, plan.machine
    _screen.data(
        _screen.plain(
            f"{shape.name}: {shape.architecture}, {shape.n_parameters / 1e9:,.3g} B parameters, "
            f"{shape.file_type}, {gb(shape.file_bytes)} ({shape.file_bytes / 2**30:,.2f} GiB), "
            f"from its {plan.source}"
        )
    )
    _screen.data(f"{machine_words(machine)}\n")
    context = min(wishes.context, shape.context_length)
    show_memory(f"running, {context:,} tokens", plan.running, plan.running_verdict, machine)
    show_training(plan.training)
    show_cost(plan, wishes)
    recommendation = plan.recommendation
    rank = f", rank {recommendation.rank}" if recommendation.rank else ""
    _screen.data(
        f"advice for a {wishes.purpose}: {recommendation.method}{rank}, kept as "
        f"{'an adapter' if recommendation.store == 'adapter' else 'a merged file'}"
    )
    for reason in recommendation.reasons:
        _screen.data(f"  - {reason}")
    _screen.data(licence_words(plan))
    if explain:
        show_formulas(plan)


def machine_words(machine: Machine) -> str:
    """Return a machine in one line."""
    parts = [_screen.plain(machine.name)]
    if machine.n_cores:
        sets = ", ".join(machine.instruction_sets)
        parts.append(f"{machine.n_cores} cores{f' ({sets})' if sets else ''}")
    parts.append(f"{machine.memory_bytes / 2**30:,.0f} GiB {machine_memory_word(machine)}")
    if machine.accelerator:
        gpu = machine.accelerator
        parts.append(f"GPU {_screen.plain(gpu.name)} {gpu.memory_bytes / 2**30:,.0f} GiB")
    else:
        parts.append("no GPU")
    parts.append(f"{gb(machine.budget_bytes)} to use")
    return ", ".join(parts)


def machine_memory_word(machine: Machine) -> str:
    """Return what the memory is called."""
    return "unified memory" if machine.unified else "RAM"


def show_memory(title: str, memory: MemoryPlan, verdict: Verdict, machine: Machine) -> None:
    """Print the parts of a memory plan, and whether it fits."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for part in memory.parts:
        table.add_row(f"  {part.key}", gb(part.nbytes), part.place)
    if memory.factor != 1.0:
        table.add_row("  past runs", f"x {memory.factor:.2f}", "")
    total = f"{gb(memory.total_bytes)}"
    table.add_row("  in all", total, f"of {gb(machine.budget_bytes)}: {VERDICTS[verdict]}")
    _screen.data(title)
    _screen.show(table)
    _screen.data("")


def show_training(plan: Plan) -> None:
    """Print memory and time of a training."""
    settings = plan.settings
    kind = settings.kind
    if settings.is_adapter:
        kind += f", rank {settings.rank} ({plan.n_trained:,} parameters)"
    title = (
        f"training: {kind}, {settings.micro_batch} x {settings.length} tokens at once, "
        f"{settings.compute_type}"
    )
    show_memory(title, plan.memory, plan.verdict, plan.machine)
    for sentence in plan.advice:
        _screen.data(f"  would fit: {sentence}")
    time = plan.time
    _screen.data(
        f"time: {span(time.total_low, time.total_high)} for {time.tokens:,} tokens "
        f"({time.speed.source})"
    )


def span(low: float, high: float) -> str:
    """Return an interval of durations."""
    from llamune.jobs import range_text

    return range_text(low, high)


def show_cost(plan: ModelPlan, wishes: Wishes) -> None:
    """Print money, disk, and LoRA against full."""
    power = plan.power
    _screen.data(
        f"electricity: {power.kwh_low:.2g} to {power.kwh_high:.2g} kWh, "
        f"{power.low:,.0f} to {power.high:,.0f} {power.currency}"
    )
    for cost in plan.clouds[:MOST_CLOUDS]:
        _screen.data(
            f"  or {cost.price.name}: {cost.hours_low:.2g} to {cost.hours_high:.2g} h, "
            f"{cost.usd_low:,.2f} to {cost.usd_high:,.2f} USD"
        )
    disk = plan.disk
    _screen.data(
        f"disk: adapter {gb(disk['adapter'])}, merged {gb(disk['merged'])}, checkpoints "
        f"{gb(disk['checkpoints'])} while it trains"
    )
    if wishes.n_variants > 1:
        _screen.data(
            f"  {wishes.n_variants} variants: {gb(disk['variants as adapters'])} as adapters, "
            f"{gb(disk['variants as files'])} as files"
        )
    show_methods(plan)


def show_methods(plan: ModelPlan) -> None:
    """Print LoRA against every weight, side by side."""
    from rich.table import Table

    rows = plan.comparison
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for head in ("  the same by", "memory", "", "time", "electricity", "disk"):
        left = head in {"  the same by", ""}
        table.add_column(head, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        power = row["electricity"]
        table.add_row(
            f"  {row['method']}",
            gb(row["predicted_bytes"]),
            row["verdict"],
            f"{short(row['low_seconds'] / 3600)} to {short(row['high_seconds'] / 3600)} h",
            f"{short(power['low'])} to {short(power['high'])} {power['currency']}",
            gb(row["kept_bytes"]),
        )
    _screen.show(table)
    first, last = rows[0], rows[-1]
    _screen.data(
        f"  {first['method']} takes {last['predicted_bytes'] / first['predicted_bytes']:.1f} times "
        f"less memory than {last['method']}, {last['times_longer']:.1f} times less time and "
        f"electricity, {last['kept_bytes'] / max(1, first['kept_bytes']):,.0f} times less disk"
    )


def short(value: float) -> str:
    """Return a number in two digits, or whole."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def licence_words(plan: ModelPlan) -> str:
    """Return in one line what the licence lets one do with the result."""
    shown = ("share-merged", "share-adapter", "sell-merged", "serve")
    answers = ", ".join(f"{act}: {plan.permitted[act]}" for act in shown)
    return f"licence: {answers} (`llamune license` says why)"


def show_formulas(plan: ModelPlan) -> None:
    """Print every formula with its numbers, and the way of the bytes."""
    from llamune.plan import load_seconds, tokens_per_second

    _screen.data("\nhow it was worked out")
    for title, memory in (("running", plan.running), ("training", plan.training.memory)):
        for part in memory.parts:
            _screen.data(f"  {title} {part.key}: {part.formula} = {part.nbytes:,} bytes")
    time, work = plan.training.time, plan.training.work
    _screen.data(
        f"  operations: {time.tokens:,} tokens x "
        f"{time.flops / max(1, time.tokens):,.4g} = {time.flops:.4g} "
        f"({plan.training.settings.passes}, mean length {work.mean_length:.0f})"
    )
    _screen.data(
        f"  time: {time.flops:.4g} / ({time.speed.low:,.0f} to {time.speed.high:,.0f} GFLOP/s)"
    )
    _screen.data(f"  electricity: {plan.power.formula}")
    for link, speed, seconds, source in load_seconds(plan.shape, plan.machine):
        _screen.data(
            f"  the way of the bytes: {link} at {speed / 1e9:,.1f} GB/s ({source}): "
            f"{seconds:.1f} s for the file, the first time"
        )
    bandwidth = plan.machine.bandwidth
    if bandwidth:
        _screen.data(
            f"  memory delivers {bandwidth / 1e9:,.1f} GB/s: at most "
            f"{tokens_per_second(plan.shape, bandwidth):,.0f} tokens/s in one conversation"
        )
    else:
        _screen.data("  memory: not measured; `llamune plan --calibrate` does")


def show_together(
    inside: Sequence[ModelPlan], outside: Sequence[ModelPlan], machine: Machine
) -> None:
    """Print which models can be loaded at once."""
    _screen.data(machine_words(machine))
    used = 0
    for plan in inside:
        used += plan.running.total_bytes
        _screen.data(_screen.plain(f"  {plan.shape.name}: {gb(plan.running.total_bytes)}, loaded"))
    for plan in outside:
        _screen.data(
            _screen.plain(f"  {plan.shape.name}: {gb(plan.running.total_bytes)}, no longer fits")
        )
    _screen.data(f"together: {gb(used)} of {gb(machine.budget_bytes)}")


def show_machine(machine: Machine, wishes: Wishes, refs: Sequence[str], *, as_json: bool) -> None:
    """Print known models against one machine: all, or those that are named."""
    from rich.table import Table

    from llamune.jobs import machine_json

    rows = machine_rows(machine, wishes, refs)
    if as_json:
        _screen.data_json(
            {
                "budget_bytes": machine.budget_bytes,
                "machine": machine_json(machine),
                "models": rows,
            }
        )
        return
    _screen.data(machine_words(machine))
    _screen.data(f"{speed_words(machine)}\n")
    table = Table(box=None, pad_edge=False)
    for head in ("model", "file", *TABLE_COLUMNS):
        table.add_column(head, justify="left" if head == "model" else "right")
    for row in rows:
        cells = [cell_words(row[key]) for key in TABLE_COLUMNS]
        table.add_row(row["name"], f"{row['file_bytes'] / 1e9:,.1f} GB", *cells)
    _screen.show(table)
    _screen.data(
        "\nGB of peak memory; LoRA of rank 16, 1 x 512 tokens; full dense: AdamW over f32; "
        "*: with --recompute"
    )


def cell_words(cell: dict[str, Any]) -> str:
    """Return one cell of the table."""
    mark = "*" if cell.get("recompute") else ""
    return f"{cell['predicted_bytes'] / 1e9:,.1f} {cell['verdict']}{mark}"


def machine_rows(machine: Machine, wishes: Wishes, refs: Sequence[str]) -> list[dict[str, Any]]:
    """Return models with what running and training each takes; all known ones if none is named."""
    from llamune.jobs import table_row
    from llamune.plan import known_models

    return [table_row(name, machine, wishes) for name in refs or known_models()]


def speed_words(machine: Machine) -> str:
    """Return what is known of a machine's memory and disk, in one line."""
    unknown = "not measured (llamune plan REF --calibrate)"
    memory = f"{machine.bandwidth / 1e9:,.1f} GB/s" if machine.bandwidth else unknown
    parts = [f"memory {memory}"]
    if machine.is_here:
        disk = machine.disk_bandwidth
        parts.append(f"disk {f'{disk / 1e9:,.1f} GB/s' if disk else unknown}")
    if machine.disk_free_bytes is not None:
        parts.append(f"{gb(machine.disk_free_bytes)} of disk free")
    if machine.link_bandwidth:
        parts.append(f"to the GPU {machine.link_bandwidth / 1e9:,.1f} GB/s")
    return ", ".join(parts)


def show_calibration(ref: str, found: Calibration) -> None:
    """Say on stderr what was measured, and whether it was kept."""
    compute, steps = found.compute, found.steps
    threads = f", {compute.n_threads} threads" if compute.n_threads else ""
    _screen.note(f"{compute.device}: {compute.gflops:,.0f} GFLOP/s in {compute.dtype}{threads}")
    _screen.note(
        f"{ref}: {1000 * steps.speed.block.at(512):,.0f} ms a block and "
        f"{1000 * steps.speed.rest.at(512):,.0f} ms for the rest of a step of 512 tokens"
    )
    disk = f", disk {found.disk.read / 1e9:,.1f} GB/s" if found.disk else ""
    _screen.note(f"memory {found.memory_bandwidth / 1e9:,.1f} GB/s{disk}")
    if not (compute.kept and steps.kept):
        _screen.note(
            f"not kept: other programs took {steps.cores_of_others:.1f} cores meanwhile; "
            "close them and measure again"
        )


def show_audit(*, as_json: bool) -> None:
    """Print how right past plans were."""
    from rich.table import Table

    from llamune.plan import audit

    found = audit()
    if as_json:
        _screen.data_json(found.as_json())
        return
    if not found.runs:
        _screen.note("no finished run yet: `llamune tune` makes the first")
        return
    table = Table(box=None, pad_edge=False)
    for head in ("run", "memory", "measured", "off", "time", "measured", "off"):
        table.add_column(head, justify="left" if head == "run" else "right")
    for run in found.runs:
        table.add_row(
            _screen.plain(run.name),
            amount(run.memory_predicted, gb),
            amount(run.memory_measured, gb),
            amount(run.memory_error, "{:+.0%}".format),
            amount(run.seconds_predicted, "{:,.0f} s".format),
            amount(run.seconds_measured, "{:,.0f} s".format),
            amount(run.time_error, "{:+.0%}".format),
        )
    _screen.show(table)
    _screen.data(
        f"\nmedian error: memory {amount(found.memory_error, '{:.0%}'.format)}, "
        f"time {amount(found.time_error, '{:.0%}'.format)}; later plans are corrected by it"
    )


def amount(value: float | None, form: Any) -> str:
    """Return a figure, or a dash where there is none."""
    return "-" if value is None else str(form(value))
