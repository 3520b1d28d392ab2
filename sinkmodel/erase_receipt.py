"""What an erase does to the files of a run: known before the first byte changes, kept as proof.

The receipt is computed from the run as it is, with every digest that the files must have
afterwards. That makes it the journal of the erase as well: whoever finds it beside half-erased
files can finish the work, and `verify_erased` has something to hold the finished files against.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from manifests.errors import CheckpointError
from manifests.files import canonical_json

FORMAT_VERSION = 2
Basis = Literal["read", "tree", "record"]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """One file of the run, with its hex digest before and after; equal where it is untouched.

    Attributes:
        name: Relative, with `/`.
        before, after: SHA-256 of the file; of a bank `bank_format.bank_digest`; of a bank's tree
            the root.
        basis: Where `before` is from: the file was `read` in full, or it follows from a Merkle
            `tree` of which the touched blocks and their neighbours were read, or from the `record`
            of training, which no erase has a reason to contradict.
        size: Bytes, before and after (of the sink map: before).
        mtime_ns: Time of the last change before; a file on which nobody works keeps it.
    """

    name: str
    before: str
    after: str
    basis: Basis
    size: int
    mtime_ns: int

    @property
    def touched(self) -> bool:
        """Whether the erase changes the file."""
        return self.before != self.after


@dataclass(frozen=True, kw_only=True)
class ChangedLeaf:
    """A block whose bytes change: its row in the bank, its leaf hash (hex) before and after."""

    block: int
    row: int
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class BankChange:
    """A block file: its Merkle root (hex) before and after, and each leaf between the two.

    `header` is the SHA-256 of the bytes before the data, which the root does not cover. `read` are
    the rows whose blocks are read before and after: the planned ones and their neighbours.
    """

    file: str
    blocks: int
    header: str
    read: tuple[int, ...]
    root_before: str
    root_after: str
    changed: tuple[ChangedLeaf, ...]


@dataclass(frozen=True, kw_only=True)
class ZeroedRange:
    """Bytes [begin, end) of a file that are zero after the erase."""

    file: str
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class EraseReceipt:
    """What was erased, and every digest before and after.

    Attributes:
        ids: Sequence IDs marked as forgotten.
        blocks: Block indices zeroed, ascending.
        files: Every file of the run.
        banks: Every bank of the run.
        states: The optimizer state of banks, where it has a tree; else it is one of the files read.
        zeroed: Every byte range that was set to zero.
        optimizer_state: Whether the run keeps optimizer state of its sinks.
        optimizer_blocks: How many blocks had state that was zeroed.
        bytes_zeroed: Sum of the ranges' lengths.
        seconds: Wall time of the erase; of the last run where it was interrupted.
        already_erased: Nothing was left to do, and nothing was written.
    """

    ids: tuple[int, ...]
    blocks: tuple[int, ...]
    files: tuple[FileChange, ...]
    banks: tuple[BankChange, ...]
    states: tuple[BankChange, ...]
    zeroed: tuple[ZeroedRange, ...]
    optimizer_state: bool
    optimizer_blocks: int
    bytes_zeroed: int
    seconds: float = 0.0
    already_erased: bool = False


@dataclass(frozen=True, kw_only=True)
class Journal:
    """A receipt on its way: `finished` is false while the files may be half erased."""

    finished: bool
    receipt: EraseReceipt

    def to_bytes(self) -> bytes:
        """Canonical JSON of the journal."""
        return canonical_json({"format_version": FORMAT_VERSION, **vars(self)})

    @staticmethod
    def from_bytes(data: bytes, path: Path) -> Journal:
        """Read what `to_bytes` gave.

        Raises:
            CheckpointError: The file is not such a journal.
        """
        try:
            value = json.loads(data)
            if value.pop("format_version") != FORMAT_VERSION:
                raise ValueError("another format version")
            return _build(Journal, value)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"erase journal {path}",
                expected=f"a journal of format version {FORMAT_VERSION}",
                found=f"{type(error).__name__}: {error}"[:120],
                remedy="restore the run from a backup: an erase was interrupted here",
            ) from error


def _build(kind: type[_T], value: Any) -> _T:
    """A dataclass from JSON values, strict about names and types."""
    hints = typing.get_type_hints(kind)
    if set(value) != set(hints):
        raise ValueError(f"fields of {kind.__name__}")
    return kind(**{name: _item(hint, value[name]) for name, hint in hints.items()})


def _item(hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise TypeError(f"a list, found {type(value).__name__}")
        return tuple(_item(typing.get_args(hint)[0], item) for item in value)
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"one of {typing.get_args(hint)}")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise TypeError(f"{hint.__name__}, found {type(value).__name__}")
    return value
