"""What happens to what was trained: proof, scores, publication, licence, loss curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llamune.data import Record
from llamune.evaluate import Conversation, Proof, default_conversations, prove, score_records
from llamune.files import sha256_of
from llamune.jobs.events import OnJobEvent, Stage
from llamune.jobs.preparing import Opened, Prepared
from llamune.jobs.products import Product, bare, given_template, publish_product
from llamune.jobs.report import derivative_of
from llamune.license import Derivative, obligations
from llamune.runs import Licence, Recipe, Run, Score
from llamune.store import Model, ModelName, Sharing, library, model_of_name
from llamune.train import draw_loss_curve, loss_curve

__all__ = ["drawn_loss", "is_published", "licence_of", "prove_run", "publish_run", "score_run"]

MOST_SCORED_RECORDS = 200
MOST_ANSWER_TOKENS = 256
ANSWER_ROOM = 2  # times the longest right answer: a base that rambles is wrong by then


def prove_run(run: Run, base: Opened, product: Product, *, on_event: OnJobEvent) -> Proof:
    """Hold llama.cpp with what will be served against the trainer, and record the figures."""
    is_adapter = product.adapter is not None
    proof = prove(
        product.served(base),
        trained=run.adapter if is_adapter else None,
        served=product.adapter,
        conversations=conversations_of(run.recipe),
        advance=lambda step: on_event(Stage(name=f"proof: {step}")),
    )
    run.update(proof=proof.as_dict())
    return proof


def conversations_of(recipe: Recipe) -> Sequence[Conversation]:
    """Return what the proof reads: new tokens come first, so that it looks at them."""
    usual = default_conversations()
    if not recipe.add_tokens:
        return usual
    text = " ".join(recipe.add_tokens)
    new = ({"role": "user", "content": text}, {"role": "assistant", "content": text})
    return (new, *usual)


def licence_of(run: Run, base: Opened) -> Derivative:
    """Work out what the base's licence asks of the derivative, and record it."""
    derivative = derivative_of(base)
    run.update(
        licence=Licence(
            identifiers=tuple(item.label for item in derivative.found),
            answers={act: verdict.answer for act, verdict in derivative.verdicts.items()},
            duties=tuple(obligations(derivative, language="en")),
            notes=tuple(key for key, _ in derivative.problems),
        )
    )
    return derivative


def publish_run(
    run: Run, base: Opened, product: Product, *, digest: str, sharing: Sharing
) -> Model:
    """Put what was trained into our library under the run's name, with its lineage.

    A run that was killed after this step finds itself there when it goes on.
    """
    record = run.record
    lineage = {
        "llamune.base.digest": digest,
        "llamune.base.name": str(base.model),
        "llamune.run": run.reference,
        "llamune.recipe.sha256": sha256_of(run.recipe_path),
        "llamune.data.sha256": record.data.fingerprint if record.data else "",
    }
    model = publish_product(
        run.name,
        bare(base.model),
        product,
        annotations=lineage,
        template=given_template(base),
        replace=record.replace or is_published(run),
        sharing=sharing,
    )
    run.update(published=(f"library: {model}",))
    return model


def is_published(run: Run) -> bool:
    """Whether our library has this very run under its name."""
    there = library().find(ModelName.parse(run.name))
    if there is None:
        return False
    return model_of_name(library(), there).annotations.get("llamune.run") == run.reference


def drawn_loss(run: Run) -> dict[str, Path]:
    """Draw the loss curve; return its files by their key in the record."""
    drawn = draw_loss_curve(loss_curve(run.metrics_path), run.folder, title=run.reference)
    return {f"loss_{path.suffix[1:]}": path for path in drawn}


def score_run(run: Run, prepared: Prepared, product: Product) -> None:
    """Score base and tuned model on held-out records, and record both with intervals."""
    base = prepared.opened
    task, records = held_out(prepared)
    if not records:
        return
    longest = max(len(base.tokenizer.encode(record.answer)) for record in records)
    compared = score_records(
        bare(base.model),
        records,
        task=task,
        tuned=product.adapter or product.served(base),
        name=run.name,
        run=run.reference,
        max_tokens=min(MOST_ANSWER_TOKENS, ANSWER_ROOM * longest + 8),
    )
    before, after = compared.before, compared.after
    score = Score(
        task=task,
        metric=after.metric,
        n=after.n,
        before=before.mean,
        before_low=before.low,
        before_high=before.high,
        after=after.mean,
        after_low=after.low,
        after_high=after.high,
        verdict=compared.sentence,
    )
    run.update(scores=(score,))


def held_out(prepared: Prepared) -> tuple[str, Sequence[Record]]:
    """Return records that were not trained on, and what to call them.

    The recipe's test files where it names some, else the validation records: those chose which
    weights were kept, so their score is a little too good, which their name says.
    """
    if prepared.test_records:
        task = ", ".join(entry.path.name for entry in prepared.recipe.test)
        records: Sequence[Record] = prepared.test_records
    else:
        task, records = "validation", prepared.validation_records
    asked = [record for record in records if record.text is None and record.answer]
    return task, asked[:MOST_SCORED_RECORDS]
