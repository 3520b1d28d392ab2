"""What a verification found: one check per question, each with its outcome and the reason.

A check that could not be made is never counted as passed: it says `not checkable` and why, so that
a reader sees what the verdict rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from manifests.errors import GovernError

Outcome = Literal["passed", "failed", "not checkable"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question, its outcome, and what was found."""

    name: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All checks of one verification, in the order they were made."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed; empty means that nothing contradicts the report."""
        return tuple(check for check in self.checks if check.outcome == "failed")


class NotCheckableError(Exception):
    """Raised inside a check that lacks what it needs; the text says what."""


def run_check(name: str, question: Callable[[], str | Sequence[str]]) -> Check:
    """Ask one question.

    Args:
        name: What is being checked, as the reader sees it.
        question: Returns the detail of a passed check as text, or a list of faults (none: passed).
            It may raise `GovernError` (failed) or `NotCheckableError`.
    """
    try:
        answer = question()
    except NotCheckableError as reason:
        return Check(name=name, outcome="not checkable", detail=str(reason))
    except GovernError as error:
        return Check(name=name, outcome="failed", detail=str(error))
    if isinstance(answer, str):
        return Check(name=name, outcome="passed", detail=answer)
    if not answer:
        return Check(name=name, outcome="passed", detail="")
    more = f"; and {len(answer) - 3} more" if len(answer) > 3 else ""
    return Check(name=name, outcome="failed", detail="; ".join(answer[:3]) + more)
