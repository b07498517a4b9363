"""Which chat template a model is served with: the order in which Ollama and llama.cpp look.

Source: Ollama, `selectedTemplateSource` and `shouldPreferChatTemplate` (server/images.go).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llamune.errors import UnsupportedError
from llamune.gguf import ModelFile
from llamune.text.errors import TemplateError
from llamune.text.golang import GoTemplate
from llamune.text.jinja import JinjaTemplate
from llamune.text.named import NAMED
from llamune.text.templates import ChatTemplate
from llamune.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llamune.store import Model

__all__ = ["has_template", "template_of"]

KEY = "tokenizer.chat_template"
TOOLS_KEY = "tokenizer.chat_template.tool_use"
HARMONY = {"gptoss", "gpt-oss"}
CHOICES = ("gguf", "ollama", *NAMED)


def template_of(
    model: Model, file: ModelFile, tokenizer: Tokenizer, *, use: str | None = None
) -> ChatTemplate:
    """Return the chat template that a model is served with.

    Args:
        model: where it was found, with the layers of its store.
        file: the opened model file.
        tokenizer: its tokenizer.
        use: `gguf` for the file's own, `ollama` for the store's layer, or the name of a common
            one; by default what the runtime would choose.

    Raises:
        TemplateError: there is none, or it is broken.
        UnsupportedError: the runtime renders this model by code of its own.
    """
    chosen = use or choice(model, file)
    layers = layers_of(model)
    if chosen == "ollama":
        if model.template is None:
            raise TemplateError(f"{model}: there is no TEMPLATE layer", hint=other_choices(file))
        return GoTemplate(
            model.template, tokenizer=tokenizer, where=f"{model}: TEMPLATE layer", **layers
        )
    texts = {
        "bos": token_text(tokenizer, tokenizer.bos_id),
        "eos": token_text(tokenizer, tokenizer.eos_id),
    }
    if chosen == "gguf":
        return from_file(file, str(model), texts, layers)
    if chosen not in NAMED:
        raise TemplateError(
            f"there is no template {chosen!r}", hint=f"one of: {', '.join(CHOICES)}"
        )
    template = JinjaTemplate(NAMED[chosen], where=f"template {chosen}", **texts, **layers)
    template.source = "named"
    return template


def has_template(file: ModelFile) -> bool:
    """Whether a model file brings a chat template."""
    return KEY in file.metadata


def from_file(
    file: ModelFile, name: str, texts: Mapping[str, str], layers: Mapping[str, Any]
) -> JinjaTemplate:
    """Return the Jinja template of a model file.

    Raises:
        TemplateError: the file has none.
    """
    metadata = file.metadata
    if KEY not in metadata:
        raise TemplateError(
            f"{file.path}: the file has no chat template ({KEY})",
            hint=f"choose one: {', '.join(NAMED)}",
        )
    text = metadata.text(KEY)
    return JinjaTemplate(
        NAMED["chatml"] if text == "chatml" else text,  # llama.cpp takes this word for the format
        tools_text=metadata.text(TOOLS_KEY) if TOOLS_KEY in metadata else None,
        where=f"{name}: {KEY}",
        **texts,
        **layers,
    )


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
    return f"choose one: {', '.join(NAMED)}"


def prefers_jinja(jinja: str, layer: str) -> bool:
    """Whether Ollama takes the file's template although there is a TEMPLATE layer."""
    from llamune.text.ollama import OllamaTemplate

    names = OllamaTemplate(layer).names
    in_file = jinja_abilities(jinja)
    in_layer = {
        ability
        for ability, word in (("tools", "tools"), ("insert", "suffix"), ("thinking", "thinking"))
        if word in names
    }
    file_answers = answers_tools_in_jinja(jinja)
    layer_answers = {"tools", "toolcalls"} <= names and any(
        sign in layer for sign in ('eq .Role "tool"', "tool_response", "TOOL_RESULTS")
    )
    if len(in_file) > len(in_layer):
        return file_answers or not layer_answers
    return in_file == in_layer and "tools" in in_file and file_answers and not layer_answers


def jinja_abilities(jinja: str) -> set[str]:
    """Return what a Jinja template can do, judged by the words in it as Ollama does."""
    found = set()
    if "tools" in jinja or "tool_call" in jinja:
        found.add("tools")
    splits = any(f"content.split({quote}</think>{quote})" in jinja for quote in "'\"")
    hidden = "reasoning_content" in jinja or "<SPECIAL_12>" in jinja
    if ("<think>" in jinja and "</think>" in jinja) or (splits and not hidden):
        found.add("thinking")
    return found


def answers_tools_in_jinja(jinja: str) -> bool:
    """Whether a Jinja template writes both a tool's call and what it returns."""
    roles = (
        *("role'] == 'tool'", 'role\'] == "tool"', "role\"] == 'tool'", 'role"] == "tool"'),
        *("message.role == 'tool'", 'message.role == "tool"'),
    )
    returns = ("tool_response", "tool_results", "ipython", *roles)
    calls = "tool_calls" in jinja or "assistant_tool_call" in jinja
    return calls and any(sign in jinja for sign in returns)


def token_text(tokenizer: Tokenizer, id_: int | None) -> str:
    """Return how a token is written; empty where there is none."""
    return "" if id_ is None else tokenizer.piece(id_)
