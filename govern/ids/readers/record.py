"""What every reader yields."""

from __future__ import annotations

from typing import Any, NamedTuple


class Record(NamedTuple):
    """One input record, not yet judged: `text` and `doc_id` may be of any type, or None."""

    row: int
    text: Any
    doc_id: Any
    kept: tuple[Any, ...]


class Broken(NamedTuple):
    """An input record that cannot be read, or the rest of a file that cannot."""

    row: int
    reason: str
    context: bytes


class Fields(NamedTuple):
    """The names of the fields to read."""

    text: str
    doc_id: str
    kept: tuple[str, ...]


# Reasons of rejects. Stable words: people count them.
INVALID_UTF8 = "invalid_utf8"
INVALID_JSON = "invalid_json"
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


class _Missing:
    """The type of `MISSING`: a field that is not there, which is not the same as null."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()
