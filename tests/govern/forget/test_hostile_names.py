"""Document ids that are HTML, SQL, control characters, paths or 10 kB, through the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forget_world import BASE, HOSTILE, SIGNED, Run, World
from synthetic_run import tree_digest

from manifests import open_manifest
from manifests.checks import check_manifest

pytestmark = pytest.mark.usefixtures("here")
CONTROLS = {chr(i) for i in range(32)} - {"\n"} | {chr(127)}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_found_planned_and_forgotten(here: World, run: Run, name: str) -> None:
    outside = set(here.base.parent.iterdir())
    code, out, err = run("manifest", "find", "manifest", "--doc-id", name)
    assert code == 0, err
    assert not CONTROLS & set(out)
    assert len(out.splitlines()) == 2
    code, out, err = run(*BASE, "--doc-id", name, "--plan")
    assert code == 0, err
    assert not CONTROLS & set(out)
    assert max(map(len, out.splitlines())) < 200
    code, out, err = run("--output", "json", *BASE, "--doc-id", name, "--plan")
    assert [d["doc_id"] for d in json.loads(out)["documents"]] == [name]
    plan = ("--plan", "--plan-file", "p.json", *SIGNED[:4])
    assert run(*BASE, "--doc-id", name, *plan)[0] == 0
    code, out, err = run(*BASE, "--from-plan", "p.json", "--out", "after", *SIGNED[4:])
    assert code == 0, err
    assert not CONTROLS & set(out + err)
    verify = out.splitlines()[-1].removeprefix("Verify     govern ").split()
    assert run(*verify)[0] == 0
    page = Path("after-report-R-17/REPORT.html").read_text()
    assert "<script>alert" not in page
    assert not CONTROLS - {"\t"} & set(page)
    assert set(here.base.parent.iterdir()) == outside


@pytest.mark.parametrize(
    "name", [*HOSTILE, "x" * 1_000_000, "\x00", "%s%n{0}", "é" * 5000, "‮evil", "-rf", "a/../b"]
)
def test_a_hostile_name_that_nobody_has_is_one_short_line(here: World, run: Run, name: str) -> None:
    before = tree_digest(here.base)
    for arguments in (
        ("--quiet", *BASE, f"--doc-id={name}?", "--out", "x", *SIGNED),
        ("--quiet", "manifest", "find", "manifest", f"--doc-id={name}?"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (1, "")
        assert len(err.splitlines()) == 1
        assert len(err) < 2000
        assert err.removesuffix("\n").isprintable()
    assert tree_digest(here.base) == before


@pytest.mark.parametrize("reference", ["../../../evil", "/etc/evil", "<b>x</b>", "a\nb\x1b[31m"])
def test_a_hostile_reference_names_no_place_and_stays_text(
    here: World, run: Run, reference: str
) -> None:
    signed = ("--request", reference, "--reason", "<script>1</script>", *SIGNED[4:])
    code, out, err = run(*BASE, "--doc-id", "poem", "--out", "after", *signed)
    assert code == 0, err
    assert not CONTROLS & set(out)
    (report,) = here.base.glob("after-report-*/REPORT.html")
    assert "<script>1" not in report.read_text()
    assert "<b>x</b>" not in report.read_text()


@pytest.mark.parametrize(
    "condition",
    [
        "1=1) OR (doc_id IN (SELECT content FROM read_text('corpus.jsonl'))",
        "doc_id IN (SELECT * FROM query('COPY documents TO ''stolen.csv'''))",
        "true; ATTACH 'evil.db'",
        "true; SET lock_configuration = false",
        "true; PRAGMA database_list",
        "true; INSTALL httpfs",
        "(SELECT count(*) FROM enable_profiling(save_location = 'profile.json')) = 0",
    ],
)
def test_a_hostile_condition_is_one_line(here: World, run: Run, condition: str) -> None:
    before = tree_digest(here.base)
    code, out, err = run("--quiet", *BASE, "--where", condition, "--plan")
    assert (code, out) == (1, "")
    assert err.startswith("govern: SQL ")
    assert len(err.splitlines()) == 1
    assert tree_digest(here.base) == before
    assert all(check.passed for check in check_manifest(open_manifest(here.manifest).path))
