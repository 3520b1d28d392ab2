"""Verify an erase from the files as re-opened: planned bytes are zero, all others as before.

What is read again follows the erased blocks, as the prediction did. Every file that is read in full
must have the digest that was made from the old file with the planned ranges zeroed. Of a bank, and
of its optimizer state, the planned blocks and their neighbours are hashed again; with the stored
nodes beside their way they must give the new root, and with the old leaves put back the old one. A
file that nobody had to write keeps its size and its time of change. That no other block changed
behind all this is for `govern audit verify` to show, which hashes every byte. Each check says how
much was read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests import merkle
from manifests.files import sha256_file
from manifests.sequence_id import format_id
from sinkmodel import run_files
from sinkmodel.bank_format import BlockFile, header_bytes, open_blocks
from sinkmodel.bank_tree import StoredTree, open_tree
from sinkmodel.erase_receipt import BankChange, EraseReceipt, FileChange
from sinkmodel.forgotten import FORGOTTEN_FILE, read_forgotten


@dataclass(frozen=True, kw_only=True)
class Check:
    """One structural check of an erased run."""

    name: str
    passed: bool
    detail: str


def verify_erased(receipt: EraseReceipt, run: Path) -> tuple[Check, ...]:
    """Hold the files, as re-opened, against the receipt.

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
    there = [wanted[name] for name in sorted(present & set(wanted))]
    ranges: dict[str, list[tuple[int, int]]] = {}
    for item in receipt.zeroed:
        ranges.setdefault(item.file, []).append((item.begin, item.end))
    not_zero = [name for name, spans in ranges.items() if not run_files.is_zero(run / name, spans)]
    return (
        _check("planned bytes are zero", not_zero, f"{receipt.bytes_zeroed} bytes, read again"),
        _check("no file came or went", wrong, f"{len(wanted)} files"),
        *_check_files(there, run),
        *(_check_blocks(change, run) for change in (*receipt.banks, *receipt.states)),
        _check_forgotten(receipt, run),
    )


def _check(name: str, faults: Sequence[str], detail: str) -> Check:
    if not faults:
        return Check(name=name, passed=True, detail=detail)
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    return Check(name=name, passed=False, detail=", ".join(faults[:3]) + more)


def _check_files(files: Sequence[FileChange], run: Path) -> tuple[Check, ...]:
    """Digests of the files that were read in full; size and time of change of the others."""
    read = [file for file in files if file.basis == "read"]
    others = [file for file in files if file.basis != "read"]
    changed = {file.name for file in read if sha256_file(run / file.name) != file.after}
    moved = [file.name for file in others if not _as_left(file, run / file.name)]
    touched = [file for file in read if file.touched]
    return (
        _check(
            "untouched files are as before",
            [file.name for file in read if not file.touched and file.name in changed],
            f"{len(read) - len(touched)} files read again, equal digests",
        ),
        _check(
            "every other byte of the touched files is as before",
            [file.name for file in touched if file.name in changed],
            f"{len(touched)} files read again, the digests predicted from the old; banks below",
        ),
        _check(
            "files not read again are as they were left",
            moved,
            f"{len(others)} files by size, untouched ones by time of change; digests from Merkle "
            "trees and the record of training",
        ),
    )


def _as_left(file: FileChange, path: Path) -> bool:
    status = path.stat()
    return status.st_size == file.size and (file.touched or status.st_mtime_ns == file.mtime_ns)


def _check_blocks(change: BankChange, run: Path) -> Check:
    """The new root follows from the blocks as re-read, the old one once old leaves are put back."""
    bank = open_blocks(run, change.file)
    faults = []
    if hashlib.sha256(header_bytes(bank)).hexdigest() != change.header:
        faults.append("the header changed")
    with open_tree(bank) as tree:
        if tree.root.hex() != change.root_after:
            faults.append("the stored root is not the predicted one")
        if change.read:
            faults += _blocks_read_again(change, bank, tree)
    rest = bank.blocks - len(change.read)
    return _check(
        f"only planned blocks of {change.file} changed",
        faults,
        f"root {change.root_after[:16]}…; {len(change.changed)} changed blocks, "
        f"{len(change.read)} read again with their neighbours, {rest} leaves from the stored tree",
    )


def _blocks_read_again(change: BankChange, bank: BlockFile, tree: StoredTree) -> list[str]:
    faults = []
    leaves = {row: merkle.leaf_hash(data) for row, data in bank.read_blocks(change.read)}
    if leaves != tree.read(0, change.read):
        faults.append("the stored leaves are not those of the blocks")
    if tree.root_with(leaves).hex() != change.root_after:
        faults.append("the root is not the predicted one")
    before = leaves | {leaf.row: bytes.fromhex(leaf.before) for leaf in change.changed}
    if tree.root_with(before).hex() != change.root_before:
        faults.append("blocks beside the planned ones changed")
    return faults


def _check_forgotten(receipt: EraseReceipt, run: Path) -> Check:
    missing = sorted(set(receipt.ids).difference(read_forgotten(run / FORGOTTEN_FILE).tolist()))
    faults = [format_id(sequence_id) for sequence_id in missing]
    return _check("the run lists the IDs as forgotten", faults, f"{len(receipt.ids)} IDs")
