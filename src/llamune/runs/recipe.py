"""The recipe: every choice of one training, with its unit, as it was settled.

A person writes any part of it (options, a YAML file); `settle` in `defaults.py` fills in the
rest for this model and this data, and the whole is kept in the run.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from llamune.errors import LlamuneError
from llamune.files import write_text

__all__ = ["DataFile", "Recipe", "RecipeError", "check_choices", "read_choices"]

TARGETS = ("all", "attention", "mlp")
PACKED_OPTIMIZERS = ("factored", "adamw8")


class RecipeError(LlamuneError):
    """A recipe that cannot be followed: an unknown key, or a value that it may not have."""


class DataFile(BaseModel):
    """A file of examples and how often it counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="file or folder of examples")
    weight: float = Field(
        default=1.0, gt=0, le=100, description="how often a pass sees each record"
    )


def as_data_files(value: Any) -> Any:
    """Accept `file.json`, `[a.json, b.json]` and `{path: a.json, weight: 2}` alike."""
    entries = value if isinstance(value, list | tuple) else [value]
    return tuple({"path": entry} if isinstance(entry, str | Path) else entry for entry in entries)


def as_names(value: Any) -> Any:
    """Accept `a,b` for `[a, b]`; a single name stays a single name."""
    if isinstance(value, str) and "," in value:
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


def as_list_of_names(value: Any) -> Any:
    """Accept `a,b` and `a` for a list of names."""
    names = as_names(value)
    return (names,) if isinstance(names, str) else names


def as_texts(value: Any) -> Any:
    """Accept a single text for a list of one; commas stay in it."""
    return (value,) if isinstance(value, str) else tuple(value)


def as_upper(value: Any) -> Any:
    """Read `q8_0` as `Q8_0`."""
    return value.upper() if isinstance(value, str) else value


