"""Packed layers behave as the dense layers they stand for, under autograd, PEFT and compile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llamune.gguf import floats_to_rows, quant_type
from llamune.nn import PackedEmbedding, PackedLinear
from llamune.nn.packed import from_pairs, to_pairs

KINDS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "IQ4_NL"]


def layer(
    kind: str = "Q4_K",
    *,
    rows: int = 24,
    columns: int = 256,
    n_pair_head: int = 0,
    bias: bool = False,
) -> PackedLinear:
    random = np.random.default_rng(0)
    weight = random.standard_normal((rows, columns)).astype(np.float32)
    packed = torch.from_numpy(floats_to_rows(weight, quant_type(kind)))
    return PackedLinear(
        packed,
        kind,
        columns,
        dtype=torch.float32,
        bias=torch.randn(rows) if bias else None,
        n_pair_head=n_pair_head,
    )


def dense(packed: PackedLinear) -> nn.Linear:
    out = nn.Linear(packed.in_features, packed.out_features, bias=packed.bias is not None)
    out.weight = nn.Parameter(packed.unpacked())
    if packed.bias is not None:
        out.bias = nn.Parameter(packed.bias.detach().clone())
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_pair_head", [0, 3])
def test_output_and_gradient_equal_the_dense_layer(kind: str, n_pair_head: int) -> None:
    ours = layer(kind, n_pair_head=n_pair_head, bias=True)
    theirs = dense(ours)
    x = torch.randn(2, 5, 256)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    gradient = torch.randn(2, 5, 24)
    out1, out2 = ours(x1), theirs(x2)
    torch.testing.assert_close(out1, out2)
    out1.backward(gradient)
    out2.backward(gradient)
    torch.testing.assert_close(x1.grad, x2.grad)


@pytest.mark.parametrize("n_pair_head", [0, 2])
def test_gradient_holds_by_finite_differences(n_pair_head: int) -> None:
    ours = layer("Q8_0", rows=8, columns=32, n_pair_head=n_pair_head)
    x = torch.randn(3, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ours, (x,))


def test_backward_keeps_bytes_and_no_floats() -> None:
    ours = layer("Q4_0")
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        ours(torch.randn(4, 256, requires_grad=True))
    assert {tensor.dtype for tensor in kept} == {torch.uint8}
    assert kept[0].data_ptr() == ours.packed.data_ptr()


def test_pairs_and_halves_undo_each_other() -> None:
    values = torch.arange(12.0)
    assert from_pairs(values, 2).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert torch.equal(to_pairs(from_pairs(values, 2), 2), values)
    table = values.view(12, 1)
    assert torch.equal(from_pairs(table, 2, dim=0).view(-1), from_pairs(values, 2))


def test_embedding_gives_the_table_rows() -> None:
    weight = np.random.default_rng(0).standard_normal((10, 32)).astype(np.float32)
    packed = torch.from_numpy(floats_to_rows(weight, quant_type("Q8_0")))
    table = PackedEmbedding(packed, "Q8_0", 32, dtype=torch.float32, scale=2.0)
    ids = torch.tensor([[3, 9], [0, 3]])
    assert torch.equal(table(ids), 2.0 * table.unpacked()[ids])


def test_nothing_packed_is_in_the_state_dict_or_the_parameters() -> None:
    ours = layer(bias=True)
    assert set(ours.state_dict()) == {"bias"}
    assert [name for name, _ in ours.named_parameters()] == ["bias"]
    assert not list(ours.buffers())


def test_weight_is_unpacked_only_when_its_values_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = layer("Q8_0")
    wanted = ours.unpacked()
    calls = []
    monkeypatch.setattr(ours, "unpacked", lambda: calls.append(1) or wanted)
    weight = ours.weight
    assert (weight.shape, weight.dtype, weight.device.type) == ((24, 256), torch.float32, "cpu")
    assert isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim == 2
    assert not calls
    assert torch.equal(weight + 1.0, wanted + 1.0)
    assert torch.equal(weight.data, wanted)
    assert torch.equal(torch.linalg.norm(weight, dim=1), torch.linalg.norm(wanted, dim=1))
    assert len(calls) == 3


def test_moving_to_another_type_leaves_the_bytes() -> None:
    ours = layer()
    before = ours.packed.clone()
    assert torch.equal(ours.to(torch.float64).packed, before)


def test_gradient_checkpointing() -> None:
    ours = layer("Q4_0", rows=256)
    x1, x2 = (torch.ones(3, 256, requires_grad=True) for _ in range(2))
    ours(ours(x1)).sum().backward()
    checkpoint(lambda x: ours(ours(x)), x2, use_reentrant=False).sum().backward()
    torch.testing.assert_close(x1.grad, x2.grad)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("n_pair_head", [0, 4])
def test_peft_trains_as_beside_the_dense_layer(use_dora: bool, n_pair_head: int) -> None:
    from peft import LoraConfig, get_peft_model

    class One(nn.Module):
        def __init__(self, proj: nn.Linear) -> None:
            super().__init__()
            self.proj = proj

        def forward(self, x: Tensor) -> Tensor:
            return self.proj(x)

    ours = layer("Q4_K", n_pair_head=n_pair_head, bias=True)
    losses, trained = [], []
    for proj in (ours, dense(ours)):
        torch.manual_seed(3)
        config = LoraConfig(r=4, target_modules=["proj"], use_dora=use_dora, lora_alpha=8)
        model = get_peft_model(One(proj), config)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        x, target = torch.randn(8, 256), torch.randn(8, 24)
        for _ in range(5):
            loss = nn.functional.mse_loss(model(x), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        trained.append({n: p.detach() for n, p in model.named_parameters() if p.requires_grad})
    assert losses[4] < losses[0]
    np.testing.assert_allclose(losses[:5], losses[5:], rtol=1e-4)
    assert trained[0].keys() == trained[1].keys()
    assert any("magnitude" in name for name in trained[0]) == use_dora
    for name, value in trained[0].items():
        torch.testing.assert_close(value, trained[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_layer_gives_the_same() -> None:
    ours = nn.Sequential(layer("Q4_K", rows=256), nn.SiLU(), layer("Q8_0", rows=256))
    x1, x2 = (torch.linspace(-1, 1, 512).view(2, 256).requires_grad_() for _ in range(2))
    wanted = ours(x1)
    wanted.sum().backward()
    ours.compile()
    found = ours(x2)
    found.sum().backward()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(x2.grad, x1.grad)
