"""A copy has the bytes of its source, whichever way they went."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import CheckpointError
from sinkmodel import copying

PAGE = copying._PAGE


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows without large files."""
    monkeypatch.setattr(copying, "_WINDOW", 2 * PAGE)


@given(
    pages=st.integers(0, 5),
    more=st.integers(-1, 1),
    older=st.binary(max_size=8 * PAGE),
    window=st.integers(1, 4),
)
def test_a_copy_has_the_bytes_of_its_source(
    tmp_path_factory: pytest.TempPathFactory, pages: int, more: int, older: bytes, window: int
) -> None:
    folder = tmp_path_factory.mktemp("copy")
    data = os.urandom(max(0, pages * PAGE + more))
    (folder / "source").write_bytes(data)
    (folder / "copy").write_bytes(older)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "_WINDOW", window * PAGE)
        copying.copy_bytes(folder / "source", folder / "copy")
    assert (folder / "copy").read_bytes() == data


def _copied_where(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, operation: object
) -> bytes:
    """What a copy of 5 pages and 7 bytes holds where an operation of the system is another one."""
    (folder / "source").write_bytes(os.urandom(5 * PAGE + 7))
    monkeypatch.setattr(os, name, operation)
    copying.copy_bytes(folder / "source", folder / "copy")
    return (folder / "copy").read_bytes()


@pytest.mark.usefixtures("small_windows")
def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, sizes = os.pwrite, []

    def short(descriptor: int, data: Any, offset: int) -> int:
        sizes.append(len(data))
        return write(descriptor, data[:PAGE], offset)

    found = _copied_where(tmp_path, monkeypatch, "pwrite", short)
    assert found == (tmp_path / "source").read_bytes()
    assert sizes == [2 * PAGE, PAGE, 2 * PAGE, PAGE, PAGE]


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("at", [1, 2])
def test_where_direct_writes_are_refused_the_bytes_go_the_ordinary_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, at: int
) -> None:
    write, calls = os.pwrite, []

    def refused(descriptor: int, data: Any, offset: int) -> int:
        calls.append(offset)
        if len(calls) == at:
            raise OSError(code, os.strerror(code))
        return write(descriptor, data, offset)

    found = _copied_where(tmp_path, monkeypatch, "pwrite", refused)
    assert found == (tmp_path / "source").read_bytes()
    assert len(calls) == at


def test_where_the_file_cannot_be_opened_so_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, refused = os.open, []

    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_DIRECT:
            refused.append(path)
            raise OSError(errno.EINVAL, "no direct writes here")
        return plain(path, flags, *rest, **named)

    found = _copied_where(tmp_path, monkeypatch, "open", opened)
    assert found == (tmp_path / "source").read_bytes()
    assert refused == [tmp_path / "copy"]


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    with pytest.raises(OSError, match="no space left"):
        _copied_where(tmp_path, monkeypatch, "pwrite", full)


@pytest.mark.usefixtures("small_windows")
def test_a_source_that_shrinks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite

    def shrinking(descriptor: int, data: Any, offset: int) -> int:
        os.truncate(tmp_path / "source", offset)
        return write(descriptor, data, offset)

    with pytest.raises(OSError, match="Bad address"):
        _copied_where(tmp_path, monkeypatch, "pwrite", shrinking)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "source").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError):
        copying.copy_bytes(tmp_path / "source", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
