"""A plan that is approved now and executed later: the same erase, or a refusal that says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forget_world import BASE, SIGNED, Run, World
from synthetic_run import tree_digest

from govern.audit.records import canonical
from govern.audit.report_file import read_report
from govern.forget.plan_file import PlanFile, read_plan_file
from manifests.tombstones import add_tombstones

PLAN = (*BASE, "--doc-id", "licence-1", "--plan", "--plan-file", "PLAN.json", *SIGNED[:4])
EXECUTE = (*BASE, "--from-plan", "PLAN.json", *SIGNED[4:])


@pytest.fixture
def planned(here: World, run: Run) -> World:
    code, out, err = run(*PLAN)
    assert code == 0, err
    digest = json.loads(Path("PLAN.json").read_bytes())["digest"]
    assert out.endswith(f"Plan file  PLAN.json\n  digest {digest}\n")
    return here


def test_planning_changes_nothing_but_the_plan_file(here: World, run: Run) -> None:
    before = {p: p.stat().st_mtime_ns for p in here.base.rglob("*")}
    code, out, _ = run("--output", "json", *PLAN)
    assert code == 0
    after = {p: p.stat().st_mtime_ns for p in here.base.rglob("*")}
    assert set(after) - set(before) == {here.base / "PLAN.json"}
    assert all(after[p] == before[p] for p in before)
    assert Path("PLAN.json").stat().st_mode & 0o777 == 0o600
    shown, file = json.loads(out), read_plan_file(Path("PLAN.json"))
    assert shown["plan_sha256"] == file.digest
    assert shown["sequences"] == file.plan.to_dict()["sequences"]


def test_the_erase_and_the_statement_are_those_of_a_direct_run(planned: World, run: Run) -> None:
    code, out, err = run(*EXECUTE, "--out", "from-plan", "--report", "report-a")
    assert code == 0, err
    verify = out.splitlines()[-1].removeprefix("Verify     govern ").split()
    assert run(*verify)[0] == 0
    direct = (*BASE, "--doc-id", "licence-1", *SIGNED, "--out", "direct", "--report", "report-b")
    assert run(*direct)[0] == 0
    assert tree_digest(planned.base / "from-plan") == tree_digest(planned.base / "direct")
    one, other = (
        read_report(Path(name, "REPORT.json")).statement().predicate
        for name in ("report-a", "report-b")
    )
    file = read_plan_file(Path("PLAN.json"))
    assert (one.request.plan_sha256, other.request.plan_sha256) == (file.digest, None)
    assert one.request.received_at == file.made_at
    assert "plan_sha256" not in other.request.to_dict()
    assert (one.request.reference, one.request.reason) == ("R-17", "GDPR art. 17")
    for part in ("mechanism", "blocks", "integrity", "verdict"):
        assert getattr(one, part) == getattr(other, part)
    assert one.selection.sequence_ids == other.selection.sequence_ids
    assert file.digest in Path("report-a/REPORT.html").read_text()


def test_executing_twice_says_so(planned: World, run: Run) -> None:
    again = (*EXECUTE, "--in-place", "--yes")
    assert run(*again)[0] == 0
    digest = tree_digest(planned.run)
    code, out, _ = run(*again)
    assert (code, out.split(":")[0]) == (0, "Nothing to do")
    assert tree_digest(planned.run) == digest


KILLED = """
import os, sys
import govern.cli, govern.cli.forget as command, govern.forget.execute as execute
command.make_measurer = lambda *_: None
execute.verify_erased = lambda *_: os._exit(9)
govern.cli.main(sys.argv[1:])
"""


def test_a_killed_execution_is_completed_by_the_same_call(
    planned: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the erase the run is no longer what the plan pinned; the pending job knows why."""
    monkeypatch.setattr("govern.cli.forget.make_measurer", lambda *_: None)
    arguments = (*EXECUTE, "--in-place", "--yes")
    before = tree_digest(planned.run)
    died = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=planned.base, check=False)
    assert died.returncode == 9
    assert tree_digest(planned.run) != before
    assert not (planned.base / "run-report-R-17" / "REPORT.json").exists()
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "Verdict    PASSED" in out


