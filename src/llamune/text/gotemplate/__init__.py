"""The part of Go's text/template language that Ollama's TEMPLATE layers use.

Held against Go's own implementation in the tests. What is left out is refused by name.

Source: Go, packages text/template and text/template/parse.
"""

from llamune.text.gotemplate.nodes import names_in, without_rest
from llamune.text.gotemplate.parser import Program, parse
from llamune.text.gotemplate.runner import execute
from llamune.text.gotemplate.values import Struct, go_json, go_value

__all__ = [
    "Program",
    "Struct",
    "execute",
    "go_json",
    "go_value",
    "names_in",
    "parse",
    "without_rest",
]
