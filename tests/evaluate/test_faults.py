"""The proof is proven: every fault that could be made in a model or an adapter makes it fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamune.evaluate import prove
from llamune.evaluate.reference import Reference, logits_of, torch_model
from llamune.gguf import ModelFile
from llamune.store import resolve
from tests.tiny import tiny_model

N_POSITIONS = 60
Change = Callable[[Any], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def with_change(change: Change) -> Any:
    """Return a reference whose torch model is changed before it is used."""

    def reference(file: ModelFile, adapter: Path | None, *, rounded_gelu: bool) -> Reference:
        model = torch_model(file, adapter)
        change(model)
        return logits_of(model, rounded_gelu=rounded_gelu)

    return reference


def modules_with(model: Any, attribute: str) -> list[Any]:
    found = [module for module in model.modules() if attribute in vars(module)]
    assert found, f"no module has {attribute}: this fault would inject nothing"
    return found


def norm_epsilon(model: Any) -> None:
    names = ("variance_epsilon", "eps")
    norms = [m for m in model.modules() if "RMSNorm" in type(m).__name__]
    assert norms
    for norm in norms:
        name = next(name for name in names if name in vars(norm))
        setattr(norm, name, getattr(norm, name) * 10)


def rope_base(model: Any) -> None:
    for rotary in modules_with(model.get_decoder(), "rope_type"):
        for name in list(rotary._buffers):
            if "inv_freq" in name:
                exponent = 1.001  # a base of 10,000 becomes 10,093
                rotary._buffers[name] = rotary._buffers[name] ** exponent


def rope_scaling(model: Any) -> None:
    """Forget llama3's scaling: frequencies as they were before."""
    import torch

    rotary = model.get_decoder().rotary_emb
    n = rotary.inv_freq.shape[0]
    rotary.inv_freq = 500000.0 ** -(torch.arange(n) / n)


def rope_pairing(model: Any) -> None:
    """Turn neighbours instead of halves: rows stay in the file's order."""
    for layer in model.get_decoder().layers:
        for name in ("q_proj", "k_proj"):
            projection = getattr(layer.self_attn, name)
            assert projection.n_pair_head
            projection.n_pair_head = 0


def key_rows(model: Any) -> None:
    """Keys in the file's row order, queries in transformers'."""
    model.get_decoder().layers[1].self_attn.k_proj.n_pair_head = 0


def norm_offset(model: Any) -> None:
    model.get_decoder().layers[0].input_layernorm.weight.data += 1


def attention_softcap(model: Any) -> None:
    for layer in modules_with(model, "attn_logit_softcapping"):
        layer.attn_logit_softcapping = None


def final_softcap(model: Any) -> None:
    model.config.final_logit_softcapping = 2 * model.config.final_logit_softcapping


def window(model: Any) -> None:
    model.config.sliding_window += 1


def query_scale(model: Any) -> None:
    for attention in modules_with(model, "scaling"):
        attention.scaling *= 1.01


def dropped_bias(model: Any) -> None:
    projection = model.get_decoder().layers[0].self_attn.q_proj
    assert projection.bias is not None
    projection.bias = None


def untied_output(model: Any) -> None:
    model.lm_head.packed = model.lm_head.packed.roll(1, dims=0)


SLOW = {"gemma3"}
FAULTS: list[tuple[str, Change]] = [
    ("llama", norm_epsilon),
    ("gemma3", norm_epsilon),
    ("llama", rope_base),
    ("gemma3", rope_base),
    ("llama3-scaling", rope_scaling),
    ("llama", rope_pairing),
    ("llama", key_rows),
    ("gemma2", norm_offset),
    ("gemma2", attention_softcap),
    ("gemma2", final_softcap),
    ("gemma2", window),
    ("gemma3", window),
    ("gemma3", query_scale),
    ("llama", query_scale),
    ("qwen2", dropped_bias),
    ("llama", untied_output),
]


def marked(family: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if family in SLOW else []


@pytest.mark.parametrize(
    ("family", "fault"),
    [
        pytest.param(family, fault, id=f"{family}-{fault.__name__}", marks=marked(family))
        for family, fault in FAULTS
    ],
)
def test_a_fault_in_the_model_makes_the_proof_fail(folder: Path, family: str, fault: Change):
    model = resolve(str(tiny_model(folder, family)))
    proof = prove(model, n_positions=N_POSITIONS, n_threads=1, reference=with_change(fault))
    assert proof.verdict == "fail"
    assert proof.tokens.all_same
    assert proof.template is not None
    assert proof.template.all_same


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=marked(name)) for name in sorted({name for name, _ in FAULTS})],
)
def test_without_a_fault_it_passes(folder: Path, family: str):
    proof = prove(resolve(str(tiny_model(folder, family))), n_positions=N_POSITIONS, n_threads=1)
    assert proof.verdict == "pass", proof.reasons


