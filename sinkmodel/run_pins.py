"""Pins: how a run looked at some time, so that nobody builds on it unnoticed once it changed.

Read cheaply, since a plan must not cost what the model weighs: small files and the list of what was
forgotten in full, banks and their optimizer state by header and stored Merkle root, everything else
by size and time of change. That a bank's bytes fit its stored root is for the erase (the blocks it
touches) and `govern audit verify` (all of them) to show.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from manifests.files import sha256_file
from sinkmodel import run_files
from sinkmodel.bank_format import leaves_name
from sinkmodel.bank_tree import files_with_trees, stored_digests
from sinkmodel.erase_files import READ_BELOW_BYTES
from sinkmodel.forgotten import FORGOTTEN_FILE


@dataclass(frozen=True, kw_only=True)
class FilePin:
    """A file of a run.

    Attributes:
        name: Relative, with `/`.
        size: Bytes.
        digest: Hex SHA-256; of a bank `bank_digest`, of its tree the root; None where it was not
            read.
        mtime_ns: Time of the last change of a file that was not read in full; else None.
    """

    name: str
    size: int
    digest: str | None
    mtime_ns: int | None


def pin_files(run: Path) -> tuple[FilePin, ...]:
    """Pin every file of a run directory, by name.

    Raises:
        CheckpointError: Not a run, or a bank or its tree cannot be read.
    """
    roots: dict[str, str] = {}
    for name, file in files_with_trees(run).items():
        roots[name], roots[leaves_name(name)] = stored_digests(file)
    return tuple(_pin(run, name, roots.get(name)) for name in run_files.list_files(run))


def _pin(run: Path, name: str, digest: str | None) -> FilePin:
    status = (run / name).stat()
    if digest is None and (status.st_size < READ_BELOW_BYTES or name == FORGOTTEN_FILE):
        whole = sha256_file(run / name)
        return FilePin(name=name, size=status.st_size, digest=whole, mtime_ns=None)
    return FilePin(name=name, size=status.st_size, digest=digest, mtime_ns=status.st_mtime_ns)
