"""Go templates against Go's own text/template: results recorded, and made anew where Go is."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamune.errors import UnsupportedError
from llamune.text import TemplateError
from llamune.text.gotemplate import execute, go_value, parse
from llamune.text.gotemplate.values import go_json, go_text
from llamune.text.ollama import OllamaTemplate
from tests.text.go_cases import CASES, CONVERSATIONS, RECORDED, TEMPLATES, record, run_go

GO = json.loads(RECORDED.read_text(encoding="utf-8"))
needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")


@pytest.mark.parametrize(("template", "conversation"), CASES)
def test_renders_as_go_did(template: str, conversation: str) -> None:
    expected = GO[f"{template} | {conversation}"]
    messages, tools = CONVERSATIONS[conversation]
    ours = OllamaTemplate(TEMPLATES[template])
    if "error" in expected:
        with pytest.raises(TemplateError):
            ours.prompt(messages, tools=tools)
    else:
        assert ours.prompt(messages, tools=tools) == expected["text"]


@pytest.mark.slow
@needs_go
def test_go_still_says_what_was_recorded() -> None:
    assert record() == GO


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**15), 10**15)
# Go 1.22 and later, with which Ollama is built, write \b and \f; Debian's Go wrote \u0008
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\b\f"))
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab<é", max_size=3), inner),
    max_leaves=6,
)


@pytest.mark.slow
@needs_go
def test_values_print_as_in_go() -> None:
    """Arguments of a tool call hold any JSON; Go prints them by its own rules."""
    values: list[object] = []

    @settings(max_examples=300)
    @given(JSON)
    def collect(value: object) -> None:
        values.append(value)

    collect()
    template = (
        "{{ range .Messages }}{{ range .ToolCalls }}"
        "{{ .Function.Arguments.x }}|{{ json .Function.Arguments }}{{ end }}{{ end }}"
    )
    message = {"role": "assistant", "content": ""}
    cases = [
        (
            template,
            [{**message, "tool_calls": [{"function": {"name": "f", "arguments": {"x": value}}}]}],
            [],
        )
        for value in values
    ]
    for value, found in zip(values, run_go(cases), strict=True):
        inside = go_value({"x": value})
        assert f"{go_text(inside['x'])}|{go_json(inside)}" == found["text"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ if .A }}x", "missing"),
        ("{{ end }}", "unexpected"),
        ("a\n{{ .A", "line 2"),
        ("{{ range .A }}{{ else }}{{ else }}{{ end }}", "else"),
        ("{{ break }}", "outside of a range"),
        ("{{ }}", "empty"),
        ("{{ (.A }}", "unexpected"),
        ("{{ .A | }}", "unexpected"),
        ("{{ /* x }}", "comment"),
        ("{{ 'ab }}", "unexpected"),
        ("{{ if .A }}" * 200 + "{{ end }}" * 200, "deep"),
        ("{{ " + "(" * 200 + ".A" + ")" * 200 + " }}", "parentheses"),
    ],
)
def test_broken_templates_are_one_clear_error(source: str, problem: str) -> None:
    with pytest.raises(TemplateError, match=problem):
        parse(source)


@pytest.mark.parametrize("name", ["html", "js", "call", "urlquery", "fetch"])
def test_unknown_functions_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        execute(parse(f"{{{{ {name} .A }}}}"), {"A": "x"})


def test_templates_that_do_not_end_are_stopped() -> None:
    with pytest.raises(TemplateError, match="deep"):
        execute(parse('{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}'), {})
    with pytest.raises(TemplateError, match="wrote more"):
        execute(parse("{{ range 99999999 }}" + "x" * 99_999 + "{{ end }}"), {})
    with pytest.raises(TemplateError, match="seconds"):
        execute(parse("{{ range 9999999 }}{{ range 9999999 }}{{ end }}{{ end }}"), {})
