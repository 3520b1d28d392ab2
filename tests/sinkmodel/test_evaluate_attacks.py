"""Attacks and scores of the literature, on examples worked out by hand."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from sinkmodel.evaluate.attacks import (
    _row_loss,
    changed_weights,
    gradient_norms,
    pruned,
    quantised,
    relearn,
    sampled_verbatim,
)
from sinkmodel.evaluate.probes import Probe
from sinkmodel.evaluate.scores import own_sinks, score
from sinkmodel.evaluate.unlearning_scores import forget_quality, privacy_leakage, truth_ratio

torch.set_num_threads(1)


def probe(sequence_id: int, length: int = 30) -> Probe:
    random = np.random.default_rng(sequence_id)
    tokens = random.integers(3, 50, length).astype(np.int32)
    return Probe(key=("s", str(sequence_id)), sequence_id=sequence_id, tokens=tokens, text=b"x")


def test_quantised_by_hand() -> None:
    row = torch.tensor([[7.0, -3.4, 0.6, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert quantised(row, 4).tolist() == [[7.0, -3.0, 1.0, 0.0], [0.0] * 4]
    assert (quantised(row, 8) - row).abs().max() <= 7.0 / 127 / 2 + 1e-6


def test_pruned_by_hand() -> None:
    weight = torch.tensor([[1.0, -0.1], [0.2, -3.0]])
    assert pruned(weight, 0.5).tolist() == [[1.0, 0.0], [0.0, -3.0]]
    assert pruned(weight, 0.24).equal(weight)


def test_weights_come_back_to_the_bit_also_after_an_error() -> None:
    model = tiny_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    with changed_weights(model, torch.zeros_like):
        assert not model.lm_head.weight.any()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    with pytest.raises(RuntimeError), changed_weights(model, torch.zeros_like):
        torch.zeros(2) @ torch.zeros(3)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_gradient_norm_is_that_of_the_documents_mean_loss() -> None:
    model, some = tiny_model(), probe(1, length=20)
    (found,) = gradient_norms(model, [some], context_length=64)
    assert all(parameter.grad is None for parameter in model.parameters())
    tokens = torch.from_numpy(some.tokens.astype(np.int64))[None]
    model(input_ids=tokens, sequence_ids=torch.full_like(tokens, 1), labels=tokens).loss.backward()
    norms = [p.grad.norm() for p in model.shared_parameters() if p.grad is not None]
    assert found == pytest.approx(float(torch.stack(norms).mean()), rel=1e-5)
    # Along the whole gradient the loss rises with its norm.
    whole = float(torch.stack(norms).square().sum().sqrt())
    losses = []
    for step in (-1e-4, 1e-4):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            pairs = zip(moved.shared_parameters(), model.shared_parameters(), strict=True)
            for parameter, other in pairs:
                if other.grad is not None:
                    parameter += step * other.grad / whole
        losses.append(score(moved, [some], context_length=64)[0].loss)
    assert (losses[1] - losses[0]) / 2e-4 == pytest.approx(whole, rel=1e-2)


def test_relearning_teaches_the_copy_and_leaves_the_model() -> None:
    model, taught = tiny_model(), [probe(1), probe(2)]
    before = {name: p.clone() for name, p in model.named_parameters()}
    losses = {}
    for step, learner in relearn(model, taught, context_length=64, seed=0, steps=(0, 20, 60)):
        losses[step] = score(learner, taught, context_length=64, route=own_sinks)[0].loss
    assert losses[0] == score(model, taught, context_length=64, route=own_sinks)[0].loss
    assert losses[0] > losses[20] > losses[60]
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_the_loss_of_padded_rows_is_that_of_one_row_after_another() -> None:
    model = tiny_model()
    rows = [(1, probe(1).tokens), (2, probe(2, length=9).tokens), (0, probe(3, length=2).tokens)]
    loss = _row_loss(model, rows)
    loss.backward()
    gradient = model.lm_head.weight.grad.clone()
    model.zero_grad(set_to_none=True)
    naive = []
    for sequence_id, tokens in rows:
        input_ids = torch.from_numpy(tokens.astype(np.int64))[None]
        ids = torch.full_like(input_ids, sequence_id)
        naive.append(model(input_ids=input_ids, sequence_ids=ids, labels=input_ids).loss)
    wanted = torch.stack(naive).mean()
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient, model.lm_head.weight.grad)


def test_every_chunk_of_a_long_document_is_taught() -> None:
    model, taught = tiny_model(), [probe(1, length=60)]
    learning = relearn(model, taught, context_length=20, seed=0, steps=(0, 40))
    first, last = [score(m, taught, context_length=20)[0].losses for _, m in learning]
    chunks = [slice(0, 19), slice(19, 38), slice(38, 57)]
    assert all(last[chunk].mean() < first[chunk].mean() - 0.1 for chunk in chunks)


def test_sampling_is_seeded_and_leaves_the_generator() -> None:
    model, probes = tiny_model(), [probe(1), probe(2, length=5)]
    state = torch.get_rng_state()
    settings = {"temperature": 1.0, "samples": 3, "seed": 1, "prefix": 10, "length": 5}
    first = sampled_verbatim(model, probes, **settings)  # type: ignore[arg-type]
    assert torch.equal(state, torch.get_rng_state())
    assert first == sampled_verbatim(model, probes, **settings)  # type: ignore[arg-type]
    assert len(first) == 1  # the second document is too short to be asked
    assert 0.0 <= first[0] <= 5.0


def test_truth_ratio_by_hand() -> None:
    # Right answer with probability 1/2, wrong ones 1/4 and 1/16 a token. OpenUnlearning averages
    # the losses: exp(-(log 4 + log 16) / 2) = 1/8, over 1/2. (The paper's mean would be 5/16.)
    assert truth_ratio(math.log(2), [math.log(4), math.log(16)]) == pytest.approx(0.25)
    assert truth_ratio(0.0, [20.0]) < 1e-8  # knows the answer by heart
    assert truth_ratio(3.0, [3.0, 3.0]) == pytest.approx(1.0)  # cannot tell
    with pytest.raises(ValueError, match="finite"):
        truth_ratio(1.0, [])
    with pytest.raises(ValueError, match="finite"):
        truth_ratio(math.nan, [1.0])


def test_forget_quality_by_hand() -> None:
    same = [0.1, 0.5, 0.9]
    assert forget_quality(same, same) == 1.0
    # Wholly apart, 3 against 3: of 20 orders two are as extreme, p = 2 / 20.
    assert forget_quality([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="need 2 each"):
        forget_quality([1.0], same)


def test_privacy_leakage_by_hand() -> None:
    # OpenUnlearning, after MUSE: 100 * ((1 - AUC) - (1 - AUC_retrained)) / (1 - AUC_retrained).
    assert privacy_leakage(0.5, 0.5) == 0.0
    assert privacy_leakage(1.0, 0.5) == -100.0
    assert privacy_leakage(0.25, 0.5) == 50.0
    assert privacy_leakage(0.4, 0.2) == pytest.approx(-25.0)
    with pytest.raises(ValueError, match="is 0"):
        privacy_leakage(0.5, 1.0)
