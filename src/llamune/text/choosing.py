"""Which chat template a model is served with: the order in which Ollama and llama.cpp look.

Before both comes the template that a person chose for a training: a model tuned with one carries
it on, and must be served with it.

Source: Ollama, `selectedTemplateSource` (server/images.go).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamune.errors import UnsupportedError
from llamune.gguf import ModelFile
from llamune.text.abilities import prefers_jinja
from llamune.text.errors import TemplateError
from llamune.text.golang import GoTemplate
from llamune.text.jinja import JinjaTemplate
from llamune.text.named import NAMED
from llamune.text.sandbox import MAX_SOURCE
from llamune.text.templates import ChatTemplate
from llamune.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llamune.store import Model

__all__ = ["has_template", "template_of"]

KEY = "tokenizer.chat_template"
TOOLS_KEY = "tokenizer.chat_template.tool_use"
HARMONY = {"gptoss", "gpt-oss"}
CHOICES = ("gguf", "ollama", *NAMED)
# a field of the present value, such as `{{ .Prompt }}`: no expression of Jinja starts with a dot
GO_FIELD = re.compile(r"\{\{[^{}]*?(?<![\w)\]'\"])\.[A-Z]")


def template_of(
    model: Model, file: ModelFile, tokenizer: Tokenizer, *, use: str | None = None
) -> ChatTemplate:
    """Return the chat template that a model is served with.

    Args:
        model: where it was found, with the layers of its store.
        file: the opened model file.
        tokenizer: its tokenizer.
        use: `gguf` for the file's own, `ollama` for the store's layer, the name of a common
            one, or the path of a file with one, Jinja or Go; by default what the runtime would
            choose.

    Raises:
        TemplateError: there is none, or it is broken.
        UnsupportedError: the runtime renders this model by code of its own.
    """
    layers = layers_of(model)
    carried = model.carried_template
    if use is None and carried is not None:
        where = f"{model}: the template it was tuned with"
        return from_text(carried, tokenizer, where=where, layers=layers)
    chosen = use or choice(model, file)
    if chosen == "ollama":
        if model.template is None:
            raise TemplateError(f"{model}: there is no TEMPLATE layer", hint=other_choices(file))
        return GoTemplate(
            model.template, tokenizer=tokenizer, where=f"{model}: TEMPLATE layer", **layers
        )
    if chosen == "gguf":
        return from_file(file, str(model), tokenizer, layers)
    if chosen in NAMED:
        return from_text(NAMED[chosen], tokenizer, where=f"template {chosen}", layers=layers)
    return from_text(read_template(chosen), tokenizer, where=chosen, layers=layers)


def has_template(file: ModelFile) -> bool:
    """Whether a model file brings a chat template."""
    return KEY in file.metadata


def from_file(
    file: ModelFile, name: str, tokenizer: Tokenizer, layers: Mapping[str, Any]
) -> JinjaTemplate:
    """Return the Jinja template of a model file.

    Raises:
        TemplateError: the file has none.
    """
    metadata = file.metadata
    if KEY not in metadata:
        raise TemplateError(
            f"{file.path}: the file has no chat template ({KEY})",
            hint=f"choose one: {', '.join(NAMED)}, or a file",
        )
    text = metadata.text(KEY)
    return JinjaTemplate(
        NAMED["chatml"] if text == "chatml" else text,  # llama.cpp takes this word for the format
        tools_text=metadata.text(TOOLS_KEY) if TOOLS_KEY in metadata else None,
        where=f"{name}: {KEY}",
        **ends_of(tokenizer),
        **layers,
    )


def from_text(
    text: str, tokenizer: Tokenizer, *, where: str, layers: Mapping[str, Any]
) -> ChatTemplate:
    """Return a template that a person chose, in the language that it is written in."""
    template: ChatTemplate
    if "{%" not in text and GO_FIELD.search(text):
        template = GoTemplate(text, tokenizer=tokenizer, where=where, **layers)
    else:
        template = JinjaTemplate(text, where=where, **ends_of(tokenizer), **layers)
    template.source = "named"
    return template


def read_template(name: str) -> str:
    """Return the template in a file.

    Raises:
        TemplateError: no template and no file has that name, or it is no text of that size.
    """
    path = Path(name)
    if not path.is_file():
        raise TemplateError(
            f"there is no template {name!r}", hint=f"one of: {', '.join(CHOICES)}, or a file"
        )
    with path.open("rb") as source:
        data = source.read(MAX_SOURCE + 1)
    if len(data) > MAX_SOURCE:
        raise TemplateError(f"{path}: more than {MAX_SOURCE:,} bytes, too long for a template")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise TemplateError(f"{path}: not UTF-8 at byte {error.start:,}") from error


def layers_of(model: Model) -> dict[str, Any]:
    """Return what the store's layers add to every conversation."""
    base = model.name.model if model.name is not None else ""
    return {
        "system": model.system,
        "opening": model.messages,
        "hides_thoughts": model.config.get("model_family") == "qwen3" or base == "deepseek-r1",
        "notes": notes_of(model),
    }


def notes_of(model: Model) -> list[str]:
    """Return what a person should know about the layers."""
    notes = []
    if model.system:
        notes.append("the SYSTEM layer goes before conversations that bring no system message")
    if model.messages:
        notes.append(f"{len(model.messages)} messages of a layer go before every conversation")
    return notes


def choice(model: Model, file: ModelFile) -> str:
    """Return which template the runtime takes: `ollama` or `gguf`.

    Raises:
        UnsupportedError: it takes none, but code of its own.
    """
    if model.renderer or model.parser:
        raise own_code(model, file, model.renderer or str(model.parser))
    if model.template is None:
        return "gguf"
    if model.config.get("model_family") in HARMONY:
        raise own_code(model, file, "harmony")
    jinja = file.metadata.text(KEY, default="")
    return "gguf" if jinja and prefers_jinja(jinja, model.template) else "ollama"


def own_code(model: Model, file: ModelFile, name: str) -> UnsupportedError:
    """Return the error about a model whose prompts are not made by a template."""
    return UnsupportedError(
        f"{model}: Ollama renders this model by its own code ({name!r}), not by a template",
        hint=other_choices(file),
    )


def other_choices(file: ModelFile) -> str:
    """Return the hint that names what else can be chosen."""
    if KEY in file.metadata:
        return "the model file's own template can be chosen: gguf"
    return f"choose one: {', '.join(NAMED)}, or a file"


def ends_of(tokenizer: Tokenizer) -> dict[str, str]:
    """Return how BOS and EOS are written; empty where there is none."""
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
    return {name: "" if id_ is None else tokenizer.piece(id_) for name, id_ in ids.items()}
