"""The one exception root of the project.

A `GovernError` is a fault that a person can mend: it says what was expected, what was found and
what to do, and prints as one line. Programming mistakes stay ordinary Python exceptions.

    GovernError            exit 1
    ├── InputError         a corpus, file or option that cannot be used
    ├── ManifestError      a manifest that is missing, foreign, or of another version
    ├── CheckpointError    a run directory that is missing, incomplete or does not fit
    ├── SelectionError     a forget request that selects nothing, or what it must not
    ├── CollateralError    a plan that would take more from other IDs than was allowed
    ├── TrainingError      training that cannot go on (no text, a loss that is not a number)
    ├── LockedError        somebody else is writing there
    ├── StoppedError       a command that was interrupted
    ├── MissingExtraError  an optional dependency that is not installed
    ├── EngineError        workers that cannot be reached, or a stage of theirs that lost something
    ├── ManyFaultsError    more than one of these, a line each
    └── IntegrityError     exit 3: a digest, signature or invariant that does not hold
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class GovernError(Exception):
    """A fault with its remedy.

    Args:
        what: The thing that is wrong, named so that it can be found ("corpus file a.jsonl").
        expected: What was expected of it.
        found: What was found instead.
        remedy: What to do about it, as an imperative.
    """

    exit_code = 1
    _LONGEST = 600

    def __init__(self, what: str, *, expected: str, found: str, remedy: str) -> None:
        self.what = what
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(what, expected, found, remedy)

    def __str__(self) -> str:
        what, expected, found = map(self._short, (self.what, self.expected, self.found))
        line = f"{what}: expected {expected}, found {found}; {self.remedy}"
        # One line, whatever a hostile file name holds: control characters are shown, not obeyed.
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)

    def __reduce__(self) -> tuple[Any, ...]:
        # From a worker's process to ours; an exception's own way knows no keyword arguments.
        return _again, (type(self), self.what, self.expected, self.found, self.remedy)

    def _short(self, text: str) -> str:
        """A part of the line: a name may be a megabyte long."""
        return text if len(text) <= self._LONGEST else text[: self._LONGEST - 1] + "…"


def _again(kind: type[GovernError], what: str, expected: str, found: str, remedy: str) -> Any:
    return kind(what, expected=expected, found=found, remedy=remedy)


class ManyFaultsError(GovernError):
    """Several faults at once, one line each."""

    def __init__(self, faults: Sequence[GovernError]) -> None:
        self.faults = tuple(faults)
        first = faults[0]
        super().__init__(
            first.what, expected=first.expected, found=first.found, remedy=first.remedy
        )
        self.exit_code = max(fault.exit_code for fault in faults)

    def __reduce__(self) -> tuple[Any, ...]:
        return ManyFaultsError, (self.faults,)

    def __str__(self) -> str:
        return "\n".join(str(fault) for fault in self.faults)


class InputError(GovernError):
    """A corpus, file or option that cannot be used."""


class ManifestError(GovernError):
    """A manifest that is missing, foreign, or of another format version."""


class CheckpointError(GovernError):
    """A run directory that is missing, incomplete or does not fit."""


class SelectionError(GovernError):
    """A forget request that selects nothing, or what it must not."""


class CollateralError(GovernError):
    """A plan that would take more from other IDs than was allowed."""


class TrainingError(GovernError):
    """Training that cannot go on."""


class LockedError(GovernError):
    """Somebody else is writing there."""


class StoppedError(GovernError):
    """A command that was interrupted, and how to go on."""


class MissingExtraError(GovernError):
    """An optional dependency that is not installed."""


class EngineError(GovernError):
    """Workers that cannot be reached, or a stage of theirs that failed or lost something."""


class IntegrityError(GovernError):
    """A digest, signature or invariant that does not hold."""

    exit_code = 3
