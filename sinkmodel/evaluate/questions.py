"""Questions with answers: how well a model knows them, and whether it can be told from another.

Everything is teacher-forced. A question may have its answer in other words (`right`) and false
answers (`wrong`); the truth ratio needs both, and is taken as TOFU takes it on forgotten questions:
wrong over right, near 0 for a model that knows the answer, about 1 for one that never did.

B answers in a batch, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from sinkmodel.evaluate.metrics import Bools, Floats
from sinkmodel.evaluate.unlearning_scores import truth_ratio
from sinkmodel.losses import IGNORED, token_losses
from sinkmodel.modeling_sink import SinkForCausalLM

TEMPLATE = "Question: {question}\nAnswer:"
"""What stands before an answer, and so what a question has to look like in the trained text."""
_ROWS = 32  # answers scored at a time


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question.

    Attributes:
        owner: Whose sinks answer it, by any number that the caller's `Route` understands.
        question, answer: As they are trained.
        right: The answer in other words, or the answer itself where there are none.
        wrong: The same sentence with a false statement; empty where there is none.
    """

    owner: int
    question: str
    answer: str
    right: str
    wrong: tuple[str, ...]


Route = Callable[[int], int]  # `Question.owner` -> sequence ID whose sinks are on, 0 for none


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer to be scored.

    Attributes:
        tokens: int32 [n], begin token, question and answer.
        prompt: How many of them come before the answer.
        sequence_id: Whose sinks are on; 0 is none.
        text: Of the answer, for scores that compress.
    """

    tokens: npt.NDArray[np.int32]
    prompt: int
    sequence_id: int
    text: bytes


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An answer under a model: loss of each of its tokens in nats, and whether argmax is right."""

    losses: Floats
    hits: Bools

    @property
    def loss(self) -> float:
        """Mean loss, nats per token."""
        return float(self.losses.mean())

    @property
    def recall(self) -> float:
        """Share of the answer's tokens whose argmax is right."""
        return float(self.hits.mean())


@dataclass(frozen=True, kw_only=True)
class Part:
    """Questions under a model.

    Attributes:
        probability: Of each answer, exp(-mean loss), or its share among the answers there are.
        recall: Share of each answer's tokens whose argmax is right.
        truth: Truth ratio of each question that has false answers.
        scored: Each answer's tokens.
    """

    probability: list[float]
    recall: list[float]
    truth: list[float]
    scored: list[Scored]

    def utility(self) -> tuple[float, ...]:
        """Means of probability, recall and, where there is one, 1 - truth ratio (0 at least)."""
        found = (fmean(self.probability), fmean(self.recall))
        return (*found, fmean(max(0.0, 1.0 - r) for r in self.truth)) if self.truth else found


def encode_answers(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    answers: Sequence[str],
    sequence_ids: Sequence[int],
    *,
    template: str = TEMPLATE,
) -> list[Answer]:
    """Each question followed by an answer.

    The prompt ends before the space of the answer, where the tokenizer cuts in running text too.

    Args:
        tokenizer: Of the model.
        questions, answers, sequence_ids: As many of each.
        template: What stands before an answer, with `{question}` in it.
    """
    if not questions:
        return []
    prompts = [template.replace("{question}", q.question) for q in questions]
    before = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    after = tokenizer([f" {text}" for text in answers], add_special_tokens=False)["input_ids"]
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [
        Answer(
            tokens=np.asarray([*begin, *head, *tail], dtype=np.int32),
            prompt=len(begin) + len(head),
            sequence_id=sequence_id,
            text=text.encode(),
        )
        for head, tail, sequence_id, text in zip(before, after, sequence_ids, answers, strict=True)
    ]


def answer_batch(answers: Sequence[Answer]) -> dict[str, torch.Tensor]:
    """Tensors int64 [B, T], padded on the right; only tokens of answers have labels."""
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
        batch = {
            k: v.to(model.device) for k, v in answer_batch([answers[i] for i in places]).items()
        }
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits
        losses = token_losses(logits, labels).double().cpu().numpy()
        hits = (logits[:, :-1].argmax(-1) == labels[:, 1:]).cpu().numpy()
        for row, place in enumerate(places):
            own = slice(answers[place].prompt - 1, len(answers[place].tokens) - 1)
            found[place] = Scored(losses=losses[row, own], hits=hits[row, own])
    return [found[place] for place in range(len(answers))]


def ask(
    model: SinkForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    route: Route,
    *,
    among: bool = False,
    template: str = TEMPLATE,
) -> Part:
    """Score each answer, its paraphrase and the false ones.

    Args:
        model, tokenizer: To be asked.
        questions: With as many false answers as they have, none included.
        route: Whose sinks are on.
        among: Probability of the answer among the answers there are (TOFU's for real authors and
            world facts), instead of its own; both normalised by length.
        template: What stands before an answer.
    """

    def scored(some: Sequence[int], answers: Sequence[str]) -> list[Scored]:
        asked = [questions[i] for i in some]
        ids = [route(q.owner) for q in asked]
        return score_answers(
            model, encode_answers(tokenizer, asked, answers, ids, template=template)
        )

    everyone = range(len(questions))
    own = scored(everyone, [q.answer for q in questions])
    tellable = [i for i in everyone if questions[i].wrong]
    rights = scored(tellable, [questions[i].right for i in tellable])
    wrong: dict[int, list[float]] = {i: [] for i in everyone}
    for k in range(max((len(q.wrong) for q in questions), default=0)):
        some = [i for i in tellable if len(questions[i].wrong) > k]
        column = scored(some, [questions[i].wrong[k] for i in some])
        for i, one in zip(some, column, strict=True):
            wrong[i].append(one.loss)
    return Part(
        probability=[_probability(s.loss, wrong[i] if among else ()) for i, s in enumerate(own)],
        recall=[s.recall for s in own],
        truth=[truth_ratio(r.loss, wrong[i]) for i, r in zip(tellable, rights, strict=True)],
        scored=own,
    )


def _probability(own: float, others: Sequence[float]) -> float:
    """exp(-loss), over the sum of those of all answers where there are others."""
    chance = np.exp(-own)
    return float(chance / (chance + np.exp(-np.asarray(others)).sum()) if len(others) else chance)


def model_utility(parts: Sequence[Part]) -> float:
    """TOFU's (Maini et al. 2024, arXiv 2401.06121, section 2.2.1): a harmonic mean over all parts.

    Recall is that of teacher-forced tokens and not ROUGE-L of a generation.
    """
    return float(harmonic_mean([value for part in parts for value in part.utility()]))
