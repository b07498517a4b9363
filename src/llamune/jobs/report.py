"""A run's `report.md`: what was planned, what was measured, what changed, what is owed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llamune.files import write_text
from llamune.jobs.formats import bytes_text, range_text, seconds_text
from llamune.jobs.full_report import full_method, rounding_rows, served_lines
from llamune.jobs.merge_report import OWN
from llamune.jobs.preparing import Opened, opened
from llamune.license import Derivative, derive, licences_of, summary_lines
from llamune.runs import Recipe, Run, RunRecord
from llamune.words import Catalogue, catalogue

__all__ = ["derivative_of", "renew_report", "report_again", "report_of", "write_report"]


def write_report(run: Run, *, language: str | None, licence_lines: Sequence[str]) -> None:
    """Write `report.md` into a run's folder.

    Args:
        run: the run, its record complete.
        language: `en` or `ja`; default the locale's.
        licence_lines: Markdown lines about the derivative's licence, in that language.
    """
    text = report_of(run.record, run.recipe, language=language, licence_lines=licence_lines)
    write_text(run.report_path, text, replace=True)


def report_again(run: Run, *, language: str | None) -> str:
    """Return a run's report: as it was written, or made anew in another language.

    The licence's part is worked out anew from the base where it is still there.
    """
    if language is None and run.report_path.is_file():
        return run.report_path.read_text(encoding="utf-8")
    return report_anew(run, language=language)


def renew_report(run: Run, *, language: str | None) -> None:
    """Write `report.md` again, after its run's record has changed."""
    write_text(run.report_path, report_anew(run, language=language), replace=True)


def report_anew(run: Run, *, language: str | None) -> str:
    """Return a run's report as its record is now."""
    record = run.record
    lines: list[str] = []
    if record.base is not None and all(path.is_file() for path in record.base.paths):
        with opened(run.recipe.base, template=run.recipe.template) as base:
            lines = summary_lines(derivative_of(base), language=language)
    elif record.licence is not None:
        lines = [f"- {duty}" for duty in record.licence.duties]
    return report_of(record, run.recipe, language=language, licence_lines=lines)


def derivative_of(base: Opened) -> Derivative:
    """Work out what the licences of a base ask of what is made from it."""
    names = [str(base.model.name)] if base.model.name is not None else []
    return derive(licences_of(base.file.metadata, base.model.licenses, names=names))


def report_of(
    record: RunRecord, recipe: Recipe, *, language: str | None, licence_lines: Sequence[str]
) -> str:
    """Return the report as Markdown."""
    words = catalogue("report", language)
    lines = [f"# {words('title', run=reference(record))}", "", state_line(record, words), ""]
    sections: list[tuple[str, list[str]]] = [
        ("head-summary", summary(record, recipe, words)),
        ("head-data", data_lines(record, recipe, words)),
        ("head-planned", planned(record, words)),
        ("head-changed", changed(record, words)),
        ("head-merge", merge_lines(record, words)),
        ("head-served", served_lines(record, words)),
        ("head-proof", proof_lines(record, words)),
        ("head-base", base_lines(record, words)),
        ("head-files", file_lines(record, words)),
        ("head-licence", list(licence_lines)),
        ("head-recipe", ["```yaml", *recipe.to_yaml().splitlines(), "```"]),
        ("head-environment", table(record.environment.items())),
    ]
    for head, body in sections:
        if body:
            lines += [f"## {words(head)}", "", *body, ""]
    return "\n".join(lines).rstrip() + "\n"


def reference(record: RunRecord) -> str:
    """Return `name#n`."""
    return f"{record.name}#{record.number}"


def state_line(record: RunRecord, words: Catalogue) -> str:
    """Return one line that says how the run ended."""
    if record.state == "failed":
        return words("state-failed", fault=record.fault or "?")
    if record.state == "done" and record.finished is not None:
        return words("state-done", when=record.finished.astimezone().strftime("%Y-%m-%d %H:%M %Z"))
    return words(
        "state-stopped",
        step=record.steps_done,
        steps=record.steps_planned,
        run=reference(record),
    )


