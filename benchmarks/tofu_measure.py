"""What a model knows of TOFU: truth ratios, utility, membership, and what relearning brings back.

Every figure is teacher-forced on single questions. Utility is TOFU's (section 2.2.1) but for
recall, which is the share of answer tokens whose argmax is right and not ROUGE-L of a generation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from tofu_data import FORGOTTEN, Tofu, of_set
from transformers import PreTrainedTokenizerBase

from sinkmodel.evaluate import membership
from sinkmodel.evaluate.attacks import relearn
from sinkmodel.evaluate.metrics import Floats
from sinkmodel.evaluate.probes import Probe
from sinkmodel.evaluate.questions import (
    Answer,
    Question,
    Route,
    Scored,
    ask,
    encode_answers,
    model_utility,
    score_answers,
)
from sinkmodel.modeling_sink import SinkForCausalLM

RELEARN_STEPS, RELEARN_RATE = (0, 10, 25, 50, 100), 3e-4


def measure(
    model: SinkForCausalLM, tokenizer: PreTrainedTokenizerBase, tofu: Tofu, route: Route
) -> dict[str, Any]:
    """All figures but relearning, as JSON values.

    `truth` are forget10's questions in order; `kept_sha256` is over every loss of a kept answer, so
    that equal digests are utility unchanged to the bit.
    """
    kept = ask(model, tokenizer, tofu.kept, route)
    real = ask(model, tokenizer, tofu.real_authors, route, among=True)
    facts = ask(model, tokenizer, tofu.world_facts, route, among=True)
    forget = ask(model, tokenizer, tofu.forget, route)
    losses = [s.losses for part in (kept, real, facts) for s in part.scored]
    return {
        "kept_sha256": hashlib.sha256(np.concatenate(losses).tobytes()).hexdigest(),
        "kept_utility": model_utility([kept]),
        "utility": model_utility([kept, real, facts]),
        "kept_recall": fmean(kept.recall),
        "forget_recall": fmean(forget.recall),
        "truth": [round(ratio, 6) for ratio in forget.truth],
        "membership": membership_of(model, tokenizer, tofu, forget.scored),
    }


def forget_truth(
    model: SinkForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    route: Route,
) -> list[float]:
    """Truth ratios alone."""
    return ask(model, tokenizer, questions, route).truth


def membership_of(
    model: SinkForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    tofu: Tofu,
    forgotten: Sequence[Scored],
) -> dict[str, dict[str, list[float]]]:
    """AUC and its interval by set and score: forgotten answers against those of unseen authors."""
    texts = [q.answer for q in tofu.never]
    never = score_answers(model, encode_answers(tokenizer, tofu.never, texts, [0] * len(texts)))
    others = _membership_scores(never, texts)
    found: dict[str, dict[str, list[float]]] = {}
    for name in FORGOTTEN:
        some = of_set(tofu.forget, name)
        mine = _membership_scores(forgotten[-len(some) :], [q.answer for q in some])
        found[name] = {
            a.score: [a.auc, a.low or 0.0, a.high or 1.0]
            for a in membership.attacks(mine, others, seed=0)
        }
    return found


def _membership_scores(scored: Sequence[Scored], texts: Sequence[str]) -> dict[str, Floats]:
    pairs = list(zip(scored, texts, strict=True))
    return {
        "loss": np.array([membership.loss_score(s.losses) for s in scored]),
        "zlib": np.array([membership.zlib_score(s.losses, text.encode()) for s, text in pairs]),
        "min_k": np.array([membership.min_k_score(s.losses) for s in scored]),
    }


def relearning(
    model: SinkForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    route: Route,
    *,
    seed: int,
    context_length: int,
) -> Iterator[Mapping[str, float]]:
    """Teach half of the questions, and ask for the other half after some steps.

    Questions of an author are on both sides, as easy as it can be for the attacker.

    Yields:
        step, and mean loss and recall of the answers that were not taught.
    """
    order = np.random.default_rng(seed).permutation(len(questions))
    halves = np.array_split(order, 2)
    taught, asked = ([questions[i] for i in sorted(half)] for half in halves)

    def encoded(some: Sequence[Question]) -> list[Answer]:
        ids = [route(q.owner) for q in some]
        return encode_answers(tokenizer, some, [q.answer for q in some], ids)

    probes = [
        Probe(key=("tofu", str(i)), sequence_id=a.sequence_id, tokens=a.tokens, text=a.text)
        for i, a in enumerate(encoded(taught))
    ]
    answers = encoded(asked)
    learning = relearn(
        model,
        probes,
        context_length=context_length,
        seed=seed,
        steps=RELEARN_STEPS,
        rate=RELEARN_RATE,
    )
    for step, learner in learning:
        scored = score_answers(learner, answers)
        yield {
            "step": step,
            "loss": fmean(s.loss for s in scored),
            "recall": fmean(s.recall for s in scored),
        }
