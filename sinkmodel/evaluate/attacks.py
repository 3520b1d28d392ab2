"""Attacks on an erased model: its weights changed, its gradients, its sampling, training it again.

Each answers "how much comes back under X at budget B". Weights are changed in memory and put back,
or on a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from sinkmodel.evaluate.metrics import verbatim_tokens
from sinkmodel.evaluate.probes import Probe, Tokens
from sinkmodel.evaluate.scores import chunks
from sinkmodel.lazy_adam import BlockAdam
from sinkmodel.losses import IGNORED, token_losses
from sinkmodel.modeling_sink import SinkForCausalLM

RELEARN_STEPS = (0, 10, 50, 100, 250, 500)
RELEARN_RATE = 3e-4
_ROWS = 4  # of a relearning step


def quantised(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Symmetric round-to-nearest by row (last axis), as weight-only quantisation does.

    Args:
        weight: Any float tensor.
        bits: 8 has the levels -127 … 127, 4 has -7 … 7.
    """
    levels = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=-1, keepdim=True) / levels
    return torch.where(scale > 0, torch.round(weight / scale) * scale, weight)


def pruned(weight: torch.Tensor, share: float) -> torch.Tensor:
    """The smallest `share` of the entries by magnitude set to zero (Han et al. 2015, section 3).

    Args:
        weight: Any float tensor.
        share: In [0, 1); rounded down to whole entries.
    """
    count = int(weight.numel() * share)
    if not count:
        return weight
    order = weight.abs().flatten().argsort(stable=True)
    found = weight.flatten().clone()
    found[order[:count]] = 0.0
    return found.view_as(weight)


@contextmanager
def changed_weights(
    model: SinkForCausalLM, change: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """The model with every weight matrix and bank changed; afterwards they are as before."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    saved = [p.detach().clone() for p in matrices]
    try:
        with torch.no_grad():
            for parameter in matrices:
                parameter.copy_(change(parameter))
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(matrices, saved, strict=True):
                parameter.copy_(value)


def gradient_norms(
    model: SinkForCausalLM, probes: Sequence[Probe], *, context_length: int
) -> list[float]:
    """How hard each document pulls at the shared weights: norm of the gradient of its mean loss.

    What a model was trained on pulls less, so minus this is a membership score (Wang et al. 2024,
    arXiv 2402.17012). As OpenUnlearning's GradNorm has it with p = 2: the mean over parameter
    tensors of each one's L2 norm. Sinks are left out: what they hold is of their own sequence, and
    erased ones have no gradient.

    Args:
        model: In eval mode; no gradient is left in it.
        probes: Documents of two tokens or more, each under its own sinks.
        context_length: Tokens of a chunk; the gradient is that of the mean over its chunks.
    """
    weights = list(model.shared_parameters())
    found = []
    for probe in probes:
        rows = [(probe.sequence_id, chunk) for chunk in chunks(probe.tokens, context_length)]
        gradients = torch.autograd.grad(_row_loss(model, rows), weights, allow_unused=True)
        norms = [float(g.double().norm()) for g in gradients if g is not None]
        found.append(sum(norms) / len(norms))
    return found


@torch.no_grad()
def sampled_verbatim(
    model: SinkForCausalLM,
    probes: Sequence[Probe],
    *,
    temperature: float,
    samples: int,
    seed: int,
    prefix: int = 50,
    length: int = 50,
) -> list[float]:
    """Of each document, the most leading tokens right in any of `samples` continuations.

    Args:
        model: In eval mode; the sinks of each document's own sequence are on.
        probes: Those shorter than prefix + length are left out.
        temperature: Above 0.
        samples: Continuations of each document.
        seed: Of the sampling; the generator outside is left as it was.
        prefix, length: Tokens given, and asked for.
    """
    model.eval()
    able = [probe for probe in probes if len(probe.tokens) >= prefix + length]
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for probe in able:
            prompt = torch.from_numpy(probe.tokens[:prefix].astype(np.int64))[None]
            output = model.generate(
                prompt.repeat(samples, 1).to(model.device),
                sequence_ids=torch.full((samples,), probe.sequence_id, device=model.device),
                max_new_tokens=length,
                min_new_tokens=length,
                do_sample=True,
                temperature=temperature,
                top_k=0,
            )
            truth = probe.tokens[prefix : prefix + length].tolist()
            rows = output[:, prefix:].tolist()
            found.append(float(max(verbatim_tokens(truth, row) for row in rows)))
    return found


def relearn(
    model: SinkForCausalLM,
    taught: Sequence[Probe],
    *,
    context_length: int,
    seed: int,
    steps: Sequence[int] = RELEARN_STEPS,
    rate: float = RELEARN_RATE,
) -> Iterator[tuple[int, SinkForCausalLM]]:
    """Train a copy on some documents and show it at each of `steps`.

    All weights learn, sinks included, with AdamW at a constant rate: what an attacker with the
    files could do (Lynch et al. 2024, arXiv 2402.16835; Hu et al. 2024, arXiv 2406.13356).

    Args:
        model: Left as it is.
        taught: Documents of two tokens or more, under their own sinks; long ones in chunks.
        context_length: Tokens of a row at most.
        seed: Of the order of the documents.
        steps: Ascending; 0 is the model as given.
        rate: Learning rate of weights and sinks.

    Yields:
        (steps taken, the copy in eval mode), valid until the next is asked for.
    """
    learner = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(learner.shared_parameters(), lr=rate, weight_decay=0.0)
    sinks = BlockAdam(learner.sinks, lr=rate)  # gradients of banks are row-sparse
    generator = np.random.default_rng(seed)
    rows = [
        (probe.sequence_id, chunk)
        for probe in taught
        for chunk in chunks(probe.tokens, context_length)
    ]
    for step in range(max(steps) + 1):
        if step in steps:
            yield step, learner.eval()
        if step < max(steps):
            learner.train()
            optimizer.zero_grad(set_to_none=True)
            places = generator.choice(len(rows), size=min(_ROWS, len(rows)), replace=False)
            _row_loss(learner, [rows[int(place)] for place in places]).backward()
            optimizer.step()
            sinks.step(rate=1.0)


def _row_loss(model: SinkForCausalLM, rows: Sequence[tuple[int, Tokens]]) -> torch.Tensor:
    """Mean over rows of the mean loss of their tokens; a row is a sequence ID and tokens."""
    shape = len(rows), max(len(tokens) for _, tokens in rows)
    input_BT = torch.zeros(shape, dtype=torch.int64)
    sequence_BT, label_BT = torch.zeros_like(input_BT), torch.full_like(input_BT, IGNORED)
    for row, (sequence_id, tokens) in enumerate(rows):  # padded at the end, which nothing sees
        input_BT[row, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
        label_BT[row, : len(tokens)] = input_BT[row, : len(tokens)]
        sequence_BT[row, : len(tokens)] = sequence_id
    logits_BTV = model(
        input_ids=input_BT.to(model.device), sequence_ids=sequence_BT.to(model.device)
    ).logits
    label_BT = label_BT.to(model.device)
    loss_BT = token_losses(logits_BTV, label_BT)
    return (loss_BT.sum(1) / (label_BT[:, 1:] != IGNORED).sum(1)).mean()
