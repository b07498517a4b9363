"""From a model file to a transformers model whose weights stay packed and mapped."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llamune.arch import Family, OffsetNorm, PermuteRows, Role, TensorRule, describe
from llamune.gguf import ModelFile
from llamune.nn.attention import register_attention
from llamune.nn.compiling import COMPILE_FROM_PARAMETERS, can_compile
from llamune.nn.compute import best_device, choose_compute
from llamune.nn.model import class_of
from llamune.nn.packed import PackedEmbedding, PackedLinear, from_pairs
from llamune.nn.shards import move_buffers, put_part, share_out
from llamune.nn.unpack import How, require_unpackable
from llamune.nn.unpack import unpack as unpack_rows
from llamune.store import resolve

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

__all__ = ["load"]


def load(
    model: ModelFile | str | Path,
    *,
    family: Family | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    unpack: bool = False,
    compiled: bool | None = None,
    mesh: DeviceMesh | None = None,
) -> PreTrainedModel:
    """Return the transformers model of a file, its linear and embedding weights packed.

    Args:
        model: an opened file, which stays mapped as long as the result lives, or a model
            reference.
        family: what `describe(file)` returned, if it was called already.
        device: where the packed bytes go, default the best present; on the CPU they stay in the
            mapped file.
        dtype: that layers compute in; default what a short trial on the device finds fastest.
        unpack: give the ordinary dense model, every weight trainable.
        compiled: whether unpacking goes through `torch.compile` where ggml's own code cannot
            serve (other devices, other types); default where a compiler is and it pays.
        mesh: processes among which the dense model's weights are shared out; none ever holds
            more than its part and one matrix.

    Raises:
        UnsupportedError: the architecture, or a tensor's quant type, is not implemented.
    """
    file = model if isinstance(model, ModelFile) else open_reference(str(model))
    family = family or describe(file)
    for rule in family.rules.values():
        require_unpackable(file.tensors[rule.gguf].type.name, f"{file.path}: {rule.gguf}")
    device = torch.device(device or best_device())
    dtype = dtype or choose_compute(family, device).torch_dtype
    builder = Builder(
        file, family, device, dtype, how=best_way(family, device, dtype, compiled=compiled)
    )
    return builder.dense(mesh) if unpack else builder.packed()


def best_way(
    family: Family, device: torch.device, dtype: torch.dtype, *, compiled: bool | None
) -> How:
    """Return how to unpack: measured on the CPU, ggml's code is twice the compiled one's speed."""
    if device.type == "cpu" and dtype is torch.float32:
        return "ggml"
    if compiled is None:
        large = family.multiplying_parameters >= COMPILE_FROM_PARAMETERS
        compiled = large and can_compile(device.type)
    return "compiled" if compiled else "torch"


def open_reference(reference: str) -> ModelFile:
    """Open the model file that a reference names."""
    return ModelFile.open(resolve(reference).paths)


class Builder:
    """Builds one model; holds what every step needs."""

    def __init__(
        self,
        file: ModelFile,
        family: Family,
        device: torch.device,
        dtype: torch.dtype,
        *,
        how: How,
    ) -> None:
        self.file = file
        self.family = family
        self.device = device
        self.dtype = dtype
        self.how: How = how
        self.mapped: dict[str, Tensor] = {}  # a tied output shares the embedding's bytes

    def packed(self) -> PreTrainedModel:
        """Return the model with packed layers, nothing trainable."""
        model = self.empty(class_of(self.family.model_class))
        for rule in self.family.rules.values():
            if rule.role is Role.LINEAR:
                replace(model, rule.module, self.linear(rule))
            elif rule.role is Role.EMBEDDING:
                replace(model, rule.module, self.embedding(model, rule))
            elif rule.role is Role.NORM:
                norm = model.get_submodule(rule.module)
                norm.weight = nn.Parameter(self.floats(rule), requires_grad=False)
        if self.family.tied:
            table = model.get_input_embeddings()
            replace(model, "lm_head", self.tied_output(table))
        return self.finish(model)

    def dense(self, mesh: DeviceMesh | None = None) -> PreTrainedModel:
        """Return the ordinary model with float weights, everything trainable."""
        import transformers

        model = self.empty(getattr(transformers, self.family.model_class))
        if mesh is not None:
            self.tie(model)  # what is one matrix must be known as such when it is shared out
            share_out(model, mesh)
        for rule in self.family.rules.values():
            module = model.get_submodule(rule.module)
            if mesh is None:
                setattr(module, rule.parameter, nn.Parameter(self.floats(rule)))
            else:
                put_part(module, rule.parameter, self.floats(rule))
        self.tie(model)
        if mesh is not None:
            move_buffers(model, self.device)
        return self.finish(model, moved=mesh is not None)

    def tie(self, model: Any) -> None:
        """Make embedding and output one matrix, where they are one in the file."""
        if self.family.tied:
            model.lm_head.weight = model.get_input_embeddings().weight

    def empty(self, model_class: type[Any]) -> Any:
        """Return the model without weights, its position tables made for real."""
        import transformers

        config_class = getattr(transformers, self.family.config_class)
        config = config_class(**self.family.config)
        config.dtype = self.dtype
        config._attn_implementation = self.attention(config)
        with torch.device("meta"):
            model = model_class(config)
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
        table = model.get_input_embeddings()
        if hasattr(table, "scalar_embed_scale"):
            table.embed_scale = torch.tensor(table.scalar_embed_scale)
        self.divide_frequencies(model.model.rotary_emb)
        return model

    def attention(self, config: Any) -> str:
        """Return the name of the attention to use: our own on the CPU, else transformers'."""
        if self.device.type == "cpu":
            return register_attention()
        return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"

    def divide_frequencies(self, rotary: Any) -> None:
        """Divide RoPE's frequencies by the file's factors, where it has them."""
        if self.family.rope_factors is None:
            return
        factors = torch.from_numpy(self.file.floats(self.family.rope_factors).reshape(-1).copy())
        base = self.family.config["rope_parameters"]["rope_theta"]
        d_head = self.family.sizes.head_dim
        exponents = torch.arange(0, d_head, 2, dtype=torch.float32) / d_head
        rotary.inv_freq = 1.0 / (base**exponents) / factors
        rotary.original_inv_freq = rotary.inv_freq.clone()

    def finish(self, model: Any, *, moved: bool = False) -> PreTrainedModel:
        """Put the rest on the device, unless it is there, and leave nothing on "meta"."""
        if not moved:
            model.to(self.device)
        model.config._name_or_path = str(self.file.path)
        return model.eval()  # type: ignore[no-any-return]  # transformers is untyped here

    def linear(self, rule: TensorRule) -> PackedLinear:
        """Return one packed linear layer with its bias."""
        bias_rule = self.family.rules.get(f"{rule.module}.bias")
        return PackedLinear(
            self.mapped_bytes(rule.gguf),
            self.file.tensors[rule.gguf].type.name,
            rule.shape[1],
            dtype=self.dtype,
            bias=None if bias_rule is None else self.floats(bias_rule),
            n_pair_head=rule.transform.n_head if isinstance(rule.transform, PermuteRows) else 0,
            how=self.how,
        )

    def embedding(self, model: Any, rule: TensorRule) -> PackedEmbedding:
        """Return the packed token embedding."""
        replaced = model.get_submodule(rule.module)
        return PackedEmbedding(
            self.mapped_bytes(rule.gguf),
            self.file.tensors[rule.gguf].type.name,
            rule.shape[1],
            dtype=self.dtype,
            padding_idx=replaced.padding_idx,
            scale=getattr(replaced, "scalar_embed_scale", None),
        )

    def tied_output(self, table: PackedEmbedding) -> PackedLinear:
        """Return the output layer over the token embedding's bytes."""
        return PackedLinear(
            table.packed,
            table.kind,
            table.embedding_dim,
            dtype=self.dtype,
            how=self.how,
        )

    def mapped_bytes(self, name: str) -> Tensor:
        """Return a tensor's packed rows on the device; on the CPU a view of the mapped file."""
        if name not in self.mapped:
            with warnings.catch_warnings():
                # torch warns that the map is read-only; nothing here ever writes to it
                warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
                self.mapped[name] = torch.from_numpy(self.file.packed(name)).to(self.device)
        return self.mapped[name]

    def floats(self, rule: TensorRule) -> Tensor:
        """Return a tensor as transformers keeps it, a copy in the compute type."""
        kind = self.file.tensors[rule.gguf].type.name
        values = unpack_rows(self.mapped_bytes(rule.gguf), kind, torch.float32).reshape(rule.shape)
        if isinstance(rule.transform, PermuteRows):
            values = from_pairs(values, rule.transform.n_head, dim=0)
        elif isinstance(rule.transform, OffsetNorm):
            values = values - rule.transform.offset
        return values.to(self.dtype, copy=True)


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path of the model."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
