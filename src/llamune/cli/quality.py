"""`llamune quality`: what another precision of a model costs, in weights and on text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamune.anatomy import FileDifference
    from llamune.evaluate import TextQuality
    from llamune.gguf import ModelFile
    from llamune.store import Model

F32_BITS, F16_BITS = 32, 16


def command(
    before: Annotated[
        str, typer.Argument(metavar="A", help="the reference: a model name, GGUF file or folder")
    ],
    after: Annotated[str, typer.Argument(metavar="B", help="the same model in another precision")],
    text: Annotated[
        Path | None, typer.Option("--text", help="UTF-8 text to measure on; default: ours")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="default: all cores")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure what B loses against A: size, error of the weights, perplexity and KL on text.

    A should be the model in its reference precision (F32, F16 or BF16).
    """
    from llamune.store import resolve

    found = measure(resolve(before), resolve(after), text=text, threads=threads)
    if as_json:
        _screen.data_json(report(found))
    else:
        show(found)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one file loses against another.

    Args:
        sizes: of both files, as `size_report` has them.
        weights: how the tensors differ.
        quality: how the next-token distributions differ on text.
        text: the text's file, None for ours.
    """

    sizes: tuple[dict[str, Any], dict[str, Any]]
    weights: FileDifference
    quality: TextQuality
    text: Path | None


def measure(base: Model, other: Model, *, text: Path | None, threads: int | None) -> Measured:
    """Measure what one file loses against another.

    Raises:
        LlamuneError: the files are not the same model, or the text is too short.
    """
    from llamune.anatomy import compare
    from llamune.evaluate import text_quality
    from llamune.gguf import ModelFile

    with (
        ModelFile.open(base.paths, mapped=base.store is not None) as first,
        ModelFile.open(other.paths, mapped=other.store is not None) as second,
    ):
        refuse_other_models(first, second)
        sequences = sequences_of(first, text)
        total = sum(tensor.nbytes for tensor in first.tensors.values())
        with _screen.progress("weights", total=total) as advance:
            weights = compare(first, second, advance=advance)
        n_tokens = sum(len(ids) for ids in sequences)
        with _screen.progress("text", total=n_tokens, unit="tokens") as advance:
            quality = text_quality(
                base.paths, other.paths, sequences, n_threads=threads, advance=advance
            )
        sizes = (size_report(first), size_report(second))
    return Measured(sizes=sizes, weights=weights, quality=quality, text=text)


def refuse_other_models(first: ModelFile, second: ModelFile) -> None:
    """Refuse two files that do not hold the same model."""
    from llamune.errors import LlamuneError

    for key in ("general.architecture", "tokenizer.ggml.tokens"):
        one, another = (
            file.metadata.entry(key) if key in file.metadata else None for file in (first, second)
        )
        if one is None or one != another:
            raise LlamuneError(
                f"{second.path}: is not the same model as {first.path} ({key} differs)",
                hint="`llamune diff A B` shows what differs",
            )


def sequences_of(file: ModelFile, text: Path | None) -> list[list[int]]:
    """Return the text as windows of tokens."""
    from llamune.errors import LlamuneError
    from llamune.evaluate import sample_text, windows
    from llamune.text import tokenizer_of

    tokenizer = tokenizer_of(file)
    try:
        content = sample_text() if text is None else text.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LlamuneError(f"{text}: is not UTF-8 text (byte {error.start})") from error
    ids = tokenizer.encode(content, parse_special=False)
    return windows(ids, bos_id=tokenizer.bos_id if tokenizer.adds_bos else None)


def size_report(file: ModelFile) -> dict[str, Any]:
    """Return a file's size and what it would be in F32 and F16."""
    from llamune.anatomy import summarize

    facts = summarize(file)
    data_bytes = facts.bpw * facts.n_parameters / 8
    rest = file.size - data_bytes
    return {
        "path": str(file.path),
        "type": facts.file_type,
        "bytes": file.size,
        "bits_per_weight": facts.bpw,
        "share_of_f32": file.size / (rest + F32_BITS * facts.n_parameters / 8),
        "share_of_f16": file.size / (rest + F16_BITS * facts.n_parameters / 8),
    }


def report(found: Measured) -> dict[str, Any]:
    """Return the measurement as the JSON output has it."""
    quality = found.quality
    agreement = quality.agreement
    return {
        "a": found.sizes[0],
        "b": found.sizes[1],
        "relative_error": {section.name: section.relative for section in found.weights.sections()},
        "n_tokens": quality.n_tokens,
        "perplexity_a": quality.reference_perplexity,
        "perplexity_b": quality.perplexity,
        "loss_a": quality.reference_loss,
        "loss_a_error": quality.reference_error,
        "loss_b": quality.loss,
        "loss_b_error": quality.error,
        "loss_change": quality.change,
        "loss_change_error": quality.change_error,
        "mean_kl": agreement.mean_kl,
        "mean_kl_error": agreement.kl_error,
        "max_kl": agreement.max_kl,
        "same_top_token": agreement.top1,
        "same_top_token_error": quality.top1_error,
    }


def show(found: Measured) -> None:
    """Print sizes, errors and what was measured on text."""
    show_sizes(found.sizes)
    show_errors(found.weights)
    show_text(found.quality, found.text)


def show_sizes(sizes: Sequence[dict[str, Any]]) -> None:
    """Print both files' sizes."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_edge=False)
    grid.add_column("FILE", overflow="fold")
    for heading in ("TYPE", "GB", "BITS A WEIGHT", "OF F32", "OF F16"):
        grid.add_column(heading, justify="right")
    for label, size in zip("AB", sizes, strict=True):
        grid.add_row(
            _screen.plain(f"{label} {Path(size['path']).name}"),
            size["type"] or "-",
            f"{size['bytes'] / 1e9:.3f}",
            f"{size['bits_per_weight']:.3f}",
            f"{100 * size['share_of_f32']:.1f} %",
            f"{100 * size['share_of_f16']:.1f} %",
        )
    _screen.show(grid)


def show_errors(found: FileDifference) -> None:
    """Print the relative error of each section's weights; blocks as a range."""
    sections = found.sections()
    blocks = [section.relative for section in sections if section.name.startswith("block ")]
    _screen.data("\nerror of the weights, root mean square over their own")
    for section in sections:
        if not section.name.startswith("block "):
            _screen.data(f"  {section.name:<16} {100 * section.relative:.3f} %")
        elif section.name == "block 0":
            low, high = min(blocks), max(blocks)
            _screen.data(f"  {'blocks':<16} {100 * low:.3f} to {100 * high:.3f} %")


def show_text(quality: TextQuality, text: Path | None) -> None:
    """Print what was measured on text, each figure with its standard error."""
    agreement = quality.agreement
    before, after = quality.reference_perplexity, quality.perplexity
    name = "our sample text" if text is None else str(text)
    lines = {
        "perplexity A": f"{before:.3f} ± {before * quality.reference_error:.3f}",
        "perplexity B": f"{after:.3f} ± {after * quality.error:.3f}",
        "loss, B - A": f"{quality.change:+.4f} ± {quality.change_error:.4f} nats a token",
        "KL(A, B)": f"{agreement.mean_kl:.4g} ± {agreement.kl_error:.2g} nats a token, "
        f"at most {agreement.max_kl:.3g}",
        "same top token": f"{100 * agreement.top1:.2f} ± {100 * quality.top1_error:.2f} %",
    }
    _screen.data(_screen.plain(f"\non {quality.n_tokens:,} tokens of {name}, in llama.cpp"))
    for label, figures in lines.items():
        _screen.data(f"  {label:<16} {figures}")
