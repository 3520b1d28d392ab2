"""Several checkpoints of one training in one request: all or none, and evidence for each alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from forget_world import BASE, SIGNED, FakeMeasurer, Run, World, build_world
from synthetic_run import BANK_BLOCKS, MapRow, RunShape, tree_digest, write_run

import govern.cli
import govern.cli.forget as command
from govern.audit.report_file import read_report
from govern.audit.statement import Predicate
from govern.forget import execute
from govern.forget.estimate import estimate
from govern.forget.request import ForgetRequest
from manifests import open_manifest
from manifests.errors import CollateralError, InputError, IntegrityError
from manifests.files import writer_lock
from manifests.sequence_id import format_id
from sinkmodel.allocation import SinkMap
from sinkmodel.stored_map import SINK_MAP_FILE

CHOSEN = ("--doc-id", "licence-1", "--doc-id", "secret")
IN_PLACE = ("--in-place", "--yes")
ALSO = (*BASE, *CHOSEN, "--also", "early", *IN_PLACE, *SIGNED)


def another_checkpoint(world: World, name: str = "early", **shape: object) -> Path:
    """The same training at another moment: its sink map and manifest, other weights."""
    rows = [
        MapRow(row["sequence_id"], row["policy"], tuple(row["blocks"]))
        for row in SinkMap.read(world.run / SINK_MAP_FILE).table.to_pylist()
    ]
    manifest = open_manifest(world.manifest)
    pin = {"content_digest": manifest.content_digest(), "snapshot": manifest.snapshot}
    blocks = 1 + max(block for row in rows for block in row.blocks)
    given = RunShape(**{"blocks": blocks, "seed": 8, "manifest": pin, **shape})  # type: ignore[arg-type]
    return write_run(world.base / name, rows, given)


@pytest.fixture
def world(here: World) -> World:
    another_checkpoint(here)
    return here


@pytest.fixture
def nothing_changes(world: World) -> Iterator[None]:
    """Not one file of the whole world, locks apart."""

    def state() -> dict[Path, bytes]:
        files = (p for p in world.base.rglob("*") if p.is_file() and p.name != ".lock")
        return {path: path.read_bytes() for path in files}

    before = state()
    yield
    assert state() == before
    assert not list(world.base.rglob("*report*"))


def predicate(report: str) -> Predicate:
    return read_report(Path(report)).statement().predicate


def verify(run: Run, name: str, model: str | None = None) -> tuple[int, str]:
    code, out, _ = run(
        "audit", "verify", f"{name}-report-R-17/REPORT.json", "--model", model or name,
        "--ledger", "ledger", "--manifest", "manifest", "--public-key", "keys/govern-public.pem",
    )  # fmt: skip
    return code, out


def test_each_is_erased_and_verified_by_its_own_report(world: World, run: Run) -> None:
    before = {name: tree_digest(world.base / name) for name in ("run", "early")}
    code, out, err = run(*ALSO)
    assert code == 0, err
    assert err.splitlines()[0] == "run, early are erased in place: there is no undo"
    assert "Also       early: the same plan\nErased     early\nVerdict    PASSED\n" in out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("Erased")] == [
        "run", "early",
    ]  # fmt: skip
    assert len(list((world.base / "ledger" / "entries").iterdir())) == 2
    for name in ("run", "early"):
        assert tree_digest(world.base / name) != before[name]
        code, checks = verify(run, name)
        assert code == 0, checks
        assert checks.endswith(" 0 failed, 0 not checkable\n")
        found = predicate(f"{name}-report-R-17/REPORT.json")
        assert set(found.selection.sequence_ids) == {
            format_id(world.ids["licence"]), format_id(world.ids["secret"])
        }  # fmt: skip
        assert found.integrity.not_examined[-1] == (
            "other checkpoints of the same training; the request names 2 in all, each has a "
            "statement of its own"
        )
        assert [row.value for row in found.verification.metrics] == [3.0]
    # The report of one says nothing about the other.
    assert verify(run, "run", model="early")[0] == 3
    assert verify(run, "early", model="run")[0] == 3
    hidden = {p.name for p in world.base.rglob(".*")}
    assert hidden <= {".lock"}


def test_a_flipped_byte_fails_for_its_checkpoint_alone(world: World, run: Run) -> None:
    assert run(*ALSO)[0] == 0
    bank = world.base / "early" / "sinks-00000.safetensors"
    raw = bytearray(bank.read_bytes())
    raw[-1] ^= 1
    bank.write_bytes(raw)
    assert verify(run, "run")[0] == 0
    code, out = verify(run, "early")
    assert code == 3
    assert "sinks-00000.safetensors" in out


def test_behaviour_is_measured_for_each_before_any_is_erased(world: World) -> None:
    seen: list[tuple[str, str]] = []

    class Watching(FakeMeasurer):
        def before(self, run: Path, *rest: object) -> bytes:
            seen.append(("before", run.name))
            return super().before(run, *rest)  # type: ignore[arg-type]

        def after(self, run: Path, *rest: object) -> object:  # type: ignore[override]
            seen.append(("after", run.name))
            return super().after(run, *rest)  # type: ignore[arg-type]

    outcome = forget(world, measurer=Watching())
    assert seen == [("before", "run"), ("before", "early"), ("after", "run"), ("after", "early")]
    assert [one.run.name for one in (outcome, *outcome.also)] == ["run", "early"]


def forget(world: World, *also: str, doc_id: str = "licence-1", **options: object):  # type: ignore[no-untyped-def]
    return execute.forget(
        world.run,
        world.manifest,
        ForgetRequest(kind="doc-id", values=(doc_id,), reference="R-17", reason="r"),
        also=[world.base / name for name in also or ("early",)],
        key=world.key,
        **{"in_place": True, **options},  # type: ignore[arg-type]
    )


# --- files with several names --------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
def test_hard_links_between_checkpoints(world: World, run: Run, named: bool) -> None:
    """`twin` has every file in common with `run`; it changes where it is named, and only there."""
    shutil.copytree(world.run, world.base / "twin", copy_function=os.link)
    files = [path for path in (world.base / "twin").rglob("*") if path.is_file()]
    assert {path.stat().st_nlink for path in files} == {2}
    before = tree_digest(world.base / "twin")
    also = ("--also", "twin") if named else ()
    code, _, err = run(*ALSO, *also)
    assert code == 0, err
    after = tree_digest(world.base / "twin")
    if named:
        assert after == tree_digest(world.run) != before
        assert verify(run, "twin")[0] == 0
    else:
        assert after == before != tree_digest(world.run)
    assert verify(run, "run")[0] == 0
    assert verify(run, "early")[0] == 0


# --- again ---------------------------------------------------------------------------------------


def test_again_is_a_no_op_that_says_so_for_each(world: World, run: Run) -> None:
    assert run(*ALSO)[0] == 0
    before = {p: p.read_bytes() for p in world.base.rglob("*") if p.is_file() and p.name != ".lock"}
    code, out, _ = run(*ALSO)
    assert (code, out) == (
        0,
        "Nothing to do in run: all of this was forgotten before; the report is "
        "run-report-R-17/REPORT.json.\n"
        "Nothing to do in early: all of this was forgotten before; the report is "
        "early-report-R-17/REPORT.json.\n",
    )
    assert before == {path: path.read_bytes() for path in before}
    code, out, _ = run("--output", "json", *ALSO)
    result = json.loads(out)
    assert result["already_forgotten"]
    assert [(o["run"], o["already_forgotten"]) for o in result["also"]] == [("early", True)]


def test_a_checkpoint_may_be_named_later(world: World, run: Run) -> None:
    assert run(*BASE, *CHOSEN, *IN_PLACE, *SIGNED)[0] == 0
    code, out, err = run(*ALSO)
    assert code == 0, err
    assert out.startswith("Nothing to do in run: ")
    assert "\nErased     early\n" in out
    assert verify(run, "run")[0] == verify(run, "early")[0] == 0
    assert len(list((world.base / "ledger" / "entries").iterdir())) == 2


def test_nothing_is_recorded_before_all_are_erased(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = execute.erase_locked

    def faulty(path: Path, *rest: object, **options: object) -> object:
        if path.name == "early":
            raise IntegrityError("early", expected="a disk", found="none", remedy="mount it")
        return real(path, *rest, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(execute, "erase_locked", faulty)
        assert run(*ALSO)[0] == 3
    assert not list(world.base.rglob("REPORT.json"))
    assert not (world.base / "ledger").exists()
    assert run(*ALSO)[0] == 0
    assert verify(run, "run")[0] == verify(run, "early")[0] == 0
    assert len(list((world.base / "ledger" / "entries").iterdir())) == 2


def test_one_of_them_can_be_completed_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the other checkpoint is lost for good, the report of this one is not lost with it."""
    real = execute.erase_locked

    def dies_after_run(path: Path, *rest: object, **options: object) -> object:
        if path.name == "early":
            raise KeyboardInterrupt
        return real(path, *rest, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(execute, "erase_locked", dies_after_run)
        with pytest.raises(KeyboardInterrupt):
            forget(world)
    shutil.rmtree(world.base / "early")
    alone = execute.forget(
        world.run,
        world.manifest,
        ForgetRequest(kind="doc-id", values=("licence-1",), reference="R-17", reason="r"),
        in_place=True,
        key=world.key,
    )
    assert alone.verdict == "PASSED"
    assert alone.report is not None
    assert alone.report.exists()


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize("locked", ["run", "early"])
def test_one_locked_run_and_none_is_touched(world: World, run: Run, locked: str) -> None:
    with writer_lock(world.base / locked):
        code, out, err = run("--quiet", *ALSO)
    assert (code, out) == (1, "")
    assert err.startswith(f"govern: {locked}: expected no other writer, found a lock held by pid ")


def test_another_sink_map_is_refused(world: World, run: Run) -> None:
    wanted = json.loads((world.run / "training.json").read_bytes())["files"][SINK_MAP_FILE]
    shutil.rmtree(world.base / "early")
    rows = [MapRow(world.ids["licence"], "private", (0, 1, 2))]
    manifest = open_manifest(world.manifest)
    pin = {"content_digest": manifest.content_digest(), "snapshot": manifest.snapshot}
    write_run(world.base / "early", rows, RunShape(manifest=pin))
    found = json.loads((world.base / "early/training.json").read_bytes())["files"][SINK_MAP_FILE]
    before = tree_digest(world.run)
    assert run("--quiet", *ALSO) == (
        1,
        "",
        f"govern: --also early: expected a checkpoint of the same training as run, sink map "
        f"{wanted}, found sink map {found}; forget in it by a call of its own\n",
    )
    assert tree_digest(world.run) == before


def test_another_manifest_is_refused(world: World, run: Run) -> None:
    shutil.rmtree(world.base / "early")
    another_checkpoint(world, manifest={"content_digest": "c" * 64, "snapshot": 1})
    known = open_manifest(world.manifest).content_digest()
    before = tree_digest(world.run)
    assert run("--quiet", *ALSO) == (
        1,
        "",
        "govern: --also early: expected a checkpoint of the same training as run, manifest "
        f"content digest {known}, found manifest content digest {'c' * 64}; forget in it by a "
        "call of its own\n",
    )
    assert tree_digest(world.run) == before


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--also", "early", "--out", "x"), "--also does not go with --out."),
        (
            ("--also", "early", "--plan", "--plan-file", "p"),
            "--also does not go with --plan-file.",
        ),
    ],
)
def test_what_belongs_to_one_run(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run(*BASE, *CHOSEN, *SIGNED, *arguments)
    assert code == 2
    assert message in err


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize(
    ("also", "message"),
    [
        (("early", "early"), "--also: expected each run once, found early twice; correct the call"),
        (("run/../run",), "--also: expected each run once, found run twice; correct the call"),
    ],
)
def test_a_run_is_named_once(run: Run, also: tuple[str, ...], message: str) -> None:
    named = [argument for name in also for argument in ("--also", name)]
    code, _, err = run("--quiet", *BASE, *CHOSEN, *named, *IN_PLACE, *SIGNED)
    assert (code, err) == (1, f"govern: {message}\n")


def test_a_run_inside_another_is_refused(world: World) -> None:
    shutil.copytree(world.base / "early", world.run / "step-9")
    with pytest.raises(InputError, match=r"expected runs that lie apart, found .*step-9 inside"):
        forget(world, "run/step-9")


def test_the_worst_collateral_of_them_decides(tmp_path: Path) -> None:
    """In one of two pooled checkpoints nobody has anything left to lose; the other decides."""
    world = build_world(tmp_path, {"licence": "pooled", "secret": "pooled", "poem": "pooled"})
    runs = (world.run, another_checkpoint(world))
    execute.forget(
        world.run,
        world.manifest,
        ForgetRequest(kind="doc-id", values=("licence-0", "poem"), reference="R", reason="r"),
        in_place=True,
        key=world.key,
        max_collateral=1.0,
    )
    request = ForgetRequest(kind="doc-id", values=("secret",), reference="R-17", reason="r")
    plans = execute.plan_checkpoints(runs, world.manifest, request)
    assert [round(plan.worst_share, 3) for plan in plans] == [0, 0.333]
    before = [tree_digest(path) for path in runs]
    with pytest.raises(CollateralError, match=f"^plan for 1 sequence IDs in {runs[1]}: expected"):
        forget(world, doc_id="secret", max_collateral=0.33)
    assert [tree_digest(path) for path in runs] == before
    assert not list(world.base.rglob("*-report-R-17"))
    outcome = forget(world, doc_id="secret", max_collateral=0.34)
    assert (outcome.verdict, outcome.also[0].verdict) == ("PASSED", "WARNED")


# --- reports and plans ---------------------------------------------------------------------------


@pytest.mark.usefixtures("world")
def test_a_given_report_directory_has_one_for_each(run: Run) -> None:
    code, out, _ = run("--output", "json", *ALSO, "--report", "reports")
    assert code == 0
    result = json.loads(out)
    assert result["report"] == "reports/run/REPORT.json"
    assert [other["report"] for other in result["also"]] == ["reports/early/REPORT.json"]
    assert Path("reports/early/REPORT.html").exists()


@pytest.mark.usefixtures("nothing_changes")
def test_runs_of_one_name_do_not_share_a_report_directory(world: World) -> None:
    (world.base / "b").mkdir()
    shutil.copytree(world.base / "early", world.base / "b" / "run")
    with pytest.raises(InputError, match="found two that are called run; correct the call"):
        forget(world, "b/run", report_dir=world.base / "reports")
    shutil.rmtree(world.base / "b")


def test_reports_stay_out_of_every_run(world: World) -> None:
    with pytest.raises(InputError, match="expected a directory outside the run early"):
        forget(world, report_dir=world.base / "early")


def test_the_plan_counts_the_room_of_broken_links(world: World) -> None:
    request = ForgetRequest(kind="doc-id", values=("secret",), reference="R", reason="r")
    (plan,) = execute.plan_checkpoints((world.run,), world.manifest, request)
    banks = {f"sinks-{block // BANK_BLOCKS:05d}" for block in plan.blocks}
    alone = estimate(plan, world.run)
    shutil.copytree(world.run, world.base / "twin", copy_function=os.link)
    shared = estimate(plan, world.run)
    assert len(banks) < len(list(world.run.glob("sinks-*.leaves")))
    sizes = [
        (world.run / file).stat().st_size
        for name in banks
        for folder in ("", "state/")
        for file in (f"{folder}{name}.safetensors", f"{folder}{name}.leaves")
    ]
    assert shared.bytes_written_in_place == alone.bytes_written_in_place + sum(sizes)
    assert shared.bytes_written_to_copy == alone.bytes_written_to_copy


@pytest.mark.usefixtures("nothing_changes")
def test_the_plan_shows_every_checkpoint(run: Run) -> None:
    code, out, _ = run(*BASE, *CHOSEN, "--also", "early", "--plan")
    assert code == 0
    assert out.count("Selection  ") == 1
    assert "\nAlso       early: the same plan\nEstimate   about " in out
    code, out, _ = run("--output", "json", *BASE, *CHOSEN, "--also", "early", "--plan")
    plan = json.loads(out)
    (other,) = plan["also"]
    assert (other["run"], other["sequences"]) == ("early", plan["sequences"])
    assert other["estimate"]["bytes_zeroed"] == plan["estimate"]["bytes_zeroed"]


@pytest.mark.usefixtures("world")
def test_a_plan_that_differs_is_shown_in_full(run: Run) -> None:
    assert run(*BASE, "--doc-id", "secret", *IN_PLACE, *SIGNED)[0] == 0
    code, out, _ = run(*BASE, *CHOSEN, "--also", "early", "--plan")
    assert code == 0
    assert out.count("Selection  ") == 2
    first, second = out.split("Also       early\n")
    assert "Before     1 selected IDs were forgotten already" in first
    assert "forgotten already" not in second


def test_one_question_for_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "is_terminal", lambda: True)
    arguments = [argument for argument in ALSO if argument != "--yes"]
    refused = CliRunner().invoke(govern.cli.cli, arguments, input="n\n")
    assert refused.exit_code == 1
    question = "run, early will be erased in place. There is no undo. Continue? [y/N]"
    assert refused.stderr.count("Continue?") == 1
    assert question in refused.stderr
    assert not list(world.base.rglob("*report*"))


@pytest.mark.usefixtures("world")
def test_one_failed_verdict_gives_exit_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class FailsEarly(FakeMeasurer):
        def after(self, run: Path, *rest: object) -> object:  # type: ignore[override]
            self._after = 1.0 if run.name == "early" else 3.0
            return super().after(run, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "make_measurer", lambda *_: FailsEarly())
    code, out, _ = run(*ALSO)
    assert code == 3
    verdicts = [line.split()[1] for line in out.splitlines() if line.startswith("Verdict")]
    assert verdicts == ["PASSED", "FAILED"]
