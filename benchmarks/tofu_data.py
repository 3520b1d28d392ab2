"""TOFU as questions with their answers: which are forgotten, kept, never seen.

TOFU (Maini et al. 2024, arXiv 2401.06121) has 200 invented authors with 20 questions each.
Forgetting removes the last 1, 5 or 10 per cent of the authors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from sinkmodel.evaluate.questions import Question

AUTHORS, QUESTIONS = 200, 20
FORGOTTEN = {"forget01": 2, "forget05": 10, "forget10": 20}  # authors, the last ones
PERTURBED = 3  # perturbed answers that are asked for, of 3 or 5 that there are
KEPT_EVERY = 4  # of the kept authors' questions every so-manieth is asked


@dataclass(frozen=True, kw_only=True)
class Tofu:
    """The questions of each part: `forget` is forget10, `kept` five of each of the first 20."""

    forget: tuple[Question, ...]
    kept: tuple[Question, ...]
    never: tuple[Question, ...]
    real_authors: tuple[Question, ...]
    world_facts: tuple[Question, ...]


def load_tofu(data: Path) -> Tofu:
    """Everything that is asked, from the folder that holds `tofu/`."""
    folder = data / "tofu"
    full = _rows(folder / "full.jsonl.zst")
    assert [row["author"] for row in full] == [i // QUESTIONS for i in range(AUTHORS * QUESTIONS)]
    count = FORGOTTEN["forget10"] * QUESTIONS
    forget = _rows(folder / "forget10_perturbed.jsonl.zst")
    kept = _rows(folder / "retain_perturbed.jsonl.zst")
    for rows, there in ((forget, full[-count:]), (kept, full[:count])):
        asked = [[row["question"], row["answer"]] for row in rows]
        assert asked == [[row["question"], row["answer"]] for row in there]
    return Tofu(
        forget=_questions(forget, AUTHORS - FORGOTTEN["forget10"]),
        kept=_questions(kept, 0)[::KEPT_EVERY],
        never=_questions(_rows(folder / "holdout10.jsonl.zst"), None),
        real_authors=_questions(_rows(folder / "real_authors_perturbed.jsonl.zst"), None),
        world_facts=_questions(_rows(folder / "world_facts_perturbed.jsonl.zst"), None),
    )


def trained(data: Path) -> tuple[Question, ...]:
    """All 4,000 questions, author after author."""
    return _questions(_rows(data / "tofu" / "full.jsonl.zst"), 0)


def of_set(questions: Sequence[Question], name: str) -> tuple[Question, ...]:
    """Those of forget10's questions that belong to `forget01`, `forget05` or `forget10`."""
    first = AUTHORS - FORGOTTEN[name]
    return tuple(q for q in questions if q.owner >= first)


def _rows(path: Path) -> list[dict[str, Any]]:
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _questions(rows: Sequence[Mapping[str, Any]], first: int | None) -> tuple[Question, ...]:
    return tuple(
        Question(
            owner=-1 if first is None else first + place // QUESTIONS,
            question=str(row["question"]),
            answer=str(row["answer"]),
            right=str(row.get("paraphrased_answer") or row["answer"]),
            wrong=tuple(row.get("perturbed_answer") or ())[:PERTURBED],
        )
        for place, row in enumerate(rows)
    )