def as_number(value: Any) -> Any:
    """Read `2e-4`: YAML 1.1 takes a number without a decimal point for a text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(as_number)]


class Recipe(BaseModel):
    """The full set of training choices. Every field has its unit in its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    base: str = Field(description="model reference: a name, a path, or starter")
    name: str = Field(description="what the tuned model will be called")
    data: Annotated[tuple[DataFile, ...], BeforeValidator(as_data_files)] = Field(
        min_length=1, description="files of examples; each may have a weight"
    )
    method: Literal["lora", "dora", "full"] = Field(
        description="lora: two thin matrices beside each weight; dora: and its length; "
        "full: every layer's weights"
    )
    keep_type: Annotated[Literal["Q8_0", "BF16", "Q6_K"], BeforeValidator(as_upper)] = Field(
        description="full: quant type that the weights are kept and trained in"
    )
    optimizer: str = Field(
        description="full: factored (a hundredth of a byte a weight) or adamw8 (two bytes); with "
        "dense, a name that transformers knows. Adapters: adamw"
    )
    clip: Literal["update", "global"] = Field(
        description="full: what clip_norm bounds: each weight's update (root mean square, in "
        "units of the rate), or the norm of all gradients together, in two passes"
    )
    train_embeddings: bool = Field(description="full: train token embedding and output too")
    dense: bool = Field(description="full: keep the weights as floats, not packed")
    weight_type: Literal["float32", "bfloat16"] = Field(
        description="full and dense: what the floats are; bfloat16 is rounded at random"
    )
    final_type: str | None = Field(
        description="full: file type of the result, such as Q4_K_M; default the keep type"
    )
    rank: int = Field(ge=1, le=1024, description="columns of the thin matrices")
    ranks: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field(
        description="rank of single kinds of layer, by name, e.g. {down_proj: 32}"
    )
    alpha: Number = Field(gt=0, description="adapter strength; the scale is alpha / rank")
    rslora: bool = Field(description="scale by alpha / sqrt(rank) instead")
    dropout: Number = Field(ge=0, lt=1, description="share of adapter inputs set to zero")
    targets: Annotated[str | tuple[str, ...], BeforeValidator(as_names)] = Field(
        description="all, attention, mlp, or names of linear layers such as q_proj"
    )
    learning_rate: Number = Field(gt=0, le=1, description="AdamW step size at its highest")
    b_rate_ratio: Number = Field(
        ge=1, le=100, description="learning rate of B over that of A; 16 is LoRA+"
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        description="how the learning rate falls after the warm-up"
    )
    warmup_steps: int = Field(ge=0, description="optimizer steps until the full learning rate")
    weight_decay: Number = Field(ge=0, description="AdamW weight decay, a step and rate")
    clip_norm: Number = Field(ge=0, description="largest gradient norm; 0 does not clip")
    neftune: Number = Field(ge=0, description="noise on embeddings (NEFTune alpha); 0 is off")
    steps: int = Field(ge=1, description="optimizer steps")
    batch: int = Field(ge=1, description="sequences an optimizer step")
    micro_batch: int = Field(ge=1, description="sequences that go through the model at once")
    max_length: int = Field(ge=8, description="tokens; longer records are cut and counted")
    packing: bool = Field(description="join short records to rows of max_length tokens")
    recompute: bool = Field(description="recompute activations in backward: less memory, slower")
    train_on: Literal["answers", "last", "all"] = Field(description="which tokens the loss counts")
    chosen: bool = Field(description="train on the better answer of preference pairs")
    compute_type: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        description="auto: what the timed trial on this machine chose"
    )
    validation: Number = Field(ge=0, lt=1, description="share of records held out")
    evaluations: int = Field(ge=0, le=1000, description="validation passes over the whole run")
    patience: int = Field(
        ge=0, description="validation passes without a gain before stopping; 0 goes on to the end"
    )
    checkpoint_minutes: Number = Field(gt=0, description="minutes between checkpoints at most")
    test: Annotated[tuple[DataFile, ...], BeforeValidator(as_data_files)] = Field(
        description="held-out examples that are scored before and after; default the validation"
    )
    template: str | None = Field(
        description="chat template in place of the model's own: the name of a common one, or a file"
    )
    add_tokens: Annotated[tuple[str, ...], BeforeValidator(as_texts)] = Field(
        description="texts that become one token each; their rows are trained"
    )
    from_adapter: str | None = Field(description="name, run or folder of an adapter to go on from")
    sample: str | None = Field(description="prompt that is answered at each validation pass")
    report_to: Annotated[tuple[str, ...], BeforeValidator(as_list_of_names)] = Field(
        description="trackers that transformers knows, e.g. [tensorboard]"
    )
    seed: int = Field(ge=0, lt=2**32, description="of every random choice")

    @model_validator(mode="after")
    def check_together(self) -> Recipe:
        """Refuse values that contradict each other."""
        if isinstance(self.targets, str) and self.targets not in TARGETS:
            object.__setattr__(self, "targets", (self.targets,))
        if self.micro_batch > self.batch:
            raise ValueError(f"micro_batch {self.micro_batch} is larger than batch {self.batch}")
        if self.warmup_steps >= self.steps and self.warmup_steps > 0:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} leaves none of the {self.steps} steps"
            )
        if self.method == "full":
            self.check_full()
        return self

    def check_full(self) -> None:
        """Refuse what full training cannot do."""
        if self.from_adapter is not None:
            raise ValueError("from_adapter: full training has no adapter; merge it first")
        if self.compute_type == "float16":
            raise ValueError("compute_type float16: gradients of whole weights leave its range")
        if self.dense:
            return
        if self.optimizer not in PACKED_OPTIMIZERS:
            raise ValueError(
                f"optimizer {self.optimizer}: packed weights are trained by "
                f"{' or '.join(PACKED_OPTIMIZERS)}; others need dense"
            )
        if self.micro_batch != self.batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} is not batch {self.batch}: packed weights "
                "change in backward, so a step is one micro-batch"
            )

    @property
    def is_adapter(self) -> bool:
        """Whether thin matrices are trained, not the weights themselves."""
        return self.method in {"lora", "dora"}

    @property
    def is_packed(self) -> bool:
        """Whether the weights themselves are trained in their blocks."""
        return self.method == "full" and not self.dense

    @property
    def row_tokens(self) -> int | None:
        """The tokens that a row of records end to end may hold; None where each has its own."""
        return self.micro_batch * self.max_length if self.packing else None

    def scale_of(self, rank: int) -> float:
        """Return the factor on B·A of a module of this rank."""
        return self.alpha / (rank**0.5 if self.rslora else rank)

    def to_yaml(self) -> str:
        """Return the recipe as YAML that `read_choices` reads back."""
        values = self.model_dump(mode="json")
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def write(self, path: Path) -> None:
        """Write the recipe, whole or not at all."""
        write_text(path, self.to_yaml(), replace=True)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a settled recipe.

        Raises:
            RecipeError: the file is not YAML, lacks a key, or has a value it may not have.
        """
        choices = read_choices(path)
        try:
            return cls(**choices)
        except ValidationError as error:
            raise RecipeError(f"{path}: {first_fault(error)}") from error


def read_choices(path: Path) -> dict[str, Any]:
    """Read a recipe file that says any part of a recipe.

    Paths in it are taken from the folder of the file.

    Raises:
        RecipeError: not YAML, not a mapping, an unknown key or a value it may not have.
    """
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise RecipeError(f"{path}{line}: not a YAML file", hint=str(error)) from error
    if not isinstance(read, Mapping):
        raise RecipeError(f"{path}: a recipe is a list of `key: value` lines")
    choices = check_choices(dict(read), where=str(path))
    for key in {"data", "test"} & set(choices):
        choices[key] = tuple(
            entry.model_copy(update={"path": path.parent / entry.path}) for entry in choices[key]
        )
    template = choices.get("template")
    if template is not None and (path.parent / template).is_file():
        choices["template"] = str(path.parent / template)
    return choices


def check_choices(choices: Mapping[str, Any], *, where: str = "recipe") -> dict[str, Any]:
    """Check part of a recipe, field by field.

    Args:
        choices: field name to value.
        where: what to name in an error: the file, or `options`.

    Returns:
        The same choices with values of their fields' types.

    Raises:
        RecipeError: an unknown key, with the nearest right name, or a value it may not have.
    """
    checked = {}
    for key, value in choices.items():
        field = Recipe.model_fields.get(key)
        if field is None:
            raise unknown_key(str(key), where)
        kind: TypeAdapter[Any] = TypeAdapter(cast("Any", Annotated[field.annotation, field]))
        try:
            checked[key] = kind.validate_python(value)
        except ValidationError as error:
            fault = error.errors()[0]["msg"]
            raise RecipeError(
                f"{where}: {key}: {fault}, found {value!r}", hint=f"{key}: {field.description}"
            ) from error
    return checked


def unknown_key(key: str, where: str) -> RecipeError:
    """Return the error for a key that no recipe has."""
    near = difflib.get_close_matches(key, Recipe.model_fields, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"keys: {', '.join(Recipe.model_fields)}"
    return RecipeError(f"{where}: no recipe has a key `{key}`", hint=hint)


def first_fault(error: ValidationError) -> str:
    """Return the first fault of a whole recipe in one line."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else fault["msg"]
