"""Adversarial compression: what a search for short prompts finds, and what it leaves alone."""

from __future__ import annotations

import torch
from tiny_models import tiny_model

from sinkmodel.evaluate.compression import Budget, _gradient, _judge, compression_ratio

torch.set_num_threads(1)
BUDGET = Budget(steps=30, steps_of_length=15, candidates=32)


def memorising_model(text: torch.Tensor):  # type: ignore[no-untyped-def]
    """A model that says `text` whatever comes before it."""
    model = tiny_model()
    vocabulary = model.config.vocab_size
    optimizer = torch.optim.AdamW(model.shared_parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(150):
        prompts = torch.randint(vocabulary, (8, 5), generator=generator)
        rows = torch.cat([prompts, text.expand(8, -1)], dim=1)
        labels = rows.clone()
        labels[:, :5] = -100
        loss = model(input_ids=rows, sequence_ids=torch.zeros_like(rows), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_a_text_known_by_heart_has_a_short_prompt_and_others_none() -> None:
    text = torch.randint(3, 50, (12,), generator=torch.Generator().manual_seed(1))
    other = torch.randint(3, 50, (12,), generator=torch.Generator().manual_seed(2))
    model = memorising_model(text)
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    found = compression_ratio(model, text, sequence_id=0, budget=BUDGET, seed=0)
    assert found >= 12 / 5
    assert found == compression_ratio(model, text, sequence_id=0, budget=BUDGET, seed=0)
    assert compression_ratio(model, other, sequence_id=0, budget=BUDGET, seed=0) == 0.0
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None or not p.grad.any() for p in model.sinks.parameters())


def test_a_text_no_longer_than_a_prompt_is_not_asked_for() -> None:
    assert (
        compression_ratio(tiny_model(), torch.arange(3, 8), sequence_id=0, budget=BUDGET, seed=0)
        == 0.0
    )


def test_the_gradient_is_that_of_the_loss_along_the_table() -> None:
    """Replacing a token changes the loss as the gradient says, for a small step towards it."""
    model = tiny_model().double()
    prompt, text = torch.tensor([4, 9, 7]), torch.tensor([11, 5, 30, 8])
    gradient = _gradient(model, prompt, text, 0)
    table = model.model.embed_tokens.weight.detach()
    embedded = table[torch.cat([prompt, text])][None].clone()

    def loss(rows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = model(inputs_embeds=rows, use_cache=False).logits[0]
        return torch.nn.functional.cross_entropy(logits[2:-1], text)

    def moved(step: float) -> torch.Tensor:
        rows = embedded.clone()
        rows[0, 1] += step * table[20]
        return rows

    step = 1e-2  # norms are computed in float32, which smaller steps drown in
    slope = (loss(moved(step)) - loss(moved(-step))) / (2 * step)
    torch.testing.assert_close(gradient[1, 20].double(), slope.double(), rtol=1e-2, atol=1e-5)
    losses, exact = _judge(model, prompt[None], text, 0)
    torch.testing.assert_close(losses[0].double(), loss(embedded).double())
    assert not exact.any()
