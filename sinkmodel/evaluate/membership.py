"""Membership inference: does a score tell trained documents from reserved ones?

Every score is larger for what looks more like a member. Members and non-members must come from one
distribution, which is why reference documents are reserved when IDs are assigned.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sinkmodel.evaluate.metrics import MIN_SAMPLES, Floats

MIN_K_SHARE = 0.2
_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Attack:
    """How well one score separates members from non-members.

    Args:
        auc: Area under the ROC curve; 0.5 is blind, both sides of it are a leak.
        tpr_at_1_fpr: True positive rate at 1 % false positives (Carlini et al. 2022,
            arXiv 2112.03570, section IV).
        low, high: 95 % bootstrap interval of the AUC; None below `MIN_SAMPLES` of either side.
    """

    score: str
    n_members: int
    n_non_members: int
    auc: float
    tpr_at_1_fpr: float
    low: float | None
    high: float | None


def loss_score(token_losses: Floats) -> float:
    """Minus the mean loss (Yeom et al. 2018, arXiv 1709.01604)."""
    return -float(token_losses.mean())


def zlib_score(token_losses: Floats, text: bytes) -> float:
    """Minus total loss over zlib size (Carlini et al. 2021, arXiv 2012.07805, section 5.2)."""
    return -float(token_losses.sum()) / len(zlib.compress(text))


def min_k_score(token_losses: Floats, share: float = MIN_K_SHARE) -> float:
    """Mean log-probability of the least likely `share` (Shi et al. 2024, arXiv 2310.16789)."""
    count = max(1, int(len(token_losses) * share))
    return -float(np.sort(token_losses)[-count:].mean())


def min_k_plus_score(
    token_losses: Floats, means: Floats, deviations: Floats, share: float = MIN_K_SHARE
) -> float:
    """Min-K%++ (Zhang et al. 2024, arXiv 2404.02936): log-probabilities standardised by token.

    Args:
        token_losses: [L], minus log-probability of the true token.
        means: [L], expected log-probability under the model's own distribution.
        deviations: [L], its standard deviation.
        share: Of the least likely tokens.
    """
    standard = (-token_losses - means) / np.maximum(deviations, 1e-6)
    count = max(1, int(len(standard) * share))
    return float(np.sort(standard)[:count].mean())


def attack(name: str, members: Floats, non_members: Floats, *, seed: int) -> Attack:
    """AUC, TPR at 1 % FPR and a bootstrap interval for one score.

    Args:
        name: Of the score.
        members, non_members: float64 scores; both must hold two or more.
        seed: Of the bootstrap.

    Raises:
        ValueError: Too few of either, or a score that is not a number: no default AUC exists.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    if len(members) < 2 or len(non_members) < 2:
        raise ValueError(f"{len(members)} members and {len(non_members)} non-members: need 2 each")
    scores = np.concatenate([members, non_members])
    labels = np.concatenate([np.ones(len(members)), np.zeros(len(non_members))])
    if not np.isfinite(scores).all():
        raise ValueError(f"score {name} is not finite")
    false_rate, true_rate, _ = roc_curve(labels, scores)
    low, high = _interval(members, non_members, seed)
    return Attack(
        score=name,
        n_members=len(members),
        n_non_members=len(non_members),
        auc=float(roc_auc_score(labels, scores)),
        tpr_at_1_fpr=float(true_rate[false_rate <= 0.01].max()),
        low=low,
        high=high,
    )


def auc(members: Floats, non_members: Floats) -> float:
    """Share of pairs in which the member scores higher, ties half (Mann & Whitney 1947).

    Equal to scikit-learn's `roc_auc_score`, and fast enough to be resampled.

    Args:
        members, non_members: float64 scores, at least one each.
    """
    ordered = np.sort(non_members)
    below = np.searchsorted(ordered, members, side="left")
    up_to = np.searchsorted(ordered, members, side="right")
    return float((below + up_to).mean() / (2 * len(ordered)))


def _interval(
    members: Floats, non_members: Floats, seed: int
) -> tuple[float, float] | tuple[None, None]:
    if min(len(members), len(non_members)) < MIN_SAMPLES:
        return None, None
    generator = np.random.default_rng(seed)
    resampled = [
        auc(
            generator.choice(members, len(members)),
            generator.choice(non_members, len(non_members)),
        )
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def attacks(
    members: Mapping[str, Floats], non_members: Mapping[str, Floats], *, seed: int
) -> list[Attack]:
    """`attack` for every score that both sides have, by name."""
    return [attack(name, members[name], non_members[name], seed=seed) for name in sorted(members)]
