"""Which reader reads a file: by its suffix, ours first, then those of other packages.

Another package brings a reader by an entry point whose name is the suffix without its dot:

    [project.entry-points."memsinks_govern.readers"]
    docx = "my_package.docx:READER"

Nothing is imported before a file with that suffix is to be read.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import PurePosixPath
from typing import NamedTuple

from govern.ids.readers.extras import versions
from govern.ids.readers.source import Reader
from govern.ids.readers.streams import COMPRESSED
from manifests.errors import InputError

GROUP = "memsinks_govern.readers"
BUILT_IN: Mapping[str, str] = {
    ".jsonl": "jsonl:READER",
    ".ndjson": "jsonl:READER",
    ".json": "jsonl:READER",
    ".csv": "delimited:CSV",
    ".tsv": "delimited:TSV",
    ".txt": "text:READER",
    ".parquet": "tables:PARQUET",
    ".arrow": "tables:ARROW",
    ".feather": "tables:ARROW",
    ".warc": "warc:WARC",
    ".wet": "warc:WET",
    ".html": "html:READER",
    ".htm": "html:READER",
    ".pdf": "pdf:READER",
    ".mbox": "mail:MBOX",
    ".eml": "mail:MESSAGE",
}


class Format(NamedTuple):
    """What a file's name says about it.

    Attributes:
        suffix: The suffix of the format, in lower case, with its dot.
        compression: `gzip`, `zstd`, `bz2`, `xz` or None.
        reader: Reads it.
        extractors: What shapes the text beside this package, as `name version`.
    """

    suffix: str
    compression: str | None
    reader: Reader
    extractors: tuple[str, ...]


def format_of(uri: str) -> Format | None:
    """The format of a file, or None when no reader knows its suffix.

    Raises:
        MissingExtraError: A library that it needs is not installed.
        InputError: Two packages, or a broken one, bring a reader for it.
    """
    suffix, compression = split_suffixes(uri)
    if suffix not in BUILT_IN and suffix[1:] not in _foreign():
        return None
    reader, extractors = _reader(suffix)
    return Format(suffix, compression, reader, extractors)


def split_suffixes(uri: str) -> tuple[str, str | None]:
    """The suffix of the format (empty if there is none) and the compression of a file name."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(uri).suffixes]
    compression = COMPRESSED.get(suffixes[-1]) if suffixes else None
    if compression:
        suffixes.pop()
    return (suffixes[-1] if suffixes else ""), compression


def known_suffixes() -> list[str]:
    """Every suffix that has a reader."""
    return [*BUILT_IN, *sorted(f".{name}" for name in _foreign())]


@cache
def _reader(suffix: str) -> tuple[Reader, tuple[str, ...]]:
    what = f"{suffix} files"
    if suffix in BUILT_IN:
        module, name = BUILT_IN[suffix].split(":")
        reader: Reader = getattr(importlib.import_module(f"govern.ids.readers.{module}"), name)
        return reader, versions(reader.shaped_by, reader.extra, what)
    point = _foreign()[suffix[1:]]
    package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    try:
        reader = point.load()
    except Exception as error:  # noqa: BLE001  what another package's import may raise is its own
        raise _unusable(what, package, repr(error)) from None
    if not isinstance(reader, Reader):
        raise _unusable(what, package, f"a {type(reader).__name__}, {point.value}")
    return reader, (package, *versions(reader.shaped_by, reader.extra, what))


@cache
def _foreign() -> dict[str, EntryPoint]:
    """Entry points of other packages by suffix without dot; ours cannot be replaced by them."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        name = point.name.lower()
        if f".{name}" in BUILT_IN:
            continue
        other = found.setdefault(name, point)
        if other.value != point.value:
            raise InputError(
                f".{name} files",
                expected="one package with a reader for them",
                found=f"{other.value} and {point.value}",
                remedy="uninstall one of the packages",
            )
    return found


def _unusable(what: str, package: str, found: str) -> InputError:
    return InputError(
        what,
        expected=f"a govern.ids.readers.Reader from {package}",
        found=found,
        remedy="correct or uninstall that package",
    )
