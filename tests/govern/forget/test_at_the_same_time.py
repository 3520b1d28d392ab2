"""Several processes at one run: one forget wins, and a verifier sees the old state or the new."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forget_world import BASE, SIGNED, Run, World, build_world
from synthetic_run import tree_digest

import govern.audit.checkpoint_files as files
from govern.audit.checkpoint_files import scan_run
from govern.audit.report_file import read_report
from govern.forget import execute
from govern.forget.request import ForgetRequest
from manifests.errors import IntegrityError
from sinkmodel import run_files

# A forget that stops in the middle of its erase until its stdin is closed.
SLOW = """
import sys
import govern.cli, govern.cli.forget as command
from sinkmodel import run_files
command.make_measurer = lambda *_: None
write = run_files.write_zeros
def slow(path, ranges):
    write(path, ranges[:1])
    print("erasing", flush=True)
    sys.stdin.read()
    write(path, ranges)
run_files.write_zeros = slow
govern.cli.main(sys.argv[1:])
"""


def begin(world: World, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *BASE, *arguments, *SIGNED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=world.base,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "erasing\n"
    return process


def test_one_forget_wins_and_the_other_says_who_holds_the_lock(here: World, run: Run) -> None:
    with begin(here, "--doc-id", "licence-0", "--doc-id", "secret", "--in-place", "--yes") as first:
        code, out, err = run(
            "--quiet", *BASE, "--doc-id", "poem", "--in-place", "--yes", *SIGNED[2:],
            "--request", "R-18",
        )  # fmt: skip
        assert (code, out) == (1, "")
        assert re.fullmatch(
            rf"govern: run: expected no other writer, found a lock held by pid {first.pid} on \S+ "
            r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ; wait until that process has finished, then "
            r"run the command again\n",
            err,
        )
        assert not (here.base / "run-report-R-18").exists()
        first.communicate("")
    assert first.returncode == 0
    assert (here.base / "run-report-R-17" / "REPORT.json").exists()
    again = (*BASE, "--doc-id", "poem", "--in-place", "--yes", *SIGNED[2:], "--request", "R-18")
    assert run(*again)[0] == 0


def test_verifying_while_another_process_erases_says_so(here: World, run: Run) -> None:
    code, out, _ = run(*BASE, "--doc-id", "poem", "--in-place", "--yes", *SIGNED)
    assert code == 0
    verify = out.splitlines()[-1].removeprefix("Verify     govern ").split()
    assert run(*verify)[0] == 0
    other = ("--doc-id", "licence-0", "--doc-id", "secret", "--in-place", "--yes")
    with begin(here, *other, "--report", "second", "--request", "R-18") as process:
        code, out, _ = run(*verify)
        assert code == 3
        (line,) = [line for line in out.splitlines() if "checkpoint files" in line]
        assert "found an erase is under way, or one was interrupted; verify again when" in line
        assert "has other bytes" not in out
        process.communicate("")
    assert process.returncode == 0
    second = ("audit", "verify", "second/REPORT.json", "--model", "run", "--ledger", "ledger")
    assert run(*second)[0] == 0


def forget_more(world: World) -> None:
    execute.forget(
        world.run,
        world.manifest,
        ForgetRequest(kind="doc-id", values=("licence-0",), reference="R-2", reason="r"),
        in_place=True,
        key=world.key,
    )


def test_a_run_that_is_erased_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole erase falls between the first file and the last: the scan shows the new state."""
    world = build_world(tmp_path)
    real, calls = files._scan, []

    def scan(path: Path) -> files.ScannedRun:
        found = real(path)
        if not calls:
            forget_more(world)
        calls.append(found)
        return found

    monkeypatch.setattr(files, "_scan", scan)
    found = scan_run(world.run)
    assert len(calls) == 2
    assert found.digests == real(world.run).digests != calls[0].digests


def test_an_error_of_a_torn_state_is_not_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build_world(tmp_path)
    real, calls = files._scan, []

    def scan(path: Path) -> files.ScannedRun:
        calls.append(path)
        if len(calls) == 1:
            forget_more(world)
            raise FileNotFoundError("a file that was there when it was listed")
        return real(path)

    monkeypatch.setattr(files, "_scan", scan)
    assert scan_run(world.run).digests == real(world.run).digests


def test_an_error_of_a_run_at_rest_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = build_world(tmp_path)

    def scan(path: Path) -> files.ScannedRun:
        raise PermissionError(path)

    monkeypatch.setattr(files, "_scan", scan)
    with pytest.raises(PermissionError):
        scan_run(world.run)


def test_files_that_never_rest_are_said_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build_world(tmp_path)
    real = files._scan

    def scan(path: Path) -> files.ScannedRun:
        found = real(path)
        config = path / "config.json"
        config.write_bytes(config.read_bytes() + b" ")
        return found

    monkeypatch.setattr(files, "_scan", scan)
    with pytest.raises(IntegrityError, match="found files that somebody changes; verify again"):
        scan_run(world.run)


def test_every_torn_state_of_an_erase_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verify at each write of an erase in place: the old run, the new one, or 'under way'."""
    world = build_world(tmp_path)
    old = scan_run(world.run).digests
    seen: list[object] = []

    def look() -> None:
        try:
            seen.append(scan_run(world.run).digests)
        except IntegrityError as error:
            if "an erase is under way" not in str(error):
                raise
            seen.append("under way")

    def watched(name: str) -> None:
        original = getattr(run_files, name)

        def operation(*arguments: object) -> None:
            look()
            original(*arguments)
            look()

        monkeypatch.setattr(run_files, name, operation)

    for name in ("write_zeros", "break_link", "fsync_directory"):
        watched(name)
    forget_more(world)
    look()
    new = seen[-1]
    assert new != old
    assert {str(state) for state in seen} == {str(new), "under way"}
    assert tree_digest(world.run)


def test_a_run_that_shares_every_file_is_not_changed_behind_its_back(here: World, run: Run) -> None:
    """Each file has two names; whatever the erase in place writes gets bytes of its own first."""
    twin = here.base / "twin"
    shutil.copytree(here.run, twin, copy_function=os.link)
    files = [path for path in twin.rglob("*") if path.is_file()]
    assert {path.stat().st_nlink for path in files} == {2}
    before, times = tree_digest(twin), {path: path.stat().st_mtime_ns for path in files}
    names = ("--doc-id", "licence-0", "--doc-id", "secret", "--doc-id", "poem")
    code, out, err = run(*BASE, *names, "--in-place", "--yes", *SIGNED)
    assert code == 0, err
    assert tree_digest(twin) == before != tree_digest(here.run)
    assert {path: path.stat().st_mtime_ns for path in files} == times
    touched = [f.name for f in read_report(here.base / "run-report-R-17" / "REPORT.json")
               .statement().predicate.integrity.files if f.touched]  # fmt: skip
    assert {"sinks-00000.safetensors", "sinks-00000.leaves"} <= set(touched)
    assert {(twin / name).stat().st_nlink for name in touched if (twin / name).exists()} == {1}
    verify = out.splitlines()[-1].removeprefix("Verify     govern ").split()
    assert run(*verify)[0] == 0
    # The twin can be erased by a request of its own afterwards.
    again = ("forget", "twin", *BASE[2:], *names, "--in-place", "--yes", "--report", "two")
    assert run(*again, *SIGNED[2:], "--request", "R-18")[0] == 0
