"""Predict an erase: which bytes become zero, and every digest that the files have afterwards.

Reads the run and writes nothing. What is read follows the erased blocks, not the model: of each
bank and its optimizer state the planned blocks, their neighbours and the tree nodes above them
(`bank_tree`); large files that no erase ever changes are known by the record of training. The list
of what is forgotten is swapped as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from manifests import merkle
from manifests.errors import CheckpointError, IntegrityError
from manifests.sequence_id import format_id
from sinkmodel import run_files
from sinkmodel.bank_format import (
    STATE_NAME,
    Bank,
    BlockFile,
    header_bytes,
    open_banks,
    open_state,
)
from sinkmodel.bank_tree import leaves_path, open_tree
from sinkmodel.erase_files import SINK_MAP, Ranges, file_changes
from sinkmodel.erase_receipt import BankChange, ChangedLeaf, EraseReceipt, ZeroedRange
from sinkmodel.forgotten import FORGOTTEN_FILE, encode_forgotten, read_forgotten
from sinkmodel.routing import ROUTE_INDEX_FILE, RouteIndex


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The receipt, and the whole new content of the small files that are swapped, by name."""

    receipt: EraseReceipt
    swapped: Mapping[str, bytes]


class _Planned(NamedTuple):
    """A block file by its name in the run, which block each row belongs to, and rows to erase."""

    name: str
    file: BlockFile
    numbers: Sequence[int]
    rows: list[int]


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
    firsts = accumulate((bank.blocks for bank in banks), initial=0)
    planned = [
        _Planned(bank.path.name, bank, range(first, first + bank.blocks), rows)
        for bank, first, rows in zip(banks, firsts, _rows_by_bank(run, banks, blocks), strict=False)
    ]
    states = _planned_state(run, banks, names, blocks)
    ranges: Ranges = {
        item.name: _joined(span for row in item.rows for span in item.file.byte_ranges(row))
        for item in (*planned, *states)
        if item.rows
    }
    already = marked and all(run_files.is_zero(run / name, spans) for name, spans in ranges.items())
    swapped = {FORGOTTEN_FILE: forgotten}
    if ROUTE_INDEX_FILE in names:
        swapped[ROUTE_INDEX_FILE] = RouteIndex.read(run / ROUTE_INDEX_FILE).without(ids).to_bytes()
    changes = [_change(item) for item in planned]
    state_changes = [_change(item) for item in states if leaves_path(item.file.path).exists()]
    total = sum(end - begin for spans in ranges.values() for begin, end in spans)
    receipt = EraseReceipt(
        ids=tuple(ids),
        blocks=tuple(blocks),
        files=()
        if already
        else file_changes(run, names, ranges, swapped, [*changes, *state_changes]),
        banks=tuple(changes),
        states=tuple(state_changes),
        zeroed=tuple(
            ZeroedRange(file=name, begin=begin, end=end)
            for name in sorted(ranges)
            for begin, end in ranges[name]
        ),
        optimizer_state=any(map(STATE_NAME.fullmatch, names)),
        optimizer_blocks=sum(len(item.rows) for item in states),
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


def _change(planned: _Planned) -> BankChange:
    """A file's roots before and after, from the planned blocks, their neighbours and the tree."""
    file, rows = planned.file, planned.rows
    zero = merkle.leaf_hash(bytes(file.block_bytes))
    read = _with_neighbours(rows, file.blocks)
    with open_tree(file) as tree:
        root_before = tree.root
        stored = tree.read(0, read)
        for row, data in file.read_blocks(read):
            if merkle.leaf_hash(data) != stored[row]:
                raise _misfit(
                    f"block {planned.numbers[row]} in {planned.name}",
                    f"leaf {stored[row].hex()[:16]}… as stored when it was written",
                    "other bytes",
                )
        if read and tree.root_with(stored) != root_before:
            raise _misfit(
                f"Merkle tree of {planned.name}",
                f"the stored root {root_before.hex()[:16]}… above the planned blocks",
                "another root",
            )
        changed = [row for row in rows if stored[row] != zero]
        root_after = tree.root_with(dict.fromkeys(changed, zero)) if changed else root_before
    return BankChange(
        file=planned.name,
        blocks=file.blocks,
        header=hashlib.sha256(header_bytes(file)).hexdigest(),
        read=tuple(read),
        root_before=root_before.hex(),
        root_after=root_after.hex(),
        changed=tuple(
            ChangedLeaf(
                block=planned.numbers[row], row=row, before=stored[row].hex(), after=zero.hex()
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


def _planned_state(
    run: Path, banks: Sequence[Bank], names: Iterable[str], blocks: Sequence[int]
) -> list[_Planned]:
    """The optimizer state of every bank that has some, with the rows of the blocks to erase.

    All of a row is zeroed, whatever the tensors' names.
    """
    wanted = np.asarray(blocks, dtype=np.int64)
    found = []
    for name in sorted({f"state/{bank.path.name}" for bank in banks} & set(names)):
        state = open_state(run / name)
        rows = np.flatnonzero(np.isin(np.asarray(state.held), wanted)).tolist()
        found.append(_Planned(name, state, state.held, rows))
    return found


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Disjoint ranges, sorted, those that touch as one: the blocks of an ID lie side by side."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and joined[-1][1] == begin:
            begin = joined.pop()[0]
        joined.append((begin, end))
    return joined


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
