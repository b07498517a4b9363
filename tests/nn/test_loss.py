"""The fused loss equals the naive one in value and gradient, without the full logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llamune.gguf import floats_to_rows, quant_type
from llamune.nn import GrownOutput, PackedLinear, fused_loss, last_rows, loss

N_VOCAB, D_MODEL = 97, 32


def naive(hidden: Tensor, weight: Tensor, labels: Tensor, softcap: float | None) -> Tensor:
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return nn.functional.cross_entropy(logits, labels, ignore_index=-100)


def example(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states, an output matrix, labels of which a third are absent."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(40, D_MODEL, generator=generator)
    weight = torch.randn(N_VOCAB, D_MODEL, generator=generator)
    labels = torch.randint(0, N_VOCAB, (40,), generator=generator)
    labels[::3] = -100
    return hidden, weight, labels


def packed(weight: Tensor, kind: str = "Q8_0") -> PackedLinear:
    rows = floats_to_rows(weight.numpy(), quant_type(kind))
    return PackedLinear(torch.from_numpy(rows), kind, D_MODEL, dtype=torch.float32)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("logits_bytes", [1 << 20, 5 * 4 * N_VOCAB])
@pytest.mark.parametrize("slice_bytes", [1 << 20, 10 * 4 * D_MODEL])
def test_packed_output(
    softcap: float | None, logits_bytes: int, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "LOGITS_BYTES", logits_bytes)
    monkeypatch.setattr(loss, "SLICE_BYTES", slice_bytes)
    hidden, weight, labels = example()
    layer = packed(weight)
    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    found = fused_loss(ours, layer, labels, softcap=softcap)
    wanted = naive(theirs, layer.unpacked(), labels, softcap)
    torch.testing.assert_close(found, wanted)
    (2.0 * found).backward()
    (2.0 * wanted).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_trained_dense_output_gets_its_gradient() -> None:
    hidden, weight, labels = example()
    layer = nn.Linear(D_MODEL, N_VOCAB, bias=False)
    layer.weight = nn.Parameter(weight.clone())
    theirs = weight.clone().requires_grad_()
    fused_loss(hidden, layer, labels).backward()
    naive(hidden, theirs, labels, None).backward()
    torch.testing.assert_close(layer.weight.grad, theirs.grad)


@pytest.mark.parametrize("slice_bytes", [1 << 20, 10 * 4 * D_MODEL])
def test_rows_of_new_tokens_get_their_gradient(
    slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "SLICE_BYTES", slice_bytes)
    monkeypatch.setattr(loss, "LOGITS_BYTES", 7 * 4 * N_VOCAB)
    hidden, weight, labels = example()
    layer = packed(weight)
    grown = GrownOutput(layer, last_rows(layer, 3))
    labels[1:6] = N_VOCAB - 2
    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    whole = layer.unpacked().clone().requires_grad_()
    found = fused_loss(ours, grown, labels, softcap=3.0)
    wanted = naive(theirs, whole, labels, 3.0)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(grown(hidden), hidden @ whole.T)
    (2.0 * found).backward()
    (2.0 * wanted).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert whole.grad is not None
    torch.testing.assert_close(grown.rows.grad, whole.grad[-3:])


def test_any_other_output_module_goes_through_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "LOGITS_BYTES", 7 * 4 * N_VOCAB)
    hidden, _, labels = example()
    layer = nn.Linear(D_MODEL, N_VOCAB, bias=True)
    hidden.requires_grad_()
    found = fused_loss(hidden, layer, labels)
    wanted = nn.functional.cross_entropy(layer(hidden), labels, ignore_index=-100)
    torch.testing.assert_close(found, wanted)


def test_the_sum_is_divided_by_what_the_trainer_says() -> None:
    hidden, weight, labels = example()
    layer = packed(weight)
    n_labels = int((labels != -100).sum())
    whole = fused_loss(hidden, layer, labels, n_items=1)
    torch.testing.assert_close(fused_loss(hidden, layer, labels), whole / n_labels)


def test_no_label_at_all_gives_zero_and_a_gradient_of_zeros() -> None:
    hidden, weight, _ = example()
    hidden.requires_grad_()
    found = fused_loss(hidden, packed(weight), torch.full((40,), -100))
    found.backward()
    assert found.item() == 0.0
    assert hidden.grad is not None and hidden.grad.eq(0).all()


def test_only_a_chunk_of_logits_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "LOGITS_BYTES", 4 * 4 * N_VOCAB)
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            logits = isinstance(out, Tensor) and out.ndim == 2 and out.shape[1] == N_VOCAB
            if logits and out.shape[0] != D_MODEL:  # that is the matrix turned
                largest = max(largest, out.shape[0])
            return out

    hidden, weight, labels = example()
    with Watch():
        fused_loss(hidden, packed(weight), labels)
    assert 0 < largest <= 4


def test_gradient_holds_by_finite_differences() -> None:
    hidden, weight, labels = example()
    layer = packed(weight)
    few = hidden[:4].double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda h: fused_loss(h, layer, labels[:4], softcap=4.0).double(), (few,)
    )
