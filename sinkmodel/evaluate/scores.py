"""A model and documents in, numbers for every predicted token out.

B rows in a batch, T tokens in a row, V entries in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sinkmodel.evaluate.metrics import Bools, Floats
from sinkmodel.evaluate.probes import Probe, Tokens
from sinkmodel.modeling_sink import SinkForCausalLM

_LOGIT_BYTES = 1 << 27


@dataclass(frozen=True, kw_only=True)
class DocumentScore:
    """Arrays [L] over the predicted tokens of one document, chunk after chunk.

    Args:
        losses: Minus log-probability of the true token, nats.
        hits: Whether the argmax is the true token.
        means, deviations: Mean and standard deviation of the log-probability under the model's own
            distribution (for Min-K%++).
    """

    key: tuple[str, str]
    losses: Floats
    hits: Bools
    means: Floats
    deviations: Floats

    @property
    def loss(self) -> float:
        """Mean loss, nats per token."""
        return float(self.losses.mean())


def own_sinks(probe: Probe) -> int:
    """Route a document to the sinks of its own sequence."""
    return probe.sequence_id


def no_sinks(probe: Probe) -> int:  # noqa: ARG001
    """Route to no sinks: the backbone alone."""
    return 0


def score(
    model: SinkForCausalLM,
    probes: Sequence[Probe],
    *,
    context_length: int,
    route: Callable[[Probe], int] = own_sinks,
    batch_rows: int | None = None,
) -> list[DocumentScore]:
    """Score every document, cut into chunks of `context_length` as in training.

    Rows hold one chunk each and chunks of one length go together, so nothing is padded. The same
    probes are always batched alike, so that equal weights give equal bits.

    Args:
        model: In eval mode; left in it.
        probes: Documents of two or more tokens.
        context_length: Tokens a chunk.
        route: Sequence ID whose sinks are on for a document; 0 is off.
        batch_rows: Rows at a time; None: as many as keep the logits below 128 MiB, 16 at most.
    """
    model.eval()
    if batch_rows is None:
        row = 4 * context_length * int(model.config.vocab_size)  # float32 logits of one row
        batch_rows = max(1, min(16, _LOGIT_BYTES // row))
    parts: list[list[DocumentScore]] = [[] for _ in probes]
    for batch in _batches(probes, context_length, batch_rows):
        ids = [route(probes[index]) for index, _ in batch]
        scored = _score_rows(model, [tokens for _, tokens in batch], ids)
        for (index, _), part in zip(batch, scored, strict=True):
            parts[index].append(part)
    return [_joined(probe, own) for probe, own in zip(probes, parts, strict=True)]


def chunks(tokens: Tokens, length: int) -> Iterator[Tokens]:
    """Consecutive pieces of `length` tokens; a last one of a single token predicts nothing."""
    for begin in range(0, len(tokens), length):
        if len(tokens) - begin > 1:
            yield tokens[begin : begin + length]


def _batches(probes: Sequence[Probe], length: int, rows: int) -> Iterator[list[tuple[int, Tokens]]]:
    pieces = [
        (index, chunk)
        for index, probe in enumerate(probes)
        for chunk in chunks(probe.tokens, length)
    ]
    # Equal lengths together: no padding, and chunks of one document stay in order.
    pieces.sort(key=lambda piece: -len(piece[1]))
    begin = 0
    while begin < len(pieces):
        size = len(pieces[begin][1])
        end = begin
        while end < len(pieces) and len(pieces[end][1]) == size and end - begin < rows:
            end += 1
        yield pieces[begin:end]
        begin = end


@torch.no_grad()
def _score_rows(model: SinkForCausalLM, rows: list[Tokens], ids: list[int]) -> list[DocumentScore]:
    input_BT = torch.from_numpy(np.stack(rows).astype(np.int64)).to(model.device)
    sequence_BT = torch.tensor(ids, device=model.device)[:, None].expand_as(input_BT).contiguous()
    logits_BTV = model(input_ids=input_BT, sequence_ids=sequence_BT).logits[:, :-1].float()
    target_BT = input_BT[:, 1:]
    log_BTV = torch.log_softmax(logits_BTV, dim=-1)
    loss_BT = -log_BTV.gather(-1, target_BT[..., None])[..., 0]
    hit_BT = log_BTV.argmax(dim=-1) == target_BT
    probability_BTV = log_BTV.exp()
    mean_BT = (probability_BTV * log_BTV).sum(-1)
    variance_BT = (probability_BTV * log_BTV.square()).sum(-1) - mean_BT.square()
    deviation_BT = variance_BT.clamp(min=0).sqrt()
    arrays = [x.cpu().double().numpy() for x in (loss_BT, mean_BT, deviation_BT)]
    hits = hit_BT.cpu().numpy()
    return [
        DocumentScore(
            key=("", ""),
            losses=arrays[0][b],
            hits=hits[b],
            means=arrays[1][b],
            deviations=arrays[2][b],
        )
        for b in range(len(rows))
    ]


def _joined(probe: Probe, parts: list[DocumentScore]) -> DocumentScore:
    return DocumentScore(
        key=probe.key,
        losses=np.concatenate([part.losses for part in parts]),
        hits=np.concatenate([part.hits for part in parts]),
        means=np.concatenate([part.means for part in parts]),
        deviations=np.concatenate([part.deviations for part in parts]),
    )
