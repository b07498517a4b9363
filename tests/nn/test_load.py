"""`load` gives transformers' own class over the mapped file, with nothing copied or left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llamune.arch import describe
from llamune.errors import UnsupportedError
from llamune.gguf import Entry, ModelFile, NewTensor, quant_type, write_gguf
from llamune.nn import PackedEmbedding, PackedLinear, compile_layers, load
from tests.tiny import FAMILIES, VARIANTS, tiny_folder, tiny_model

IDS = torch.arange(3, 43).view(2, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def packed(path: Path, **options: object) -> torch.nn.Module:
    return load(ModelFile.open(path), device="cpu", dtype=torch.float32, **options)


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_logits_equal_transformers_on_the_same_weights(family: str, folder: Path) -> None:
    import transformers

    model = packed(tiny_model(folder, family))
    model_class = {**FAMILIES, **VARIANTS}[family][1]
    reference = getattr(transformers, model_class).from_pretrained(
        tiny_folder(folder, family), dtype=torch.float32, attn_implementation="eager"
    )
    if family != "mistral":  # the file does not say that it was one; the mathematics is Llama's
        assert isinstance(model, getattr(transformers, model_class))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, reference(IDS).logits, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K"])
def test_packed_equals_unpacked(family: str, kind: str, folder: Path) -> None:
    path = tiny_model(folder, family, kind)
    with torch.no_grad():
        wanted = packed(path, unpack=True)(IDS).logits
        torch.testing.assert_close(packed(path)(IDS).logits, wanted, atol=5e-5, rtol=1e-4)


def test_weights_are_views_of_the_mapped_file(folder: Path) -> None:
    file = ModelFile.open(tiny_model(folder, "llama", "Q4_0"))
    model = load(file, device="cpu", dtype=torch.float32)
    family = describe(file)
    checked = 0
    for rule in family.rules.values():
        module = model.get_submodule(rule.module)
        if isinstance(module, PackedLinear | PackedEmbedding) and rule.parameter == "weight":
            inside = file.packed(rule.gguf)
            assert module.packed.data_ptr() == inside.ctypes.data
            checked += 1
    assert checked == 7 * family.sizes.n_layer + 1
    assert model.lm_head.packed.data_ptr() == model.model.embed_tokens.packed.data_ptr()


def test_nothing_is_left_on_meta_and_nothing_trains(folder: Path) -> None:
    for name in ("gemma3", "phi3-longrope"):
        model = packed(tiny_model(folder, name, "Q8_0"))
        tensors = [*model.parameters(), *model.buffers()]
        assert all(tensor.device.type == "cpu" for tensor in tensors)
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_unpacked_model_trains_everything_and_ties_its_output(folder: Path) -> None:
    model = packed(tiny_model(folder, "llama", "Q8_0"), unpack=True)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_loss_with_labels_equals_the_dense_models(family: str, folder: Path) -> None:
    path = tiny_model(folder, family, "Q8_0")
    labels = IDS.clone()
    labels[:, :7] = -100
    found = packed(path)(IDS, labels=labels)
    assert found.logits is None
    torch.testing.assert_close(found.loss, packed(path, unpack=True)(IDS, labels=labels).loss)


def test_packed_sequences_give_each_its_own_logits(folder: Path) -> None:
    model = packed(tiny_model(folder, "gemma3"))
    first, second = IDS[:1, :12], IDS[1:, :8]
    positions = torch.cat((torch.arange(12), torch.arange(8)))[None]
    with torch.no_grad():
        # with a cache, transformers does not look for packed sequences; a loss uses none
        both = torch.cat((first, second), 1)
        together = model(both, position_ids=positions, use_cache=False).logits
        torch.testing.assert_close(together[:, :12], model(first).logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together[:, 12:], model(second).logits, atol=1e-5, rtol=1e-4)


def test_generation_goes_on_from_a_cache(folder: Path) -> None:
    model = packed(tiny_model(folder, "gemma2", "Q8_0"))
    out = model.generate(IDS[:1, :9], max_new_tokens=12, do_sample=False)
    with torch.no_grad():
        again = model(out).logits[0, 8:-1].argmax(-1)
    assert out[0, 9:].tolist() == again[: out.shape[1] - 9].tolist()


def test_peft_and_checkpointing_train_on_it(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    path = tiny_model(folder, "llama", "Q4_K")
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = get_peft_model(packed(path), LoraConfig(r=4, target_modules="all-linear"))
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable()
        model.train()
        model(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert len(gradients[0]) == 2 * 7 * 3
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])
    assert any(gradient.abs().sum() > 0 for gradient in gradients[0].values())


def test_a_packed_model_refuses_to_be_saved_by_transformers(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="packed"):
        packed(tiny_model(folder, "llama")).save_pretrained(tmp_path)


def test_vision_tensors_beside_the_text_model_are_left_alone(folder: Path, tmp_path: Path) -> None:
    file = ModelFile.open(tiny_model(folder, "gemma3", "Q8_0"))
    path = tmp_path / "with-vision.gguf"
    copy_with(file, path, extra="v.patch_embd.weight")
    family = describe(ModelFile.open(path))
    assert list(family.extra) == ["v.patch_embd.weight"]
    with torch.no_grad():
        torch.testing.assert_close(packed(path)(IDS).logits, packed(file.path)(IDS).logits)


def test_an_unknown_tensor_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    file = ModelFile.open(tiny_model(folder, "llama"))
    path = tmp_path / "odd.gguf"
    copy_with(file, path, extra="blk.0.attn_sinks.weight")
    with pytest.raises(UnsupportedError, match=r"blk\.0\.attn_sinks\.weight"):
        load(ModelFile.open(path))


def copy_with(file: ModelFile, out: Path, *, extra: str) -> None:
    """Write the file again with one more tensor."""
    tensors = [
        NewTensor(name, info.shape, info.type, lambda name=name: [file.packed(name)])
        for name, info in file.tensors.items()
    ]
    tensors.append(NewTensor(extra, (4, 32), quant_type("F32"), lambda: [np.zeros((4, 32), "<f4")]))
    metadata: dict[str, Entry] = {key: file.metadata.entry(key) for key in file.metadata}
    write_gguf(out, metadata=metadata, tensors=tensors)


PRIVATE_MEMORY = """
import sys, torch, psutil
from pathlib import Path
from transformers import LlamaForCausalLM
from llamune.gguf import ModelFile
from llamune.nn import load
def private():
    return psutil.Process().memory_full_info().uss
