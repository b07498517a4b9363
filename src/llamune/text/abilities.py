"""Which of a model's two templates can do more: Ollama takes the file's where it is that one.

Source: Ollama, `shouldPreferChatTemplate` (server/images.go).
"""

from __future__ import annotations

from llamune.text.ollama import OllamaTemplate

__all__ = ["prefers_jinja"]


def prefers_jinja(jinja: str, layer: str) -> bool:
    """Whether Ollama takes the file's template although there is a TEMPLATE layer."""
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
