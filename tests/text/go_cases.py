"""Go templates in the manner of those that people meet most, and conversations for them.

`python -m tests.text.go_cases` runs them with Go's own text/template and records what comes out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "go"
RECORDED = FOLDER / "recorded.json"

Messages = list[dict[str, Any]]

TEMPLATES = {
    "chatml": (
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end -}}"
        "<|im_start|>assistant\n"
    ),
    "chatml by rounds": (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
        "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
        "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    ),
    "headers with tools": """\
{{- if or .System .Tools }}<|start_header_id|>system<|end_header_id|>
{{- if .System }}

{{ .System }}
{{- end }}
{{- if .Tools }}

Reply with a call when a function helps.
{{- end }}<|eot_id|>
{{- end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}<|start_header_id|>user<|end_header_id|>
{{- if and $.Tools $last }}

Functions:
{{ range $.Tools }}
{{- . }}
{{ end }}
Question: {{ .Content }}<|eot_id|>
{{- else }}

{{ .Content }}<|eot_id|>
{{- end }}{{ if $last }}<|start_header_id|>assistant<|end_header_id|>

{{ end }}
{{- else if eq .Role "assistant" }}<|start_header_id|>assistant<|end_header_id|>
{{- if .ToolCalls }}
{{ range .ToolCalls }}
{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}
{{- else }}

{{ .Content }}
{{- end }}{{ if not $last }}<|eot_id|>{{ end }}
{{- else if eq .Role "tool" }}<|start_header_id|>ipython<|end_header_id|>

{{ .Content }}<|eot_id|>{{ if $last }}<|start_header_id|>assistant<|end_header_id|>

{{ end }}
{{- end }}
{{- end }}""",
    "turns with a gathered system prompt": """\
{{- $system := "" }}
{{- range .Messages }}
{{- if eq .Role "system" }}
{{- if not $system }}{{ $system = .Content }}
{{- else }}{{ $system = printf "%s / %s" $system .Content }}
{{- end }}
{{- continue }}
{{- else if eq .Role "user" }}<start_of_turn>user
{{ if $system }}{{ $system }} {{ $system = "" }}{{ end }}
{{- else }}<start_of_turn>model
{{ end }}
{{- .Content }}<end_of_turn>
{{ end }}<start_of_turn>model
""",
    "chatml with tool calls": """\
{{- if or .System .Tools }}<|im_start|>system
{{- with .System }}
{{ . }}
{{- end }}
{{- if .Tools }}
<tools>
{{- range .Tools }}
{"type": "function", "function": {{ json .Function }}}
{{- end }}
</tools>
{{- end }}<|im_end|>
{{ end }}
{{- range $index, $message := .Messages }}
{{- if eq $message.Role "user" }}<|im_start|>user
{{ $message.Content }}<|im_end|>
{{ else if eq $message.Role "assistant" }}<|im_start|>assistant
{{ with $message.Content }}{{ . }}{{ end -}}
{{- range $message.ToolCalls }}
<tool_call>
{"name": {{ json .Function.Name }}, "arguments": {{ .Function.Arguments }}}
</tool_call>
{{- end }}{{ if ne (len $.Messages) (len (slice $.Messages 0 $index)) }}<|im_end|>
{{ end }}
{{- else if eq $message.Role "tool" }}<|im_start|>user
<tool_response>
{{ $message.Content }} ({{ $message.ToolName }})
</tool_response><|im_end|>
{{ end }}
{{- end }}<|im_start|>assistant
""",
    "python signatures": """\
{{- range .Tools }}def {{ .Function.Name }}(
{{- range $name, $property := .Function.Parameters.Properties }}{{ $name }}: {{ $property.Type }}, \
{{ end }}):
    '''{{ .Function.Description }}
{{- range $name, $property := .Function.Parameters.Properties }}
    {{ $name }} ({{ $property.Type }}): {{ $property.Description }}
    {{- if $property.Enum }} one of {{ $property.Enum }}{{ end }}
{{- else }}
    none
{{- end }}'''
{{ else }}no tools
{{ end }}
{{- range .Messages }}[{{ .Role }}] {{ .Content }}
{{- range .ToolCalls }} -> {{ .Function.Name }}({{ range $k, $v := .Function.Arguments }}\
{{ $k }}={{ $v }};{{ end }}){{ end }}
{{ end }}""",
    "instructions": (
        "{{ if .System }}{{ .System }}\n\n{{ end }}{{ if .Prompt }}### Instruction:\n{{ .Prompt }}"
        "\n\n{{ end }}### Response:\n{{ .Response }}\n\n"
    ),
    "inst": (
        '[INST] {{ range $index, $_ := .Messages }}{{ if eq .Role "system" }}<<SYS>>'
        '{{ .Content }}<</SYS>>\n\n{{ else if eq .Role "user" }}{{ .Content }} [/INST]'
        '{{ else if eq .Role "assistant" }} {{ .Content }}</s>[INST] {{ end }}{{ end }}'
    ),
    "no place for an answer": "USER: {{ .Prompt }} ASSISTANT:",
    "answer in a branch": (
        "{{ if .Prompt }}User: {{ .Prompt }}\n{{ end }}{{ if .Response }}Bot: {{ .Response }}!"
        "{{ end }} end"
    ),
    "definitions and comments": (
        '{{ define "turn" }}<{{ .Role }}>{{ .Content }}</{{ .Role }}>{{ end -}}\n'
        '{{- /* a comment */ -}} {{ range .Messages }}{{ template "turn" . }}{{ break }}{{ end }}'
        '{{ block "tail" .System }}[{{ . }}]{{ end }}'
    ),
    "functions": (
        "{{ $n := len .Messages }}{{ range $i, $m := .Messages }}{{ if and (gt $n 1) (lt $i 2) }}"
        '{{ printf "%d:%q %v%%" $i $m.Content true }}{{ else }}{{ print $i $n "x" $i }}'
        "{{ println $i $m.Role }}{{ end }}{{ end }}{{ index (index .Messages 0).Content 0 }}"
        '{{ json .System }}{{ .System | len | printf "%d" }}{{ slice .System 0 1 }}'
        '{{ or .System "none" }}{{ not .Tools }}{{ ge 2 1 }}{{ le 2.5 1.5 }}'
        "{{ 'a' }}{{ `raw\\n` }}"
        '{{ "\\u3042\\x41\\t" }}{{ 1.5e3 }}{{ 0x10 }}{{ eq .System "a" "b" "c" }}{{ ne "a" "b" }}'
    ),
    "missing names": "{{ .Messages | len }}{{ .Nothing }}{{ with .Nothing }}x{{ else }}y{{ end }}",
    "an unknown field": "{{ range .Messages }}{{ .Nothing }}{{ end }}",
    "values of two kinds": "{{ range .Messages }}{{ eq .Role 1 }}{{ end }}",
    "a part beyond the end": "{{ slice .Messages 9 }}",
    "white space": (
        "  {{- if .Messages -}}  \n a {{- 1 }} {{ 2 -}} b {{ end }}"
        " \n\t {{- /* x */}} c {{/* y */ -}}  d"
    ),
}

QUESTION: dict[str, Any] = {"role": "user", "content": "Wie spät ist es in 東京? <b>&"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "It's \"12\" o'clock.\n"}
SYSTEM: dict[str, Any] = {"role": "system", "content": "Be brief."}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "c1",
            "function": {
                "name": "get_time",
                "arguments": {"zone": "Asia/<Tokyo>", "after": 3, "exact": 0.25, "big": 1500000},
            },
        }
    ],
}
OUTPUT: dict[str, Any] = {"role": "tool", "content": "12:00", "tool_name": "get_time"}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_time",
            "description": "Gives the time & date",
            "parameters": {
                "type": "object",
                "properties": {
                    "zone": {"type": "string", "description": "a <zone>", "enum": ["a", 1]},
                    "after": {"type": ["integer", "null"], "description": "hours"},
                },
                "required": ["zone"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "stop",
            "description": "",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]
CONVERSATIONS: dict[str, tuple[Messages, list[dict[str, Any]]]] = {
    "one question": ([QUESTION], []),
    "system": ([SYSTEM, QUESTION], []),
    "several turns": ([SYSTEM, QUESTION, ANSWER, {"role": "user", "content": "Danke"}], []),
    "ends with an answer": ([QUESTION, ANSWER], []),
    "two in a row": ([SYSTEM, SYSTEM, QUESTION, QUESTION, ANSWER, ANSWER, QUESTION], []),
    "late system": ([QUESTION, ANSWER, SYSTEM, QUESTION], []),
    "tools": ([SYSTEM, QUESTION], TOOLS),
    "a call": ([QUESTION, CALL, OUTPUT], TOOLS),
    "after a call": ([SYSTEM, QUESTION, CALL, OUTPUT, OUTPUT, ANSWER, QUESTION], TOOLS),
    "ends with a call": ([QUESTION, CALL], TOOLS),
    "日本語": (
        [{"role": "user", "content": "こんにちは。"}, {"role": "assistant", "content": "やあ"}],
        [],
    ),
}
CASES = [(template, conversation) for template in TEMPLATES for conversation in CONVERSATIONS]


def run_go(cases: list[tuple[str, Messages, list[dict[str, Any]]]]) -> list[dict[str, str]]:
    """Return what Go makes of templates: `text` or `error` for each."""
    go = shutil.which("go")
    assert go, "Go is not installed (Debian: golang-go)"
    jobs = [
        {"template": template, "messages": messages, "tools": tools}
        for template, messages, tools in cases
    ]
    done = subprocess.run(
        [go, "run", "main.go"],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        cwd=FOLDER,
        timeout=280,
        check=True,
    )
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def record() -> dict[str, dict[str, str]]:
    """Return what Go makes of every case, by the names of template and conversation."""
    found = run_go([(TEMPLATES[template], *CONVERSATIONS[name]) for template, name in CASES])
    return {f"{template} | {name}": one for (template, name), one in zip(CASES, found, strict=True)}


if __name__ == "__main__":
    RECORDED.write_text(
        json.dumps(record(), ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
