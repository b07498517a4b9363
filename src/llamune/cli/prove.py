"""`llamune prove`: hold the served model against the trained one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamune.cli import _screen
from llamune.cli._device import DeviceOption, use_device
from llamune.errors import AnswerNo

if TYPE_CHECKING:
    from llamune.evaluate import Agreement, Proof, Spelling


def command(
    model: Annotated[str, typer.Argument(help="model name or GGUF file")],
    adapter: Annotated[
        Path | None,
        typer.Option(help="adapter to prove: PEFT folder or GGUF file; default the model's own"),
    ] = None,
    positions: Annotated[int, typer.Option(min=32, help="tokens to compare")] = 256,
    threads: Annotated[int | None, typer.Option(help="CPU threads of llama.cpp")] = None,
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Prove that what is served is what was trained.

    The same prompts run through the training code and through llama.cpp; token ids, chat template
    and whole next-token distributions are compared. Exit code 1 unless the proof passes.
    """
    use_device(device)
    from llamune.evaluate import prove_adapter
    from llamune.store import resolve

    proof = prove_adapter(
        resolve(model),
        adapter,
        n_positions=positions,
        n_threads=threads,
        advance=lambda step: _screen.note(f"comparing {step}"),
    )
    if as_json:
        _screen.data_json(proof.as_dict())
    else:
        show(proof)
    if proof.verdict != "pass":
        raise AnswerNo(f"{proof.model}: {proof.verdict}: {'; '.join(proof.reasons)}")


def show(proof: Proof) -> None:
    """Print a proof as a table."""
    from rich.table import Table

    table = Table("served = trained", "found", "asked for", box=None, pad_edge=False)
    table.add_row("token ids the same", spelled(proof.tokens), "all")
    template = "not judged" if proof.template is None else spelled(proof.template)
    table.add_row("prompts rendered the same", template, "all")
    table.add_row(
        f"mean KL, {proof.n_blocks} blocks in F32",
        kl(proof.exact),
        f"below {proof.exact_limit:.0e}",
    )
    table.add_row("mean KL, as served", kl(proof.served), f"at most {proof.limit:.1e}")
    table.add_row("  same likeliest token", f"{proof.served.top1:.1%}", "")
    table.add_row("  largest KL", f"{proof.served.max_kl:.1e}", "")
    table.add_row("llama.cpp against itself", kl(proof.floor), "")
    table.add_row("torch with inputs rounded so", kl(proof.rounding), "")
    if proof.effect is not None:
        table.add_row(
            "effect of the adapter", kl(proof.effect), f"at least {proof.least_effect:.1e}"
        )
    _screen.show(table)
    _screen.data(f"\n{proof.model}: {proof.verdict}")


def spelled(spelling: Spelling) -> str:
    """Return how many came out the same."""
    return f"{spelling.n_same} of {spelling.n}"


def kl(found: Agreement) -> str:
    """Return a mean KL with the number of positions behind it."""
    return f"{found.mean_kl:.1e} ({found.n_positions} tokens)"
