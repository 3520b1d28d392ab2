"""Faults of `ids build`: the old state or one that can be gone on with, one line, an exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pkgutil
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import planted, prose, tree_bytes, write_jsonl
from kill_points import ended, forked

from govern.cli import main
from govern.ids import ingest
from govern.ids.corpus import ReadOptions
from govern.ids.output import Begun
from govern.ids.parts import PARTS_FORMAT, PartWriter
from govern.ids.pipeline import BuildConfig, build_ids
from manifests.checks import check_manifest
from manifests.errors import InputError
from manifests.writer import TableWriter

FULL = OSError(errno.ENOSPC, "No space left on device")
OUT = (
    "--out m: expected a disk that takes the working files and the manifest, found [Errno 28] No "
    "space left on device; make room (about four times the text while building), then run it again"
)


STAYS = "stays as it is while it is read, found "
AGAIN = "; run it again when nothing writes there"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of three files, each a task of one part, and its manifest, built undisturbed."""
    monkeypatch.chdir(tmp_path)
    records = planted()
    for shard in range(3):
        write_jsonl(Path(f"corpus/{shard}.jsonl"), records[shard::3])
    assert call("--out", "whole")[0] == 0
    monkeypatch.setattr("govern.ids.parts.PART_BYTES", 2000)
    return tmp_path


def call(*options: str, corpus: str = "corpus") -> tuple[int, str]:
    """Run `govern ids build`; its exit code, and what it says on stderr."""
    said = io.StringIO()
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
        pytest.raises(SystemExit) as stop,
    ):
        main(["ids", "build", corpus, *options])
    assert isinstance(stop.value.code, int)
    return stop.value.code, said.getvalue()


def at_call(number: int, original: Callable[..., Any], action: Callable[[], None]) -> Any:
    """The function, with something that happens before its call of that number."""
    calls = 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            action()
        return original(*args, **kwargs)

    return patched


def fails(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def disturb(
    monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]
) -> tuple[int, str]:
    """A build with something that happens before it writes a batch."""
    with monkeypatch.context() as patched:
        patched.setattr(PartWriter, "add", at_call(number, PartWriter.add, action))
        return call("--out", "m")


def kept() -> list[str]:
    """What a build that stopped has left."""
    return sorted(path.relative_to("m").as_posix() for path in Path("m").glob(".work/*"))


def finish(*, resume: bool) -> str:
    """Run the command again; what it says on stderr. The manifest is the undisturbed one."""
    code, said = call("--out", "m", *(["--resume"] if resume else []))
    assert code == 0
    assert tree_bytes(Path("m")) == tree_bytes(Path("whole"))
    return said


@pytest.mark.usefixtures("folder")
def test_a_full_disk_before_the_first_part_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert disturb(monkeypatch, 1, fails(FULL)) == (1, f"govern: {OUT}\n")
    assert not Path("m").exists()


