"""Packed rows give the loss and the gradients of their records one by one."""

from __future__ import annotations

import random

import pytest

from llamune.data import IGNORED, Rendered, pack

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="sdpa",
    )
    return transformers.LlamaForCausalLM(config).double()


def records(n_records: int, seed: int) -> list[Rendered]:
    rng = random.Random(seed)
    made = []
    for _ in range(n_records):
        size = rng.randint(2, 20)
        ids = [rng.randrange(50) for _ in range(size)]
        trained = [rng.random() < 0.6 for _ in range(size)]
        made.append(Rendered(ids, trained, False, size))
    return made


def summed_loss(
    model: torch.nn.Module, labels: torch.Tensor, **inputs: torch.Tensor
) -> torch.Tensor:
    logits = model(**inputs, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[0, :-1], labels[0, 1:], ignore_index=IGNORED, reduction="sum"
    )


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("seed", range(4))
def test_packed_loss_and_gradients_equal_the_unpacked_ones(seed: int) -> None:
    model = tiny()
    made = records(7, seed)
    alone = sum(
        summed_loss(
            model,
            torch.tensor([[i if t else IGNORED for i, t in zip(r.ids, r.trained, strict=True)]]),
            input_ids=torch.tensor([r.ids]),
        )
        for r in made
    )
    expected = gradients(model, alone)

    rows = pack(made, 32)
    assert len(rows) < len(made)
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        segments = torch.tensor(row.segment_ids)
        causal = torch.ones(len(row.ids), len(row.ids)).tril().bool()
        block = causal & (segments[:, None] == segments[None, :])  # (queries, keys)
        total = total + summed_loss(
            model,
            torch.tensor([row.labels]),
            input_ids=torch.tensor([row.ids]),
            position_ids=torch.tensor([row.position_ids]),
            attention_mask=block[None, None],
        )
    assert total.item() == pytest.approx(alone.item(), rel=1e-12)
    for name, gradient in gradients(model, total).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


def test_without_the_mask_they_would_differ() -> None:
    model = tiny()
    made = records(7, 0)
    row = pack(made, 200)[0]
    segments = torch.tensor(row.segment_ids)
    causal = torch.ones(len(row.ids), len(row.ids)).tril().bool()
    labels, ids = torch.tensor([row.labels]), torch.tensor([row.ids])
    places = torch.tensor([row.position_ids])
    losses = [
        summed_loss(
            model, labels, input_ids=ids, position_ids=places, attention_mask=mask[None, None]
        ).item()
        for mask in (causal & (segments[:, None] == segments[None, :]), causal)
    ]
    assert abs(losses[0] - losses[1]) > 1e-3
