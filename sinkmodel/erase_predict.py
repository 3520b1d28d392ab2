"""Predict an erase: which bytes become zero, and every digest that the files have afterwards.

Reads the run and writes nothing. What is read follows the erased blocks, not the model: of each
bank the planned blocks, their neighbours and the tree nodes above them (`bank_tree`); large files
that no erase ever changes are known by the record of training. The list of what is forgotten is
swapped as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manifests import merkle
from manifests.errors import CheckpointError, IntegrityError
from manifests.sequence_id import format_id
from sinkmodel import run_files
from sinkmodel.bank_format import (
    Bank,
    header_bytes,
    open_banks,
    open_regular,
    read_exactly,
    read_header,
)
from sinkmodel.bank_tree import open_tree
from sinkmodel.erase_files import SINK_MAP, Ranges, file_changes
from sinkmodel.erase_receipt import BankChange, ChangedLeaf, EraseReceipt, ZeroedRange
from sinkmodel.forgotten import FORGOTTEN_FILE, encode_forgotten, read_forgotten
from sinkmodel.routing import ROUTE_INDEX_FILE, RouteIndex

_STATE_INDEX = "blocks"
_INDEX_TYPES = {"I64": "<i8", "I32": "<i4"}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The receipt, and the whole new content of the small files that are swapped, by name."""

    receipt: EraseReceipt
    swapped: Mapping[str, bytes]


def predict(run: Path, ids: Sequence[int], blocks: Sequence[int]) -> Prediction:
    """Everything that erasing `blocks` and forgetting `ids` will change, from the run as it is.

    Args:
        run: The run directory.
        ids: Sequence IDs, ascending.
        blocks: Block indices over all banks, ascending; all blocks of each ID are among them.

    Raises:
        CheckpointError: The run does not fit the request.
        IntegrityError: A planned block does not have the leaf that the run stores for it.
    """
    names = run_files.list_files(run)
    banks = open_banks(run)
    marked, forgotten = _mark_forgotten(run, ids, blocks)
    rows = _rows_by_bank(run, banks, blocks)
    ranges: Ranges = {
        bank.path.name: _joined(bank.byte_range(row) for row in rows[index])
        for index, bank in enumerate(banks)
        if rows[index]
    }
    state, optimizer_blocks = _state_ranges(run, banks, names, blocks)
    ranges |= state
    already = marked and all(run_files.is_zero(run / name, spans) for name, spans in ranges.items())
    swapped = {FORGOTTEN_FILE: forgotten}
    if ROUTE_INDEX_FILE in names:
        swapped[ROUTE_INDEX_FILE] = RouteIndex.read(run / ROUTE_INDEX_FILE).without(ids).to_bytes()
    changes, first = [], 0
    for bank, own in zip(banks, rows, strict=True):
        changes.append(_bank_change(bank, first, own))
        first += bank.blocks
    total = sum(end - begin for spans in ranges.values() for begin, end in spans)
    receipt = EraseReceipt(
        ids=tuple(ids),
        blocks=tuple(blocks),
        files=() if already else file_changes(run, names, ranges, swapped, changes),
        banks=tuple(changes),
        zeroed=tuple(
            ZeroedRange(file=name, begin=begin, end=end)
            for name in sorted(ranges)
            for begin, end in ranges[name]
        ),
        optimizer_state=any(name.startswith("state/sinks-") for name in names),
        optimizer_blocks=optimizer_blocks,
        bytes_zeroed=0 if already else total,
        already_erased=already,
    )
    return Prediction(receipt=receipt, swapped=swapped)


