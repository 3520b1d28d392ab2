"""Optional libraries: imported when a file needs them, and silent about the files' faults."""

from __future__ import annotations

import importlib
import logging
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from manifests.errors import MissingExtraError

DISTRIBUTION = "memsinks-govern"
PYTHON = "python"


def required(name: str, extra: str | None, what: str) -> Any:
    """An optional library.

    Raises:
        MissingExtraError: It is not installed, or lacks a part.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _missing(what, name, extra, str(error)) from None


def versions(names: Sequence[str], extra: str | None, what: str) -> tuple[str, ...]:
    """What shapes the text, as `name version`; nothing is imported.

    Raises:
        MissingExtraError: One is not installed.
    """
    found = []
    for name in names:
        if name == PYTHON:
            found.append(f"python {'.'.join(platform.python_version_tuple()[:2])}")
            continue
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            raise _missing(what, name, extra, "it is not installed") from None
    return tuple(found)


def _missing(what: str, name: str, extra: str | None, found: str) -> MissingExtraError:
    package = f"'{DISTRIBUTION}[{extra}]'" if extra else name
    return MissingExtraError(
        what, expected=f"the library {name}", found=found, remedy=f"pip install {package}"
    )


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Keep libraries from logging: what they found wrong with a record is told by its reject."""
    known = [(logging.getLogger(name), logging.getLogger(name).level) for name in loggers]
    for logger, _ in known:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in known:
            logger.setLevel(level)
