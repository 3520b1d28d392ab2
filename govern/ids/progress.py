"""How far a build is: whoever wants to know."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Who wants to know how far a build is."""

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """A stage begins; `total` units of work, if known."""

    def advance(self, amount: int) -> None:
        """So much more of it is done."""


class Silent:
    """A `Progress` that says nothing."""

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Nothing."""

    def advance(self, amount: int) -> None:
        """Nothing."""