STAGES = {
    "reading": ("govern.ids.parts:PartWriter", "add", 3),
    "gathering": ("govern.ids.store:ArrayFile", "append", 1),
    "bands": ("govern.ids.store:ArrayFile", "append", 8),
    "band keys": ("govern.ids.lsh", "new_array", 1),
    "sets": ("govern.ids.sets", "ArrayFile", 1),
    "tables": ("manifests.writer:TableWriter", "write", 5),
    "a table's last bytes": ("manifests.writer:TableWriter", "close", 3),
    "the index": ("manifests.writer", "atomic_write", 1),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("resume", [True, False])
def test_a_full_disk_keeps_what_was_read(
    monkeypatch: pytest.MonkeyPatch, stage: str, resume: bool
) -> None:
    owner, name, number = STAGES[stage]
    with monkeypatch.context() as patched:
        where = pkgutil.resolve_name(owner)
        patched.setattr(where, name, at_call(number, getattr(where, name), fails(FULL)))
        assert call("--out", "m") == (1, f"govern: {OUT} with --resume\n")
    assert kept() == [".work/begun.json", ".work/parts"]
    assert sorted(path.name for path in Path("m").iterdir()) == [".lock", ".work"]
    said = finish(resume=resume)
    if resume:
        assert said == "goes on with the unfinished build in m\n"
    else:
        assert said == ("begins anew; --resume would have gone on with the unfinished build in m\n")


@pytest.mark.usefixtures("folder")
def test_working_files_take_no_room_on_the_disk_once_they_are_mapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    look = at_call(1, TableWriter.write, lambda: seen.extend(kept()))
    monkeypatch.setattr(TableWriter, "write", look)
    assert call("--out", "m")[0] == 0
    # Another table may have its file open meanwhile.
    assert {name for name in seen if not name.endswith(".parquet")} == {
        ".work/begun.json",
        ".work/parts",
    }


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "SIGINT":
        # A shell's background jobs have it ignored.
        monkeypatch.setattr(signal, "raise_signal", lambda _: signal.default_int_handler(2, None))

    def interrupt() -> None:
        signal.raise_signal(getattr(signal, name))

    line = "govern: govern ids build: expected to run to its end, found an interruption; "
    assert disturb(monkeypatch, 1, interrupt) == (
        1,
        line + "what was there before is as it was; run it again\n",
    )
    assert not Path("m").exists()
    assert disturb(monkeypatch, 3, interrupt) == (
        1,
        line + "run it again with --resume to go on, or without to begin anew\n",
    )
    finish(resume=True)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.usefixtures("folder")
def test_a_thread_without_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(ingest, "sketch", at_call(3, ingest.sketch, fails(MemoryError())))
        code, said = call("--out", "m")
    assert (code, said) == (
        1,
        "govern: memory: expected enough of it, found none left; free some, or ask for less of it "
        "(fewer --workers), and run the command again\n",
    )
    finish(resume=True)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"{}\n")


def shorten(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "2.jsonl",
            Path.unlink,
            "can be read, found [Errno 2] No such file or directory: 'corpus/2.jsonl'; correct the "
            "path or its permissions",
        ),
        ("0.jsonl", Path.unlink, f"{STAYS}No such file or directory{AGAIN}"),
        ("0.jsonl", append, f"{STAYS}one that was written to meanwhile{AGAIN}"),
        ("0.jsonl", shorten, f"{STAYS}one that was written to meanwhile{AGAIN}"),
    ],
)
def test_an_input_that_changes_while_it_is_read_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Path], None], message: str
) -> None:
    path = Path("corpus") / name
    data = path.read_bytes()
    config = BuildConfig(read=ReadOptions(batch_rows=2))
    with monkeypatch.context() as patched:
        patched.setattr(PartWriter, "add", at_call(1, PartWriter.add, lambda: change(path)))
        with pytest.raises(InputError) as caught:
            build_ids(["corpus"], "m", config)
    assert str(caught.value) == f"corpus file {path}: expected a file that {message}"
    path.write_bytes(data)
    finish(resume=False)


def other_input(path: Path) -> None:
    write_jsonl(path / "corpus/3.jsonl", planted(1, 1))


@pytest.mark.parametrize(
    ("change", "options", "found"),
    [
        (None, ["--threshold", "0.8"], "threshold 0.7 at its beginning and 0.8 now"),
        (None, ["--ngram", "4"], "ngram 5 at its beginning and 4 now"),
        (None, ["--keep", "owner"], "keep [] at its beginning and ['owner'] now"),
        (None, ["--source", "web"], "source None at its beginning and web now"),
        (other_input, [], "a new input corpus/3.jsonl"),
        (lambda p: (p / "corpus/1.jsonl").unlink(), [], "no input corpus/1.jsonl any more"),
        (
            lambda p: append(p / "corpus/1.jsonl"),
            [],
            "an input corpus/1.jsonl that was written to since",
        ),
    ],
)
def test_only_the_same_build_is_resumed(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None] | None,
    options: list[str],
    found: str,
) -> None:
    assert disturb(monkeypatch, 3, fails(FULL))[0] == 1
    before = tree_bytes(Path("m"))
    if change is not None:
        change(folder)
    assert call("--out", "m", "--resume", *options) == (
        1,
        "govern: --resume in m: expected the build that was begun there, found "
        f"{found}; run it without --resume to begin anew, or exactly as it was begun\n",
    )
    assert tree_bytes(Path("m")) == before
    assert call("--out", "m", *options)[0] == 0
    assert all(check.passed for check in check_manifest(Path("m")))


