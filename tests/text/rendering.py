"""llama.cpp's server as the judge of ours: its endpoints that render templates and tokenize."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import xllamacpp

from llamune.engine import server


class Renderer:
    """A server whose only tasks are to render and to tokenize.

    Args:
        path: any model; its BOS and EOS are what templates get.
        template: a template in place of the file's.
    """

    def __init__(self, path: Path, template: str | None) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = 256
        parameters.n_parallel = 1
        parameters.cpuparams.n_threads = 1
        parameters.warmup = False
        parameters.verbosity = -1
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = 0
        parameters.use_jinja = True
        if template is not None:
            parameters.chat_template = template
        self.server = xllamacpp.Server(parameters)
        server.take_back_signals()
        self.address = urlsplit(self.server.listening_address)

    def render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
    ) -> str | None:
        """Return the prompt; None where llama.cpp refuses."""
        body: dict[str, Any] = {"messages": messages}
        if tools:
            body["tools"] = tools
        prompt: str | None = self.asked("/apply-template", body).get("prompt")
        return prompt

    def tokenize(self, text: str, *, parse_special: bool, add_special: bool) -> list[int]:
        """Return the token ids of a text."""
        body = {"content": text, "parse_special": parse_special, "add_special": add_special}
        ids: list[int] = self.asked("/tokenize", body)["tokens"]
        return ids

    def asked(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return what an endpoint answers."""
        connection = HTTPConnection(self.address.hostname or "", self.address.port, timeout=60)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return found


@contextmanager
def renderer(path: Path, template: str | None = None) -> Iterator[Renderer]:
    judge = Renderer(path, template)
    try:
        yield judge
    finally:
        # the server's loop forgets a request to end that came before its first turn
        judge.render([{"role": "user", "content": "end"}])
        del judge.server


SYSTEM = {"role": "system", "content": "Be brief. 簡潔に。"}
QUESTION = {"role": "user", "content": 'Wie spät? <b> & "x"\n'}
ANSWER = {"role": "assistant", "content": "It's 12."}
THANKS = {"role": "user", "content": "ありがとう"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call12345",
            "type": "function",
            "function": {
                "name": "get_time",
                "arguments": json.dumps({"zone": "Asia/Tokyo", "after": 3}),
            },
        }
    ],
}
OUTPUT = {"role": "tool", "content": "12:00", "tool_call_id": "call12345", "name": "get_time"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_time",
            "description": "Gives the time & date",
            "parameters": {
                "type": "object",
                "properties": {"zone": {"type": "string", "description": "a <zone>"}},
                "required": ["zone"],
            },
        },
    }
]
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "one question": ([QUESTION], None),
    "system": ([SYSTEM, QUESTION], None),
    "several turns": ([QUESTION, ANSWER, THANKS], None),
    "system and several turns": ([SYSTEM, QUESTION, ANSWER, THANKS], None),
    "tools": ([SYSTEM, QUESTION], TOOLS),
    "a call": ([QUESTION, CALL, OUTPUT], TOOLS),
    "after a call": ([QUESTION, CALL, OUTPUT, ANSWER, THANKS], TOOLS),
}
