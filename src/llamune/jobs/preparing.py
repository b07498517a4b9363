"""All that can refuse before the long work: model, data, recipe and plan of one training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamune.arch import Family, describe
from llamune.data import (
    DataFile,
    Record,
    Records,
    TrainingData,
    groups_of,
    padding_share,
    prepare,
    read_records,
    split,
)
from llamune.gguf import ModelFile
from llamune.jobs.growing import grown_path
from llamune.plan import Plan, largest_micro_batch, plan_training
from llamune.runs import Recipe, RecipeError, Situation, settle
from llamune.store import Model, home, resolve
from llamune.text import ChatTemplate, Tokenizer, faults, template_of, tokenizer_of
from llamune.train import Team, batch_order, check_ranks

if TYPE_CHECKING:
    from llamune.data import Rendered
    from llamune.nn import Compute

__all__ = [
    "Examples",
    "Opened",
    "Prepared",
    "held_apart",
    "opened",
    "opened_for",
    "prepare_training",
    "read_examples",
]

ROUGH_TOKENS_A_RECORD = 100  # until the records are rendered


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model whose file is open and understood."""

    model: Model
    file: ModelFile  # the model's own, or the one with new tokens that is trained on
    family: Family
    tokenizer: Tokenizer
    template: ChatTemplate
    paths: tuple[Path, ...]  # of `file`

    @property
    def is_grown(self) -> bool:
        """Whether `file` has tokens that the model does not have."""
        return self.paths != self.model.paths


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A training that has been checked and planned."""

    opened: Opened
    recipe: Recipe
    plan: Plan
    training: TrainingData
    validation: TrainingData | None
    validation_records: tuple[Record, ...]
    test_records: tuple[Record, ...]  # scored before and after; never trained on
    problems: tuple[str, ...]  # records that could not be read
    notes: tuple[str, ...]

    @property
    def training_rendered(self) -> Sequence[Rendered]:
        """The records to train on."""
        return self.training.rendered

    @property
    def validation_rendered(self) -> Sequence[Rendered]:
        """The records that tell when to stop."""
        return self.validation.rendered if self.validation is not None else ()

    @property
    def padding(self) -> float:
        """The share of computed tokens that only fill up rows."""
        recipe, lengths = self.recipe, self.training.lengths
        order = batch_order(
            lengths,
            steps=recipe.steps,
            batch=recipe.batch,
            micro_batch=recipe.micro_batch,
            n_processes=1,
            seed=recipe.seed,
            row_tokens=recipe.row_tokens,
        )
        rows = [[lengths[i] for i in part] for step in order for part in step]
        return padding_share([[sum(row)] for row in rows] if recipe.packing else rows)


@contextmanager
def opened(
    reference: str, *, template: str | None = None, add_tokens: Sequence[str] = ()
) -> Iterator[Opened]:
    """Open a model read-only, with its family, tokenizer and chat template.

    Args:
        reference: a name or a path.
        template: the chat template to use in place of the model's own, see `text.template_of`.
        add_tokens: texts that become tokens: the file opened is a copy with them.

    Raises:
        StoreError: nothing has that name.
        GgufError: the file is damaged.
        UnsupportedError: something in it is not implemented exactly.
        RecipeError: a token to add is there already.
    """
    model = resolve(reference)
    with ExitStack() as stack:
        paths = model.paths
        file = stack.enter_context(ModelFile.open(paths))
        tokenizer = tokenizer_of(file)
        if add_tokens:
            paths = (grown_path(model, file, tokenizer, add_tokens),)
            file = stack.enter_context(ModelFile.open(paths))
            tokenizer = tokenizer_of(file)
        chosen = template_of(model, file, tokenizer, use=template)
        yield Opened(
            model=model if template is None else with_template(model, chosen),
            file=file,
            family=describe(file),
            tokenizer=tokenizer,
            template=chosen,
            paths=paths,
        )


def with_template(model: Model, template: ChatTemplate) -> Model:
    """Return the model as it is once a chosen template has been published with it."""
    if template.source != "named":  # one of the model's own two
        return model
    if template.language == "Go":
        return replace(model, template=template.text)
    return replace(model, template=None, config={**model.config, "chat_template": template.text})


def opened_for(recipe: Recipe) -> AbstractContextManager[Opened]:
    """Open what a recipe trains on, with its template and its new tokens."""
    return opened(recipe.base, template=recipe.template, add_tokens=recipe.add_tokens)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What the chosen files hold.

    Args:
        read: every record that is not for tests, and what was found on the way.
        kept: those to train on.
        held: those that tell when to stop.
        tests: scored before and after.
    """

    read: Records
    kept: list[Record]
    held: list[Record]
    tests: list[Record]


