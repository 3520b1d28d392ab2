"""Erase: zero given blocks of a run on disk, so that a kill at any moment harms nothing.

    erase_predict   read the run; compute the receipt: every digest that its files must have then
    here            zero the byte ranges, update the Merkle trees, swap in the new sink map; each
                    step may be repeated
    erase_verify    read the files again and hold them against the receipt

In place, the receipt is written first as a journal, so a re-run of the same erase completes it.
Out of place, the same steps run on a clone under a temporary name, and one rename publishes it.

No torch: blocks are byte ranges (`bank_format`), and their optimizer state is rows of tensors.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from manifests.errors import CheckpointError
from manifests.files import atomic_write, fsync_directory, writer_lock
from sinkmodel import run_files
from sinkmodel.bank_format import open_blocks, open_regular, read_exactly
from sinkmodel.bank_tree import leaves_path, update_tree
from sinkmodel.erase_files import Ranges
from sinkmodel.erase_predict import Prediction, predict
from sinkmodel.erase_receipt import EraseReceipt, Journal
from sinkmodel.erase_verify import Check, verify_erased

__all__ = [
    "Check",
    "EraseReceipt",
    "erase_blocks",
    "erase_locked",
    "pending_erase",
    "require_settled",
    "settle",
    "verify_erased",
]

JOURNAL = ".erase.json"
_Wanted = tuple[tuple[int, ...], tuple[int, ...]]


# --- the three calls -----------------------------------------------------------------------------


def erase_blocks(
    run: Path,
    blocks: Sequence[int],
    ids: Sequence[int],
    *,
    out: Path | None = None,
    pending: bool = False,
) -> EraseReceipt:
    """Zero blocks and their optimizer state, and mark sequence IDs as forgotten.

    Args:
        run: The run directory.
        blocks: Block indices over all banks; all blocks of each of `ids` must be among them.
        ids: Sequence IDs to mark as forgotten; their block lists stay, so that no block is ever
            given to another ID.
        out: A directory that does not exist yet, for the erased copy; None erases in place, which
            nothing can undo.
        pending: Leave the receipt in the erased run until `settle`: a caller that dies before it
            used the receipt finds it again by calling once more.

    Returns:
        The receipt; `already_erased` where nothing was left to do.

    Raises:
        CheckpointError: The run does not fit the request, another erase is unfinished there, or
            `out` is taken.
        IntegrityError: A planned block does not have the leaf that the run stores for it.
        LockedError: Another process writes to the run.
    """
    run_files.list_files(run)  # says plainly that there is no run, before a lock file is made
    with writer_lock(run):
        return erase_locked(run, blocks, ids, out=out, pending=pending)


def erase_locked(
    run: Path,
    blocks: Sequence[int],
    ids: Sequence[int],
    *,
    out: Path | None = None,
    pending: bool = False,
) -> EraseReceipt:
    """`erase_blocks` for a caller that holds the writer lock of `run` already."""
    begin = time.perf_counter()
    wanted = (tuple(sorted(set(ids))), tuple(sorted(set(blocks))))
    found = _read_journal(run)
    if found is not None and (out is not None or not _same(found.receipt, wanted)):
        raise _unfinished(run, found)
    if out is None:
        receipt, home = _erase_in_place(run, wanted, found), run
    else:
        receipt, home = _erase_to(run, wanted, out), out
    if not pending:
        settle(home)
    return dataclasses.replace(receipt, seconds=time.perf_counter() - begin)


def pending_erase(run: Path) -> EraseReceipt | None:
    """The receipt of an erase that is unfinished or not yet settled there, or None."""
    journal = _read_journal(run) if run.is_dir() else None
    return journal.receipt if journal else None


def require_settled(run: Path) -> None:
    """Refuse a run in which an erase is unfinished or not yet settled.

    Raises:
        CheckpointError: There is one; re-running the command that began it completes it.
    """
    journal = _read_journal(run)
    if journal is not None:
        raise _unfinished(run, journal)


def settle(run: Path) -> None:
    """Forget the kept receipt: whoever asked for it has recorded it elsewhere. Idempotent.

    Clears as well what a kill left of writing it: an erased run holds nothing but its own files.
    """
    left = [*run.glob(f".{JOURNAL}.*.tmp"), *run.glob(JOURNAL)]
    for path in left:
        path.unlink()
    if left:
        fsync_directory(run)


# --- in place and out of place -------------------------------------------------------------------


def _erase_in_place(run: Path, wanted: _Wanted, found: Journal | None) -> EraseReceipt:
    if found is None:
        prediction = predict(run, *wanted)
        if prediction.receipt.already_erased:
            return prediction.receipt
        _stage(run, prediction)
        atomic_write(run / JOURNAL, Journal(finished=False, receipt=prediction.receipt).to_bytes())
        found = Journal(finished=False, receipt=prediction.receipt)
    if not found.finished:
        _apply(run, found.receipt)
        atomic_write(run / JOURNAL, Journal(finished=True, receipt=found.receipt).to_bytes())
    return found.receipt


def _erase_to(run: Path, wanted: _Wanted, out: Path) -> EraseReceipt:
    published = _read_journal(out) if out.is_dir() else None
    if published is not None and published.finished and _same(published.receipt, wanted):
        return published.receipt
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(
            f"output {out}",
            expected="a directory that does not exist yet",
            found="something there already",
            remedy="give another --out",
        )
    prediction = predict(run, *wanted)
    if prediction.receipt.already_erased:
        return prediction.receipt
    out.parent.mkdir(parents=True, exist_ok=True)
    # The name is always the same, so that a re-run clears what a killed run left behind.
    clone = out.parent / f".{out.name}.erasing"
    clone.mkdir(exist_ok=True)
    with writer_lock(clone):
        for entry in clone.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != ".lock":
                entry.unlink()
        run_files.clone_files(run, run_files.list_files(run), clone)
        _stage(clone, prediction)
        _apply(clone, prediction.receipt)
        journal = Journal(finished=True, receipt=prediction.receipt)
        atomic_write(clone / JOURNAL, journal.to_bytes())
        os.rename(clone, out)
    fsync_directory(out.parent)
    return prediction.receipt


def _stage(run: Path, prediction: Prediction) -> None:
    """Write the new small files under names that nothing reads."""
    for stale in run.glob(_staged(run, "*").name):
        # Of an erase that died before its journal: it must not be swapped in by this one.
        stale.unlink()
    for name, data in prediction.swapped.items():
        run_files.write_new(_staged(run, name), data)
    fsync_directory(run)


def _apply(run: Path, receipt: EraseReceipt) -> None:
    """Zero the ranges, update the trees, swap the staged files in. Repeating it does no harm."""
    ranges: Ranges = {}
    for item in receipt.zeroed:
        ranges.setdefault(item.file, []).append((item.begin, item.end))
    for name, spans in ranges.items():
        run_files.write_zeros(run / name, spans)
    for change in (*receipt.banks, *receipt.states):
        if change.changed:
            bank = open_blocks(run, change.file)
            run_files.break_link(leaves_path(bank.path))
            update_tree(bank, {leaf.row: bytes.fromhex(leaf.after) for leaf in change.changed})
    for file in receipt.files:
        staged = _staged(run, file.name)
        if staged.exists():
            os.replace(staged, run / file.name)
    fsync_directory(run)


def _staged(run: Path, name: str) -> Path:
    return run / f".{name.replace('/', '.')}.erased"


def _read_journal(run: Path) -> Journal | None:
    path = run / JOURNAL
    if not path.exists():
        return None
    with open_regular(path) as descriptor:
        data = read_exactly(descriptor, path, 0, os.fstat(descriptor).st_size)
    return Journal.from_bytes(data, path)


def _same(receipt: EraseReceipt, wanted: _Wanted) -> bool:
    return (receipt.ids, receipt.blocks) == wanted


def _unfinished(run: Path, journal: Journal) -> CheckpointError:
    state = "an unreported" if journal.finished else "an unfinished"
    return CheckpointError(
        f"run {run}",
        expected="no other erase under way",
        found=f"{state} erase of {len(journal.receipt.ids)} sequence IDs",
        remedy="run the command that began it once more; it completes the erase",
    )