def refused(planned: World, run: Run) -> tuple[int, str]:
    before = tree_digest(planned.run)
    code, out, err = run("--quiet", *EXECUTE, "--out", "after")
    assert out == ""
    assert tree_digest(planned.run) == before
    assert not (planned.base / "after").exists()
    assert not (planned.base / "ledger").exists()
    assert len(err.splitlines()) == 1
    return code, err.strip()


def test_a_manifest_that_changed_since_is_refused(planned: World, run: Run) -> None:
    import pyarrow as pa

    from manifests.schema import TOMBSTONES

    pinned = read_plan_file(Path("PLAN.json")).plan.manifest.digest_before
    row = {
        "sequence_id": planned.ids["poem"],
        "signature": b"",
        "forgotten_at": 0,
        "request": "R-0",
        "statement_sha256": bytes(32),
    }
    add_tombstones(planned.manifest, pa.Table.from_pylist([row], schema=TOMBSTONES))
    code, line = refused(planned, run)
    assert code == 1
    assert line.startswith(
        f"govern: manifest manifest: expected digest {pinned}, which the plan was made on, found "
    )
    assert line.endswith("; plan again, and have that plan approved")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("forgotten.txt", "bytes"),
        ("config.json", "bytes"),
        ("sinks-00001.leaves", "bytes"),
        ("model-shared.safetensors", "gone"),
        ("added.txt", "bytes"),
        ("sinks-00000.safetensors", "time"),
    ],
)
def test_a_run_that_changed_since_is_refused(
    planned: World, run: Run, name: str, change: str
) -> None:
    path = planned.run / name
    if change == "gone":
        path.unlink()
    elif change == "time":
        os.utime(path, ns=(0, 0))
    elif name == "forgotten.txt":
        forget_one(planned.run / "sink_map.parquet")
    else:
        path.write_bytes((path.read_bytes() if path.exists() else b"") + b" ")
    code, line = refused(planned, run)
    assert code == 1
    if name == "sinks-00001.leaves":  # its tree is unreadable, which is said first
        assert line.startswith("govern: ")
        return
    assert line == (
        f"govern: run run: expected the files that the plan was made on, found others: {name}; "
        "plan again, and have that plan approved"
    )


def forget_one(path: Path) -> None:
    """One sequence more is forgotten."""
    from sinkmodel.allocation import SinkMap

    sink_map = SinkMap.read(path)
    owner = next(int(i) for i, p in zip(sink_map.sequence_ids, sink_map.policies, strict=True)
                 if p != "shared")  # fmt: skip
    sink_map.forget([owner]).save(path)


def test_an_edited_plan_is_refused(planned: World, run: Run) -> None:
    path = Path("PLAN.json")
    path.write_bytes(path.read_bytes().replace(b'"how":"duplicate"', b'"how":"requested"', 1))
    code, line = refused(planned, run)
    assert code == 3
    assert line.startswith("govern: plan file: expected digest ")
    assert "it was edited" in line


def test_a_plan_with_a_digest_made_anew_is_refused_by_planning_again(
    planned: World, run: Run
) -> None:
    """Whoever drops a copy from the plan can make its digest fit, but not the plan."""
    path = Path("PLAN.json")
    body = json.loads(path.read_bytes())
    body["plan"]["documents"].pop()
    del body["digest"]
    forged = {**body, "digest": sha256(canonical(body))}
    PlanFile.from_dict(forged)  # it is well formed
    path.write_bytes(canonical(forged))
    code, line = refused(planned, run)
    assert code == 1
    assert line == (
        "govern: plan file: expected the plan that its request gives, found another in documents; "
        "plan again, and have that plan approved"
    )


def sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 1, "govern: --from-plan PLAN.json: expected a plan file, found No such file"),
        (b"{}", 3, "govern: plan file PLAN.json.format: expected a value, found nothing"),
        (b"{ }", 3, "govern: plan file PLAN.json: expected canonical JSON (RFC 8785)"),
        (b"[" * 5000, 3, "govern: plan file PLAN.json: expected canonical JSON (RFC 8785)"),
        (b"\xff\xfe", 3, "govern: plan file PLAN.json: expected canonical JSON (RFC 8785)"),
    ],
)
def test_what_is_no_plan(
    here: World, run: Run, content: bytes | None, code: int, message: str
) -> None:
    if content is not None:
        Path("PLAN.json").write_bytes(content)
    found, line = refused(here, run)
    assert found == code
    assert line.startswith(message)