def read_examples(choices: Mapping[str, Any]) -> Examples:
    """Read the chosen files and hold a part of the records apart.

    Args:
        choices: fields of the recipe that were chosen; `data` among them.

    Raises:
        DataError: a file cannot be read.
        RecipeError: no data is chosen.
    """
    read = read_data(choices)
    tests = list(read_files(choices["test"]).records) if choices.get("test") else []
    share, seed = float(choices.get("validation", 0.1)), int(choices.get("seed", 0))
    kept, held = held_apart(read.records, validation=share, seed=seed)
    return Examples(read=read, kept=kept, held=held, tests=tests)


def prepare_training(
    base: Opened,
    choices: Mapping[str, Any],
    *,
    epochs: float | None = None,
    examples: Examples | None = None,
    measure: Callable[[Family], Compute | None] = lambda _: None,
) -> Prepared:
    """Read and render the data, settle the recipe, and plan.

    Args:
        base: the model.
        choices: fields of the recipe that were chosen; `data` among them.
        epochs: passes over the data, in place of `steps`.
        examples: what the files hold, where they are read already.
        measure: returns what this machine computes in and how fast; called when the data are read.

    Raises:
        DataError: the data cannot be read or rendered, or nothing in it can be trained on.
        RecipeError: the choices contradict each other.
        LlamuneError: a chosen layer does not exist, or one with a rank is not trained.
    """
    examples = examples or read_examples(choices)
    training, validation = rendered(base, choices, examples)
    recipe, plan = settled(
        base, choices, training, validation, epochs=epochs, compute=measure(base.family)
    )
    if recipe.is_adapter:
        check_ranks(recipe, base.family.linear_modules(recipe.targets))  # refuse unknown layers
    read = examples.read
    return Prepared(
        opened=base,
        recipe=recipe,
        plan=plan,
        training=training,
        validation=validation,
        validation_records=tuple(examples.held),
        test_records=tuple(examples.tests),
        problems=tuple(str(problem) for problem in read.problems),
        notes=(
            *base.model.notes,
            *read.notes,
            *pair_notes(read.records, choices),
            *template_notes(base, read.records),
        ),
    )


def rendered(
    base: Opened, choices: Mapping[str, Any], examples: Examples
) -> tuple[TrainingData, TrainingData | None]:
    """Return the records to train on and those held out, as tokens; no held-out ones: None.

    Raises:
        DataError: a record cannot be rendered.
        RecipeError: records are cut beyond the model's context, or none has anything to train on.
    """
    context, limit = base.family.sizes.context_length, choices.get("max_length")
    if limit is not None and limit > context:
        raise RecipeError(
            f"max_length {limit} is more than the model's context of {context} tokens"
        )
    render = partial(
        prepare,
        template=base.template,
        tokenizer=base.tokenizer,
        context_length=context,
        train_on=choices.get("train_on", "answers"),
        seed=int(choices.get("seed", 0)),
        chosen=bool(choices.get("chosen", False)),
        cache=home() / "cache" / "data",
    )
    training = render(examples.kept, max_length=limit)
    refuse_nothing_to_train(training)
    if not examples.held:
        return training, None
    validation = render(examples.held, max_length=training.max_length)
    return training, validation if validation.rendered else None


