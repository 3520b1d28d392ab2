"""Next-token losses of packed rows.

Tensor suffixes: B rows, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

IGNORED = -100
"""Label of a token that is not to be predicted, as in torch's cross entropy."""


def token_losses(
    logits_BTV: Tensor, labels_BT: Tensor, position_ids: Tensor | None = None
) -> Tensor:
    """Cross entropy of every token's successor.

    Args:
        logits_BTV: Of `SinkForCausalLM`.
        labels_BT: int64, unshifted; -100 is ignored.
        position_ids: int64 [B, T]; the first token of each packed document is not predicted.

    Returns:
        float32 [B, T - 1], nats; entry t is the loss of predicting token t + 1, 0 where ignored.
    """
    targets = next_labels(labels_BT, position_ids)
    losses = nn.functional.cross_entropy(
        logits_BTV[:, :-1].float().flatten(0, 1),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return losses.view(targets.shape)


def mean_loss(logits_BTV: Tensor, labels_BT: Tensor, position_ids: Tensor | None = None) -> Tensor:
    """Mean of `token_losses` over the tokens that are not ignored; 0 where all are."""
    losses_BT = token_losses(logits_BTV, labels_BT, position_ids)
    counted = (next_labels(labels_BT, position_ids) != IGNORED).sum()
    return losses_BT.sum() / counted.clamp(min=1)


def next_labels(labels_BT: Tensor, position_ids: Tensor | None = None) -> Tensor:
    """What each token is to predict: int64 [B, T - 1], `IGNORED` across documents."""
    targets = labels_BT[:, 1:]
    if position_ids is not None:
        targets = targets.masked_fill(position_ids.diff(dim=1) != 1, IGNORED)
    return targets
