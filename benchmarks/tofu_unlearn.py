"""Post-hoc unlearning of TOFU by the objectives of `sinkmodel.evaluate.baselines`."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from sinkmodel.evaluate.baselines import Answers, unlearning_loss
from sinkmodel.evaluate.questions import Answer, answer_batch
from sinkmodel.losses import IGNORED, next_labels, token_losses
from sinkmodel.modeling_sink import SinkForCausalLM

STEPS = (10, 30, 100)  # where the model is looked at
_ROWS = 8  # answers to forget in a step, and as many to retain


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The model after so many steps; valid until the next is asked for."""

    step: int
    model: SinkForCausalLM
    seconds: float  # processor time of training so far


def log_probs(model: SinkForCausalLM, answers: Sequence[Answer]) -> Answers:
    """Of each answer, summed over its tokens; with gradients where they are on."""
    batch = answer_batch(answers)
    labels = batch.pop("labels")
    losses = token_losses(model(**batch, use_cache=False).logits, labels)
    lengths = (next_labels(labels) != IGNORED).sum(1)
    return Answers(log_probs=-losses.sum(1), lengths=lengths)


def unlearn(
    model: SinkForCausalLM,
    method: str,
    forget: Sequence[Answer],
    retain: Sequence[Answer],
    *,
    rate: float,
    seed: int,
    steps: Sequence[int] = STEPS,
) -> Iterator[Stop]:
    """Train a copy by one objective and show it at each of `steps`.

    Args:
        model: Left as it is; the reference of NPO.
        method: One of `baselines.METHODS`.
        forget: Answers to forget, taken in a new order in every pass.
        retain: Answers to keep; as many as are forgotten are drawn anew in each step.
        rate: Of AdamW, constant.
        seed: Of both orders.
        steps: Ascending.
    """
    learner = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=rate, weight_decay=0.01)
    generator = np.random.default_rng(seed)
    waiting: list[int] = []
    seconds = 0.0
    for step in range(1, max(steps) + 1):
        begin = time.process_time()
        learner.train()
        if not waiting:
            waiting = generator.permutation(len(forget)).tolist()
        chosen, waiting = waiting[:_ROWS], waiting[_ROWS:]
        drawn = generator.choice(len(retain), size=len(chosen), replace=False)
        some = [forget[i] for i in chosen]
        loss = _loss(learner, model, method, some, [retain[i] for i in drawn])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        seconds += time.process_time() - begin
        if step in steps:
            yield Stop(step=step, model=learner.eval(), seconds=seconds)


def _loss(
    learner: SinkForCausalLM,
    reference: SinkForCausalLM,
    method: str,
    forget: Sequence[Answer],
    retain: Sequence[Answer],
) -> torch.Tensor:
    mine = log_probs(learner, forget)
    if method == "NPO":
        with torch.no_grad():
            known = log_probs(reference, forget).log_probs
        mine = replace(mine, reference=known)
    # Gradient ascent reads no retained answers, so it does not pay for them.
    others = mine if method == "gradient ascent" else log_probs(learner, retain)
    return unlearning_loss(method, mine, others)