@pytest.fixture(scope="module")
def peft_folder(folder: Path) -> Path:
    """Return a PEFT adapter on every linear layer of the tiny Llama, B not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    from llamune.nn import load

    out = folder / "peft"
    with ModelFile.open(tiny_model(folder, "llama")) as file:
        torch.manual_seed(0)
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
        model = get_peft_model(load(file), config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.02)
        model.save_pretrained(str(out))
    return out


def served_adapter(folder: Path, peft: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Convert an adapter to GGUF and change its tensors or its alpha on the way."""
    from llamune.adapter import write_gguf_adapter
    from llamune.arch import describe
    from llamune.gguf import Entry, NewTensor, write_gguf

    right = folder / "right.gguf"
    with ModelFile.open(tiny_model(folder, "llama")) as base:
        write_gguf_adapter(peft, base, describe(base), right, base_digest=None, replace=True)
    with ModelFile.open(right) as file:
        arrays = {name: file.floats(name).copy() for name in file.tensors}
        arrays["alpha"] = file.metadata.number("adapter.lora.alpha")
        change(arrays)
        alpha = arrays.pop("alpha")
        metadata = {key: file.metadata.entry(key) for key in file.metadata}
        metadata["adapter.lora.alpha"] = Entry.of(float(alpha))
        out = folder / f"{change.__name__}.gguf"
        tensors = [
            NewTensor(name, info.shape, info.type, lambda name=name: [arrays[name].tobytes()])
            for name, info in file.tensors.items()
        ]
        write_gguf(out, metadata=metadata, tensors=tensors, replace=True)
    return out


def unchanged(arrays: dict[str, Any]) -> None:
    """Leave the adapter as it is."""


def another_scale(arrays: dict[str, Any]) -> None:
    arrays["alpha"] *= 1.02


def not_applied(arrays: dict[str, Any]) -> None:
    for name, values in arrays.items():
        if name.endswith("lora_b"):
            values[:] = 0


def rows_not_reordered(arrays: dict[str, Any]) -> None:
    b = arrays["blk.0.attn_q.weight.lora_b"]
    heads = b.reshape(4, -1, 2, b.shape[1])
    arrays["blk.0.attn_q.weight.lora_b"] = heads.swapaxes(1, 2).reshape(b.shape).copy()


def last_block_left_out(arrays: dict[str, Any]) -> None:
    for name, values in arrays.items():
        if name.startswith("blk.2.") and name.endswith("lora_b"):
            values[:] = 0


@pytest.mark.parametrize(
    "fault", [another_scale, not_applied, rows_not_reordered, last_block_left_out]
)
def test_a_fault_in_the_adapter_makes_the_proof_fail(
    folder: Path, peft_folder: Path, fault: Callable[[dict[str, Any]], None]
):
    model = resolve(str(tiny_model(folder, "llama")))
    proof = prove(
        model,
        trained=peft_folder,
        served=served_adapter(folder, peft_folder, fault),
        n_positions=N_POSITIONS,
        n_threads=1,
    )
    assert proof.verdict == "fail"


def test_an_adapter_that_is_served_as_trained_passes(folder: Path, peft_folder: Path):
    model = resolve(str(tiny_model(folder, "llama")))
    served = served_adapter(folder, peft_folder, unchanged)
    proof = prove(model, trained=peft_folder, served=served, n_positions=N_POSITIONS, n_threads=1)
    assert proof.verdict == "pass", proof.reasons
    assert proof.effect is not None
    assert proof.effect.mean_kl > 1e-3
    json.dumps(proof.as_dict())
    # the GGUF adapter alone, read back as PEFT, agrees too
    alone = prove(model, served=served, n_positions=N_POSITIONS, n_threads=1)
    assert alone.verdict == "pass", alone.reasons


def test_an_adapter_that_does_nothing_cannot_be_told(folder: Path, peft_folder: Path):
    model = resolve(str(tiny_model(folder, "llama")))
    idle = served_adapter(folder, peft_folder, not_applied)
    proof = prove(model, served=idle, n_positions=N_POSITIONS, n_threads=1)
    assert proof.verdict == "cannot tell"
    assert "noise" in proof.reasons[0]


def test_another_tokenizer_makes_the_proof_fail(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from llamune.text import Tokenizer

    right = Tokenizer.encode
    monkeypatch.setattr(
        Tokenizer, "encode", lambda self, text, **options: right(self, text.strip(), **options)
    )
    model = resolve(str(tiny_model(folder, "llama")))
    proof = prove(model, n_positions=N_POSITIONS, n_threads=1)
    assert proof.verdict == "fail"
    assert not proof.tokens.all_same
    assert proof.tokens.first_difference


def test_another_template_makes_the_proof_fail(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from llamune.text import ChatTemplate

    right = ChatTemplate.render
    monkeypatch.setattr(
        ChatTemplate, "render", lambda self, *given, **options: right(self, *given, **options) + " "
    )
    model = resolve(str(tiny_model(folder, "llama")))
    proof = prove(model, n_positions=N_POSITIONS, n_threads=1)
    assert proof.verdict == "fail"
    assert proof.template is not None
    assert not proof.template.all_same
