"""The proof that what is served is what was trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llamune.errors import UnsupportedError
from llamune.evaluate.cut import sizes_of_cut
from llamune.evaluate.distributions import Agreement
from llamune.evaluate.holding import compare_exact, compare_served, limited
from llamune.evaluate.reference import ReferenceOf, peft_folder_of, torch_reference
from llamune.evaluate.spelling import Conversation, Spelling, spell

if TYPE_CHECKING:
    from llamune.store import Model

__all__ = ["Proof", "prove", "prove_adapter", "verdict_of"]

Verdict = Literal["pass", "fail", "cannot tell"]

EXACT_LIMIT = 1e-9
"""nats a token: two right implementations in F32 stay a hundred times below it"""
EXACT_FACTOR = 2.5
"""llama.cpp's GELU rounds to F16, and values on the border of two F16 numbers fall either way:
there its own floor is near the limit, elsewhere it is a thousand times below"""
FLOOR_FACTOR = 1.5
SMALLEST_LIMIT = 1e-5
"""nats a token: where llama.cpp's own floor is lower, it is not held against us"""
EFFECT_FACTOR = 3.0
"""an adapter that changes less than this many floors cannot be told from noise"""

N_POSITIONS = 256


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How well the served model agrees with the trained one.

    Attributes:
        model: what the person called it.
        adapter: path of the adapter that was served, None for a whole model.
        tokens: token ids of our tokenizer against llama.cpp's.
        template: our rendering against llama.cpp's; None where the template is not the file's
            own and llama.cpp has no say.
        n_blocks: blocks of the cut F32 model.
        exact: torch against llama.cpp on the cut F32 model.
        exact_floor: llama.cpp against itself there, at another batch size; None where `exact`
            is below the limit without it.
        served: torch against llama.cpp on the whole file.
        floor: llama.cpp against itself at another batch size.
        rounding: torch against itself with each layer's inputs rounded as llama.cpp's are.
        effect: llama.cpp without the adapter against with it; None without an adapter.
        verdict: pass, fail or cannot tell.
        reasons: what led to the verdict, where it is not pass.
    """

    model: str
    adapter: Path | None
    tokens: Spelling
    template: Spelling | None
    n_blocks: int
    exact: Agreement
    exact_floor: Agreement | None
    served: Agreement
    floor: Agreement
    rounding: Agreement
    effect: Agreement | None
    verdict: Verdict
    reasons: tuple[str, ...]

    @property
    def limit(self) -> float:
        """The mean KL that `served` may have, nats a token."""
        return limit_of(self.floor, self.rounding)

    @property
    def exact_limit(self) -> float:
        """The mean KL that `exact` must stay below, nats a token."""
        return exact_limit_of(self.exact_floor)

    @property
    def least_effect(self) -> float:
        """The mean KL that `effect` must reach to be told from noise, nats a token."""
        return EFFECT_FACTOR * self.floor.mean_kl

    def as_dict(self) -> dict[str, Any]:
        """Return the proof as plain data, for records and `--json`."""
        return asdict(self) | {
            "adapter": None if self.adapter is None else str(self.adapter),
            "exact_limit": self.exact_limit,
            "limit": self.limit,
            "least_effect": self.least_effect,
            "reasons": list(self.reasons),
        }


def exact_limit_of(floor: Agreement | None) -> float:
    """Return the mean KL that the cut model must stay below, nats a token."""
    return EXACT_LIMIT if floor is None else max(EXACT_LIMIT, EXACT_FACTOR * floor.mean_kl)


def limit_of(floor: Agreement, rounding: Agreement) -> float:
    """Return the mean KL that the whole file may have, nats a token.

    llama.cpp rounds what each layer multiplies, torch does not: that alone is a distance, which
    llama.cpp against itself need not show, for both sides of it round alike. Either is measured
    on a few hundred tokens, and its noise sits in few of them: the upper end of its 95 % interval
    is what it may be.
    """
    highest = max(one.mean_kl + 1.96 * one.kl_error for one in (floor, rounding))
    return max(FLOOR_FACTOR * highest, SMALLEST_LIMIT)


def verdict_of(
    *,
    tokens: Spelling,
    template: Spelling | None,
    exact: Agreement,
    exact_floor: Agreement | None,
    served: Agreement,
    floor: Agreement,
    rounding: Agreement,
    effect: Agreement | None,
) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict and what led to it."""
    faults: list[str] = []
    if not tokens.all_same:
        faults.append(f"{tokens.n - tokens.n_same} of {tokens.n} texts have other token ids")
    if template is not None and not template.all_same:
        faults.append(f"{template.n - template.n_same} of {template.n} prompts render otherwise")
    # `not <` and not `>=`: a NaN fails
    allowed = exact_limit_of(exact_floor)
    if not exact.mean_kl < allowed:
        faults.append(f"cut to F32, mean KL is {exact.mean_kl:.1e}, allowed is {allowed:.0e}")
    at_most = limit_of(floor, rounding)
    if not served.mean_kl <= at_most:
        faults.append(f"as served, mean KL is {served.mean_kl:.1e}, allowed is {at_most:.1e}")
    if faults:
        return "fail", tuple(faults)
    if effect is not None and not effect.mean_kl >= EFFECT_FACTOR * floor.mean_kl:
        return "cannot tell", (
            f"the adapter changes the distributions by a mean KL of {effect.mean_kl:.1e}, less "
            f"than {EFFECT_FACTOR:g} times llama.cpp's own noise of {floor.mean_kl:.1e}",
        )
    return "pass", ()


