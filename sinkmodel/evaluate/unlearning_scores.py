"""Scores of the unlearning literature, as pure functions. Each says which direction it takes.

The literature has two truth ratios; ours is TOFU's on forgotten questions (wrong over right), so
that a model that knows the answer has a ratio near 0, and one that never did about 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import ks_2samp


def truth_ratio(right: float, wrong: Sequence[float]) -> float:
    """Probability of perturbed answers over that of the paraphrased right one.

    As OpenUnlearning and TOFU's own code have it (Maini et al. 2024, arXiv 2401.06121, section
    2.2.2): each probability is normalised by length, exp(-mean token loss), and that of several
    perturbed answers is their geometric mean. (Equation 1 of the paper has the arithmetic one.)

    Args:
        right: Mean loss of the paraphrased right answer, nats per token.
        wrong: Mean loss of each perturbed answer; at least one.

    Raises:
        ValueError: No perturbed answer, or a loss that is not finite.
    """
    if not len(wrong) or not np.isfinite([right, *wrong]).all():
        raise ValueError("truth ratio wants a finite loss of the right and of each wrong answer")
    return float(np.exp(right - np.mean(wrong)))


def forget_quality(unlearned: Sequence[float], retained: Sequence[float]) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test on truth ratios (TOFU, section 2.2.3).

    1: not to be told from a model that never saw the questions; below 0.05: it can be.

    Args:
        unlearned, retained: Truth ratios of both models on the same questions; at least two each.

    Raises:
        ValueError: Too few.
    """
    if min(len(unlearned), len(retained)) < 2:
        raise ValueError(f"{len(unlearned)} and {len(retained)} truth ratios: need 2 each")
    return float(ks_2samp(unlearned, retained).pvalue)


def privacy_leakage(auc: float, auc_retrained: float) -> float:
    """PrivLeak, per cent (MUSE, Shi et al. 2024, arXiv 2407.06460, section 3.1; OpenUnlearning).

    The relative change of 1 - AUC towards a retrained model, the AUC being that of Min-K% with
    *members scoring higher*. 0 is no leak; **below** 0 the documents still look trained on, -100
    like members without doubt; above 0 they look less familiar than unseen ones.

    Raises:
        ValueError: `auc_retrained` is 1: nothing to be relative to.
    """
    if auc_retrained == 1:
        raise ValueError("PrivLeak is relative to 1 - the retrained model's AUC, which is 0")
    return 100.0 * (auc_retrained - auc) / (1.0 - auc_retrained)