@pytest.mark.usefixtures("folder")
def test_one_source_for_a_folder_and_another_for_its_files_is_no_resuming(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert disturb(monkeypatch, 3, fails(FULL))[0] == 1
    code, said = call("--out", "m", "--resume", corpus="corpus/*.jsonl")
    assert code == 1
    assert "found source corpus of corpus/0.jsonl at its beginning and 0 now" in said


@pytest.mark.usefixtures("folder")
def test_resuming_nothing_is_a_build() -> None:
    assert finish(resume=True) == ""
    code, said = call("--out", "m", "--resume")
    assert code == 1
    assert "expected a new or empty directory, found a finished manifest" in said


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("corpus/0.jsonl", "expected a new or empty directory, found a file; name another"),
        ("corpus/0.jsonl/m", "found Not a directory; mend it and run the command again"),
        ("/proc/nowhere/m", "expected reading and writing to work, found No such file"),
        ("corpus", "found other files (0.jsonl, …); name another directory"),
    ],
)
def test_an_output_that_cannot_be_written(out: str, message: str) -> None:
    before = tree_bytes(Path("corpus"))
    code, said = call("--out", out)
    assert code == 1
    assert message in said
    assert said.count("\n") == 1
    assert tree_bytes(Path("corpus")) == before
    assert not Path("corpus/.lock").exists()


@pytest.mark.usefixtures("folder")
def test_the_second_of_two_builds_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[int, str]] = []
    disturb(monkeypatch, 3, lambda: heard.append(call("--out", "m", "--resume")))
    code, said = heard[0]
    assert code == 1
    assert said.startswith(
        f"govern: m: expected no other writer, found a lock held by pid {os.getpid()}"
    )
    assert tree_bytes(Path("m")) == tree_bytes(Path("whole"))


def limited(kind: int, soft: int, work: Callable[[], object]) -> None:
    """Run work in a child with a limit of its resources; it must end well."""

    def under_limit() -> None:
        resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))
        work()

    assert ended(forked(under_limit)) == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("limit", [3_000, 15_000, 30_000])
def test_files_that_may_not_grow(limit: int) -> None:
    """The operating system refuses to write, wherever that is, in Python or in compiled code."""

    def build() -> None:
        code, said = call("--out", "m")
        assert code == 1, said
        assert said.startswith("govern: --out m: expected a disk"), said
        assert "File too large" in said, said
        assert said.count("\n") == 1, said

    limited(resource.RLIMIT_FSIZE, limit, build)
    finish(resume=True)


def many_small_files(folder: Path, number: int) -> Path:
    for k in range(number):
        write_jsonl(folder / f"{k % 100:02}/{k}.jsonl", [{"id": str(k), "text": prose(k, 8)}])
    return folder


def build_with_few_open_files(tmp_path: Path, number: int) -> None:
    corpus = many_small_files(tmp_path / "corpus", number)

    def build() -> None:
        report = build_ids([corpus], tmp_path / "m", BuildConfig(workers=2))
        assert (report.files, report.documents) == (number, number)

    limited(resource.RLIMIT_NOFILE, len(os.listdir("/proc/self/fd")) + 80, build)


def test_many_small_files_need_few_open_ones(tmp_path: Path) -> None:
    build_with_few_open_files(tmp_path, 1000)


@pytest.mark.slow
def test_twenty_thousand_small_files_need_few_open_ones(tmp_path: Path) -> None:
    build_with_few_open_files(tmp_path, 20_000)


def test_parts_of_another_format_are_not_gone_on_with() -> None:
    """An older release's parts may hold other values under the same names."""
    older = Begun(parameters={"ngram": 5}, inputs={})
    now = Begun(parameters={"ngram": 5, "parts_format": PARTS_FORMAT}, inputs={})
    assert older.difference(now) == f"parts_format None at its beginning and {PARTS_FORMAT} now"
    assert now.difference(now) is None
