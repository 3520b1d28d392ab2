"""The bytes of banks on disk: a strict safetensors header, and where each block lies.

A bank is a safetensors file that holds one tensor `[blocks, layers, 3, block_size, hidden]`, so a
block is one contiguous byte range. The optimizer state of its blocks is another such file, with a
tensor that says which block each row of the others belongs to. Format:
https://huggingface.co/docs/safetensors (8 bytes little endian header length, JSON header, data).
Beside each lies its Merkle tree (`bank_tree`).

Nothing here imports torch, and nothing trusts a header: whatever it says is held against the file
before a byte is read at an offset that it gave.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import sys
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.errors import CheckpointError

# A header of ours has a few hundred bytes; the reference implementation stops at 100 MB.
_MAX_HEADER_BYTES = 8 << 20
_PREFIX_BYTES = 8
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
_BANK_NAME = re.compile(r"sinks-(\d{5})\.safetensors")
STATE_PREFIX = "state/sinks-"
STATE_NAME = re.compile(r"state/sinks-\d{5}\.safetensors")
STATE_INDEX = "blocks"
_INDEX_FORMATS = {"I64": "q", "I32": "i"}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a safetensors file; `start` and `end` are offsets in the file, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one slice along the first axis (0 where there is none)."""
        return (self.end - self.start) // self.shape[0] if self.shape and self.shape[0] else 0

    def row_range(self, row: int) -> tuple[int, int]:
        """Offsets in the file where one slice along the first axis begins and ends."""
        if not self.shape or not 0 <= row < self.shape[0]:
            raise IndexError(f"row {row} of {self.name} {list(self.shape)}")
        return self.start + row * self.row_bytes, self.start + (row + 1) * self.row_bytes


