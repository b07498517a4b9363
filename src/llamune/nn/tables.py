"""Lookup tables of quant types, kept once per device; the numbers are gguf-py's."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["table"]

# our name -> gguf-py's class with the grid
GRIDS = {
    "iq1": "IQ1_S",
    "iq2_s": "IQ2_S",
    "iq2_xs": "IQ2_XS",
    "iq2_xxs": "IQ2_XXS",
    "iq3_s": "IQ3_S",
    "iq3_xxs": "IQ3_XXS",
}


@cache
def table(name: str, device: torch.device) -> Tensor:
    """Return a table on a device: f32 values or grid rows, int32 sign patterns."""
    from gguf import quants

    if name in GRIDS:
        holder = getattr(quants, GRIDS[name])
        holder.init_grid()
        values = np.array(holder.grid, dtype=np.float32)
        return torch.from_numpy(values.reshape(values.shape[-2:])).to(device)
    if name == "signs":
        patterns = np.frombuffer(quants.IQ2_XXS.ksigns, dtype=np.uint8).astype(np.int32)
        return torch.from_numpy(patterns).to(device)
    levels = quants.IQ4_NL.kvalues if name == "iq4" else quants.MXFP4.kvalues
    return torch.tensor(levels, dtype=torch.float32, device=device)
