"""LoRA beside packed layers as one operator: what PEFT's own operations give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from llamune.gguf import floats_to_rows, quant_type
from llamune.nn import PackedLinear
from llamune.nn.adapted import drawn
from llamune.train import with_packed_layers
from llamune.train.lora import PackedLora

COLUMNS, ROWS = 256, 24


class One(nn.Module):
    """One layer, named."""

    def __init__(self, proj: nn.Linear) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


def packed(*, n_pair_head: int = 0) -> PackedLinear:
    random = np.random.default_rng(0)
    weight = random.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    return PackedLinear(
        torch.from_numpy(floats_to_rows(weight, quant_type("Q4_K"))), "Q4_K", COLUMNS,
        dtype=torch.float32, bias=torch.ones(ROWS), n_pair_head=n_pair_head,
    )  # fmt: skip


def with_lora(layer: PackedLinear, *, ours: bool, **settings: Any) -> Any:
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["proj"], **settings)
    model = get_peft_model(One(layer), with_packed_layers(config) if ours else config)
    for name, value in model.named_parameters():
        if "lora_B" in name:  # zeros at the start, which would hide half of the gradients
            nn.init.normal_(value)
        if "magnitude" in name:
            value.data.mul_(1.5)
    return model


def forward_and_gradients(model: Any, dtype: torch.dtype) -> Iterator[Tensor]:
    torch.manual_seed(2)
    x = torch.randn(2, 5, COLUMNS, dtype=dtype).requires_grad_()
    out = model(x)
    assert out.dtype == dtype
    yield out.detach()
    (out.float() ** 2).sum().backward()
    assert x.grad is not None
    yield x.grad
    yield from (value.grad for value in model.parameters() if value.requires_grad)


@pytest.mark.parametrize("n_pair_head", [0, 4])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_output_and_gradients_are_those_of_peft(settings: dict[str, Any], n_pair_head: int) -> None:
    layer = packed(n_pair_head=n_pair_head)
    found, wanted = (
        list(forward_and_gradients(with_lora(layer, ours=ours, **settings), torch.float32))
        for ours in (True, False)
    )
    assert len(found) == len(wanted) >= 4
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_dropout_drops_that_share_at_random_and_its_gradients_are_of_what_was_kept() -> None:
    model = with_lora(packed(), ours=True, lora_dropout=0.25)
    layer = model.base_model.model.proj
    assert layer.only_adapter(torch.float32) == "default"
    torch.manual_seed(5)
    x = torch.randn(40, COLUMNS).requires_grad_()
    out = model(x)
    out.square().sum().backward()
    assert x.grad is not None
    found = [out.detach(), x.grad, layer.lora_A["default"].weight.grad,
             layer.lora_B["default"].weight.grad]  # fmt: skip
    torch.manual_seed(5)
    y = torch.randn(40, COLUMNS).requires_grad_()
    kept = drawn(y, y, 0.75)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.02)
    a, b = (
        part["default"].weight.detach().requires_grad_() for part in (layer.lora_A, layer.lora_B)
    )
    wanted = layer.base_layer(y) + (y * kept / 0.75) @ a.T @ b.T * layer.scaling["default"]
    wanted.square().sum().backward()
    for one, other in zip(found, (wanted, y.grad, a.grad, b.grad), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-2)


def test_dropout_is_off_outside_training_and_drawn_anew_each_time() -> None:
    model = with_lora(packed(), ours=True, lora_dropout=0.5)
    x = torch.randn(3, COLUMNS)
    assert (model(x) - model(x)).abs().max() > 0
    model.eval()
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)


def test_the_same_seed_draws_the_same_and_every_level_is_right() -> None:
    x = torch.empty(1001, 333)
    torch.manual_seed(7)
    first = drawn(x, x, 0.95)
    torch.manual_seed(7)
    assert torch.equal(drawn(x, x, 0.95), first)
    assert first.shape == x.shape
    for number in range(4):  # four numbers come of one draw
        share = first.flatten()[number::4].float().mean().item()
        assert share == pytest.approx(0.95, abs=0.003)


@pytest.mark.parametrize("use_dora", [False, True])
def test_in_bf16_all_is_within_its_rounding_and_gradients_stay_f32(use_dora: bool) -> None:
    settings = {"use_dora": use_dora, "ours": True}
    model = with_lora(packed(), **settings)
    assert model.base_model.model.proj.only_adapter(torch.bfloat16) == "default"
    found = list(forward_and_gradients(model, torch.bfloat16))
    wanted = list(
        forward_and_gradients(with_lora(packed(), **{**settings, "ours": False}), torch.float32)
    )
    assert {value.dtype for value in found[2:]} == {torch.float32}
    for one, other in zip(found, wanted, strict=True):
        error = (one.float() - other).norm() / other.norm()
        assert error < 0.02, error


def test_in_bf16_a_layer_keeps_its_input_as_it_is_and_no_copy() -> None:
    kept: list[Tensor] = []
    model = with_lora(packed(), ours=True)
    x = torch.randn(7, COLUMNS, dtype=torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        model(x)
    large = [value for value in kept if value.numel() == x.numel()]
    assert [value.data_ptr() for value in large] == [x.data_ptr()]


def test_plain_peft_is_left_where_layers_are_not_packed() -> None:
    config = with_packed_layers(LoraConfig(r=2, target_modules=["proj"]))
    model = get_peft_model(One(nn.Linear(8, 8)), config)
    assert type(model.base_model.model.proj) is Linear


def test_an_adapter_switched_off_or_second_goes_peft_s_way() -> None:
    model = with_lora(packed(), ours=True)
    layer = model.base_model.model.proj
    assert isinstance(layer, PackedLora)
    x = torch.randn(3, COLUMNS)
    with model.disable_adapter():
        torch.testing.assert_close(model(x), layer.base_layer(x))
    assert (model(x) - layer.base_layer(x)).abs().max() > 0.1
    model.add_adapter("other", LoraConfig(r=2, target_modules=["proj"]))
    model.set_adapter("other")
    torch.testing.assert_close(model(x), layer.base_layer(x))  # its B is zeros
    model.base_model.set_adapter(["default", "other"])
    assert layer.only_adapter(x.dtype) is None


def test_no_gradient_is_made_for_an_input_that_wants_none() -> None:
    model = with_lora(packed(), ours=True)
    model(torch.randn(3, COLUMNS)).sum().backward()
    assert all(value.grad is not None for value in model.parameters() if value.requires_grad)


@pytest.mark.slow
@pytest.mark.parametrize("use_dora", [False, True])
def test_a_compiled_layer_gives_the_same(use_dora: bool) -> None:
    settings = {"use_dora": use_dora, "ours": True}
    wanted = list(forward_and_gradients(with_lora(packed(), **settings), torch.float32))
    model = with_lora(packed(), **settings)
    model.base_model.model.compile(fullgraph=True)
    found = list(forward_and_gradients(model, torch.float32))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_layers_that_share_an_input_drop_each_for_itself_also_when_compiled() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = packed(), packed()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.one(x), self.other(x)

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_dropout=0.5, target_modules=["one", "other"])
    model = get_peft_model(Two(), with_packed_layers(config))
    for name, value in model.named_parameters():
        if "lora" in name:
            value.data.fill_(0.1)
    model.base_model.model.compile(fullgraph=True)
    one, other = model(torch.randn(3, COLUMNS).requires_grad_())
    assert (one - other).abs().max() > 0.01
