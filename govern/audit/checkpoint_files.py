"""Read a run directory once: the digest of every file, and the Merkle leaves of every bank.

A bank is read a single time for both, on two threads at least (hashlib lets go of the interpreter
lock), so verifying a checkpoint takes about as long as `sha256sum` of it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from manifests import merkle
from manifests.errors import InputError, IntegrityError
from sinkmodel.bank_format import open_bank, open_regular, read_exactly

# What may lie in a run directory without being part of the checkpoint: the writer's lock, and the
# report itself with its page. Everything else must be listed in the statement.
IGNORED = frozenset({".lock", "REPORT.json", "REPORT.html"})
BANK_NAME = re.compile(r"sinks-[0-9]{5}\.safetensors")
_CHUNK_BYTES = 8 << 20
_READ_AHEAD = 4


@dataclass(frozen=True, kw_only=True)
class ScannedRun:
    """The files of a run directory as they are on disk.

    Attributes:
        path: The directory.
        digests: Relative name (with `/`) -> hex SHA-256.
        leaves: Bank file name -> leaf hash of every block, in order.
        zero_leaf: Bank file name -> the leaf hash of a block of zero bytes.
    """

    path: Path
    digests: dict[str, str]
    leaves: dict[str, list[bytes]]
    zero_leaf: dict[str, bytes]


def scan_run(path: Path) -> ScannedRun:
    """Hash everything in a run directory.

    Raises:
        InputError: There is no such directory.
        IntegrityError: Something in it is neither file nor folder.
        CheckpointError: A bank's header does not fit its file.
    """
    if not path.is_dir():
        raise InputError(
            f"run {path}",
            expected="a run directory",
            found="a file" if path.exists() else "nothing",
            remedy="give the directory that `govern forget --out` wrote",
        )
    names = sorted(_names(path, ""))
    banks = [name for name in names if BANK_NAME.fullmatch(name)]
    run = ScannedRun(path=path, digests={}, leaves={}, zero_leaf={})
    workers = min(os.cpu_count() or 1, 16)
    with ThreadPoolExecutor(workers) as files, ThreadPoolExecutor(workers) as leaves:
        digests = {
            name: files.submit(_digest_bank, run, name, leaves)
            if name in banks
            else files.submit(_digest_file, path / name)
            for name in sorted(names, key=lambda n: -(path / n).lstat().st_size)
        }
        run.digests.update({name: digests[name].result() for name in names})
    return run


def _names(folder: Path, prefix: str) -> list[str]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                names += _names(Path(entry.path), f"{prefix}{entry.name}/")
            elif not entry.is_file(follow_symlinks=False):
                raise IntegrityError(
                    f"run file {prefix}{entry.name}",
                    expected="a regular file",
                    found="a symbolic link or a special file",
                    remedy="put the file itself there: a link may lead out of the run",
                )
            elif prefix or entry.name not in IGNORED:
                names.append(prefix + entry.name)
    return names


def _digest_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as descriptor:
        position = 0
        while piece := os.pread(descriptor, _CHUNK_BYTES, position):
            digest.update(piece)
            position += len(piece)
    return digest.hexdigest()


def _digest_bank(run: ScannedRun, name: str, pool: ThreadPoolExecutor) -> str:
    """Digest of a bank file; its leaves are hashed beside, from the same bytes."""
    bank = open_bank(run.path / name)
    digest = hashlib.sha256()
    leaves: list[bytes] = []
    waiting: deque[Future[list[bytes]]] = deque()
    step = max(1, _CHUNK_BYTES // bank.block_bytes) * bank.block_bytes
    end = bank.data_start + bank.blocks * bank.block_bytes
    with open_regular(bank.path) as descriptor:
        digest.update(read_exactly(descriptor, bank.path, 0, bank.data_start))
        for position in range(bank.data_start, end, step):
            chunk = read_exactly(descriptor, bank.path, position, min(step, end - position))
            waiting.append(pool.submit(_leaves_of, chunk, bank.block_bytes))
            digest.update(chunk)
            # A bounded number of chunks in flight keeps the memory flat for banks of any size.
            if len(waiting) >= _READ_AHEAD:
                leaves += waiting.popleft().result()
        while waiting:
            leaves += waiting.popleft().result()
    run.leaves[name] = leaves
    run.zero_leaf[name] = merkle.leaf_hash(bytes(bank.block_bytes))
    return digest.hexdigest()


def _leaves_of(chunk: bytes, block_bytes: int) -> list[bytes]:
    view = memoryview(chunk)
    return [
        merkle.leaf_hash(view[at : at + block_bytes]) for at in range(0, len(view), block_bytes)
    ]
