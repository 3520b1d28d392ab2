"""Paths on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from manifests.files import require_path


class LocalPath(click.Path):
    """A path of a file system; a URL is refused, which would become a folder named `s3:`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """The path.

        Raises:
            InputError: It is a URL.
        """
        require_path(_called(param), value)
        return super().convert(value, param, ctx)


def _called(param: click.Parameter | None) -> str:
    if isinstance(param, click.Option):
        return param.opts[0]
    name = param.metavar or param.name if param else None
    return (name or "path").lower()
