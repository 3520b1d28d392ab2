"""Post-hoc unlearning objectives, to compare with: they train a model until it seems not to know.

Each is a loss to minimise, of the summed log-probability of every answer. F answers to forget, R to
retain; lengths in tokens, log-probabilities in nats.

    gradient ascent      -(mean loss on F)
    gradient difference  -(mean loss on F) + mean loss on R         Liu et al. 2022 (2203.12817)
    NPO                  (2/b) log(1 + (p/p_ref)^b) on F, + R       Zhang et al. 2024 (2404.05868)
    SimNPO               -(2/b) log s(-(b/|y|) log p - g) on F, + R Fan et al. 2024 (2410.07163)

s is the logistic function; numbers in brackets are arXiv's.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

METHODS = ("gradient ascent", "gradient difference", "NPO", "SimNPO")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers under a model.

    Args:
        log_probs: float [n], summed over the tokens of each answer.
        lengths: int [n], its tokens.
        reference: float [n], `log_probs` under the model before unlearning; only for NPO.
    """

    log_probs: Tensor
    lengths: Tensor
    reference: Tensor | None = None

    def loss(self) -> Tensor:
        """Mean over answers of the mean loss of their tokens."""
        return -(self.log_probs / self.lengths).mean()


def unlearning_loss(
    method: str,
    forget: Answers,
    retain: Answers,
    *,
    npo_beta: float = 0.1,
    simnpo_beta: float = 2.5,
    simnpo_gamma: float = 0.0,
) -> Tensor:
    """The objective of one of `METHODS`, a scalar to minimise.

    Args:
        method: Which.
        forget, retain: Answers under the model that learns.
        npo_beta, simnpo_beta, simnpo_gamma: As in the papers, with their TOFU defaults.

    Raises:
        ValueError: No such method, or NPO without a reference.
    """
    if method == "gradient ascent":
        return -forget.loss()
    if method == "gradient difference":
        return -forget.loss() + retain.loss()
    if method == "NPO":
        if forget.reference is None:
            raise ValueError("NPO compares with the model before unlearning: give reference")
        ratios = forget.log_probs - forget.reference
        return -(2 / npo_beta) * logsigmoid(-npo_beta * ratios).mean() + retain.loss()
    if method == "SimNPO":
        margins = -simnpo_beta * forget.log_probs / forget.lengths - simnpo_gamma
        return -(2 / simnpo_beta) * logsigmoid(margins).mean() + retain.loss()
    raise ValueError(f"method {method!r}: one of {', '.join(METHODS)}")
