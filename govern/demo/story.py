"""What the terminal shows of the demo: rich where it is a terminal, plain text elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, kw_only=True)
class Recitation:
    """What a model says after the same prefix, before and after forgetting.

    Args:
        title: Whose text it is.
        prefix, truth: Given, and what really follows.
        before, after: What the two models say.
        verbatim_before, verbatim_after: Leading tokens that are the true ones.
        length: Tokens asked for.
    """

    title: str
    prefix: str
    truth: str
    before: str
    after: str
    verbatim_before: int
    verbatim_after: int
    length: int


class Story:
    """Prints the demo's chapters.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def chapter(self, number: int, title: str) -> None:
        """Begin a chapter."""
        self.console.print()
        self.console.print(Text(f"{number}. {title}", style="bold"))

    def say(self, text: str) -> None:
        """One line of narration."""
        self.console.print(Padding(Text(text), (0, 0, 0, 3)))

    def command(self, line: str) -> None:
        """A command to copy: never broken over lines."""
        self.console.print(Text(f"     {line}"), soft_wrap=True)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A small table; the first column is text, the others are figures."""
        table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
        for index, header in enumerate(headers):
            table.add_column(header, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(Padding(table, (0, 0, 0, 3)))

    def recitation(self, shown: Recitation) -> None:
        """Truth, before and after, side by side."""
        self.say(f"{shown.title}. Both models are given: “{_flat(shown.prefix)}”")
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), expand=True)
        table.add_column("what really follows", ratio=1)
        table.add_column(f"before: {shown.verbatim_before}/{shown.length} tokens right", ratio=1)
        table.add_column(f"after: {shown.verbatim_after}/{shown.length} tokens right", ratio=1)
        table.add_row(*(Text(_flat(text)) for text in (shown.truth, shown.before, shown.after)))
        self.console.print(Padding(table, (0, 0, 0, 3)))


def _flat(text: str) -> str:
    return " ".join("".join(c if c.isprintable() or c.isspace() else "·" for c in text).split())
