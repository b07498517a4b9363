"""The trainer's side of a proof: next-token distributions from our torch model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llamune.gguf import ModelFile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "Reference",
    "ReferenceOf",
    "logits_of",
    "peft_folder_of",
    "torch_model",
    "torch_reference",
]


class Reference(Protocol):
    """Runs a sequence of token ids through the trainer's model."""

    def __call__(
        self, ids: Sequence[int], *, rounded_inputs: bool = False
    ) -> npt.NDArray[np.float32]:
        """Return float32 logits (n_tokens, n_vocab).

        Args:
            ids: the sequence.
            rounded_inputs: round what each packed layer multiplies as llama.cpp does.
        """


class ReferenceOf(Protocol):
    """Makes the trainer's side for a model file and an adapter (a PEFT folder)."""

    def __call__(self, file: ModelFile, adapter: Path | None, *, rounded_gelu: bool) -> Reference:
        """Return a function from token ids to float32 logits (n_tokens, n_vocab)."""


def torch_reference(
    file: ModelFile, adapter: Path | None, *, rounded_gelu: bool = False
) -> Reference:
    """Return what runs sequences through a model.

    Args:
        file: the model; must stay open while the function is used.
        adapter: a PEFT folder.
        rounded_gelu: round GELU to F16 as llama.cpp's CPU code does, whatever the type of the
            weights; in F32 that rounding alone is a mean KL of about 5e-8.
    """
    return logits_of(torch_model(file, adapter), rounded_gelu=rounded_gelu)


def torch_model(file: ModelFile, adapter: Path | None) -> Any:
    """Return the base as for training, but in F32, with the adapter on it.

    PEFT itself reads the adapter, so that our conversion of it to GGUF is on one side of the
    comparison only.
    """
    import torch

    from llamune.nn import load

    model: Any = load(file, dtype=torch.float32, compiled=False)
    if adapter is not None:
        from peft import PeftModel

        from llamune.train import quiet

        with quiet():
            model = PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
    return model.eval()


def logits_of(model: Any, *, rounded_gelu: bool = False) -> Reference:
    """Return a function that runs one sequence through a torch model."""
    import torch

    from llamune.nn import coarse_gelu, coarse_inputs

    def logits(ids: Sequence[int], *, rounded_inputs: bool = False) -> npt.NDArray[np.float32]:
        gelu = coarse_gelu(model) if rounded_gelu else nullcontext()
        inputs = coarse_inputs(model) if rounded_inputs else nullcontext()
        with torch.inference_mode(), gelu, inputs:
            found = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
        return found.float().cpu().numpy()  # type: ignore[no-any-return]  # torch gives Any

    return logits


@contextmanager
def peft_folder_of(adapter: Path, file: ModelFile) -> Iterator[Path]:
    """Yield an adapter as a PEFT folder: itself, or a GGUF adapter written out as one."""
    if adapter.is_dir():
        yield adapter
        return
    from llamune.adapter import read_adapter, write_peft
    from llamune.arch import describe

    family = describe(file)
    with tempfile.TemporaryDirectory(prefix="llamune-peft-") as scratch:
        folder = Path(scratch) / "adapter"
        write_peft(read_adapter(adapter, family), family, folder)
        yield folder
