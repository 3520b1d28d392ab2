"""Verify an erase from the files as re-opened: planned bytes are zero, all others as before.

"As before" needs no copy of the old run: the receipt holds the digest that each file must have,
made from the old file with the planned ranges zeroed, and the old Merkle root of each bank, which
follows from the new leaves once the changed ones are put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests import merkle
from manifests.files import sha256_file
from manifests.sequence_id import format_id
from sinkmodel import run_files
from sinkmodel.bank_format import bank_leaves, header_digest, open_bank, read_leaves
from sinkmodel.erase_predict import SINK_MAP
from sinkmodel.erase_receipt import BankChange, EraseReceipt


@dataclass(frozen=True, kw_only=True)
class Check:
    """One structural check of an erased run."""

    name: str
    passed: bool
    detail: str


def verify_erased(receipt: EraseReceipt, run: Path) -> tuple[Check, ...]:
    """Hold the files, as re-opened, against the receipt: a structural check of every byte.

    Args:
        receipt: What `erase_blocks` returned.
        run: The erased run.

    Returns:
        Every check with its result; an erase is proven when all passed.

    Raises:
        CheckpointError: A bank cannot be read at all.
    """
    present = set(run_files.list_files(run))
    wanted = {file.name: file for file in receipt.files}
    wrong = sorted(present ^ set(wanted))
    changed = [
        name
        for name in sorted(present & set(wanted))
        if sha256_file(run / name) != wanted[name].after
    ]
    ranges: dict[str, list[tuple[int, int]]] = {}
    for item in receipt.zeroed:
        ranges.setdefault(item.file, []).append((item.begin, item.end))
    not_zero = [name for name, spans in ranges.items() if not run_files.is_zero(run / name, spans)]
    untouched = [name for name in changed if not wanted[name].touched]
    return (
        _check("planned bytes are zero", not_zero, f"{receipt.bytes_zeroed} bytes"),
        _check("no file came or went", wrong, f"{len(wanted)} files"),
        _check("untouched files are as before", untouched, "equal digests"),
        _check(
            "every other byte of the touched files is as before",
            [name for name in changed if wanted[name].touched],
            "the digest predicted from the old file",
        ),
        *(_check_bank(bank, run) for bank in receipt.banks),
        _check_map(receipt, run),
    )


def _check(name: str, faults: Sequence[str], detail: str) -> Check:
    if not faults:
        return Check(name=name, passed=True, detail=detail)
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    return Check(name=name, passed=False, detail=", ".join(faults[:3]) + more)


def _check_bank(change: BankChange, run: Path) -> Check:
    """Root as recomputed; the old root follows when only the changed leaves are put back."""
    bank = open_bank(run / change.file)
    leaves = list(bank_leaves(bank.path))
    faults = []
    if leaves != read_leaves(bank):
        faults.append("the stored leaves are not those of the blocks")
    if header_digest(bank) != change.header:
        faults.append("the header changed")
    if merkle.tree_root(leaves).hex() != change.root_after:
        faults.append("the root is not the predicted one")
    for leaf in change.changed:
        leaves[leaf.row] = bytes.fromhex(leaf.before)
    if merkle.tree_root(leaves).hex() != change.root_before:
        faults.append("blocks beside the planned ones changed")
    return _check(
        f"only planned blocks of {change.file} changed", faults, f"root {change.root_after[:16]}…"
    )


def _check_map(receipt: EraseReceipt, run: Path) -> Check:
    from sinkmodel.allocation import SinkMap

    sink_map = SinkMap.read(run / SINK_MAP)
    forgotten = {int(i) for i in sink_map.sequence_ids[~sink_map.active]}
    faults = [format_id(i) for i in receipt.ids if i not in forgotten]
    return _check("the sink map marks the IDs as forgotten", faults, f"{len(receipt.ids)} IDs")
