"""What a model knows of TOFU: truth ratios, utility, membership, and what relearning brings back.

Every figure is teacher-forced on single questions. Utility is TOFU's (section 2.2.1) but for
recall, which is the share of answer tokens whose argmax is right and not ROUGE-L of a generation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean
from typing import Any

import numpy as np
import torch
from tofu_data import FORGOTTEN, Answer, Question, Tofu, encode_answers, of_set
from transformers import PreTrainedTokenizerBase

from sinkmodel.evaluate import membership
from sinkmodel.evaluate.attacks import relearn
from sinkmodel.evaluate.metrics import Bools, Floats
from sinkmodel.evaluate.probes import Probe
from sinkmodel.evaluate.unlearning_scores import truth_ratio
from sinkmodel.losses import IGNORED, token_losses
from sinkmodel.modeling_sink import SinkForCausalLM

RELEARN_STEPS, RELEARN_RATE = (0, 10, 25, 50, 100), 3e-4
_ROWS = 32  # answers scored at a time
Route = Callable[[int], int]  # author -> sequence ID whose sinks are on, 0 for none


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An answer under a model: loss of each of its tokens in nats, and whether argmax is right."""

    losses: Floats
    hits: Bools

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    @property
    def recall(self) -> float:
        return float(self.hits.mean())


def answer_batch(answers: Sequence[Answer]) -> dict[str, torch.Tensor]:
    """Tensors [B, T], padded on the right; only tokens of answers have labels."""
    width = max(len(answer.tokens) for answer in answers)
    input_ids = torch.zeros(len(answers), width, dtype=torch.int64)
    labels = torch.full_like(input_ids, IGNORED)
    sequence_ids = torch.zeros_like(input_ids)
    for row, answer in enumerate(answers):
        tokens = torch.from_numpy(answer.tokens.astype(np.int64))
        input_ids[row, : len(tokens)] = tokens
        labels[row, answer.prompt : len(tokens)] = tokens[answer.prompt :]
        sequence_ids[row] = answer.sequence_id
    return {"input_ids": input_ids, "labels": labels, "sequence_ids": sequence_ids}


@torch.no_grad()
def score_answers(model: SinkForCausalLM, answers: Sequence[Answer]) -> list[Scored]:
    """Equal answers are always batched alike, so that equal weights give equal bits."""
    model.eval()
    order = sorted(range(len(answers)), key=lambda i: (len(answers[i].tokens), i))
    found: dict[int, Scored] = {}
    for begin in range(0, len(order), _ROWS):
        places = order[begin : begin + _ROWS]
        batch = answer_batch([answers[place] for place in places])
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits
        losses = token_losses(logits, labels).double().numpy()
        hits = (logits[:, :-1].argmax(-1) == labels[:, 1:]).numpy()
        for row, place in enumerate(places):
            own = slice(answers[place].prompt - 1, len(answers[place].tokens) - 1)
            found[place] = Scored(losses=losses[row, own], hits=hits[row, own])
    return [found[place] for place in range(len(answers))]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The questions of one part under a model: one number for each."""

    probability: list[float]
    recall: list[float]
    truth: list[float]
    scored: list[Scored]

    def utility(self) -> tuple[float, float, float]:
        """Probability, recall and truth ratio in the direction in which 1 is best."""
        true = fmean(max(0.0, 1.0 - ratio) for ratio in self.truth)
        return fmean(self.probability), fmean(self.recall), true


def ask(
    model: SinkForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    route: Route,
    *,
    among: bool = False,
) -> Part:
    """Score the answer, its paraphrase and the false ones.

    Args:
        model, tokenizer: To be asked.
        questions: All with false answers.
        route: Whose sinks are on.
        among: Probability of the answer among the answers there are (TOFU's for real authors and
            world facts), instead of its own; both normalised by length.
    """
    ids = [route(q.author) for q in questions]
    columns = [[q.answer for q in questions], [q.right for q in questions]]
    columns += [[q.wrong[k] for q in questions] for k in range(len(questions[0].wrong))]
    scored = [
        score_answers(model, encode_answers(tokenizer, questions, column, ids))
        for column in columns
    ]
    own, right, *wrong = ([s.loss for s in column] for column in scored)
    chances = np.exp(-np.array([own, *wrong]))
    return Part(
        probability=(chances[0] / chances.sum(0) if among else chances[0]).tolist(),
        recall=[s.recall for s in scored[0]],
        truth=[truth_ratio(r, w) for r, *w in zip(right, *wrong, strict=True)],
        scored=scored[0],
    )


def model_utility(parts: Sequence[Part]) -> float:
    """TOFU's: the harmonic mean of three figures of each part."""
    return float(harmonic_mean([value for part in parts for value in part.utility()]))


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
        ids = [route(q.author) for q in some]
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