before = private()
model = load(ModelFile.open(Path(sys.argv[1])), device="cpu", dtype=torch.float32)
print(private() - before)
"""


@pytest.mark.slow  # that every weight is a view of the mapped file is tested above
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's count of private pages")
def test_the_starter_takes_no_private_copy(starter_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRIVATE_MEMORY, str(starter_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 150e6


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the gradients of one backward pass by name."""
    model.train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def test_a_pass_without_gradients_does_not_spoil_later_training(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    path = tiny_model(folder, "qwen2", "Q4_K")
    with torch.inference_mode():
        packed(path)(IDS)
    model = get_peft_model(packed(path), LoraConfig(r=2, target_modules="all-linear"))
    assert any(gradient.abs().sum() > 0 for gradient in trained(model).values())


def test_distributed_data_parallel_trains_it(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from torch.nn.parallel import DistributedDataParallel

    path = tiny_model(folder, "llama", "Q8_0")
    gradients = []
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        for wrap in (lambda model: model, DistributedDataParallel):
            torch.manual_seed(0)
            model = get_peft_model(packed(path), LoraConfig(r=2, target_modules="all-linear"))
            gradients.append(list(trained(wrap(model)).values()))
    finally:
        torch.distributed.destroy_process_group()
    for alone, parallel in zip(*gradients, strict=True):
        torch.testing.assert_close(alone, parallel)


@pytest.mark.slow
def test_compiled_decoder_layers_give_the_same_gradients(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    path = tiny_model(folder, "gemma2", "Q4_K")
    gradients = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = get_peft_model(packed(path), LoraConfig(r=2, target_modules="all-linear"))
        assert compile_layers(model, compiled=compiled) == compiled
        gradients.append(trained(model))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5)