def table(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Return a Markdown table of two columns without a head."""
    body = [f"| {cell(key)} | {cell(value)} |" for key, value in rows]
    return ["| | |", "|---|---|", *body] if body else []


def cell(text: str) -> str:
    """Return a text that stays in its table cell."""
    return " ".join(text.split()).replace("|", "\\|")


def summary(record: RunRecord, recipe: Recipe, words: Catalogue) -> list[str]:
    """Return what was trained on what."""
    method = adapter_method(recipe, words) if recipe.is_adapter else full_method(recipe, words)
    rows = []
    if record.base is not None:
        kind = f", {record.base.file_type}" if record.base.file_type else ""
        size = bytes_text(record.base.size_bytes)
        rows.append((words("base"), f"{record.base.reference} ({size}{kind})"))
        rows.append((words("architecture"), record.base.architecture))
    rows.append((words("method"), method))
    if record.parent:
        rows.append((words("went-on-from"), record.parent))
    if recipe.add_tokens:
        rows.append((words("new-tokens"), ", ".join(f"`{text}`" for text in recipe.add_tokens)))
    if recipe.template:
        rows.append((words("template"), recipe.template))
    if record.parameters_trained and record.base is not None:
        share = record.parameters_trained / record.base.parameters
        value = words(
            "trained-value",
            trained=record.parameters_trained,
            total=record.base.parameters,
            share=share,
        )
        rows.append((words("trained"), value))
    return table(rows)


def adapter_method(recipe: Recipe, words: Catalogue) -> str:
    """Return what adapter was trained on which layers."""
    targets = recipe.targets if isinstance(recipe.targets, str) else ", ".join(recipe.targets)
    return words(f"method-{recipe.method}", rank=recipe.rank, alpha=recipe.alpha, targets=targets)


def data_lines(record: RunRecord, recipe: Recipe, words: Catalogue) -> list[str]:
    """Return what it was trained on."""
    data = record.data
    if data is None:
        return []
    rows = [
        (words("files-read"), ", ".join(data.files)),
        (
            words("records"),
            words(
                "records-value",
                training=data.training_records,
                validation=data.validation_records,
            ),
        ),
        (
            words("tokens"),
            words("tokens-value", tokens=data.tokens, trained=data.trained_tokens),
        ),
        (words("padding"), words("none") if data.padding is None else f"{data.padding:.1%}"),
        (words("cut", length=recipe.max_length), f"{data.cut_records:,}"),
        (words("skipped"), f"{data.skipped_records:,}"),
        (words("fingerprint"), f"`{data.fingerprint}`"),
    ]
    return table(rows)


def planned(record: RunRecord, words: Catalogue) -> list[str]:
    """Return the predictions beside what was measured."""
    none = words("none")
    memory, seconds = record.memory, record.seconds
    guess = none
    if seconds.predicted_low is not None and seconds.predicted_high is not None:
        guess = range_text(seconds.predicted_low, seconds.predicted_high)
    speed = record.tokens_per_second
    rows = [
        (
            words("peak-memory"),
            bytes_text(memory.predicted_bytes) if memory.predicted_bytes else none,
            bytes_text(memory.measured_bytes) if memory.measured_bytes else none,
        ),
        (words("time"), guess, seconds_text(seconds.measured) if seconds.measured else none),
        (words("speed"), none, words("speed-value", speed=speed) if speed else none),
        (words("steps"), f"{record.steps_planned or 0:,}", f"{record.steps_done:,}"),
        *rounding_rows(record, words),
    ]
    head = f"| {words('what')} | {words('planned')} | {words('measured')} |"
    return [head, "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def changed(record: RunRecord, words: Catalogue) -> list[str]:
    """Return loss and scores before and after."""
    rows = []
    loss = record.loss
    if loss.validation is not None:
        before = (
            words("none") if loss.validation_before is None else f"{loss.validation_before:.4f}"
        )
        rows.append((words("validation-loss"), before, f"{loss.validation:.4f}"))
    rows += [
        (
            words("score-row", task=score.task, metric=score.metric, n=score.n),
            f"{score.before:.1%} ({score.before_low:.1%} – {score.before_high:.1%})",
            f"{score.after:.1%} ({score.after_low:.1%} – {score.after_high:.1%})",
        )
        for score in record.scores
    ]
    if not rows:
        return []
    head = f"| {words('what')} | {words('before')} | {words('after')} |"
    lines = [head, "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    lines += [line for score in record.scores if score.verdict for line in ("", score.verdict)]
    if loss.best_step is not None:
        lines += ["", words("kept-step", step=loss.best_step)]
    return lines


def merge_lines(record: RunRecord, words: Catalogue) -> list[str]:
    """Return what bringing the change into a whole file kept of it."""
    merge = record.merge
    if merge is None:
        return []
    key = "merge-type-own" if merge["type"] == OWN else "merge-type-other"
    rows = [
        (words("merge-type"), words(key, type=merge["type"], round=merge["round"])),
        (words("merge-size"), bytes_text(merge["bytes"])),
    ]
    losses = merge["held_out"]
    if losses["merged"] is not None:
        steps = (losses["base"], losses["adapter"], losses["merged"])
        rows.append((words("merge-losses"), " → ".join(f"{loss:.4f}" for loss in steps)))
    if merge["kl"] is not None:
        rows.append((words("merge-kl"), f"{merge['kl']:.2e}"))
    return table(rows)


def proof_lines(record: RunRecord, words: Catalogue) -> list[str]:
    """Return the proof's figures and its verdict."""
    proof = record.proof
    if proof is None:
        return [words("proof-none")]
    rows = [(words("verdict"), words(f"verdict-{str(proof['verdict']).replace(' ', '-')}"))]
    rows += [
        (words(f"proof-{key}"), f"{spelling['n_same']} / {spelling['n']}")
        for key in ("tokens", "template")
        if (spelling := proof.get(key))
    ]
    rows += [
        (words(f"proof-{key}"), f"{agreement['mean_kl']:.2e}")
        for key in ("exact", "served", "floor", "rounding", "effect")
        if (agreement := proof.get(key))
    ]
    if served := proof.get("served"):
        share = served["n_same_top"] / served["n_positions"]
        rows.append((words("proof-top1"), f"{share:.1%}"))
        rows.append((words("proof-max"), f"{served['max_kl']:.2e}"))
    return table(rows) + [f"- {reason}" for reason in proof.get("reasons", ())]


def base_lines(record: RunRecord, words: Catalogue) -> list[str]:
    """Say whether the base is what it was."""
    base = record.base
    if base is None or base.sha256_before is None:
        return []
    paths = [f"`{path}`" for path in base.paths]
    if base.untouched is None:
        return [*paths, "", words("not-looked-at", before=base.sha256_before)]
    if base.untouched:
        return [*paths, "", words("untouched", sha256=base.sha256_before)]
    return [*paths, "", words("touched", before=base.sha256_before, after=base.sha256_after)]


def file_lines(record: RunRecord, words: Catalogue) -> list[str]:
    """Return where everything lies."""
    rows = [
        (words(f"file-{key}"), f"`{path}`") for key, path in record.files.items() if key != "report"
    ]
    rows += [(words("published"), place) for place in record.published]
    return table(rows)
