"""`govern forget` as a person types it: exact errors, exit codes, one JSON object."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from forget_world import BASE, SIGNED, FakeMeasurer, Run, World
from synthetic_run import tree_digest

import govern.cli
import govern.cli.forget as command
from govern.audit.report_file import read_report
from manifests.sequence_id import format_id


@pytest.fixture
def world(here: World) -> World:
    return here


def test_the_whole_command(world: World, run: Run) -> None:
    code, out, err = run(*BASE, "--doc-id", "licence-1", "--out", "after", *SIGNED)
    assert code == 0, err
    assert "1 documents named, 3 covered (2 of them duplicates)" in out
    assert "Verdict    PASSED" in out
    report = read_report(Path("after-report-R-17/REPORT.json")).statement().predicate
    assert report.selection.sequence_ids == (format_id(world.ids["licence"]),)
    verify = out.splitlines()[-1].removeprefix("Verify     govern ").split()
    assert run(*verify)[0] == 0


def test_json_is_one_object(world: World, run: Run) -> None:
    code, out, _ = run("--output", "json", *BASE, "--doc-id", "poem", "--out", "after", *SIGNED)
    assert code == 0
    result = json.loads(out)
    assert result["sequence_ids"] == [format_id(world.ids["poem"])]
    assert (result["verdict"], result["already_forgotten"]) == ("PASSED", False)
    code, out, _ = run("--output", "json", *BASE, "--doc-id", "poem", "--out", "after", *SIGNED)
    assert (code, json.loads(out)["already_forgotten"]) == (0, True)


def test_a_second_time_says_so(world: World, run: Run) -> None:
    again = (*BASE, "--doc-id", "poem", "--in-place", "--yes", *SIGNED)
    code, _, err = run(*again)
    assert (code, err.splitlines()[0]) == (0, "run is erased in place: there is no undo")
    digest = tree_digest(world.run)
    code, out, _ = run(*again)
    assert code == 0
    assert out == (
        "Nothing to do: all of this was forgotten before; "
        "the report is run-report-R-17/REPORT.json.\n"
    )
    assert tree_digest(world.run) == digest


def test_a_plan_writes_nothing_and_needs_no_key(world: World, run: Run) -> None:
    files = {p: p.stat().st_mtime_ns for p in world.base.rglob("*")}
    code, out, _ = run(*BASE, "--where", "doc_id LIKE 'licence%'", "--plan")
    assert code == 0
    assert "Collateral none: no kept sequence uses any of these blocks" in out
    code, out, _ = run("--output", "json", *BASE, "--doc-id", "common", "--plan")
    assert code == 0
    assert json.loads(out)["without_sinks"] == [format_id(world.ids["common"])]
    assert {p: p.stat().st_mtime_ns for p in world.base.rglob("*")} == files


SELECTIONS = (
    "--doc-id, --sequence-id, --where, --text-file, --all-sinks, --request-file, --from-plan"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "x"), f"Give exactly one of {SELECTIONS}; found 0."),
        (
            ("--doc-id", "a", "--where", "true", "--out", "x"),
            f"Give exactly one of {SELECTIONS}; found 2.",
        ),
        (("--doc-id", "a"), "Give exactly one of --out, --in-place, --plan; found 0."),
        (
            ("--doc-id", "a", "--out", "x", "--in-place"),
            "Give exactly one of --out, --in-place, --plan; found 2.",
        ),
        (("--doc-id", "a", "--out", "x", "--reason", "r"), "Missing option '--request'."),
        (("--doc-id", "a", "--out", "x", "--request", "r"), "Missing option '--reason'."),
        (
            ("--doc-id", "a", "--in-place", "--request", "r", "--reason", "r"),
            "--in-place cannot be undone; give --yes where no terminal can ask.",
        ),
        (
            ("--doc-id", "a", "--out", "x", "--plan-file", "p"),
            "--plan-file goes with --plan.",
        ),
        (("--doc-id", "a", "--plan", "--plan-file", "p"), "Missing option '--request'."),
        (
            ("--from-plan", "p", "--out", "x", "--reason", "r"),
            "--reason does not go with --from-plan.",
        ),
        (
            ("--from-plan", "p", "--out", "x", "--max-collateral", "0"),
            "--max-collateral does not go with --from-plan.",
        ),
        (("--from-plan", "p", "--plan"), "--plan does not go with --from-plan."),
        (("--doc-id", "a", "--plan", "--max-collateral", "2"), "2.0 is not in the range 0<=x<=1."),
    ],
)
def test_usage_errors(world: World, run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*BASE, *arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith(message)
    assert not (world.base / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            (*BASE, "--doc-id", "poem", "--out", "x", "--request", "R", "--reason", "r"),
            "govern: --key: expected a private key to sign the report, found none; "
            "make one with `govern audit keygen --out keys`, or look at --plan first",
        ),
        (
            (*BASE, "--doc-id", "poe", "--out", "x", *SIGNED),
            "govern: document 'poe': expected a document of manifest manifest, found none with "
            "this ID; the nearest is 'poem' of source 'corpus'; check the ID, or look for its "
            "text with --text-file",
        ),
        (
            (*BASE, "--doc-id", "common", "--out", "x", *SIGNED),
            'govern: selection ["doc-id", "common"]: expected sequence IDs with sinks that can be '
            "zeroed, found IDs 1 of policy shared, which own no sinks: nothing can be forgotten; "
            "retrain without these documents, or train them as private or strict",
        ),
        (
            ("forget", "nowhere", "--manifest", "manifest", "--doc-id", "a", "--out", "x", *SIGNED),
            "govern: run nowhere: expected a run directory with training.json, found no such "
            "directory; give the --out of `govern train`",
        ),
        (
            ("forget", "run", "--manifest", "corpus", "--doc-id", "a", "--out", "x", *SIGNED),
            "govern: manifest corpus: expected a directory with manifest.json, found no such "
            "directory; give the --out directory of `govern ids build`",
        ),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(
    world: World, run: Run, arguments: tuple[str, ...], line: str
) -> None:
    before = tree_digest(world.base)
    code, out, err = run("--quiet", *arguments)
    assert (code, out, err) == (1, "", line + "\n")
    assert tree_digest(world.base) == before
    assert not (world.base / "x").exists()


def test_in_place_asks_and_says_that_there_is_no_undo(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "is_terminal", lambda: True)
    before = tree_digest(world.run)
    arguments = [*BASE, "--doc-id", "poem", "--in-place", *SIGNED]
    refused: Result = CliRunner().invoke(govern.cli.cli, arguments, input="n\n")
    assert refused.exit_code == 1
    assert "run will be erased in place. There is no undo. Continue? [y/N]" in refused.stderr
    assert tree_digest(world.run) == before
    agreed = CliRunner().invoke(govern.cli.cli, arguments, input="y\n")
    assert agreed.exit_code == 0, agreed.stderr
    assert tree_digest(world.run) != before


def test_a_failed_verdict_exits_3_with_its_report(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "make_measurer", lambda *_: FakeMeasurer(after=1.0))
    code, out, _ = run(*BASE, "--doc-id", "poem", "--out", "after", *SIGNED)
    assert code == 3
    assert "Verdict    FAILED" in out
    assert (world.base / "after-report-R-17" / "REPORT.json").exists()


def test_two_at_once_one_wins(world: World, run: Run) -> None:
    hold = (
        "import sys, time\nfrom pathlib import Path\nfrom manifests.files import writer_lock\n"
        "with writer_lock(Path('run')):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        code, _, err = run("--quiet", *BASE, "--doc-id", "poem", "--out", "after", *SIGNED)
        other.communicate("")
    assert code == 1
    assert f"found a lock held by pid {other.pid} on " in err
    assert not (world.base / "after").exists()
    assert run(*BASE, "--doc-id", "poem", "--out", "after", *SIGNED)[0] == 0


def test_planning_needs_no_torch(world: World) -> None:
    code = (
        "import sys\nfrom govern.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *BASE, "--doc-id", "poem", "--plan"],
        capture_output=True,
        text=True,
        check=False,
        cwd=world.base,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Selection")


@pytest.mark.usefixtures("world")
def test_a_plan_says_what_it_will_cost(run: Run) -> None:
    code, out, _ = run("--output", "json", *BASE, "--doc-id", "poem", "--plan")
    assert code == 0
    plan = json.loads(out)
    cost, zeroed = plan["estimate"], len(plan["sequences"][0]["exclusive"]) * plan["block_bytes"]
    assert cost["bytes_zeroed"] == zeroed == 3 * 192
    # Steps and two moments of three blocks: a bound, not all of them need have been trained.
    assert cost["state_bytes_zeroed"] == 3 * (8 + 2 * 192)
    assert run(*BASE, "--doc-id", "poem", "--in-place", "--yes", *SIGNED)[0] == 0
    integrity = read_report(Path("run-report-R-17/REPORT.json")).statement().predicate.integrity
    assert 1 <= integrity.optimizer_state.blocks_zeroed <= 3
    assert cost["bytes_written_in_place"] > zeroed + cost["state_bytes_zeroed"]
    shown = run(*BASE, "--doc-id", "secret", "--plan")[1]
    assert f"Estimate   about {cost['seconds']:g} s without measuring; " in shown
    assert f"  at most {cost['state_bytes_zeroed']:,} bytes of optimizer state zeroed" in shown
