"""From a run or a tuned model to a package to share or sell."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llamune.adapter import read_adapter, write_adapter, write_peft
from llamune.errors import LlamuneError
from llamune.files import refuse_existing, sha256_of
from llamune.gguf import ModelFile
from llamune.jobs.merging import merge
from llamune.jobs.preparing import Opened, opened
from llamune.jobs.products import needs_whole_file
from llamune.license import Derivative, derive, licences_of
from llamune.package import (
    Change,
    Contents,
    Kind,
    PackageError,
    check,
    licence_texts,
    trademark_remark,
    write_package,
)
from llamune.runs import Run, RunError
from llamune.store import Model, resolve

__all__ = ["PackageWishes", "package"]

OnStep = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class PackageWishes:
    """What a person asked of a package; the defaults leave it to what there is.

    Args:
        kind: `adapter`, `merged`, or None: the merged file where there is one already.
        name: what the packaged model is called; default the run's or model's name.
        sell: whether it is to be sold.
        licences: licences that the weights carry although the file is mute.
        data_licences: licences of the training data.
        licence_files: full licence texts that did not come with the base.
        copyright_line: of the base, for a standard text that has a blank for it.
        notice_file: the base's NOTICE file.
        datasets: names of the training data, for the card.
        languages: of the data, as codes.
        key: PEM file with an Ed25519 private key to sign with.
        card_language: of the model card.
    """

    kind: Kind | None = None
    name: str | None = None
    sell: bool = False
    licences: tuple[str, ...] = ()
    data_licences: tuple[str, ...] = ()
    licence_files: tuple[Path, ...] = ()
    copyright_line: str | None = None
    notice_file: Path | None = None
    datasets: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    key: Path | None = None
    card_language: str | None = None


def package(
    ref: str, out: Path, wishes: PackageWishes, *, on_step: OnStep = lambda _: None
) -> Contents:
    """Make the folder to share or sell.

    Args:
        ref: a run, or a model: tuned, or a whole file.
        out: the new folder.
        wishes: what the person asked for.
        on_step: called with each step of the job, in words.

    Returns:
        What it was made of.

    Raises:
        AnswerNo: a licence forbids it, or its answer is not confirmed.
        PackageError: the name breaks a rule, or a licence text is missing.
        LlamuneError: `ref` is neither, or `out` exists.
    """
    refuse_existing(out, replace=False)
    run, model = origin(ref)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llamune-package-")))
        base = stack.enter_context(opened(str(run.recipe.base) if run else ref))
        maker = Maker(ref=ref, run=run, model=model, base=base, wishes=wishes, scratch=scratch)
        check(maker.contents(base.model.path))  # refusals come before the merge
        contents = maker.contents(maker.weights(on_step))
        if remark := trademark_remark(contents):
            on_step(remark)
        on_step(f"writing {out}")
        write_package(contents, out, language=wishes.card_language, key=wishes.key)
    return contents


def origin(ref: str) -> tuple[Run | None, Model | None]:
    """Return the run that a reference names, or the model (and the run that made it)."""
    try:
        return Run.find(ref), None
    except LlamuneError:
        model = resolve(ref)
    made_by = model.annotations.get("llamune.run")
    if not made_by:
        return None, model
    try:
        run = Run.find(made_by)
    except RunError:
        return None, model
    # a whole file made later of a run's adapter is another product than the run's own
    is_its_product = bool(model.adapters) or needs_whole_file(run.recipe)
    return (run if is_its_product else None), model


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What every step of one packaging needs."""

    ref: str
    run: Run | None
    model: Model | None
    base: Opened
    wishes: PackageWishes
    scratch: Path

    @property
    def has_adapter(self) -> bool:
        """Whether there is an adapter to pass on."""
        if self.run is not None:
            return not needs_whole_file(self.run.recipe)
        return bool(self.model and self.model.adapters)

    @property
    def kind(self) -> Kind:
        """What the package holds.

        Raises:
            PackageError: an adapter is wanted and there is none.
        """
        if self.wishes.kind == "adapter" and not self.has_adapter:
            raise PackageError(f"{self.ref}: has no adapter", hint="leave --adapter-only out")
        if self.wishes.kind is not None:
            return self.wishes.kind
        return "merged" if self.merged_file is not None or not self.has_adapter else "adapter"

    @property
    def change(self) -> Change:
        """What was done to the base."""
        if self.kind == "adapter":
            return "adapter"
        if self.run is not None:
            return "trained" if self.run.recipe.method == "full" else "folded"
        if self.has_adapter:
            return "folded"
        return "tuned" if "llamune.base.name" in self.base.model.annotations else "none"

    @property
    def merged_file(self) -> Path | None:
        """The run's merged file, if it is still there."""
        path = self.run.record.files.get("merged") if self.run else None
        return path if path is not None and path.is_file() else None

    @property
    def name(self) -> str:
        """What the packaged model is called."""
        if self.wishes.name:
            return self.wishes.name
        if self.run is not None:
            return self.run.name.removesuffix(":latest").replace(":", "-").replace("/", "-")
        model = self.base.model
        return str(model.name.model) if model.name is not None else model.path.stem

    def derivative(self) -> Derivative:
        """Work out what the licences say of the result."""
        model = self.base.model
        names = [str(model.name)] if model.name is not None else [model.path.stem]
        if base_name := model.annotations.get("llamune.base.name"):
            names.append(base_name)
        return derive(
            licences_of(
                self.base.file.metadata,
                model.licenses,
                names=names,
                given=self.wishes.licences,
                data=self.wishes.data_licences,
            )
        )

    def base_digest(self) -> str:
        """Return the base's digest, with `sha256:` in front."""
        model = self.base.model
        known = model.annotations.get("llamune.base.digest") or model.digest
        if self.run is not None and self.run.record.base is not None:
            known = self.run.record.base.sha256_before or known
        digest = known or sha256_of(model.path)
        return digest if digest.startswith("sha256:") else f"sha256:{digest}"

    def contents(self, gguf: Path) -> Contents:
        """Return the contents with these weights."""
        wishes, model, run = self.wishes, self.base.model, self.run
        derivative = self.derivative()
        given = [path.read_text(encoding="utf-8") for path in wishes.licence_files]
        record = run.record if run else None
        peft = self.scratch / "peft"
        base_name = model.annotations.get("llamune.base.name") or str(model)
        return Contents(
            name=self.name,
            kind=self.kind,
            change=self.change,
            gguf=gguf,
            peft=peft if self.kind == "adapter" and peft.is_dir() else None,
            base_name=record.base.reference if record and record.base else base_name,
            base_digest=self.base_digest(),
            architecture=self.base.family.name,
            derivative=derivative,
            texts=licence_texts(
                derivative, model.licenses, given, copyright_line=wishes.copyright_line
            ),
            created=(record.finished if record else None) or datetime.now(UTC),
            notice=wishes.notice_file.read_text("utf-8") if wishes.notice_file else None,
            record=record,
            recipe=run.recipe.to_yaml() if run else None,
            template=model.template,
            system=model.system,
            parameters=model.parameters,
            languages=wishes.languages,
            datasets=wishes.datasets or dataset_names(run),
            sell=wishes.sell,
        )

    def weights(self, on_step: OnStep) -> Path:
        """Return the weights to pass on, merged first where that is wanted."""
        if self.kind == "merged":
            if self.merged_file is not None:
                return self.merged_file
            if not self.has_adapter:
                return self.whole_file()
            out = self.scratch / "merged.gguf"
            ref = self.ref if self.model else str(self.base.model)
            adapters = [] if self.model else [self.run.reference if self.run else self.ref]
            merge(ref, adapters, out=out, on_step=on_step)
            return out
        source = self.run.adapter if self.run else self.only_adapter()
        adapter = read_adapter(source, self.base.family)
        write_peft(adapter, self.base.family, self.scratch / "peft", base_name=str(self.base.model))
        out = self.scratch / "adapter.gguf"
        with ModelFile.open(self.base.model.paths) as file:
            write_adapter(adapter, file, out, base_digest=self.base_digest())
        return out

    def whole_file(self) -> Path:
        """Return the model's own file, where no adapter is to be folded in.

        Raises:
            PackageError: the run trained a whole file, which is gone.
        """
        if self.model is not None:
            return self.model.path
        if self.run is not None:
            raise PackageError(
                f"{self.ref}: the model file that the run wrote is gone",
                hint="package the model that it published, or train again",
            )
        return self.base.model.path

    def only_adapter(self) -> Path:
        """Return the one adapter of a model.

        Raises:
            PackageError: it has several.
        """
        adapters = self.model.adapters if self.model else ()
        if len(adapters) != 1:
            raise PackageError(f"{self.ref}: has {len(adapters)} adapters", hint="--merged")
        return adapters[0].path


def dataset_names(run: Run | None) -> tuple[str, ...]:
    """Return the file names of a run's training data, without their folders."""
    record = run.record if run else None
    return tuple(Path(path).name for path in record.data.files) if record and record.data else ()
