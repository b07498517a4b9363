"""`llamune chat`: talk with a model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen
from llamune.errors import LlamuneError

if TYPE_CHECKING:
    from llamune.engine import Engine, GenerateOptions

PROMPT = ">>> "
MORE = "... "
FENCE = '"""'
HELP = """\
/adapter NAME=0.7   how strongly a loaded adapter acts; /adapter alone lists them
/system TEXT        a system prompt from here on; /system alone takes it away
/set NAME VALUE     temperature, top_p, top_k, min_p, seed, max_tokens
/clear              forget the conversation
/undo               take back the last question and answer
/save FILE          write the conversation as JSON, ready for `llamune tune --data`
/quit               leave (or Ctrl-D)
\"\"\"                 begin and end a message of several lines
Ctrl-C              stop an answer"""
NUMBERS = {
    "temperature": float,
    "top_p": float,
    "min_p": float,
    "top_k": int,
    "seed": int,
    "max_tokens": int,
}


def command(
    model: Annotated[str, typer.Argument(help="model name or GGUF file")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="adapter (a model with one, or a GGUF file) to apply; NAME@0.7 for less"),
    ] = None,
    system: Annotated[str | None, typer.Option(help="system prompt")] = None,
    max_tokens: Annotated[int, typer.Option(help="tokens in an answer, at most")] = 1024,
    temperature: Annotated[
        float | None, typer.Option(help="0 always takes the likeliest token")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="the same seed gives the same answers")] = None,
    context: Annotated[int | None, typer.Option(help="tokens of context")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
    engine: Annotated[
        str | None, typer.Option(help="ollama, or the URL of an OpenAI-compatible endpoint")
    ] = None,
) -> None:
    """Talk with a model; /help lists the commands. Ctrl-C stops an answer, not the program."""
    from llamune.cli._talking import opened
    from llamune.engine import GenerateOptions

    options = GenerateOptions(max_tokens=max_tokens, temperature=temperature, seed=seed)
    with opened(
        model, engine=engine, adapters=adapter or (), n_ctx=context, n_threads=threads
    ) as ready:
        if sys.stdin.isatty():
            _screen.note(f"{ready.name}; /help lists the commands, Ctrl-D leaves")
        Talk(engine=ready, options=options, system=system).run()


@dataclass
class Talk:
    """A conversation as it goes on.

    Attributes:
        engine: answers.
        options: how it chooses tokens.
        system: system prompt.
        turns: what was said, oldest first.
        scales: adapter name → strength, where /adapter changed one.
    """

    engine: Engine
    options: GenerateOptions
    system: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    scales: dict[str, float] | None = None

    def run(self) -> None:
        """Read, answer, and go on until the person leaves."""
        while True:
            try:
                text = read_message()
            except KeyboardInterrupt:
                _screen.note("\n/quit or Ctrl-D leaves")
                continue
            if text is None:
                return
            if not text.strip():
                continue
            if text.startswith("/"):
                if not self.obey(text):
                    return
            else:
                self.answer(text)

    def answer(self, text: str) -> None:
        """Ask the model; a stopped answer stays in the conversation as far as it came."""
        from llamune.cli._talking import write

        question = {"role": "user", "content": text}
        pieces = self.engine.chat(
            [*self.opening(), *self.turns, question], self.options, scales=self.scales
        )
        said: list[str] = []

        def heard() -> Any:
            for piece in pieces:
                said.append(piece.text)
                yield piece

        try:
            write(heard())
        except KeyboardInterrupt:
            pieces.close()  # type: ignore[attr-defined]  # engines give generators
            _screen.note("\nstopped")
        except LlamuneError as error:
            _screen.error(error.message, hint=error.hint)
            return
        self.turns += [question, {"role": "assistant", "content": "".join(said)}]

    def opening(self) -> list[dict[str, Any]]:
        """Return the system prompt as a message, where there is one."""
        return [{"role": "system", "content": self.system}] if self.system else []

    def obey(self, line: str) -> bool:
        """Carry out a command; False ends the program."""
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        if name in {"quit", "exit", "bye"}:
            return False
        actions: dict[str, Callable[[str], None]] = {
            "help": lambda _: _screen.note(HELP),
            "?": lambda _: _screen.note(HELP),
            "adapter": self.set_adapter,
            "system": self.set_system,
            "set": self.set_option,
            "clear": lambda _: self.turns.clear(),
            "undo": self.undo,
            "save": self.save,
        }
        if name not in actions:
            _screen.error(f"/{name} is not a command", hint="/help lists them")
            return True
        try:
            actions[name](rest)
        except (LlamuneError, OSError) as error:
            _screen.error(str(error), hint=getattr(error, "hint", None))
        return True

    def set_adapter(self, rest: str) -> None:
        """Show the adapters, or change how strongly one acts."""
        strengths = dict.fromkeys(self.engine.adapters, 1.0) | (self.scales or {})
        if not rest:
            lines = [f"{name} = {scale:g}" for name, scale in strengths.items()]
            _screen.note("\n".join(lines) or "no adapter is loaded: start with --adapter")
            return
        name, equals, strength = rest.rpartition("=")
        name = name.strip() if equals else rest
        if name not in strengths:
            raise LlamuneError(
                f"no adapter {name!r} is loaded", hint=f"loaded: {', '.join(strengths) or 'none'}"
            )
        self.scales = strengths | {name: number(strength, float) if equals else 1.0}

    def set_system(self, rest: str) -> None:
        """Change the system prompt."""
        self.system = rest or None

    def set_option(self, rest: str) -> None:
        """Change how tokens are chosen."""
        name, _, value = rest.partition(" ")
        if name not in NUMBERS:
            raise LlamuneError(f"/set {name}: not known", hint=f"one of: {', '.join(NUMBERS)}")
        changes: dict[str, Any] = {name: number(value, NUMBERS[name])}
        self.options = replace(self.options, **changes)

    def undo(self, _: str) -> None:
        """Take back the last question and answer."""
        del self.turns[-2:]

    def save(self, rest: str) -> None:
        """Write the conversation where training can read it."""
        if not rest:
            raise LlamuneError("/save needs a file name")
        import json

        from llamune.files import write_text

        conversation = {"messages": [*self.opening(), *self.turns]}
        path = Path(rest).expanduser()
        write_text(path, json.dumps([conversation], ensure_ascii=False, indent=2) + "\n")
        _screen.note(f"wrote {path}")


def number(text: str, kind: type[float] | type[int]) -> float:
    """Return a number that was typed.

    Raises:
        LlamuneError: it is none.
    """
    try:
        return kind(text.strip())
    except ValueError:
        raise LlamuneError(f"{text.strip()!r} is not a number") from None


def read_message() -> str | None:
    """Return what the person types, several lines between triple quotes; None at the end."""
    line = read_line(PROMPT)
    if line is None or not line.startswith(FENCE):
        return line
    lines = [line.removeprefix(FENCE)]
    while not lines[-1].endswith(FENCE):
        following = read_line(MORE)
        if following is None:
            return None
        lines.append(following)
    lines[-1] = lines[-1].removesuffix(FENCE)
    return "\n".join(lines).strip("\n")


def read_line(prompt: str) -> str | None:
    """Return one line without its end; None at the end of the input."""
    if sys.stdin.isatty():
        try:
            return input(prompt)
        except EOFError:
            return None
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None
