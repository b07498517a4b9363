"""Chat templates that mean harm: one clear error, in little time and memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llamune.text import JinjaTemplate, TemplateError, sandbox
from tests.text.rendering import CONVERSATIONS, renderer

MANY = "{% for a in range(99999) %}"


def render(text: str, **values: Any) -> str:
    return JinjaTemplate(text, where="model.gguf").render(
        [{"role": "user", "content": "x"}], **values
    )


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ (messages|map(attribute='__class__')|list)[0].__name__.x }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages.clear() }}",
        "{{ self.__init__.__func__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
    ],
)
def test_a_template_cannot_reach_out(text: str) -> None:
    try:
        found = render(text)
    except TemplateError as error:
        assert "unsafe" in error.message or "no element" in error.message
    else:
        assert found == ""  # what is out of reach is undefined, and prints as nothing


@pytest.mark.parametrize(
    "text",
    [
        MANY + MANY + "{% endfor %}{% endfor %}",
        "{% macro m(n) %}"
        + MANY
        + "{{ m(n) if n > 9 }}{% endfor %}{% endmacro %}"
        + MANY
        + "{{ m(1) }}{% endfor %}",
        "{% for a in range(999999)|map('string')|list %}" + MANY + "{% endfor %}{% endfor %}",
    ],
)
def test_a_template_cannot_run_on(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.2)
    start = time.process_time()
    with pytest.raises(TemplateError, match=r"more than 0\.2 seconds"):
        render(text)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 10**10 }}",
        "{{ ['a'] * 10**10 }}",
        "{% set n = namespace(x='a' * 9999) %}{% for i in range(64) %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}",
        "{% set n = namespace(x='a' * 9999) %}{% for i in range(64) %}{% set n.x = n.x + n.x %}"
        "{% endfor %}",
        "{% set n = namespace(x=[1] * 9999) %}{% for i in range(64) %}{% set n.x = n.x + n.x %}"
        "{% endfor %}",
        "{{ 'a'|center(999999999) }}",
        "{{ 'a'.ljust(999999999) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%999999999d'|format(1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ ('a' * 999999)|replace('a', 'b' * 99999) }}",
        "{{ ('a' * 999999).replace('a', 'b' * 99999) }}",
        "{{ (['a'] * 99999)|join('b' * 99999) }}",
        "{{ ('b' * 99999).join(['a'] * 99999) }}",
        "{% set x %}{% for i in range(999999) %}" + "y" * 999 + "{% endfor %}{% endset %}",
        "{% macro m() %}"
        + "y" * 99999
        + "{% endmacro %}{% for i in range(9999) %}{% set x = m() %}"
        "{% endfor %}",
        "{% for i in range(9999) %}{{ 'y' * 99999 }}{% endfor %}",
        "{{ range(99999999)|list }}",
        "{{ 99999999 ** 99999999 }}",
    ],
)
def test_a_template_cannot_blow_up(text: str) -> None:
    with pytest.raises(TemplateError, match=r"more than|columns|elements"):
        render(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{% if %}", "line 1"),
        ("a\n{{ x", "line 2"),
        ("{{ x|nope }}", "nope"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[9].content.x }}", "9"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError"),
        ("{% if 1 %}" * 150 + "{% endif %}" * 150, "cannot be compiled"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("x" * (sandbox.MAX_SOURCE + 1), "characters"),
    ],
)
def test_a_broken_template_is_one_clear_error(text: str, problem: str) -> None:
    with pytest.raises(TemplateError, match=problem) as caught:
        render(text)
    assert caught.value.message.startswith("model.gguf: ")
    assert "\n" not in caught.value.message


def test_what_templates_need_is_there() -> None:
    assert render("{{ {'あ': 1}|tojson }}") == '{"あ": 1}'
    assert render("{{ [1, 2]|tojson(indent=2) }}") == "[\n  1,\n  2\n]"
    assert render("{{ [1]|map('string')|tojson }}") == '["1"]'
    assert render("{% set l = [] %}{% set _ = l.append(1) %}{{ l }}") == "[1]"
    assert (
        render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
        == "01"
    )
    assert render("{% generation %}{{ 1 }}{% endgeneration %}") == "1"
    assert len(render("{{ strftime_now('%Y') }}")) == 4
    assert render("  {% if true %}\n  a\n  {% endif %}\n") == "  a\n"


def test_messages_are_left_as_they_were() -> None:
    messages = [{"role": "user", "content": "x", "marks": ["x"]}]
    template = "{% set _ = messages[0].marks.append('y') %}{{ messages[0].marks }}"
    assert JinjaTemplate(template, where="t").render(messages) == "['x', 'y']"
    assert messages == [{"role": "user", "content": "x", "marks": ["x"]}]


def test_the_starters_template_renders_as_in_llama_cpp(starter_path: Path) -> None:
    from llamune.gguf import ModelFile
    from llamune.store import resolve
    from llamune.text import template_of, tokenizer_of

    with ModelFile.open(starter_path) as file:
        ours = template_of(resolve(str(starter_path)), file, tokenizer_of(file))
    with renderer(starter_path) as judge:
        for messages, tools in CONVERSATIONS.values():
            found = ours.render(messages, tools=tools, add_generation_prompt=True)
            assert found == judge.render(messages, tools)
