"""What every reader yields, the reasons of rejects, and how a field is found in a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One input record, not yet judged: `text` and `doc_id` may be of any type, or None.

    `start` and `end` are the bytes of the (decompressed) file that the text was taken from, where
    the record has such a place; by default the span is the text itself, 0 to its length.
    """

    row: int
    text: Any
    doc_id: Any
    kept: tuple[Any, ...]
    start: int | None = None
    end: int | None = None


class Broken(NamedTuple):
    """An input record that cannot be read, or the rest of a file that cannot."""

    row: int
    reason: str
    context: bytes


class Fields(NamedTuple):
    """The names of the fields to read; see `value_at`."""

    text: str
    doc_id: str
    kept: tuple[str, ...]

    def named(self, value: Callable[[str], Any]) -> tuple[Any, tuple[Any, ...]]:
        """The document's ID and kept values of a record that gives its values by name."""
        names = alternatives(self.doc_id)
        ids = (value(".".join(path)) for path in names)
        return next((one for one in ids if one is not None), None), tuple(map(value, self.kept))


class UnreadableError(Exception):
    """A record without usable text; a reader turns it into a `Broken`."""

    def __init__(self, reason: str, context: bytes | str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.context = context if isinstance(context, bytes) else context.encode("utf-8", "replace")


# Reasons of rejects. Stable words: people count them.
INVALID_UTF8 = "invalid_utf8"
INVALID_JSON = "invalid_json"
INVALID_CSV = "invalid_csv"
NOT_AN_OBJECT = "not_an_object"
MISSING_TEXT = "missing_text"
NULL_TEXT = "null_text"
TEXT_NOT_STRING = "text_not_string"
EMPTY_TEXT = "empty_text"
TOO_LONG = "too_long"
WRONG_COLUMNS = "wrong_columns"
BAD_ID = "bad_id"
DUPLICATE_ID = "duplicate_id"
TRUNCATED_FILE = "truncated_file"
DAMAGED_FILE = "damaged_file"
NO_TEXT = "no_text"
NOT_TEXT = "not_text"
WRONG_ENCODING = "wrong_encoding"
HTTP_STATUS = "http_status"
ENCRYPTED = "encrypted"
EXTRACTION_FAILED = "extraction_failed"


class _Missing:
    """The type of `MISSING`: a field that is not there, which is not the same as null."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


@cache
def alternatives(field: str) -> tuple[tuple[str, ...], ...]:
    """The paths that a field may stand at: `id,meta.url` is ("id",) or else ("meta", "url")."""
    return tuple(tuple(one.strip().split(".")) for one in field.split(","))


def value_at(record: Mapping[str, Any], field: str) -> Any:
    """The value of a field of a record.

    A name that the record has as it is comes first; otherwise commas separate alternatives, of
    which the first that is there and not null counts, and dots lead into objects.

    Returns:
        The value; None when it is null; `MISSING` when it is not there.
    """
    found = record.get(field, MISSING)
    if found is not MISSING or not ("." in field or "," in field):
        return found
    for path in alternatives(field):
        value = _walk(record, path)
        if value is not MISSING:
            found = value
            if value is not None:
                return value
    return found


def _walk(record: Any, path: tuple[str, ...]) -> Any:
    if isinstance(record, dict) and len(path) > 1 and (whole := ".".join(path)) in record:
        return record[whole]
    for name in path:
        if not isinstance(record, dict) or name not in record:
            return MISSING
        record = record[name]
    return record
