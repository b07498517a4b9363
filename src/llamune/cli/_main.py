"""The `llamune` program: gathers the commands and turns errors into one line and an exit code.

A module of this folder without a leading underscore is a command: it defines `command`, a
function with Typer options, or `app`, a Typer with subcommands. Command modules import
heavy libraries inside their functions, so that `--help` starts at once.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from llamune import __version__, cli
from llamune.cli import _screen
from llamune.errors import LlamuneError

PANELS = {
    "Models": ["models", "verify", "pull", "push", "publish", "cp", "rm", "gc"],
    "What is in a file": ["inspect", "neighbors", "diff", "size", "tokenize", "template"],
    "File to file": ["quantize", "imatrix", "quality", "convert", "merge", "adapter"],
    "Data": ["data"],
    "Train": ["plan", "recipe", "tune", "runs", "prove"],
    "Use": ["run", "chat", "serve", "keys", "usage", "compare", "eval", "scores"],
    "Share": ["license", "package", "upload"],
}

EXTRAS = {
    "train": {"torch", "transformers", "peft", "accelerate", "matplotlib"},
    "serve": {"xllamacpp", "fastapi", "uvicorn", "sqlalchemy", "starlette"},
}
"""which extra brings a library that the core does without"""

COMPLETION = "_LLAMUNE_COMPLETE"
"""set by the shell when it wants to know how a word could go on"""

KERNELS_KEPT = "128"
"""how many compiled matrix products oneDNN keeps

Each length of a batch has its own: with oneDNN's own 1,024, a LoRA step of the starter in bf16 held
17 MB more than the one before.
"""

SPINS = "1000"
"""how often a thread of libgomp looks whether it may go on before it sleeps, on a busy machine

With libgomp's own 300,000, a forward and backward of two threads on two cores took 1.6 times as
long beside one busy program and 2.3 times beside three: the thread that waits keeps the core from
the one that it waits for. On an idle machine waking up costs more: a step of LoRA in bf16 took 1.1
to 1.2 times as long with few looks.
"""

RUNNING = Path("/proc/loadavg")
LOOKS, SECONDS_BETWEEN = 5, 0.001

OUR_FAULT = 3
INTERRUPTED = 130


def build(only: str | None = None) -> typer.Typer:
    """Return the program with its commands, in the order of `PANELS`.

    Args:
        only: the one command to gather; gathering all takes a third of a second.
    """
    app = typer.Typer(
        name="llamune",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    present = {module.name for module in pkgutil.iter_modules(cli.__path__)}
    for panel, names in PANELS.items():
        for name in names if only is None else {only}.intersection(names):
            file_name = name if name in present else f"{name}_"  # `eval_`, `license_` … are taken
            if file_name in present:
                add(app, name, panel, file_name)
    return app


def add(app: typer.Typer, name: str, panel: str, file_name: str) -> None:
    """Add the command or the group of commands that a module defines."""
    module = importlib.import_module(f"{cli.__name__}.{file_name}")
    if hasattr(module, "app"):
        app.add_typer(module.app, name=name, rich_help_panel=panel)
    else:
        app.command(name, rich_help_panel=panel)(module.command)


def show_version(value: bool) -> None:
    """Print the version and leave."""
    if value:
        _screen.data(f"llamune {__version__}")
        raise typer.Exit


def options(
    debug: Annotated[bool, typer.Option("--debug", help="show a traceback with an error")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="show the version"),
    ] = False,
) -> None:
    """Fine-tune the model file you already run: GGUF in, GGUF out, with proof."""
    _ = version
    _screen.settings.debug = debug


def main() -> None:
    """Run the program; the process ends with the exit code of design, section 3."""
    if sys.stderr is None:  # closed by whoever started us
        _screen.mute()
    if "GOMP_SPINCOUNT" not in os.environ and others_run():
        os.environ["GOMP_SPINCOUNT"] = SPINS  # read when torch or llama.cpp is loaded
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS_KEPT)  # read as above
    sys.exit(run(sys.argv[1:]))


def others_run() -> bool:
    """Whether other programs use the processor now; False where the kernel does not tell (proc(5)).

    Only Linux tells, and only there is libgomp what torch waits with.
    """
    busy = 0
    for _ in range(LOOKS):
        try:
            running = int(RUNNING.read_text().split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return False
        busy += running > 1  # one of them is this very process
        time.sleep(SECONDS_BETWEEN)
    return busy > LOOKS // 2


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    _screen.settings.debug = False
    try:
        program = build(command_asked_for(arguments))
        result = program(arguments, prog_name="llamune", standalone_mode=False)
    except TyperException as error:
        _screen.error(error.format_message(), hint="--help after the command's name says more")
        return LlamuneError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except BrokenPipeError:  # `llamune models | head` is no fault
        return 0
    except Exception as error:  # noqa: BLE001  the last line of defence: one line, never a traceback
        return fail(error)
    if result == INTERRUPTED:  # Typer turns Ctrl-C into this result
        _screen.note("stopped")
    return result if isinstance(result, int) else 0


def command_asked_for(arguments: list[str]) -> str | None:
    """Return the command that a command line names, None for help, completion or a mistake."""
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    known = {name for names in PANELS.values() for name in names}
    return name if name in known and COMPLETION not in os.environ else None


def fail(error: Exception) -> int:
    """Say what went wrong on stderr and return the exit code."""
    if _screen.settings.debug:
        traceback.print_exception(error)
    if isinstance(error, LlamuneError):
        _screen.error(error.message, hint=error.hint)
        return error.exit_code
    if isinstance(error, OSError) and error.filename:
        _screen.error(f"{error.filename}: {error.strerror}")
        return LlamuneError.exit_code
    if isinstance(error, ModuleNotFoundError) and (extra := extra_of(error.name or "")):
        _screen.error(
            f"{error.name} is not installed",
            hint=f"install it with: pip install 'llamune[{extra}]'",
        )
        return LlamuneError.exit_code
    if isinstance(error, MemoryError):
        _screen.error("out of memory", hint="`llamune plan` says what fits this machine")
        return LlamuneError.exit_code
    _screen.error(
        f"a fault in llamune: {type(error).__name__}: {error}",
        hint="run it again with `llamune --debug …` and report what it prints",
    )
    return OUR_FAULT


def extra_of(module: str) -> str | None:
    """Return the extra that brings a module, None when none does."""
    top = module.partition(".")[0]
    return next((extra for extra, libraries in EXTRAS.items() if top in libraries), None)
