"""Rendering of results: text for people, one JSON object for programs; progress on stderr only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click


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
