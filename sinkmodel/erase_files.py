"""What an erase knows of each file of a run, and how it knows it.

    bank, its optimizer state, their trees
                      from the Merkle roots before and after
    large, and never changed by an erase
                      the record of training pins it; its size and time of change are kept
    everything else   read in full: once for the digest before and the one after

`training.json` is the record. Where it has no digest of a file, the file is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sinkmodel import run_files
from sinkmodel.bank_format import (
    STATE_PREFIX,
    bank_digest,
    header_bytes,
    leaves_name,
    open_blocks,
)
from sinkmodel.erase_receipt import BankChange, Basis, FileChange
from sinkmodel.forgotten import FORGOTTEN_FILE
from sinkmodel.routing import ROUTE_INDEX_FILE

SINK_MAP = "sink_map.parquet"
RECORD = "training.json"
# Below this size reading costs nothing.
READ_BELOW_BYTES = 1 << 20
Ranges = dict[str, list[tuple[int, int]]]


def file_changes(
    run: Path,
    names: Iterable[str],
    ranges: Mapping[str, Sequence[tuple[int, int]]],
    swapped: Mapping[str, bytes],
    banks: Iterable[BankChange],
) -> tuple[FileChange, ...]:
    """Every file of the run before and after the erase.

    Args:
        run: The run directory, not erased yet.
        names: Its files, as `run_files.list_files` gives them.
        ranges: Byte ranges to be zeroed, by file.
        swapped: The whole new content of files that are replaced.
        banks: The roots of every file with a tree.
    """
    known: dict[str, tuple[str, str]] = {}
    for bank in banks:
        header = header_bytes(open_blocks(run, bank.file))
        known[bank.file] = (
            bank_digest(header, bytes.fromhex(bank.root_before)),
            bank_digest(header, bytes.fromhex(bank.root_after)),
        )
        known[leaves_name(bank.file)] = (bank.root_before, bank.root_after)
    recorded = _recorded(run)
    changes = []
    for name in names:
        status = (run / name).stat()
        if name in known:
            before, after = known[name]
            basis: Basis = "tree"
        elif name in recorded and not _erasable(name) and status.st_size >= READ_BELOW_BYTES:
            basis, before, after = "record", recorded[name], recorded[name]
        else:
            basis = "read"
            before, after = run_files.digest_with_zeros(run / name, ranges.get(name, ()))
        if name in swapped:
            after = hashlib.sha256(swapped[name]).hexdigest()
        changes.append(
            FileChange(
                name=name,
                before=before,
                after=after,
                basis=basis,
                size=status.st_size,
                mtime_ns=status.st_mtime_ns,
            )
        )
    return tuple(changes)


def _erasable(name: str) -> bool:
    """Whether an earlier erase may have changed the file since training."""
    return name.startswith(("sinks-", STATE_PREFIX)) or name in (FORGOTTEN_FILE, ROUTE_INDEX_FILE)


def _recorded(run: Path) -> Mapping[str, str]:
    """Name -> SHA-256 at the end of training; empty where there is no such record."""
    path = run / RECORD
    try:
        files = json.loads(path.read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not isinstance(files, dict):
        return {}
    return {name: digest for name, digest in files.items() if isinstance(digest, str)}