def _rows_by_bank(run: Path, banks: Sequence[Bank], blocks: Sequence[int]) -> list[list[int]]:
    """The rows of each bank that hold the blocks."""
    total = sum(bank.blocks for bank in banks)
    outside = [block for block in blocks if not 0 <= block < total]
    if outside or not blocks:
        raise CheckpointError(
            f"blocks to erase in {run}",
            expected=f"blocks 0 to {total - 1}" if total else "a run with sink banks",
            found=f"block {outside[0]}" if outside else "no block",
            remedy="plan again from the sink map of this run",
        )
    rows: list[list[int]] = [[] for _ in banks]
    for block in blocks:
        rows[block // banks[0].blocks].append(block % banks[0].blocks)
    return rows


def _bank_change(bank: Bank, first_block: int, rows: Sequence[int]) -> BankChange:
    """The bank's roots before and after, from the planned blocks, their neighbours and the tree."""
    zero = merkle.leaf_hash(bytes(bank.block_bytes))
    read = _with_neighbours(rows, bank.blocks)
    with open_tree(bank) as tree:
        root_before = tree.root
        stored = tree.read(0, read)
        for row, data in bank.read_blocks(read):
            if merkle.leaf_hash(data) != stored[row]:
                raise _misfit(
                    f"block {first_block + row} in {bank.path.name}",
                    f"leaf {stored[row].hex()[:16]}… as stored when it was written",
                    "other bytes",
                )
        if read and tree.root_with(stored) != root_before:
            raise _misfit(
                f"Merkle tree of {bank.path.name}",
                f"the stored root {root_before.hex()[:16]}… above the planned blocks",
                "another root",
            )
        changed = [row for row in rows if stored[row] != zero]
        root_after = tree.root_with(dict.fromkeys(changed, zero)) if changed else root_before
    return BankChange(
        file=bank.path.name,
        blocks=bank.blocks,
        header=hashlib.sha256(header_bytes(bank)).hexdigest(),
        read=tuple(read),
        root_before=root_before.hex(),
        root_after=root_after.hex(),
        changed=tuple(
            ChangedLeaf(
                block=first_block + row, row=row, before=stored[row].hex(), after=zero.hex()
            )
            for row in changed
        ),
    )


def _with_neighbours(rows: Sequence[int], blocks: int) -> list[int]:
    """The rows and those beside them, where a write of a wrong length or place would show."""
    around = {row + step for row in rows for step in (-1, 0, 1)}
    return sorted(row for row in around if 0 <= row < blocks)


def _misfit(what: str, expected: str, found: str) -> IntegrityError:
    return IntegrityError(
        what,
        expected=expected,
        found=found,
        remedy="restore the bank and its tree: something changed them behind the run's back",
    )


def _state_ranges(
    run: Path, banks: Sequence[Bank], names: Iterable[str], blocks: Sequence[int]
) -> tuple[Ranges, int]:
    """Byte ranges of the blocks' optimizer state, by file, and how many blocks have state.

    A state file holds `blocks` (which block each row belongs to) and tensors with as many rows:
    every row of a planned block is zeroed in each of them, whatever the tensor's name, so that no
    further moment estimate is forgotten here.
    """
    wanted, found = np.asarray(blocks, dtype=np.int64), 0
    ranges: Ranges = {}
    bank_names = {f"state/{bank.path.name}" for bank in banks}
    for name in sorted(bank_names & set(names)):
        path = run / name
        tensors = {tensor.name: tensor for tensor in read_header(path)}
        index = tensors.pop(_STATE_INDEX, None)
        if index is None or index.dtype not in _INDEX_TYPES or len(index.shape) != 1:
            raise _bad_state(name, f"a tensor {_STATE_INDEX!r} of block indices", "none")
        for tensor in tensors.values():
            if tensor.shape[:1] != index.shape:
                raise _bad_state(
                    name, f"{index.shape[0]} rows in {tensor.name!r}", str(list(tensor.shape))
                )
        with open_regular(path) as descriptor:
            raw = read_exactly(descriptor, path, index.start, index.end - index.start)
        held = np.frombuffer(raw, dtype=_INDEX_TYPES[index.dtype])
        rows = np.flatnonzero(np.isin(held, wanted)).tolist()
        found += len(rows)
        spans = sorted(tensor.row_range(row) for tensor in tensors.values() for row in rows)
        if spans:
            ranges[name] = _joined(spans)
    return ranges, found


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted disjoint ranges, those that touch as one: the blocks of an ID lie side by side."""
    joined: list[tuple[int, int]] = []
    for begin, end in spans:
        if joined and joined[-1][1] == begin:
            begin = joined.pop()[0]
        joined.append((begin, end))
    return joined


def _bad_state(name: str, expected: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"optimizer state {name}",
        expected=expected,
        found=found,
        remedy="remove state/ if training will not be resumed, or restore it",
    )


def _mark_forgotten(run: Path, ids: Sequence[int], blocks: Sequence[int]) -> tuple[bool, bytes]:
    """Whether `ids` are forgotten already, and the list of forgotten IDs with them in it."""
    from sinkmodel import stored_map

    sink_map = stored_map.find(run, ids)
    rows = {int(sequence_id): row for row, sequence_id in enumerate(sink_map.sequence_ids)}
    wanted, lists = set(blocks), sink_map.lists
    for sequence_id in ids:
        row = rows.get(sequence_id)
        span = slice(0, 0) if row is None else slice(*lists.offsets[row : row + 2].tolist())
        own = set(lists.blocks[span].tolist())
        if not own or not wanted.issuperset(own):
            raise CheckpointError(
                f"sequence {format_id(sequence_id)} in {SINK_MAP}",
                expected="blocks of its own, all of them among the blocks to erase",
                found="no row" if row is None else f"{len(own)} blocks",
                remedy="plan again from the sink map of this run",
            )
    forgotten = set(read_forgotten(run / FORGOTTEN_FILE).tolist())
    return forgotten.issuperset(ids), encode_forgotten(forgotten.union(ids))
