"""Read a run directory once, every byte: the digest of each file, the Merkle tree of each bank.

A bank, and its optimizer state if that has a tree, is hashed block by block on all cores (hashlib
lets go of the interpreter lock), and its digest follows from its header and the root. The tree file
is held against the tree of the blocks.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from govern.audit.statement import DigestSet
from manifests import merkle
from manifests.errors import GovernError, InputError, IntegrityError
from sinkmodel.bank_format import (
    STATE_NAME,
    BlockFile,
    bank_digest,
    header_bytes,
    leaves_name,
    open_bank,
    open_regular,
    open_state,
    read_exactly,
)

# What may lie in a run directory without being part of the checkpoint: the writer's lock, and the
# report itself with its page. Everything else must be listed in the statement.
IGNORED = frozenset({".lock", "REPORT.json", "REPORT.html"})
# An erase in place leaves it in the run until its report is written.
_JOURNAL = ".erase.json"
_ATTEMPTS = 3
BANK_NAME = re.compile(r"sinks-[0-9]{5}\.safetensors")
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class ScannedRun:
    """The files of a run directory as they are on disk.

    Attributes:
        path: The directory.
        digests: Relative name (with `/`) -> digest, under the algorithm that suits the file. A tree
            file that does not hold the tree of its bank has a plain SHA-256, which none states.
        trees: Bank file name -> `merkle.tree_levels` over the leaf hashes of its blocks.
        headers: Bank file name -> the bytes before the data.
        zero_leaf: Bank file name -> the leaf hash of a block of zero bytes.
    """

    path: Path
    digests: dict[str, DigestSet]
    trees: dict[str, list[list[bytes]]]
    headers: dict[str, bytes]
    zero_leaf: dict[str, bytes]

    def leaves(self, bank: str) -> list[bytes]:
        """The leaf hash of every block of a bank, in order."""
        return self.trees[bank][0]


def scan_run(path: Path) -> ScannedRun:
    """Hash everything in a run directory, as it was at one time.

    A run that somebody changes meanwhile is read once more: what is found is the old state or the
    new one, never parts of both.

    Raises:
        InputError: There is no such directory.
        IntegrityError: An erase is under way there, or something in it is neither file nor folder.
        CheckpointError: A bank's header does not fit its file.
    """
    if not path.is_dir():
        raise InputError(
            f"run {path}",
            expected="a run directory",
            found="a file" if path.exists() else "nothing",
            remedy="give the directory that `govern forget --out` wrote",
        )
    for _ in range(_ATTEMPTS):
        before = _state(path)
        if _JOURNAL in before:
            break
        try:
            found = _scan(path)
        except (GovernError, OSError):
            if _state(path) == before:
                raise
        else:
            if _state(path) == before:
                return found
    raise IntegrityError(
        f"run {path}",
        expected="files that stay as they are while they are read",
        found="an erase is under way, or one was interrupted"
        if (path / _JOURNAL).exists()
        else "files that somebody changes",
        remedy="verify again when the process that works there has ended; the command of an "
        "interrupted erase, run once more, completes it",
    )


def _state(path: Path) -> dict[str, tuple[int, int, int]]:
    """Name -> inode, size and time of change of every file but those to be ignored."""
    found = {}
    for name in _names(path, ""):
        try:
            status = (path / name).lstat()
        except FileNotFoundError:
            continue  # gone since it was listed: the next state shows that
        found[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def _scan(path: Path) -> ScannedRun:
    names = sorted(_names(path, ""))
    banks = [name for name in names if BANK_NAME.fullmatch(name)]
    run = ScannedRun(path=path, digests={}, trees={}, headers={}, zero_leaf={})
    states = {
        name: state
        for name in names
        if STATE_NAME.fullmatch(name) and leaves_name(name) in names
        # Of no rows there is no tree, whatever lies in its place.
        if (state := open_state(path / name)).blocks
    }
    hashed = {*banks, *states, *map(leaves_name, (*banks, *states))}
    plain = [name for name in names if name not in hashed]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        digests = {
            name: pool.submit(_digest_file, path / name)
            for name in sorted(plain, key=lambda n: -(path / n).lstat().st_size)
        }
        for name in banks:
            bank = open_bank(path / name)
            run.headers[name] = header_bytes(bank)
            run.trees[name] = _scan_blocks(run, bank, name, pool)
            run.zero_leaf[name] = merkle.leaf_hash(bytes(bank.block_bytes))
        for name, state in states.items():
            _scan_blocks(run, state, name, pool)
        run.digests.update({name: DigestSet(sha256=digests[name].result()) for name in plain})
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


def _scan_blocks(
    run: ScannedRun, file: BlockFile, name: str, pool: ThreadPoolExecutor
) -> list[list[bytes]]:
    """The Merkle tree of a block file, hashed afresh; its digest, and its tree's, go to `run`."""
    levels = merkle.tree_levels(_leaves(file, pool))
    run.digests[name] = DigestSet(bank_sha256=bank_digest(header_bytes(file), levels[-1][0]))
    tree = run.path / leaves_name(name)
    if tree.exists():
        run.digests[leaves_name(name)] = _digest_tree(tree, levels)
    return levels


def _leaves(file: BlockFile, pool: ThreadPoolExecutor) -> Iterator[bytes]:
    """Leaf hashes in order; a bounded number of pieces in flight keeps the memory flat."""
    waiting: deque[Future[list[bytes]]] = deque()
    step = max(1, _CHUNK_BYTES // file.block_bytes)
    with open_regular(file.path) as descriptor:
        for first in range(0, file.blocks, step):
            count = min(step, file.blocks - first)
            waiting.append(pool.submit(_leaves_of, descriptor, file, first, count))
            if len(waiting) > 2 * (os.cpu_count() or 1):
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _leaves_of(descriptor: int, file: BlockFile, first: int, count: int) -> list[bytes]:
    return [merkle.leaf_hash(*parts) for parts in file.read_rows(descriptor, first, count)]


def _digest_tree(path: Path, levels: list[list[bytes]]) -> DigestSet:
    """The root, if the file holds this tree and nothing else."""
    expected = b"".join(b"".join(level) for level in levels)
    with open_regular(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size == len(expected) and read_exactly(descriptor, path, 0, size) == expected:
            return DigestSet(merkle_root=levels[-1][0].hex())
    return DigestSet(sha256=_digest_file(path))
