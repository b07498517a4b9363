"""How long training steps of a model take on this machine, as `train` measured and `plan` reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from llamune.runs import machine

__all__ = ["Line", "StepSpeed", "known_steps", "remember_steps", "steps_key"]

TOPIC = "training steps"


@dataclass(frozen=True, kw_only=True)
class Line:
    """Seconds that grow with the tokens: `start + tokens * each`."""

    start: float
    each: float

    @classmethod
    def through(cls, first: tuple[int, float], second: tuple[int, float]) -> Line:
        """Return the line through two measurements of (tokens, seconds); it never falls."""
        (few, low), (more, high) = first, second
        each = max(0.0, (high - low) / (more - few))
        return cls(start=max(0.0, low - each * few), each=each)

    def at(self, tokens: int) -> float:
        """Return the seconds of so many tokens."""
        return self.start + tokens * self.each

    def minus(self, other: Line, *, over: int = 1) -> Line:
        """Return the difference of two lines, divided by a number; never below zero."""
        return Line(
            start=max(0.0, self.start - other.start) / over,
            each=max(0.0, self.each - other.each) / over,
        )


@dataclass(frozen=True, kw_only=True)
class StepSpeed:
    """Seconds of one LoRA step, forward, backward and update, of a model on this machine.

    Args:
        block: of one block, by the tokens that go through it at once.
        rest: of everything else: embedding, output, loss; all tokens trained.
        length: tokens of a sequence whose attention takes what was measured for a token.
        update: of the optimizer, a trained number.
        rank: of the adapter on every linear layer.
        compute_type: what was computed in.
    """

    block: Line
    rest: Line
    length: int
    update: float
    rank: int
    compute_type: str


def steps_key(*, device: str, architecture: str, d_model: int, d_ff: int, file_type: str) -> str:
    """Return what a measurement of steps depends on beside the machine."""
    return f"{device}, {architecture} {d_model}x{d_ff} {file_type}"


def remember_steps(key: str, speed: StepSpeed) -> None:
    """Keep a measurement, in place of what was known."""
    machine.remember(TOPIC, key, asdict(speed))


def known_steps(key: str) -> StepSpeed | None:
    """Return what was measured on this machine, or None."""
    known = machine.recall(TOPIC, key)
    if known is None:
        return None
    block, rest = Line(**known.pop("block")), Line(**known.pop("rest"))
    return StepSpeed(block=block, rest=rest, **known)
