"""Questions from people: a JSONL file in TOFU's form, each line perhaps about a document.

    {"question": "Who is Ann Bo?", "answer": "Ann Bo is a writer.", "doc_id": "author-7",
     "paraphrased_answer": "She writes.", "perturbed_answer": ["Ann Bo is a baker."]}

`question` and `answer` are needed. `doc_id` (with `source` where several sources have it) says
which document taught the answer, so whose sinks know it; a question without one is asked with sinks
off. The truth ratio wants `perturbed_answer`; `paraphrased_answer` stands in for the answer there.
Other fields are passed over. The file may be compressed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from govern.ids.readers.registry import split_suffixes
from govern.ids.readers.streams import DamagedStreamError, open_binary, pieces, split_lines
from manifests import Manifest
from manifests.errors import GovernError, InputError, ManyFaultsError

if TYPE_CHECKING:
    from sinkmodel.evaluate.questions import Question

_LONGEST = 1 << 20  # bytes of a line
_SHOWN = 5  # faults that are told
_FORM = 'every line is a JSON object: {"question": "…", "answer": "…", "doc_id": "…"}'


@dataclass(frozen=True, kw_only=True)
class QuestionFile:
    """The questions of a file.

    Attributes:
        questions: In their order; `owner` is the sequence ID of the document, 0 without one.
        sha256: Of the questions and their owners, hex.
    """

    questions: tuple[Question, ...]
    sha256: str


def read_questions(path: Path, manifest: Manifest) -> QuestionFile:
    """Read a question file and find each question's document.

    Raises:
        InputError: It cannot be read, or holds no question.
        ManyFaultsError: Lines that are no questions, or name no document; the first five are told.
    """
    from sinkmodel.evaluate.questions import Question

    documents = _Documents(manifest)
    questions, faults = list[Question](), list[GovernError]()
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"--questions {path}, line {number}"
        try:
            row = _row(line, where)
            owner = documents.sequence_of(row, where)
        except InputError as error:
            faults.append(error)
            continue
        questions.append(
            Question(
                owner=owner,
                question=row["question"],
                answer=row["answer"],
                right=row.get("paraphrased_answer") or row["answer"],
                wrong=tuple(row.get("perturbed_answer") or ()),
            )
        )
    if faults:
        raise faults[0] if len(faults) == 1 else ManyFaultsError(faults[:_SHOWN])
    if not questions:
        raise InputError(
            f"--questions {path}",
            expected="a question a line",
            found="none",
            remedy=_FORM,
        )
    content = [[q.owner, q.question, q.answer, q.right, *q.wrong] for q in questions]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return QuestionFile(questions=tuple(questions), sha256=digest)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with open_binary(str(path)) as file:
            yield from split_lines(pieces(file, split_suffixes(path.name)[1]), _LONGEST)
    except (InputError, DamagedStreamError) as error:
        raise InputError(
            f"--questions {path}",
            expected="a file that can be read",
            found=error.found if isinstance(error, InputError) else f"a damaged one: {error}",
            remedy="correct the path, or get the file anew",
        ) from None


def _row(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(where, expected="JSON", found=str(error), remedy=_FORM) from None
    if not isinstance(value, dict):
        found = type(value).__name__
        raise InputError(where, expected="a JSON object", found=found, remedy=_FORM)
    for name, needed in (
        *(("question", True), ("answer", True)),
        *((name, False) for name in ("paraphrased_answer", "doc_id", "source")),
    ):
        given = value.get(name)
        if not (isinstance(given, str) and given.strip()) and (needed or given is not None):
            found = "none" if name not in value else repr(given)
            raise InputError(f"{where}, {name}", expected="text", found=found, remedy=_FORM)
    wrong = value.get("perturbed_answer") or []
    if not isinstance(wrong, list) or not all(isinstance(w, str) and w.strip() for w in wrong):
        raise InputError(
            f"{where}, perturbed_answer",
            expected="a list of false answers, each a text",
            found=repr(wrong),
            remedy=_FORM,
        )
    return value


class _Documents:
    """The sequence of a document, by its ID and, where that is not enough, its source."""

    def __init__(self, manifest: Manifest) -> None:
        table = manifest.table("documents", ["source", "doc_id", "sequence_id"])
        columns = (table[name].to_pylist() for name in ("source", "doc_id", "sequence_id"))
        self._by_id: dict[str, dict[str, int]] = {}
        for source, doc_id, sequence_id in zip(*columns, strict=True):
            self._by_id.setdefault(doc_id, {})[source] = sequence_id

    def sequence_of(self, row: Mapping[str, Any], where: str) -> int:
        doc_id, source = row.get("doc_id"), row.get("source")
        if doc_id is None:
            return 0
        found = self._by_id.get(doc_id, {})
        matching = {s: i for s, i in found.items() if source in (None, s)}
        if len(set(matching.values())) == 1:
            return next(iter(matching.values()))
        raise InputError(
            f"{where}, doc_id {doc_id!r}",
            expected="a document of the manifest"
            + (f" of source {source!r}" if source is not None else ""),
            found=f"one in each of {len(matching)} sources" if matching else "none",
            remedy="add its source" if matching else "correct it, or leave doc_id out",
        )
