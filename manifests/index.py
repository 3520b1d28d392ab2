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
# Bounds of the parameters that code computes with: the digest is no protection from its writer.
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "ngram": (1, 1000),
    "num_perm": (1, 4096),
    "seed": (0, 2**32 - 1),
    "bands": (1, 4096),
    "rows": (1, 4096),
    "bucket_cap": (1, 2**31),
    "pivots": (0, 2**31),
    "max_record_bytes": (1, 2**53),
    "threshold": (0, 1),
    "reserve": (0, 1),
}
_SHARES = ("threshold", "reserve")
_WORDS = ("scheme", "tokenizer", "token_hash", "text_field", "code")
_LARGEST = 2**53
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
    except (ValueError, RecursionError) as error:
        raise _foreign(what, f"bytes that are not JSON ({error})"[:200]) from None
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


class _Parameters(dict[str, Any]):
    """Parameters of a build; one that is wanted and not there is the manifest's fault."""

    def __missing__(self, name: str) -> Any:
        raise ManifestError(
            "parameters of the manifest", expected=f"{name!r}", found="none", remedy=_REMEDY
        )


def _parse(value: Mapping[str, Any]) -> Index:
    if set(value["tables"]) != set(TABLES):
        raise ValueError(f"tables {sorted(value['tables'])}"[:200])
    for entry in _entries(value):
        _require_counts(entry["rows"], entry["bytes"])
        _require_words(entry["path"], entry["sha256"])
    if not value["snapshots"]:
        raise ValueError("no snapshot")
    return Index(
        parameters=_parameters(value["parameters"]),
        snapshots=tuple(_snapshot(snapshot) for snapshot in value["snapshots"]),
        tables={
            name: tuple(FileEntry(**entry) for entry in entries)
            for name, entries in value["tables"].items()
        },
    )


def _parameters(given: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = _Parameters(given)
    for name, (low, high) in _BOUNDS.items():
        kinds = (int, float) if name in _SHARES else (int,)
        found = given.get(name, low)
        if type(found) not in kinds or not low <= found <= high:
            raise ValueError(f"{name} {found!r}"[:200])
    _require_words(*(given.get(name, "") for name in _WORDS))
    _require_words(*given.get("keep", ()))
    return parameters


def _snapshot(given: Mapping[str, Any]) -> Snapshot:
    inputs = tuple(InputFile(**entry) for entry in given["inputs"])
    extractors = tuple(given.get("extractors", ()))
    snapshot = Snapshot(**{**given, "inputs": inputs, "extractors": extractors})
    _require_words(snapshot.content_digest, *extractors, *(entry.uri for entry in inputs))
    _require_counts(
        snapshot.snapshot,
        snapshot.records,
        snapshot.documents,
        snapshot.rejects,
        snapshot.already_there,
        *(entry.bytes for entry in inputs),
    )
    return snapshot


def _require_counts(*values: Any) -> None:
    for value in values:
        if type(value) is not int or not 0 <= value <= _LARGEST:
            raise ValueError(f"a count of {value!r}"[:200])


def _require_words(*values: Any) -> None:
    for value in values:
        if type(value) is not str:
            raise TypeError(f"text expected, found {value!r}"[:200])


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