@dataclass(frozen=True, kw_only=True)
class BlockFile:
    """A file that ends with rows, one for each block that it holds, its header checked.

    Attributes:
        path: The file.
        data_start: Where the rows begin, in bytes.
        tensors: From there to the end, in file order. The row of a block is its slice along the
            first axis of each, one after the other.
    """

    path: Path
    data_start: int
    tensors: tuple[Tensor, ...]

    @property
    def blocks(self) -> int:
        """How many blocks (rows) the file holds."""
        return self.tensors[0].shape[0]

    @property
    def block_bytes(self) -> int:
        """Bytes of one row."""
        return sum(tensor.row_bytes for tensor in self.tensors)

    def byte_ranges(self, row: int) -> list[tuple[int, int]]:
        """Offsets in the file where each part of a row begins and ends.

        Raises:
            IndexError: There is no such row.
        """
        if not 0 <= row < self.blocks:
            raise IndexError(f"row {row} of a bank of {self.blocks} blocks")
        return [tensor.row_range(row) for tensor in self.tensors]

    def read_block(self, row: int) -> bytes:
        """The bytes of one row, little endian as on disk.

        Raises:
            CheckpointError: The file became shorter than its header says.
        """
        return next(self.read_blocks([row]))[1]

    def read_blocks(self, rows: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Each row with its bytes, in the order given; the file is opened once.

        Raises:
            CheckpointError: The file became shorter than its header says.
        """
        with open_regular(self.path) as descriptor:
            for row in rows:
                parts = [
                    read_exactly(descriptor, self.path, begin, end - begin)
                    for begin, end in self.byte_ranges(row)
                ]
                yield row, b"".join(parts)

    def read_rows(
        self, descriptor: int, first: int, count: int
    ) -> Iterator[tuple[memoryview, ...]]:
        """The parts of `count` rows from `first` on, in order, from one read of each tensor.

        Args:
            descriptor: Open on the file.
            first, count: Inside the file.
        """
        parts = []
        for tensor in self.tensors:
            begin, size = tensor.start + first * tensor.row_bytes, tensor.row_bytes
            data = memoryview(read_exactly(descriptor, self.path, begin, count * size))
            parts.append([data[at : at + size] for at in range(0, len(data), size)])
        return zip(*parts, strict=True)


@dataclass(frozen=True, kw_only=True)
class Bank(BlockFile):
    """A bank: the weights of its blocks, row by row, in one tensor."""

    @property
    def tensor(self) -> str:
        """The tensor's name."""
        return self.tensors[0].name

    @property
    def dtype(self) -> str:
        """Its dtype, as safetensors calls it."""
        return self.tensors[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """[blocks, layers, 3, block_size, hidden]."""
        return self.tensors[0].shape


@dataclass(frozen=True, kw_only=True)
class BankState(BlockFile):
    """Optimizer state of a bank: one row for each block that was ever stepped.

    Attributes:
        held: The block of each row, by its number over all banks.
    """

    held: array[int]


def _misfit(path: Path, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"safetensors file {path.name}",
        expected=expected,
        found=found,
        remedy="restore the file from the training run or a backup",
    )


@contextmanager
def open_regular(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A descriptor of a regular file; a link, a pipe or a device is refused, not followed.

    Raises:
        CheckpointError: The file is missing or is not a regular file.
    """
    try:
        # Without O_NONBLOCK, opening a pipe of that name would wait for ever.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _misfit(path, "a regular file", error.strerror or "an error") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _misfit(path, "a regular file", "something else")
        yield descriptor
    finally:
        os.close(descriptor)


def read_exactly(descriptor: int, path: Path, offset: int, length: int) -> bytes:
    """`length` bytes at `offset`; a short file is an error, never a short answer."""
    pieces = []
    while length:
        piece = os.pread(descriptor, min(length, 1 << 30), offset)
        if not piece:
            raise _misfit(path, f"{length} more bytes at offset {offset}", "the end of the file")
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return b"".join(pieces)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key that appears twice")
    return dict(pairs)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _parse_tensor(path: Path, name: str, entry: object, data_start: int, size: int) -> Tensor:
    """One entry of the header, its offsets held against its shape and the file."""
    what = f"tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _misfit(path, f"dtype, shape and data_offsets of {what}", "other fields")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _misfit(path, f"a known dtype of {what}", repr(dtype)[:60])
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_is_size, shape)):
        raise _misfit(path, f"up to 8 sizes as the shape of {what}", repr(shape)[:60])
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise _misfit(path, f"two offsets of {what}", repr(offsets)[:60])
    begin, end = offsets
    length = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != length:
        raise _misfit(path, f"{length} bytes of {what}", f"{end - begin}")
    if data_start + end > size:
        raise _misfit(path, f"{what} inside the file of {size} bytes", f"an end at {end}")
    return Tensor(
        name=name, dtype=dtype, shape=tuple(shape), start=data_start + begin, end=data_start + end
    )


def read_header(path: Path) -> tuple[Tensor, ...]:
    """The tensors of a safetensors file, in file order.

    Args:
        path: The file; a symbolic link is refused.

    Raises:
        CheckpointError: The header is not JSON, does not fit the file, or leaves gaps in it.
    """
    with open_regular(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size < _PREFIX_BYTES:
            raise _misfit(path, "a header", f"{size} bytes")
        length = int.from_bytes(read_exactly(descriptor, path, 0, _PREFIX_BYTES), "little")
        limit = min(_MAX_HEADER_BYTES, size - _PREFIX_BYTES)
        if not 2 <= length <= limit:
            raise _misfit(path, f"a header of 2 to {limit} bytes", f"a length of {length}")
        raw = read_exactly(descriptor, path, _PREFIX_BYTES, length)
    try:
        header = json.loads(raw.decode(), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise _misfit(path, "a JSON header", str(error)[:80]) from error
    if not isinstance(header, dict):
        raise _misfit(path, "a JSON object as header", type(header).__name__)
    header.pop("__metadata__", None)
    data_start = _PREFIX_BYTES + length
    tensors = sorted(
        (_parse_tensor(path, name, entry, data_start, size) for name, entry in header.items()),
        key=lambda tensor: (tensor.start, tensor.end),
    )
    position = data_start
    for tensor in tensors:
        # A gap could hide bytes that no digest by tensor covers; an overlap lets two tensors change
        # with one write.
        if tensor.start != position:
            raise _misfit(path, f"tensor {tensor.name!r} at {position}", f"{tensor.start}")
        position = tensor.end
    if position != size:
        raise _misfit(path, f"tensors that end with the file at {size}", f"an end at {position}")
    return tuple(tensors)


def open_bank(path: Path) -> Bank:
    """Read the header of a bank file.

    Args:
        path: `sinks-NNNNN.safetensors` of a run.

    Raises:
        CheckpointError: The file is not a bank: one tensor of five axes, gate, up and down rows.
    """
    tensors = read_header(path)
    if len(tensors) != 1 or len(tensors[0].shape) != 5 or tensors[0].shape[2] != 3:
        shapes = [list(tensor.shape) for tensor in tensors][:3]
        raise _misfit(path, "one tensor [blocks, layers, 3, block_size, hidden]", str(shapes))
    tensor = tensors[0]
    if 0 in tensor.shape:
        raise _misfit(path, "a bank that is not empty", str(list(tensor.shape)))
    return Bank(path=path, data_start=tensor.start, tensors=tensors)


def open_state(path: Path) -> BankState:
    """Read the header of the optimizer state of a bank, and which blocks it has.

    Every tensor but `blocks` is taken as it comes, so that no further moment estimate of another
    optimizer is overlooked.

    Args:
        path: `state/sinks-NNNNN.safetensors` of a run.

    Raises:
        CheckpointError: `blocks` is not its first tensor, or another one has not as many rows.
    """
    found = read_header(path)
    if len(found) < 2 or found[0].name != STATE_INDEX or len(found[0].shape) != 1:
        raise _bad_state(
            path, f"a tensor {STATE_INDEX!r} of block indices before others", "none there"
        )
    index, *tensors = found
    if index.dtype not in _INDEX_FORMATS:
        raise _bad_state(path, f"{STATE_INDEX!r} as I64 or I32", index.dtype)
    for tensor in tensors:
        if tensor.shape[:1] != index.shape:
            raise _bad_state(
                path, f"{index.shape[0]} rows in {tensor.name!r}", str(list(tensor.shape))
            )
        if 0 in tensor.shape[1:]:
            raise _bad_state(path, f"rows of {tensor.name!r} with bytes", str(list(tensor.shape)))
    with open_regular(path) as descriptor:
        raw = read_exactly(descriptor, path, index.start, index.end - index.start)
    held = array(_INDEX_FORMATS[index.dtype], raw)
    if sys.byteorder != "little":
        held.byteswap()
    return BankState(path=path, data_start=index.end, tensors=tuple(tensors), held=held)


def leaves_name(name: str) -> str:
    """The name of a block file's Merkle tree: `sinks-NNNNN.leaves` beside it."""
    return name.removesuffix(".safetensors") + ".leaves"


def open_blocks(run: Path, name: str) -> BlockFile:
    """The bank, or the optimizer state of a bank, of this name in a run.

    Raises:
        CheckpointError: The file is not that.
    """
    return open_state(run / name) if name.startswith(STATE_PREFIX) else open_bank(run / name)


def _bad_state(path: Path, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"optimizer state {path.parent.name}/{path.name}",
        expected=expected,
        found=found,
        remedy="remove state/ if training will not be resumed, or restore it",
    )


def open_banks(run: Path) -> tuple[Bank, ...]:
    """All banks of a run directory, in order; the first holds block 0.

    Raises:
        CheckpointError: A bank of the sequence is missing, or the banks do not fit each other.
    """
    found = sorted(path.name for path in run.iterdir() if _BANK_NAME.fullmatch(path.name))
    wanted = [f"sinks-{number:05d}.safetensors" for number in range(len(found))]
    if found != wanted:
        missing = next(name for name in wanted if name not in found)
        raise CheckpointError(
            f"run {run.name}",
            expected=f"bank {missing}",
            found=f"{len(found)} other banks",
            remedy="restore the missing bank",
        )
    banks = tuple(open_bank(run / name) for name in found)
    for bank in banks[1:]:
        if (bank.dtype, bank.shape[1:]) != (banks[0].dtype, banks[0].shape[1:]):
            raise _misfit(
                bank.path,
                f"blocks {banks[0].dtype} {list(banks[0].shape[1:])} as in the first bank",
                f"{bank.dtype} {list(bank.shape[1:])}",
            )
    for bank in banks[:-1]:
        if bank.blocks != banks[0].blocks:
            raise _misfit(bank.path, f"{banks[0].blocks} blocks, as the first", f"{bank.blocks}")
    return banks


def header_bytes(bank: BlockFile) -> bytes:
    """The bytes before the rows, of a state file with its index: what the root does not cover."""
    with open_regular(bank.path) as descriptor:
        return read_exactly(descriptor, bank.path, 0, bank.data_start)


def bank_digest(header: bytes, root: bytes) -> str:
    """Hex digest of a whole block file that follows from its header and its Merkle root.

    SHA-256(bytes before the rows || root). The header gives its own length and, being strict, the
    place of every block; the root covers the blocks. So it binds every byte of the file, and after
    a block has changed it costs log n hashes instead of reading the file again.
    """
    return hashlib.sha256(header + root).hexdigest()
