"""Model names, by Ollama's rules: `[host/][namespace/]model[:tag]`.

Source: types/model/name.go of Ollama, read for its grammar: the first character of a part is a
letter, digit or `_`; then also `-` and `_`; `.` except in a namespace; `:` in a host only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from llamune.store.errors import StoreError

__all__ = ["DEFAULT_HOST", "DEFAULT_NAMESPACE", "DEFAULT_TAG", "ModelName"]

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

GRAMMAR = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
}


@dataclass(frozen=True)
class ModelName:
    """A full model name. `str()` gives the shortest form that means the same."""

    model: str
    tag: str = DEFAULT_TAG
    namespace: str = DEFAULT_NAMESPACE
    host: str = DEFAULT_HOST

    def __post_init__(self) -> None:
        for part, grammar in GRAMMAR.items():
            value = getattr(self, part)
            if not grammar.fullmatch(value):
                raise StoreError(
                    f"{value!r} cannot be the {part} of a model name",
                    hint="a name looks like gemma2:9b, me/gemma2:9b or host/me/gemma2:9b",
                )

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read a name; missing parts take Ollama's defaults.

        Raises:
            StoreError: a part breaks the grammar, or there are more than three `/` parts.
        """
        rest = text.partition("://")[2] if "://" in text else text
        tag = DEFAULT_TAG
        if rest.rfind(":") > rest.rfind("/"):
            rest, _, tag = rest.rpartition(":")
        parts = rest.split("/")
        if len(parts) > len(GRAMMAR) - 1:
            raise StoreError(f"{text!r} is not a model name: it has more than three parts")
        padded = [DEFAULT_HOST, DEFAULT_NAMESPACE, ""][: 3 - len(parts)] + parts
        return cls(host=padded[0], namespace=padded[1], model=padded[2], tag=tag)

    @classmethod
    def maybe(cls, text: str) -> ModelName | None:
        """Read a name, or return None when `text` is not one."""
        try:
            return cls.parse(text)
        except StoreError:
            return None

    def __str__(self) -> str:
        short = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{short}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{short}"
        return short

    @property
    def key(self) -> str:
        """The full name in lower case: two names are the same when their keys are."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}".lower()

    @property
    def relative_path(self) -> PurePosixPath:
        """Where the manifest lies below a store's `manifests/`."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    def with_tag(self, tag: str) -> ModelName:
        """Return the same name with another tag."""
        return replace(self, tag=tag)
