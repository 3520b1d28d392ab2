"""Unlearning objectives on numbers worked out by hand, and the limits that their papers prove."""

from __future__ import annotations

import math

import pytest
import torch

from sinkmodel.evaluate.baselines import METHODS, Answers, unlearning_loss


def answers(*log_probs: float, lengths: tuple[int, ...], reference: float | None = None) -> Answers:
    values = torch.tensor(log_probs, dtype=torch.float64, requires_grad=True)
    known = None if reference is None else torch.full_like(values, reference).detach()
    return Answers(log_probs=values, lengths=torch.tensor(lengths), reference=known)


FORGET = answers(-2.0, -6.0, lengths=(2, 3), reference=-2.0)
RETAIN = answers(-3.0, lengths=(3,))


def test_each_objective_by_hand() -> None:
    # Mean losses: forget (1 + 2) / 2 = 1.5, retain 1.
    assert unlearning_loss("gradient ascent", FORGET, RETAIN).item() == pytest.approx(-1.5)
    assert unlearning_loss("gradient difference", FORGET, RETAIN).item() == pytest.approx(-0.5)
    # NPO, b = 0.1: log ratios 0 and -4, so 20 * mean(log 2, log(1 + e^-0.4)), and the retain loss.
    npo = 20 * (math.log(2) + math.log1p(math.exp(-0.4))) / 2 + 1
    assert unlearning_loss("NPO", FORGET, RETAIN).item() == pytest.approx(npo)
    # SimNPO, b = 2.5: losses 1 and 2 a token, so -0.8 * mean(log s(2.5), log s(5)), and retain.
    simnpo = 0.8 * (math.log1p(math.exp(-2.5)) + math.log1p(math.exp(-5.0))) / 2 + 1
    assert unlearning_loss("SimNPO", FORGET, RETAIN).item() == pytest.approx(simnpo)


@pytest.mark.parametrize("method", METHODS)
def test_every_objective_pushes_forgotten_answers_down(method: str) -> None:
    (gradient,) = torch.autograd.grad(unlearning_loss(method, FORGET, RETAIN), FORGET.log_probs)
    assert (gradient > 0).all()


def test_npo_tends_to_gradient_ascent_as_beta_goes_to_zero() -> None:
    """Zhang et al. 2024, proposition 1: gradients agree (of the summed log-probability)."""
    loss = unlearning_loss("NPO", FORGET, RETAIN, npo_beta=1e-7)
    (gradient,) = torch.autograd.grad(loss, FORGET.log_probs)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.5), rtol=1e-5, atol=0)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ValueError, match="give reference"):
        unlearning_loss("NPO", answers(-1.0, lengths=(1,)), RETAIN)
    with pytest.raises(ValueError, match="one of gradient ascent"):
        unlearning_loss("wishing", FORGET, RETAIN)
