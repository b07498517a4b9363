"""The guide covers every command, its links lead somewhere, and the Japanese README keeps step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from llamune.cli import _main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)[^)]*\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OPTIONS_OF_TORCHRUN = {"--nnodes", "--nproc-per-node"}
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def command_names() -> list[str]:
    """Return the names of all commands and groups."""
    app = _main.build()
    return sorted(
        [command.name or "" for command in app.registered_commands]
        + [group.name or "" for group in app.registered_groups]
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("name", command_names())
def test_every_command_has_a_page(name: str) -> None:
    page = ROOT / "docs" / "guide" / f"{name}.md"
    assert f"llamune {name}" in page.read_text(encoding="utf-8")


def options_of(command: Any) -> set[str]:
    """Return the options of a command and of all commands below it."""
    found = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    for below in getattr(command, "commands", {}).values():
        found |= options_of(below)
    return found


def test_every_option_of_the_guide_exists() -> None:
    known = options_of(typer.main.get_command(_main.build())) | OPTIONS_OF_TORCHRUN
    for page in sorted((ROOT / "docs" / "guide").glob("*.md")):
        assert set(OPTION.findall(page.read_text(encoding="utf-8"))) <= known, page.name


def test_the_japanese_readme_keeps_step() -> None:
    english, japanese = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ja.md")
    )
    assert FENCE.findall(english) == FENCE.findall(japanese)
    sections = [
        len(re.findall(r"^## ", FENCE.sub("", text), re.MULTILINE)) for text in (english, japanese)
    ]
    assert sections[0] == sections[1]