def prove(
    model: Model,
    *,
    conversations: Sequence[Conversation] | None = None,
    trained: Path | None = None,
    served: Path | None = None,
    n_positions: int = N_POSITIONS,
    n_threads: int | None = None,
    reference: ReferenceOf = torch_reference,
    advance: Callable[[str], object] | None = None,
) -> Proof:
    """Hold the served model against the trained one: token ids, template, distributions.

    Args:
        model: the model as it is served; its own adapter is used unless `served` names one.
        conversations: prompts with answers; default a small set that ships with Llamune.
        trained: the adapter as the trainer left it, a PEFT folder; default what is served.
        served: the GGUF adapter.
        n_positions: tokens to compare on the whole file.
        n_threads: CPU threads of llama.cpp; default the idle cores.
        reference: makes the trainer's side of the comparison.
        advance: called with the name of each step before it starts.

    Raises:
        UnsupportedError: several adapters at once, or a family or type that is not implemented.
        EngineError: llama.cpp refuses the model or the adapter.
    """
    from llamune.evaluate.prompts import default_conversations
    from llamune.gguf import ModelFile

    say = advance or (lambda _: None)
    served = served or only_adapter(model)
    trained = trained or served
    with ExitStack() as stack:
        file = stack.enter_context(ModelFile.open(model.paths))
        peft = stack.enter_context(peft_folder_of(trained, file)) if trained else None
        say("token ids and template")
        spelled = spell(model, file, conversations or default_conversations(), n_threads)
        say("a few blocks in F32")
        sizes = sizes_of_cut(file)
        figures: dict[str, Any] = compare_exact(
            file,
            spelled.sequences,
            sizes=sizes,
            peft=peft,
            adapter=served,
            n_threads=n_threads,
            reference=reference,
            enough=EXACT_LIMIT,
        )
        say("the whole file as it is served")
        figures |= compare_served(
            model.paths,
            limited(spelled.sequences, n_positions),
            ours=reference(file, peft, rounded_gelu=False),
            adapter=served,
            n_threads=n_threads,
        )
    found: dict[str, Any] = {"tokens": spelled.tokens, "template": spelled.template, **figures}
    verdict, reasons = verdict_of(**found)
    return Proof(
        model=str(model),
        adapter=served,
        n_blocks=sizes.n_blocks,
        verdict=verdict,
        reasons=reasons,
        **found,
    )


def prove_adapter(
    model: Model,
    adapter: Path | None,
    *,
    n_positions: int = N_POSITIONS,
    n_threads: int | None = None,
    advance: Callable[[str], object] | None = None,
) -> Proof:
    """Prove a model with an adapter that lies outside the store.

    Args:
        model: the base, or a model with its own adapter.
        adapter: a PEFT folder (converted for llama.cpp as `tune` does) or a GGUF adapter; None
            proves the model as it is.
        n_positions: tokens to compare on the whole file.
        n_threads: CPU threads of llama.cpp.
        advance: called with the name of each step before it starts.

    Raises:
        LlamuneError: there is no such adapter, or it does not fit.
    """
    from llamune.adapter import write_gguf_adapter
    from llamune.arch import describe
    from llamune.gguf import ModelFile

    with tempfile.TemporaryDirectory(prefix="llamune-adapter-") as scratch:
        served = adapter
        if adapter is not None and adapter.is_dir():
            served = Path(scratch) / "adapter.gguf"
            with ModelFile.open(model.paths) as file:
                write_gguf_adapter(adapter, file, describe(file), served, base_digest=model.digest)
        return prove(
            model,
            trained=adapter,
            served=served,
            n_positions=n_positions,
            n_threads=n_threads,
            advance=advance,
        )


def only_adapter(model: Model) -> Path | None:
    """Return a model's adapter, or None.

    Raises:
        UnsupportedError: it has several.
    """
    if len(model.adapters) > 1:
        raise UnsupportedError(
            f"{model}: has {len(model.adapters)} adapters; a proof is of one at a time",
            hint="name one of them with --adapter",
        )
    return model.adapters[0].path if model.adapters else None
