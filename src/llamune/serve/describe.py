"""What Ollama's API says of a model: from its layers and its file's header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llamune.engine import persona_of
from llamune.errors import LlamuneError
from llamune.gguf import ModelFile
from llamune.store import Model

__all__ = ["details", "shown"]

HIDDEN_KEYS = ("tokenizer.chat_template", "general.name")  # Ollama's own server hides these
MAX_ARRAY = 32  # longer arrays are given with `verbose` only


def details(*, family: str | None, parameters: str | None, file_type: str | None) -> dict[str, Any]:
    """Return the short description that stands beside a model's name."""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family or "",
        "families": [family] if family else [],
        "parameter_size": parameters or "",
        "quantization_level": file_type or "",
    }


def shown(model: Model, *, verbose: bool) -> dict[str, Any]:
    """Return the answer to `POST /api/show`."""
    with ModelFile.open(model.paths) as file:
        info = {
            key: value_of(file, key, verbose=verbose)
            for key in file.metadata
            if key not in HIDDEN_KEYS
        }
        tensors = [
            {"name": info.name, "type": info.type.name, "shape": list(reversed(info.shape))}
            for info in file.tensors.values()
        ]
    config = model.config
    modified = model.path.stat().st_mtime
    answer: dict[str, Any] = {
        "modelfile": modelfile(model),
        "parameters": parameter_lines(model.parameters),
        "template": model.template or "",
        "system": model.system or "",
        "license": "\n".join(model.licenses),
        "messages": [dict(message) for message in model.messages],
        "details": details(
            family=config.get("model_family"),
            parameters=config.get("model_type"),
            file_type=config.get("file_type"),
        ),
        "model_info": info,
        "tensors": tensors,
        "capabilities": ["completion", *(["tools"] if takes_tools(model) else [])],
        "modified_at": datetime.fromtimestamp(modified, UTC).isoformat().replace("+00:00", "Z"),
    }
    if model.renderer:
        answer["renderer"] = model.renderer
    if model.parser:
        answer["parser"] = model.parser
    return answer


def takes_tools(model: Model) -> bool:
    """Whether a model's prompt mentions the tools of a request."""
    try:
        return persona_of(model).takes_tools
    except LlamuneError:  # no template, or one that does not work: no conversation at all
        return False


def value_of(file: ModelFile, key: str, *, verbose: bool) -> Any:
    """Return a header value as JSON can say it; None for an array too long to show."""
    entry = file.metadata
    if entry.element_type(key) is not None and not verbose and entry.length(key) > MAX_ARRAY:
        return None
    value = entry[key]
    return value.tolist() if hasattr(value, "tolist") else value


def modelfile(model: Model) -> str:
    """Return the Modelfile that would make this model again, without paths of this machine."""
    lines = [f"FROM {model}"]
    if model.template:
        lines.append(f'TEMPLATE """{model.template}"""')
    if model.system:
        lines.append(f'SYSTEM """{model.system}"""')
    lines += [f"PARAMETER {line}" for line in parameter_lines(model.parameters).splitlines()]
    return "\n".join(lines) + "\n"


def parameter_lines(parameters: Mapping[str, Any]) -> str:
    """Return parameters as Ollama lists them: one line a value."""
    lines = []
    for name, value in parameters.items():
        for item in value if isinstance(value, list) else [value]:
            shown_item = json.dumps(item, ensure_ascii=False) if isinstance(item, str) else item
            lines.append(f"{name:<30} {shown_item}")
    return "\n".join(lines)