def held_apart(
    records: Sequence[Record], *, validation: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """Return records to train on and records held out: the same ones for the same seed.

    Near-duplicates stay together, so that nothing held out was as good as trained on.
    """
    kept, held = split(records, validation=validation, seed=seed, groups=groups_of(records))
    return list(kept), list(held)


def pair_notes(records: Sequence[Record], choices: Mapping[str, Any]) -> list[str]:
    """Say how many preference pairs give their better answer only."""
    n_pairs = sum(1 for record in records if record.rejected)
    if not n_pairs or not choices.get("chosen"):
        return []
    return [f"{n_pairs:,} preference pairs are trained on by their better answer alone"]


def template_notes(base: Opened, records: Sequence[Record]) -> list[str]:
    """Say what is wrong with what the chat template makes of the first conversation."""
    for record in records:
        messages = [message.for_template() for message in record.messages]
        if record.text is None and messages and messages[-1]["role"] == "assistant":
            stops = base.model.parameters.get("stop", ())
            texts = (stops,) if isinstance(stops, str) else tuple(stops)
            found = faults(base.template, base.tokenizer, messages, stops=texts)
            return [f"chat template: {fault}" for fault in found]
    return []


def read_data(choices: Mapping[str, Any]) -> Records:
    """Read the records of the chosen files."""
    files = choices.get("data") or ()
    if not files:
        raise RecipeError("no data is given", hint="--data FILE")
    return read_files(files)


def read_files(files: Sequence[Any]) -> Records:
    """Read the records of files as a recipe names them."""
    return read_records([DataFile(Path(entry.path), entry.weight) for entry in files])


def refuse_nothing_to_train(training: TrainingData) -> None:
    """Refuse data of which the loss would count nothing.

    Raises:
        RecipeError: every record lost its answer to the maximum length, or has none.
    """
    if training.rendered:
        return
    raise RecipeError(
        f"none of {training.n_records} records has a token to train on within "
        f"{training.max_length} tokens",
        hint="raise --max-length, or train on the whole text: --train-on all",
    )


def settled(
    base: Opened,
    choices: Mapping[str, Any],
    training: TrainingData,
    validation: TrainingData | None,
    *,
    epochs: float | None,
    compute: Compute | None,
) -> tuple[Recipe, Plan]:
    """Fill in the recipe; the micro-batch is the largest that fits, unless it was chosen."""
    sizes = base.family.sizes
    chosen = dict(choices)
    chosen.setdefault("max_length", training.max_length)
    situation = Situation(
        n_records=len(training.rendered),
        longest_tokens=max(training.lengths),
        context_length=sizes.context_length,
        d_model=sizes.d_model,
        architecture=base.family.name,
    )
    recipe = settle(chosen, situation, epochs=epochs)
    plan = plan_training(
        base.file,
        base.family,
        recipe,
        lengths=training.lengths,
        validation_lengths=validation.lengths if validation else (),
        trained_tokens=training.n_trained,
        gflops=compute.gflops if compute else None,
        compute_type=compute.dtype if compute else "float32",
        name=str(base.model),
    )
    fitting = largest_micro_batch(
        plan.shape,
        plan.settings,
        plan.machine,
        batch=recipe.batch,
        n_processes=Team.of_environment().local_size if plan.machine.device == "cpu" else 1,
    )
    if recipe.is_packed:
        if fitting == recipe.batch or recipe.packing:
            return recipe, plan
        refuse_chosen_batch(choices, fitting)
        again = {**chosen, "batch": fitting, "micro_batch": fitting}
        return settled(base, again, training, validation, epochs=epochs, compute=compute)
    if "micro_batch" in chosen or plan.settings.micro_batch == recipe.batch:
        return recipe, plan
    again = {**chosen, "micro_batch": fitting}
    return settled(base, again, training, validation, epochs=epochs, compute=compute)


def refuse_chosen_batch(choices: Mapping[str, Any], fitting: int) -> None:
    """Refuse a batch that does not fit at once, where a step is one micro-batch.

    Raises:
        RecipeError: it was chosen; with the largest that fits.
    """
    if "batch" in choices:
        raise RecipeError(
            f"a batch of {choices['batch']} does not fit into memory at once, and packed weights "
            f"change with every pass: the largest that fits is {fitting}",
            hint=f"--batch {fitting}, or --recompute, or a lower --max-length",
        )
