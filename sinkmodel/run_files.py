"""The files of a run directory as files: list, digest, clone, overwrite with zeros.

Two rules keep one run from changing behind another's back. A clone may share its large untouched
files with its source by hard link; and nothing here writes to a file that has a second link: the
link is broken first, by a copy that replaces the name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from manifests.errors import CheckpointError
from manifests.files import fsync_directory
from sinkmodel.bank_format import open_regular
from sinkmodel.copying import copy_bytes

# ioctl FICLONE of Linux (uapi/linux/fs.h); Python names it from 3.12 on.
_FICLONE = 0x40049409
_CHUNK = 1 << 20
_ZEROS = memoryview(bytes(_CHUNK))
# Below this size a copy costs nothing, and editing a config of one run must not change the other's.
_LINK_FROM_BYTES = 1 << 20


def list_files(run: Path) -> tuple[str, ...]:
    """Names of all files below `run`, relative, with `/`, sorted; names beginning with a dot are
    locks and temporary files, not part of the run.

    Raises:
        CheckpointError: There is no such directory, or something in it is neither file nor folder.
    """
    if not run.is_dir():
        raise CheckpointError(
            f"run {run}",
            expected="a run directory",
            found="a file" if run.exists() else "nothing",
            remedy="give the --out of `govern train`",
        )
    return tuple(sorted(_walk(run, "")))


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                yield f"{prefix}{entry.name}"
            else:
                raise CheckpointError(
                    f"run file {prefix}{entry.name}",
                    expected="a regular file",
                    found="a symbolic link or a special file",
                    remedy="replace it by the file itself: a link may lead out of the run",
                )


def digest_with_zeros(path: Path, ranges: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """Two hex SHA-256 from one reading: of the file, and of the file with `ranges` zeroed.

    The second is what the file must have after the erase, known before a byte is written.

    Args:
        path: The file.
        ranges: Byte ranges (begin, end), sorted, disjoint, inside the file.
    """
    as_it_is, zeroed = hashlib.sha256(), None
    remaining, buffer = deque(ranges), memoryview(bytearray(_CHUNK))
    with open_regular(path) as descriptor:
        position = 0
        while count := os.readv(descriptor, [buffer]):
            piece, end = buffer[:count], position + count
            if zeroed is None and remaining and remaining[0][0] < end:
                zeroed = as_it_is.copy()  # up to here both files are the same
            as_it_is.update(piece)
            if zeroed is not None:
                for part in _with_zeros(piece, position, remaining):
                    zeroed.update(part)
            position = end
    before = as_it_is.hexdigest()
    return before, before if zeroed is None else zeroed.hexdigest()


def _with_zeros(
    piece: memoryview, position: int, remaining: deque[tuple[int, int]]
) -> Iterator[memoryview]:
    """The piece at `position` of a file, zero where the ranges are; those that end there go."""
    end, done = position + len(piece), position
    while remaining and remaining[0][0] < end:
        begin, last = remaining[0]
        low, high = max(begin, position), min(last, end)
        yield piece[done - position : low - position]
        yield _ZEROS[: high - low]
        done = high
        if last > end:
            break
        remaining.popleft()
    yield piece[done - position :]


def is_zero(path: Path, ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether every byte of the ranges is zero; a range past the end of the file is not."""
    with open_regular(path) as descriptor:
        for begin, end in ranges:
            position = begin
            while position < end:
                piece = os.pread(descriptor, min(_CHUNK, end - position), position)
                if not piece or piece != bytes(len(piece)):
                    return False
                position += len(piece)
    return True


def write_zeros(path: Path, ranges: Sequence[tuple[int, int]]) -> None:
    """Zero byte ranges of a file in place and make that durable; idempotent.

    A file with a second link is replaced by its own copy first.
    """
    break_link(path)
    with open_regular(path, os.O_RDWR) as descriptor:
        for begin, end in ranges:
            position = begin
            while position < end:
                position += os.pwrite(descriptor, _ZEROS[: end - position], position)
        os.fsync(descriptor)


def break_link(path: Path) -> None:
    """Give a file that has a second hard link bytes of its own, so that it may be written to."""
    if path.stat().st_nlink == 1:
        return
    # Always the same name, so that a re-run overwrites what a killed run left behind.
    copy = path.with_name(f".{path.name}.unlinked")
    _copy(path, copy)
    os.replace(copy, path)
    fsync_directory(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that nothing reads yet, durably."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def clone_files(run: Path, names: Sequence[str], target: Path) -> None:
    """Give `target` the same files as `run`: by reflink, else hard link (large files), else copy.

    Args:
        run: The source directory, left as it is.
        names: Files to clone, as `list_files` gives them.
        target: An existing directory that holds none of them.
    """
    folders = {target}
    for name in names:
        source, copy = run / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        folders.add(copy.parent)
        if not _reflink(source, copy) and not _hard_link(source, copy):
            _copy(source, copy)
    for folder in sorted(folders, reverse=True):
        fsync_directory(folder)


def _reflink(source: Path, copy: Path) -> bool:
    """Share the source's extents copy-on-write, where the file system can."""
    with source.open("rb") as reader, copy.open("wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            cloned = False
        else:
            os.fsync(writer.fileno())
            cloned = True
    if cloned:
        _copy_status(source, copy)
    else:
        copy.unlink()
    return cloned


def _hard_link(source: Path, copy: Path) -> bool:
    if source.stat().st_size < _LINK_FROM_BYTES:
        return False
    try:
        os.link(source, copy, follow_symlinks=False)
    except OSError:
        return False
    return True


def _copy(source: Path, copy: Path) -> None:
    copy_bytes(source, copy)
    _copy_status(source, copy)
    with copy.open("rb") as file:
        os.fsync(file.fileno())


def _copy_status(source: Path, copy: Path) -> None:
    """Mode and time of change: by the latter a file on which nobody worked is recognised."""
    status = source.stat()
    shutil.copymode(source, copy)
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
