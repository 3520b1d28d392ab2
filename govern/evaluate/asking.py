"""Questions put to a run before and after the erase, and to a reference: rows of metrics.

Questions about chosen documents should be forgotten; all others, those without a document included,
should be answered as before. What TOFU calls forget quality compares the erased run with a run that
never saw the documents, so it needs a reference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from transformers import PreTrainedTokenizerBase

from govern.evaluate.question_file import QuestionFile
from govern.evaluate.tables import MINE, OTHERS
from manifests.files import atomic_write
from sinkmodel.evaluate.metrics import Estimate, bootstrap_mean
from sinkmodel.evaluate.questions import (
    Part,
    Question,
    Route,
    Scored,
    ask,
    encode_answers,
    model_utility,
)
from sinkmodel.evaluate.rows import Measured, NotMeasured
from sinkmodel.evaluate.unlearning_scores import forget_quality

if TYPE_CHECKING:
    from sinkmodel.evaluate.measure import Subject

_FORMAT = "memsinks-govern answers v1"
_FIGURES = ("probability", "recall", "truth")  # of a `Part`, a number for each question
_UTILITY = "harmonic mean of probability, recall and, if there is one, 1 - truth ratio (TOFU)"
_TRUTH = "wrong over right: near 0 knows the answer, about 1 never did (TOFU)"

Answers = Mapping[str, Part]  # group -> what was answered


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Questions, ready to be put to models.

    Args:
        file: The questions.
        chosen: Sequence IDs that are to be forgotten.
        known: Sequence IDs that the run was trained on; others are asked with sinks off.
        tokenizer: Of the run and the reference.
        template: What stands before an answer.
        longest: Tokens that a question with an answer may have; longer ones are not asked.
        cache: Where answers are kept, by checkpoint and questions; None keeps nothing.
        seed: Of intervals.
    """

    file: QuestionFile
    chosen: frozenset[int]
    known: frozenset[int]
    tokenizer: PreTrainedTokenizerBase
    template: str
    longest: int
    cache: Path | None = None
    seed: int = 0

    @cached_property
    def groups(self) -> Mapping[str, Sequence[Question]]:
        """Questions about chosen documents, and all others; those too long for the model left out.

        Empty groups are left out.
        """
        found: dict[str, list[Question]] = {}
        for question in self.file.questions:
            if self._tokens(question) <= self.longest:
                name = MINE if question.owner in self.chosen else OTHERS
                found.setdefault(name, []).append(question)
        return found

    def _tokens(self, question: Question) -> int:
        answers = [question.answer, question.right, *question.wrong]
        some = [question] * len(answers)
        encoded = encode_answers(
            self.tokenizer, some, answers, [0] * len(answers), template=self.template
        )
        return max(len(answer.tokens) for answer in encoded)

    def put(self, subject: Subject, *, unknown: frozenset[int] = frozenset()) -> Answers:
        """Ask a model everything.

        Args:
            subject: Its sequences routed to as they are to be asked.
            unknown: Sequences that it has no sinks for.
        """
        known = self.known - unknown
        route: Route = lambda owner: owner if owner in known else 0  # noqa: E731
        return {
            group: self._asked(subject, group, questions, route)
            for group, questions in self.groups.items()
        }

    def _asked(
        self, subject: Subject, group: str, questions: Sequence[Question], route: Route
    ) -> Part:
        file = None
        if self.cache is not None and subject.checkpoint:
            routes = [route(q.owner) for q in questions]
            name = [_FORMAT, subject.checkpoint, self.file.sha256, group, routes, self.template]
            digest = hashlib.sha256(json.dumps([*name, self.longest]).encode()).hexdigest()
            file = self.cache / f"answers-{digest}.json"
            if file.is_file():
                return _unpack(file.read_bytes())
        part = ask(subject.model, self.tokenizer, questions, route, template=self.template)
        if file is not None:
            atomic_write(file, _pack(part))
        return part


def _pack(part: Part) -> bytes:
    values = {name: getattr(part, name) for name in _FIGURES}
    values["losses"] = [one.losses.tolist() for one in part.scored]
    values["hits"] = [one.hits.tolist() for one in part.scored]
    return json.dumps(values).encode()


def _unpack(data: bytes) -> Part:
    values = json.loads(data)
    pairs = zip(values["losses"], values["hits"], strict=True)
    scored = [Scored(losses=np.array(a), hits=np.array(b, dtype=bool)) for a, b in pairs]
    return Part(**{name: values[name] for name in _FIGURES}, scored=scored)


def question_rows(
    asking: Asking, phases: Mapping[str, Answers]
) -> Iterator[Measured | NotMeasured]:
    """Every figure of the questions.

    Args:
        asking: What was asked.
        phases: `before`, `after` and, with a reference, `reference`.
    """
    groups = asking.groups
    left_out = len(asking.file.questions) - sum(map(len, groups.values()))
    if left_out:
        yield NotMeasured(
            metric="answers",
            group=MINE,
            why=f"{left_out} questions are longer than the model's {asking.longest} tokens",
        )
    base = Measured(
        metric="",
        group="",
        phase="",
        estimate=Estimate(n=0, value=0.0, low=None, high=None),
        seed=asking.seed,
        probe_sha256=asking.file.sha256,
    )
    for group, questions in groups.items():
        for phase, answers in phases.items():
            yield from _figures(replace(base, group=group, phase=phase), answers[group])
        pairs = zip(phases["before"][group].scored, phases["after"][group].scored, strict=True)
        same = sum(np.array_equal(a.losses, b.losses) for a, b in pairs) / len(questions)
        yield replace(
            base,
            metric="identical_answers",
            group=group,
            phase="after",
            estimate=Estimate(n=len(questions), value=same, low=None, high=None),
            note="share of answers whose losses are the same bits as before",
        )
    if MINE in groups:
        yield from _quality(base, phases)


def _figures(base: Measured, part: Part) -> Iterator[Measured]:
    for metric, values, note in (
        ("answer_probability", part.probability, "exp(-loss), so normalised by length"),
        ("answer_recall", part.recall, "share of the answer's tokens predicted right"),
        ("truth_ratio", part.truth, _TRUTH),
    ):
        if values:
            estimate = bootstrap_mean(values, seed=base.seed)
            yield replace(base, metric=metric, estimate=estimate, note=note)
    if base.group == OTHERS:
        estimate = Estimate(n=len(part.recall), value=model_utility([part]), low=None, high=None)
        note = (
            "harmonic mean of probability, recall and, where there is one, 1 - truth ratio (TOFU)"
        )
        yield replace(base, metric="model_utility", estimate=estimate, note=note)


def _quality(base: Measured, phases: Mapping[str, Answers]) -> Iterator[Measured | NotMeasured]:
    """Forget quality before and after, each against the reference."""

    def missing(why: str) -> NotMeasured:
        return NotMeasured(metric="forget_quality", group=MINE, why=why)

    if "reference" not in phases:
        yield missing(
            "it compares with a run that never saw the documents: --reference or --oracle"
        )
        return
    never = phases["reference"][MINE].truth
    if len(never) < 2:
        yield missing(f"{len(never)} questions have false answers; two are needed")
        return
    for phase in ("before", "after"):
        value = forget_quality(phases[phase][MINE].truth, never)
        yield replace(
            base,
            metric="forget_quality",
            group=MINE,
            phase=phase,
            estimate=Estimate(n=len(never), value=value, low=None, high=None),
            note="p of the KS test on truth ratios: below 0.05 it can be told from the reference",
        )
