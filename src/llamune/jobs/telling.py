"""What a training is about to do, and what came of it, in lines for a person."""

from __future__ import annotations

from llamune.errors import AnswerNo
from llamune.jobs.formats import bytes_text, range_text, seconds_text
from llamune.jobs.full_tuning import describe_full
from llamune.jobs.preparing import Prepared
from llamune.jobs.products import needs_whole_file
from llamune.runs import Recipe, Run, Score
from llamune.train import TrainError

__all__ = ["check_verdict", "describe", "look_hint", "score_line", "stopped_hint", "summary"]


def describe(prepared: Prepared) -> list[str]:
    """Return what is about to happen, a line each."""
    recipe, plan, base = prepared.recipe, prepared.plan, prepared.opened
    training, validation = prepared.training, prepared.validation
    n_validation = 0 if validation is None else len(validation.rendered)
    lines = [
        f"base      {base.model} · {base.family.name} · {bytes_text(base.file.size)}",
        f"data      {len(training.rendered):,} records, {n_validation:,} more for validation, "
        f"{training.n_tokens:,} tokens ({training.n_trained:,} trained), "
        f"longest {max(training.lengths):,}, {prepared.padding:.1%} padding",
        *(describe_full(prepared) if recipe.method == "full" else [describe_adapter(recipe)]),
        f"plan      {bytes_text(plan.memory.total_bytes)} at most, "
        f"{range_text(plan.time.low, plan.time.high)} of training (estimates)",
    ]
    left_out = training.n_untrained + len(prepared.problems)
    if training.n_cut:
        lines.append(
            f"note      {training.n_cut:,} records are cut to {training.max_length} tokens"
        )
    if left_out:
        first = f"; the first: {prepared.problems[0]}" if prepared.problems else ""
        lines.append(f"note      {left_out:,} records are left out{first}")
    if needs_whole_file(recipe) and recipe.is_adapter:
        what = "new tokens" if recipe.add_tokens else "DoRA"
        lines.append(f"note      no GGUF adapter can express {what}: the result is a merged file")
    return lines + [f"note      {note}" for note in prepared.notes]


def describe_adapter(recipe: Recipe) -> str:
    """Return what adapter is trained, in a line."""
    targets = recipe.targets if isinstance(recipe.targets, str) else ", ".join(recipe.targets)
    if recipe.add_tokens:
        targets += f" layers and {len(recipe.add_tokens)} new tokens"
    else:
        targets += " layers"
    return (
        f"recipe    {recipe.method} r{recipe.rank} alpha {recipe.alpha:g} on {targets}, "
        f"lr {recipe.learning_rate:g}, {recipe.steps:,} steps of {recipe.batch}"
    )


def summary(run: Run) -> str:
    """Return one line about a finished run."""
    record = run.record
    before, after = record.loss.validation_before, record.loss.validation
    loss = f", validation loss {before:.3f} → {after:.3f}" if before and after else ""
    took = f" in {seconds_text(record.seconds.measured)}" if record.seconds.measured else ""
    return f"{run.reference}: {record.steps_done} steps{took}{loss}"


def score_line(score: Score) -> str:
    """Return a score before and after, each with its 95 % interval, and what may be said of it."""
    before = f"{score.before:.1%} [{score.before_low:.1%}, {score.before_high:.1%}]"
    after = f"{score.after:.1%} [{score.after_low:.1%}, {score.after_high:.1%}]"
    verdict = f": {score.verdict}" if score.verdict else ""
    return f"{score.task}: {before} → {after}, n = {score.n}{verdict}"


def stopped_hint(run: Run) -> str:
    """Return how to go on with a stopped run."""
    return f"llamune tune --resume {run.reference}"


def look_hint(run: Run) -> str | None:
    """Return how to ask a stopped run's last checkpoint; None where it has none to be served."""
    files, base = run.record.files, run.record.base
    if (model := files.get("paused_model")) is not None:
        return f'llamune run {model} "…"'
    if (adapter := files.get("paused")) is not None and base is not None:
        return f'llamune run {base.reference} --adapter {adapter} "…"'
    return None


def check_verdict(run: Run) -> None:
    """Refuse to call a run good whose proof did not pass.

    Raises:
        AnswerNo: the proof failed or cannot tell.
        TrainError: the run is not done.
    """
    record = run.record
    verdict = (record.proof or {}).get("verdict")
    if verdict not in {None, "pass"}:
        reasons = "; ".join((record.proof or {}).get("reasons", ())) or "see the report"
        raise AnswerNo(f"proof: {verdict}: {reasons}", hint=str(run.report_path))
    if record.state != "done":
        raise TrainError(f"{run.reference} is {record.state}", hint=stopped_hint(run))
