"""Files that survive a crash: atomic writes, digests, canonical JSON, one writer at a time.

Everything the toolkit writes passes through here, so that a kill at any moment leaves the old file
or the new one, never a torn one.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from manifests.errors import InputError, LockedError

_CHUNK = 1 << 20
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and a final newline: equal values give equal bytes.

    For files of our own. What is signed uses RFC 8785 instead, which strangers can re-implement.
    Dataclasses are objects of their fields.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_fields
    )
    return text.encode() + b"\n"


def _fields(value: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(value):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return vars(value)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_directory(path: Path) -> None:
    """Make the directory's entries durable, as POSIX requires after a rename."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`: temporary name in the same directory, fsync, rename, fsync."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def require_path(name: str, value: str | os.PathLike[str]) -> None:
    """Refuse a URL where a path of a file system is wanted.

    Args:
        name: What the user calls it.
        value: What was given; a `Path` that was made of a URL has lost one of its slashes.

    Raises:
        InputError: It is a URL.
    """
    if _URL.match(os.fspath(value)):
        raise InputError(
            f"{name} {value}",
            expected="a path of a file system",
            found="a URL",
            remedy="name a path; copy whole folders from or to the store with its own tool",
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the operating system name the file; Arrow's and those of a write do not.

    Raises:
        OSError: As it was, with `path`.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def writer_lock(directory: Path) -> Iterator[None]:
    """Hold the directory's writer lock, or say at once who does.

    An advisory `flock` on `DIRECTORY/.lock`: the kernel releases it when the holder dies, so a
    stale lock cannot exist. The file holds the holder's pid, host and time of beginning, for the
    message only.

    Raises:
        LockedError: Another process holds it.
    """
    path = directory / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
            raise LockedError(
                str(directory),
                expected="no other writer",
                found=f"a lock held by {holder}",
                remedy="wait until that process has finished, then run the command again",
            ) from None
        os.ftruncate(descriptor, 0)
        since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        holder = f"pid {os.getpid()} on {socket.gethostname()} since {since}\n"
        os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        os.close(descriptor)
