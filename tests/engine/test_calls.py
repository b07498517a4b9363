"""Calls of functions, found in what a model writes or forced by a schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llamune.engine import EmbeddedEngine, EngineError, GenerateOptions, Piece, open_engine
from llamune.engine.calls import CallReader, ForcedCall, TaggedCalls, forced_schema
from llamune.engine.persona import persona_of
from llamune.store import Model, resolve


def function(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = function("get_weather", city={"type": "string", "maxLength": 12})
TIME = function("get_time", zone={"enum": ["UTC", "JST"]})
TOOLS = [WEATHER, TIME]
QUESTION = [{"role": "user", "content": "How is the weather in Paris?"}]

# how the templates of Ollama's library write calls, in small
QWEN = """{{- if .Tools }}<|im_start|>system
{{- range .Tools }}
{{ . }}
{{- end }}<|im_end|>
{{ end }}
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ if .Content }}{{ .Content }}{{ else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}
{{- with .Function }}{"name": "{{ .Name }}", "arguments": {{ .Arguments }}}{{ end }}
{{- end }}
</tool_call>{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
MISTRAL = """{{- range .Messages }}{{- if eq .Role "user" }}{{ if $.Tools }}[AVAILABLE_TOOLS]
{{- $.Tools }}[/AVAILABLE_TOOLS]{{ end }}[INST] {{ .Content }}[/INST]
{{- else if .Content }} {{ .Content }}</s>
{{- else if .ToolCalls }}[TOOL_CALLS] [
{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{- end }}]</s>{{ end }}{{ end }}"""
LLAMA = """{{ .Tools }}{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>

{{ if .ToolCalls }}{{ range .ToolCalls }}{{ with .Function -}}
{"name": "{{ .Name }}", "parameters": {{ .Arguments }}}{{ end }}{{ end }}
{{- else }}{{ .Content }}{{ end }}<|eot_id|>
{{- end }}<|start_header_id|>assistant<|end_header_id|>

"""
NO_TOOLS = "{{ .System }}{{ .Prompt }}"


def read(reader: CallReader, pieces: Sequence[str], reason: str = "stop") -> list[Piece]:
    """Return what a reader hands on of some pieces and an end."""
    found = [reader.read(Piece(text=text)) for text in pieces]
    found.append(reader.read(Piece(finish_reason=reason, n_answer_tokens=len(pieces))))
    return [piece for piece in found if piece is not None]


def called(pieces: Sequence[Piece]) -> list[tuple[str, Any]]:
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for piece in pieces
        for call in piece.tool_calls
    ]


def said(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("tag", "text", "before", "calls"),
    [
        ("<tool_call>", "Sure.", "Sure.", []),
        ("<tool_call>", "a < b", "a < b", []),
        (
            "<tool_call>",
            'Let me see.<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
            "</tool_call>",
            "Let me see.",
            [("get_weather", {"city": "Paris"})],
        ),
        (
            "[TOOL_CALLS] [",
            '[TOOL_CALLS] [{"name": "get_time", "arguments": {"zone": "UTC"}}, '
            '{"name": "get_weather", "arguments": {"city": "}"}}]',
            "",
            [("get_time", {"zone": "UTC"}), ("get_weather", {"city": "}"})],
        ),
        (
            "{",
            '{"name": "get_weather", "parameters": {"city": "Paris"}}',
            "",
            [("get_weather", {"city": "Paris"})],
        ),
        ("{", 'A set is {1, 2} and no "call".', 'A set is {1, 2} and no "call".', []),
        ("<tool_call>", '<tool_call>{"name": "get_w', '<tool_call>{"name": "get_w', []),
    ],
)
def test_calls_are_found_however_the_answer_is_cut_into_pieces(
    tag: str, text: str, before: str, calls: list[tuple[str, Any]], size: int
):
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    found = read(TaggedCalls(TOOLS, tag), pieces)
    assert (said(found), called(found)) == (before, calls)
    assert found[-1].finish_reason == ("tool_calls" if calls else "stop")
    ids = [call["id"] for piece in found for call in piece.tool_calls]
    assert len(set(ids)) == len(ids)


def test_text_before_a_call_comes_at_once():
    reader = TaggedCalls(TOOLS, "<tool_call>")
    piece = reader.read(Piece(text="I look. <tool"))
    assert piece is not None
    assert piece.text == "I look. "


@pytest.mark.parametrize(
    ("template", "tag"),
    [(QWEN, "<tool_call>"), (MISTRAL, "[TOOL_CALLS] ["), (LLAMA, "{")],
)
def test_a_go_template_says_what_stands_before_a_call(starter_path: Path, template: str, tag: str):
    persona = persona_of(model_with(starter_path, template))
    assert persona.takes_tools
    assert persona.prompts.call_tag == tag


def model_with(path: Path, template: str) -> Model:
    from dataclasses import replace

    return replace(resolve(str(path)), template=template)


def test_a_template_without_tools_takes_none(starter_path: Path):
    assert not persona_of(model_with(starter_path, NO_TOOLS)).takes_tools
    assert not persona_of(resolve(str(starter_path))).takes_tools


def test_a_forced_call_comes_whole_and_a_cut_one_as_text():
    text = '{"name": "get_time", "arguments": {"zone": "UTC"}}'
    (whole,) = read(ForcedCall(), [text[:9], text[9:]])
    assert called([whole]) == [("get_time", {"zone": "UTC"})]
    assert (whole.text, whole.finish_reason, whole.n_answer_tokens) == ("", "tool_calls", 2)
    (cut,) = read(ForcedCall(), [text[:9]], reason="length")
    assert (cut.text, cut.tool_calls, cut.finish_reason) == (text[:9], (), "length")


def test_the_schema_of_a_forced_call():
    for choice in (None, "auto", "none"):
        assert forced_schema(TOOLS, choice) is None
    one = forced_schema(TOOLS, "get_time")
    assert one is not None
    assert one["properties"]["name"] == {"const": "get_time"}
    every = forced_schema(TOOLS, "required")
    assert every is not None
    names = [call["properties"]["name"]["const"] for call in every["anyOf"]]
    assert names == ["get_weather", "get_time"]


def test_definitions_keep_their_place_at_the_root():
    def with_unit(unit: str) -> dict[str, Any]:
        tool = function(f"in_{unit}", amount={"$ref": "#/$defs/Amount"})
        tool["function"]["parameters"]["$defs"] = {"Amount": {"enum": [unit]}}
        return tool

    schema = forced_schema([with_unit("kg")], "required")
    assert schema is not None
    assert schema["$defs"] == {"Amount": {"enum": ["kg"]}}
    with pytest.raises(EngineError, match="'Amount' in two ways"):
        forced_schema([with_unit("kg"), with_unit("lb")], "required")


@pytest.fixture(scope="module")
def engine(starter_path: Path) -> Any:
    with open_engine(resolve(str(starter_path)), n_ctx=512, n_threads=1) as opened:
        yield opened


def test_a_model_of_this_size_calls_what_it_must(engine: EmbeddedEngine, starter_path: Path):
    view = engine.as_model(model_with(starter_path, QWEN))
    options = GenerateOptions(max_tokens=64, temperature=0)
    for choice, names in (
        ("get_time", {"get_time"}),
        ("required", {"get_time", "get_weather"}),
    ):
        pieces = list(view.chat(QUESTION, options, tools=TOOLS, tool_choice=choice))
        ((name, arguments),) = called(pieces)
        assert name in names
        assert arguments.keys() <= {"zone", "city"}
        assert pieces[-1].finish_reason == "tool_calls"


def test_tools_are_in_the_prompt_as_ollama_writes_them(engine: EmbeddedEngine, starter_path: Path):
    view = engine.as_model(model_with(starter_path, QWEN))
    options = GenerateOptions(max_tokens=1, temperature=0)

    def n_prompt_tokens(**asked: Any) -> int | None:
        return list(view.chat(QUESTION, options, **asked))[-1].n_prompt_tokens

    written = view.persona.prompts.ids(QUESTION, TOOLS)
    assert n_prompt_tokens(tools=TOOLS) == len(written)
    plain = n_prompt_tokens()
    assert plain is not None
    assert plain + 40 < len(written)
    assert n_prompt_tokens(tools=TOOLS, tool_choice="none") == plain


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"tools": TOOLS}, "does not support tools"),
        ({"tools": TOOLS, "tool_choice": "fly"}, "'fly'"),
        ({"tool_choice": "required"}, "'required'"),
    ],
)
def test_what_cannot_be_called_is_refused(
    engine: EmbeddedEngine, asked: dict[str, Any], message: str
):
    with pytest.raises(EngineError, match=message):
        list(engine.chat(QUESTION, GenerateOptions(max_tokens=1), **asked))
