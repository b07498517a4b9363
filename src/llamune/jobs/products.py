"""What a training leaves as files: an adapter beside its base, or a whole model file.

A GGUF adapter holds thin matrices only. What it cannot say (DoRA's row lengths, the rows of new
tokens) is merged into a whole file, at the types that are measured to keep the change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llamune.adapter import grow_vocabulary, read_new_rows, write_gguf_adapter
from llamune.arch import describe
from llamune.gguf import ModelFile
from llamune.jobs.events import OnJobEvent, Stage
from llamune.jobs.full_tuning import write_full
from llamune.jobs.merging import merge
from llamune.jobs.preparing import Opened, Prepared
from llamune.runs import Recipe, Run
from llamune.store import (
    GivenTemplate,
    Model,
    ModelName,
    Sharing,
    publish_adapter,
    publish_model,
)

__all__ = [
    "Product",
    "bare",
    "given_template",
    "needs_whole_file",
    "product_in",
    "product_of",
    "publish_product",
]


@dataclass(frozen=True, kw_only=True)
class Product:
    """What a training made: exactly one of the two.

    Args:
        adapter: a GGUF adapter, to be served beside its base.
        whole: a whole model file.
    """

    adapter: Path | None = None
    whole: Path | None = None

    def served(self, base: Opened) -> Model:
        """Return the model file that is served: the whole one, or the base without adapters."""
        if self.whole is None:
            return bare(base.model)
        return replace(bare(base.model), paths=(self.whole,), digest=None)

    @property
    def files(self) -> dict[str, Path]:
        """The file by its key in the run's record."""
        if self.adapter is not None:
            return {"adapter_gguf": self.adapter}
        return {"merged": self.whole} if self.whole is not None else {}


def bare(model: Model) -> Model:
    """Return the base without what would change what is compared."""
    return replace(model, adapters=())


def needs_whole_file(recipe: Recipe) -> bool:
    """Whether no GGUF adapter can express what this recipe trains."""
    return recipe.method != "lora" or bool(recipe.add_tokens)


def given_template(base: Opened) -> GivenTemplate | None:
    """Return the chat template that goes along, where the base's own was not used."""
    template = base.template
    if template.source != "named":
        return None
    return GivenTemplate(text=template.text, language=template.language)


def publish_product(
    name: str | ModelName,
    base: Model,
    product: Product,
    *,
    annotations: Mapping[str, str],
    template: GivenTemplate | None = None,
    replace: bool = False,
    sharing: Sharing = "copy",
    advance: Callable[[int], object] | None = None,
) -> Model:
    """Put a product into our library: an adapter beside its base, or the whole file.

    Args:
        name: under which it appears.
        base: the model that was trained, whose small layers go along.
        product: what was made.
        annotations: lineage.
        template: the chat template that was chosen for the training.
        replace: whether a model of that name may be replaced.
        sharing: how far to go when the base can be neither linked nor cloned.
        advance: called with the number of bytes hashed or copied.
    """
    if product.adapter is not None:
        return publish_adapter(
            name,
            base,
            product.adapter,
            annotations=annotations,
            template=template,
            replace=replace,
            sharing=sharing,
            advance=advance,
        )
    assert product.whole is not None  # noqa: S101  a product is one of the two
    return publish_model(
        name,
        product.whole,
        base,
        annotations=annotations,
        template=template,
        replace=replace,
        advance=advance,
    )


def product_in(run: Run) -> Product | None:
    """Return what a finished run made, or None when it is not there."""
    if run.adapter_gguf.is_file():
        return Product(adapter=run.adapter_gguf)
    whole = run.record.files.get("merged")
    return Product(whole=whole) if whole is not None and whole.is_file() else None


def product_of(run: Run, prepared: Prepared, *, digest: str, on_event: OnJobEvent) -> Product:
    """Bring what was trained back to a GGUF file in the run's folder.

    Args:
        run: its folder, with the trained adapter.
        prepared: base and recipe.
        digest: `sha256:…` of the base.
        on_event: called with each stage.
    """
    base = prepared.opened
    if prepared.recipe.method == "full":
        return Product(whole=write_full(run, prepared, on_event=on_event))
    if needs_whole_file(prepared.recipe):
        return Product(whole=merged_file(run, prepared, on_event=on_event))
    on_event(Stage(name="writing the adapter as GGUF"))
    write_gguf_adapter(
        run.adapter, base.file, base.family, run.adapter_gguf, base_digest=digest, replace=True
    )
    return Product(adapter=run.adapter_gguf)


def merged_file(run: Run, prepared: Prepared, *, on_event: OnJobEvent) -> Path:
    """Merge what was trained into a copy of the base, and record what the merge kept."""
    with with_trained_rows(run, prepared) as base:
        report = merge(
            base,
            [run.reference],
            out=run.model_gguf,
            replace_existing=True,
            on_step=lambda step: on_event(Stage(name=step)),
        )
    run.update(merge=report.as_json())
    return run.model_gguf


@contextmanager
def with_trained_rows(run: Run, prepared: Prepared) -> Iterator[Opened]:
    """Yield the base that the adapter is merged into: with the trained rows of new tokens."""
    base = prepared.opened
    rows = read_new_rows(run.adapter)
    if not rows:
        yield base
        return
    grown = run.folder / "grown.gguf"
    try:
        with ModelFile.open(base.model.paths) as own:
            grow_vocabulary(own, prepared.recipe.add_tokens, rows, grown, replace=True)
        with ModelFile.open(grown) as file:
            yield replace(base, file=file, family=describe(file), paths=(grown,))
    finally:
        grown.unlink(missing_ok=True)
