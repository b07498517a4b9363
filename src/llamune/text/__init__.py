"""Text exactly as it will be served: tokenizers and chat templates from the model file."""

from llamune.text.choosing import has_template, template_of
from llamune.text.comparing import EXAMPLE, Difference, compare, faults, thought_difference
from llamune.text.errors import TemplateError, TextError
from llamune.text.golang import GoTemplate
from llamune.text.jinja import JinjaTemplate
from llamune.text.special import TokenKind
from llamune.text.templates import ChatTemplate, prompt_ids
from llamune.text.tokenizer import Tokenizer, tokenizer_of
from llamune.text.vocabulary import Vocabulary

__all__ = [
    "EXAMPLE",
    "ChatTemplate",
    "Difference",
    "GoTemplate",
    "JinjaTemplate",
    "TemplateError",
    "TextError",
    "TokenKind",
    "Tokenizer",
    "Vocabulary",
    "compare",
    "faults",
    "has_template",
    "prompt_ids",
    "template_of",
    "thought_difference",
    "tokenizer_of",
]
