"""The request: what is to be forgotten, under which reference, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, get_args

from govern.forget.request_file import Subject
from manifests.errors import InputError

Kind = Literal["doc-id", "sequence-id", "where", "text-file", "all-sinks", "request-file"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_SINGLE = ("where",)
_MAX_TEXT = 10_000


@dataclass(frozen=True, kw_only=True)
class ForgetRequest:
    """One request to forget.

    Args:
        kind: How documents are selected.
        values: Document IDs, sequence IDs, one SQL condition or paths; none for `all-sinks`.
        reference: The holder's reference of the request, printed in report and ledger.
        reason: Legal basis or reason, printed likewise: it must not name a person.
        requester: Who asked; appears as a keyed hash only.
        min_similarity: For `text-file`: how similar (Jaccard, above 0 to 1) a document must be;
            None selects the same text only.
        quotations: Whether to look for sequences that quote what is forgotten.
        subjects: For `request-file`, and there only: what it asks for.

    Raises:
        InputError: A field is empty, too long, or is not text that can be written down.
    """

    kind: Kind
    values: tuple[str, ...] = ()
    reference: str
    reason: str
    requester: str | None = None
    min_similarity: float | None = None
    quotations: bool = True
    subjects: tuple[Subject, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise _bad("selection", f"one of {', '.join(KINDS)}", self.kind)
        if bool(self.subjects) != (self.kind == "request-file"):
            raise _bad(f"selection {self.kind}", "subjects of a request file", "another kind")
        limit = (
            0 if self.kind in ("all-sinks", "request-file") else 1 if self.kind in _SINGLE else None
        )
        if limit is not None and len(self.values) != limit:
            raise _bad(f"selection {self.kind}", f"{limit} values", f"{len(self.values)}")
        if limit is None and not self.values:
            raise _bad(f"selection {self.kind}", "at least one value", "none")
        for value in self.values:
            _check_text(f"selection {self.kind}", value, limit=1 << 20)
        _check_text("--request", self.reference)
        _check_text("--reason", self.reason)
        if self.requester is not None:
            _check_text("requester", self.requester)
        if self.min_similarity is not None:
            self._check_similarity(self.min_similarity)

    def _check_similarity(self, value: float) -> None:
        if self.kind != "text-file":
            raise _bad("--min-similarity", "a selection by --text-file", f"one by {self.kind}")
        if not 0 < value <= 1:
            raise _bad("--min-similarity", "a similarity above 0, at most 1", f"{value:g}")

    @property
    def query(self) -> str:
        """The literal query as one line of JSON: kind, the values, and what limits them."""
        limits = [] if self.min_similarity is None else [{"min_similarity": self.min_similarity}]
        parts = [self.kind, *self.values, *limits, *(s.to_dict() for s in self.subjects)]
        return json.dumps(parts, ensure_ascii=False)

    @property
    def parts(self) -> tuple[ForgetRequest, ...]:
        """One request for each subject; the request itself where it is no file of many."""
        return tuple(_of_subject(subject) for subject in self.subjects) or (self,)


def _of_subject(subject: Subject) -> ForgetRequest:
    kinds: dict[str, Kind] = {
        "doc_ids": "doc-id", "sequence_ids": "sequence-id", "where": "where",
        "text_files": "text-file",
    }  # fmt: skip
    ((name, value),) = subject.selection.to_dict().items()
    return ForgetRequest(
        kind=kinds[name],
        values=(value,) if isinstance(value, str) else tuple(value),
        reference=subject.reference,
        reason=subject.reason,
        requester=subject.requester,
        min_similarity=subject.min_similarity,
    )


def _check_text(what: str, value: str, limit: int = _MAX_TEXT) -> None:
    if not value.strip():
        raise _bad(what, "some text", "nothing")
    if len(value) > limit:
        raise _bad(what, f"at most {limit} characters", f"{len(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _bad(what, "text in Unicode", "bytes that are none") from None


def _bad(what: str, expected: str, found: str) -> InputError:
    return InputError(what, expected=expected, found=found, remedy="correct the request")
