"""Rendering of results: text for people, one JSON object for programs; progress on stderr only."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The global options of one call."""

    quiet: bool = False
    json: bool = False
    debug: bool = False


def emit(settings: Settings, result: Mapping[str, Any], text: Callable[[], str]) -> None:
    """Print a result once: as one JSON object, or as the text that `text()` gives."""
    if settings.json:
        click.echo(json.dumps(result, ensure_ascii=False, sort_keys=True, default=str))
    else:
        click.echo(text())


def note(settings: Settings, message: str) -> None:
    """Say something on stderr that is not the result."""
    if not settings.quiet:
        click.echo(message, err=True)


def duration(seconds: float) -> str:
    """Seconds as a person says them: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Bar:
    """One progress bar: `update(done, total, text)`."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._begin = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the bar began, never 0."""
        return max(time.monotonic() - self._begin, 1e-6)

    def update(self, done: float, total: float, text: str = "") -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, total=total, text=text)


@contextmanager
def progress_bar(settings: Settings, title: str) -> Iterator[Bar | None]:
    """A bar on stderr, or None where stderr is no terminal or `--quiet` was given."""
    if settings.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bar(progress, progress.add_task(title, total=None, text=""))
