"""A tokenizer of single bytes and templates in the forms that model families use.

The templates are written for these tests; each shows one habit that a mask must survive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

SPECIAL = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|header|>",
    "<|/header|>",
    "<|eot|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "[INST]",
    "[/INST]",
    "<tool_call>",
)
STOPS = ("</s>", "<|im_end|>", "<|eot|>", "<end_of_turn>", "<|end|>")


class ByteTokens:
    """Every byte a token, every special text one token; pairs in `merges` are one token too."""

    def __init__(self, *, adds_bos: bool = False, merges: Sequence[str] = ()) -> None:
        self.adds_bos = adds_bos
        self.specials = {text: 256 + place for place, text in enumerate(SPECIAL)}
        self.merges = {text: 1000 + place for place, text in enumerate(merges)}
        self.bos_id: int | None = self.specials["<s>"]
        self.eos_id: int | None = self.specials["</s>"]
        self.stop_ids = frozenset(self.specials[text] for text in STOPS)
        self.control_ids = frozenset(self.specials.values())
        self.digest = "sha256:bytes"
        self.pieces = {number: text for text, number in {**self.specials, **self.merges}.items()}

    def encode(self, text: str, *, parse_special: bool = True) -> list[int]:
        known = {**self.merges, **(self.specials if parse_special else {})}
        if not known:
            return list(text.encode())
        pattern = "|".join(re.escape(piece) for piece in sorted(known, key=len, reverse=True))
        ids: list[int] = []
        for part in re.split(f"({pattern})", text):
            ids += [known[part]] if part in known else list(part.encode())
        return ids

    def encode_batch(self, texts: Sequence[str], *, parse_special: bool = True) -> list[list[int]]:
        return [self.encode(text, parse_special=parse_special) for text in texts]

    def token_bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id].encode() if token_id in self.pieces else bytes([token_id])

    def piece(self, token_id: int) -> str:
        return self.pieces.get(token_id) or bytes([token_id]).decode("latin-1")

    def spell(self, ids: Sequence[int]) -> str:
        return b"".join(self.token_bytes(token) for token in ids).decode(errors="replace")


class JinjaTemplate:
    """A template in the sandbox."""

    def __init__(self, text: str) -> None:
        self.text = text
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self.compiled = environment.from_string(text)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        return self.compiled.render(
            messages=messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            bos_token="<s>",
            eos_token="</s>",
        )


CHATML = JinjaTemplate(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = JinjaTemplate(  # words are trimmed, tools stand with the first question
    "<s>{% for m in messages %}<|header|>{{ m.role }}<|/header|>\n\n"
    "{% if loop.first and tools %}{{ tools | tojson }}\n{% endif %}{{ m.content | trim }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|/header|>\n\n{% endif %}"
)
TURNS = JinjaTemplate(  # another name for the assistant
    "<s>{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
BRACKETS = JinjaTemplate(  # no header for answers, tools before the last question only
    "<s>{% set last = messages | selectattr('role', 'equalto', 'user') | list | last %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and m == last %}TOOLS{{ tools | tojson }}{% endif %}"
    "[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}</s>"
    "{% else %}({{ m.role }}: {{ m.content }}){% endif %}{% endfor %}"
)
THINKING = JinjaTemplate(  # earlier thoughts are dropped, the last answer gets an empty one
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% set words = m.content.split('</think>')[-1].lstrip() %}"
    "{% if loop.last %}<think>\n{{ m.content.split('</think>')[0].split('<think>')[-1].strip()"
    " if '</think>' in m.content }}\n</think>\n\n{% endif %}{{ words }}"
    "{% else %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDED = JinjaTemplate(  # a line before the end token
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ '\n' }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
OPEN = JinjaTemplate(  # closes no turn
    "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "headers": HEADERS,
    "turns": TURNS,
    "brackets": BRACKETS,
    "thinking": THINKING,
    "ended": ENDED,
    "open": OPEN,
}


def written(folder: Path, value: Any, name: str = "data.bin") -> Path:
    """Write a data file: bytes as they are, anything else as JSON."""
    path = folder / name
    raw = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    path.write_bytes(raw)
    return path
