"""`manifest.json`: its parts as frozen dataclasses, its digest, its rules.

Pure: bytes in, `Index` out, and back. What is refused here: bytes that are not the canonical JSON
of what they say, another format or version, file names that leave the directory, a digest that
does not fit.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from manifests.errors import IntegrityError, ManifestError
from manifests.files import canonical_json
from manifests.schema import CONTENT_TABLES, FORMAT, FORMAT_VERSION, TABLES

INDEX_NAME = "manifest.json"
_FILE_NAME = re.compile(r"([a-z]+)/([0-9a-f]{16})\.parquet")
_KEYS = {"format", "format_version", "parameters", "snapshots", "tables", "digest"}
_REMEDY = "rebuild the manifest with `govern ids build`, or restore it from a backup"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One Parquet file of a table: its name relative to the manifest, its size and digest."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One corpus file that a snapshot read."""

    uri: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One build or addition: `records` = `documents` + `rejects` + `already_there`.

    `documents` are the new ones; a record is already there when an earlier snapshot has a document
    with its source, ID and text. `extractors` are the libraries, with their versions, that made
    the text from what the inputs hold; none for formats that hold text.
    """

    snapshot: int
    inputs: tuple[InputFile, ...]
    records: int
    documents: int
    rejects: int
    content_digest: str
    already_there: int = 0
    extractors: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Index:
    """All that `manifest.json` says."""

    parameters: Mapping[str, Any]
    snapshots: tuple[Snapshot, ...]
    tables: Mapping[str, tuple[FileEntry, ...]]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON of everything but the digest itself."""
        return hashlib.sha256(canonical_json(_body(self))).hexdigest()

    def encode(self) -> bytes:
        """The bytes of `manifest.json`; `decode` is the inverse."""
        return canonical_json({**_body(self), "digest": self.digest})


def content_digest(tables: Mapping[str, Iterable[FileEntry]]) -> str:
    """Hex SHA-256 over the file digests of the tables that say which text became which ID."""
    covered = {name: [entry.sha256 for entry in tables[name]] for name in CONTENT_TABLES}
    return hashlib.sha256(canonical_json(covered)).hexdigest()


def decode(data: bytes, *, what: str) -> Index:
    """Read the bytes of `manifest.json`.

    Args:
        data: The file's bytes.
        what: How an error names the manifest.

    Raises:
        ManifestError: Not a manifest, or of another format version.
        IntegrityError: Not canonical, or the digest does not fit.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise _foreign(what, f"bytes that are not JSON ({error})") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise _foreign(what, "another kind of file")
    if value.get("format_version") != FORMAT_VERSION:
        raise ManifestError(
            what,
            expected=f"format version {FORMAT_VERSION}",
            found=f"format version {value.get('format_version')!r}",
            remedy="use the release of memsinks-govern that wrote it, or rebuild it",
        )
    if set(value) != _KEYS or canonical_json(value) != data:
        raise IntegrityError(
            what, expected="canonical JSON", found="other bytes: it was edited", remedy=_REMEDY
        )
    try:
        index = _parse(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _foreign(what, f"a part of another shape ({error!r})") from None
    _check_names(index, what)
    if index.digest != value["digest"]:
        raise IntegrityError(
            what,
            expected=f"digest {index.digest}",
            found=f"digest {value['digest']}",
            remedy=_REMEDY,
        )
    return index


def _foreign(what: str, found: str) -> ManifestError:
    return ManifestError(
        what, expected="a manifest.json of memsinks-govern", found=found, remedy=_REMEDY
    )


def _body(index: Index) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "parameters": dict(index.parameters),
        "snapshots": [_snapshot_body(snapshot) for snapshot in index.snapshots],
        "tables": {name: [dict(vars(e)) for e in index.tables[name]] for name in TABLES},
    }


def _snapshot_body(snapshot: Snapshot) -> dict[str, Any]:
    body = {**vars(snapshot), "inputs": [dict(vars(i)) for i in snapshot.inputs]}
    body["extractors"] = list(snapshot.extractors)
    if not snapshot.extractors:
        # Absent, as in manifests of text formats from before there were extractors.
        del body["extractors"]
    return body


def _parse(value: Mapping[str, Any]) -> Index:
    if set(value["tables"]) != set(TABLES):
        raise ValueError(f"tables {sorted(value['tables'])}")
    numbers = [n for e in _entries(value) for n in (e["rows"], e["bytes"])]
    words = [w for e in _entries(value) for w in (e["path"], e["sha256"])]
    if not all(type(n) is int for n in numbers) or not all(type(w) is str for w in words):
        raise TypeError("a file entry with values of other types")
    return Index(
        parameters=dict(value["parameters"]),
        snapshots=tuple(
            Snapshot(
                **{
                    **s,
                    "inputs": tuple(InputFile(**i) for i in s["inputs"]),
                    "extractors": tuple(s.get("extractors", ())),
                }
            )
            for s in value["snapshots"]
        ),
        tables={
            name: tuple(FileEntry(**entry) for entry in entries)
            for name, entries in value["tables"].items()
        },
    )


def _entries(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [entry for entries in value["tables"].values() for entry in entries]


def _check_names(index: Index, what: str) -> None:
    # A name is `table/16 hex digits.parquet` and nothing else, so none can leave the directory.
    for table, entries in index.tables.items():
        for entry in entries:
            match = _FILE_NAME.fullmatch(entry.path)
            if match is None or match[1] != table or entry.sha256[:16] != match[2]:
                raise IntegrityError(
                    what,
                    expected=f"a file name {table}/<first 16 digits of its sha256>.parquet",
                    found=repr(entry.path),
                    remedy=_REMEDY,
                )
