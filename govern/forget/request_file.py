"""A request file: many subjects, each with its own reference, reason and selection.

    {"format": "memsinks-govern request", "format_version": 1, "subjects": [
      {"reference": "R-1", "reason": "GDPR art. 17", "requester": "…",
       "selection": {"doc_ids": ["a", "b"]}},
      {"reference": "R-2", "reason": "licence withdrawn",
       "selection": {"where": "licence = 'X'"}}]}

A selection is one of `doc_ids`, `sequence_ids`, `where` and `text_files`; the last may have a
`min_similarity` beside it. All subjects are erased together or none: there is one plan, one erase
with its one journal, and one statement that says which sequence IDs belong to which reference.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from govern.audit.records import Record, malformed
from manifests.errors import GovernError, InputError, ManyFaultsError

_OMIT: dict[str, Any] = {"omit": True}


@dataclass(frozen=True, kw_only=True)
class Chosen(Record):
    """How a subject's documents are selected: exactly one of these."""

    doc_ids: tuple[str, ...] | None = field(default=None, metadata=_OMIT)
    sequence_ids: tuple[str, ...] | None = field(default=None, metadata=_OMIT)
    where: str | None = field(default=None, metadata=_OMIT)
    text_files: tuple[str, ...] | None = field(default=None, metadata=_OMIT)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.to_dict()
        if len(given) != 1 or not all(given.values()):
            expected = "exactly one of doc_ids, sequence_ids, where and text_files, not empty"
            raise malformed("selection", expected, f"{sorted(given) or 'none'}")


@dataclass(frozen=True, kw_only=True)
class Subject(Record):
    """One subject: reference and reason as printed, who asked, and what is selected."""

    reference: str
    reason: str
    requester: str | None = field(default=None, metadata=_OMIT)
    selection: Chosen
    min_similarity: float | None = field(default=None, metadata=_OMIT)


@dataclass(frozen=True, kw_only=True)
class RequestFile(Record):
    """A request file."""

    format: Literal["memsinks-govern request"] = "memsinks-govern request"
    format_version: Literal[1] = 1
    subjects: tuple[Subject, ...]


def read_request_file(path: Path) -> tuple[Subject, ...]:
    """The subjects of a request file.

    Raises:
        InputError: It cannot be read, or is no such file.
        ManyFaultsError: Subjects are not as published; one line for each of them.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        found = (error.strerror or "an error") if isinstance(error, OSError) else f"{error}"
        raise _unusable(path, "a JSON file", found) from None
    fields = {"format", "format_version", "subjects"}
    if not isinstance(value, dict) or set(value) != fields:
        raise _unusable(path, f"an object with {', '.join(sorted(fields))}", "another value")
    if (value["format"], value["format_version"]) != ("memsinks-govern request", 1):
        raise _unusable(path, "format 'memsinks-govern request' 1", f"{value['format']!r}")
    if not isinstance(value["subjects"], list) or not value["subjects"]:
        raise _unusable(path, "a list of subjects", "none")
    subjects, faults, seen = [], list[GovernError](), set[str]()
    for number, item in enumerate(value["subjects"]):
        where = f"--request-file {path}: subjects[{number}]"
        try:
            subject = Subject.from_dict(item, where)
        except GovernError as error:
            faults.append(
                InputError(
                    error.what if error.what.startswith(where) else f"{where}.{error.what}",
                    expected=error.expected,
                    found=error.found,
                    remedy="the form is published in docs/schemas/request-v1.schema.json",
                )
            )
            continue
        if subject.reference in seen:
            faults.append(_unusable(path, "every reference once", repr(subject.reference)))
        seen.add(subject.reference)
        subjects.append(subject)
    if faults:
        raise ManyFaultsError(faults)
    return tuple(subjects)


def _unusable(path: Path, expected: str, found: str) -> InputError:
    return InputError(
        f"--request-file {path}",
        expected=expected,
        found=found,
        remedy="the form is published in docs/schemas/request-v1.schema.json",
    )
