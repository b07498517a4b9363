"""Which part of the model a tensor belongs to, from its GGUF name."""

from __future__ import annotations

import re

__all__ = ["is_extra", "section_of"]

BLOCK = re.compile(r"blk\.(\d+)\.")
# prefixes of tensors that store files carry beside the text model
EXTRA = {
    "v.": "vision",
    "mm.": "vision",
    "vision_tower.": "vision",
    "multi_modal_projector.": "vision",
    "a.": "audio",
    "s.": "audio",
    "mtp.": "draft",
    "nextn.": "draft",
}


def section_of(name: str) -> str:
    """Return the part's name: `token embedding`, `block 3`, `output`, `rope`, `vision`."""
    if found := BLOCK.match(name):
        return f"block {int(found[1])}"
    if name.startswith("token_embd"):
        return "token embedding"
    if name.startswith("output"):
        return "output"
    if name.startswith("rope_"):
        return "rope"
    for prefix, section in EXTRA.items():
        if name.startswith(prefix):
            return section
    return "other"


def is_extra(name: str) -> bool:
    """Whether a tensor lies beside the text model: vision, audio or draft."""
    return name.startswith(tuple(EXTRA))
