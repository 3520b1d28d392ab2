"""A request file: many subjects in one plan, one erase and one statement, or nothing at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from forget_world import BASE, SIGNED, Run, World, text
from synthetic_run import tree_digest

from govern.audit.report_file import read_report
from govern.forget.request_file import read_request_file
from manifests import open_manifest
from manifests.sequence_id import format_id

SCHEMA = Path(__file__).parents[3] / "docs" / "schemas" / "request-v1.schema.json"
WHOLE = (*BASE, "--request-file", "REQ.json")


def write(*subjects: Any, **more: Any) -> None:
    value = {"format": "memsinks-govern request", "format_version": 1, "subjects": list(subjects)}
    Path("REQ.json").write_text(json.dumps(value | more))


def subject(reference: str, **selection: Any) -> dict[str, Any]:
    return {"reference": reference, "reason": f"reason of {reference}", "selection": selection}


def three(world: World) -> list[dict[str, Any]]:
    (world.base / "poem.txt").write_text(text("poem"))
    return [
        {**subject("R-1", doc_ids=["licence-1"]), "requester": "a person"},
        subject("R-2", sequence_ids=[format_id(world.ids["secret"])]),
        subject("R-3", text_files=["poem.txt"]),
        subject("R-4", where="doc_id LIKE 'licence-%'"),
    ]


def test_all_subjects_in_one_statement(here: World, run: Run) -> None:
    write(*three(here))
    jsonschema.validate(json.loads(Path("REQ.json").read_text()), json.loads(SCHEMA.read_text()))
    code, out, err = run(*WHOLE, "--out", "after", *SIGNED)
    assert code == 0, err
    for line in ("    R-1: 1 sequence IDs", "    R-4: 1 sequence IDs"):
        assert line in out.splitlines()
    licence, secret, poem = (format_id(here.ids[n]) for n in ("licence", "secret", "poem"))
    report = read_report(Path("after-report-R-17/REPORT.json"))
    predicate = report.statement().predicate
    assert predicate.selection.kind == "request-file"
    assert set(predicate.selection.sequence_ids) == {licence, secret, poem}
    subjects = predicate.request.subjects or ()
    assert [(s.reference, s.reason, s.sequence_ids) for s in subjects] == [
        ("R-1", "reason of R-1", (licence,)),
        ("R-2", "reason of R-2", (secret,)),
        ("R-3", "reason of R-3", (poem,)),
        ("R-4", "reason of R-4", (licence,)),
    ]
    assert [s.requester is None for s in subjects] == [False, True, True, True]
    assert "a person" not in report.envelope.payload_bytes().decode()
    assert (predicate.request.reference, len(list(Path("ledger/entries").iterdir()))) == ("R-17", 1)
    assert open_manifest(here.manifest).rows("tombstones") == 3
    assert "R-3 (1 sequence)" in Path("after-report-R-17/REPORT.html").read_text()
    verify = out.splitlines()[-1].removeprefix("Verify     govern ").split()
    assert run(*verify)[0] == 0
    code, out, _ = run(*WHOLE, "--out", "after", *SIGNED)
    assert (code, out.split(":")[0]) == (0, "Nothing to do")


def test_the_erase_is_that_of_the_same_documents_named_together(here: World, run: Run) -> None:
    write(subject("R-1", doc_ids=["licence-1"]), subject("R-2", doc_ids=["poem"]))
    assert run(*WHOLE, "--out", "many", "--report", "a", *SIGNED)[0] == 0
    together = ("--doc-id", "licence-1", "--doc-id", "poem")
    assert run(*BASE, *together, "--out", "one", "--report", "b", *SIGNED)[0] == 0
    assert tree_digest(here.base / "many") == tree_digest(here.base / "one")


def test_a_plan_of_many_is_approved_and_executed(here: World, run: Run) -> None:
    write(*three(here))
    assert run(*WHOLE, "--plan", "--plan-file", "PLAN.json", *SIGNED[:4])[0] == 0
    Path("REQ.json").unlink()
    code, _, err = run(*BASE, "--from-plan", "PLAN.json", "--out", "after", *SIGNED[4:])
    assert code == 0, err
    predicate = read_report(Path("after-report-R-17/REPORT.json")).statement().predicate
    assert len(predicate.request.subjects or ()) == 4


def test_one_subject_that_selects_nothing_stops_all(here: World, run: Run) -> None:
    write(
        subject("R-1", doc_ids=["licence-1"]),
        subject("R-2", doc_ids=["nobody"]),
        subject("R-3", where="no_such_column = 1"),
        subject("R-4", where="doc_id = 'x'"),
    )
    before = tree_digest(here.base)
    code, out, err = run("--quiet", *WHOLE, "--out", "after", *SIGNED)
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert [line[: len("govern: subject 'R-2': ")] for line in lines] == [
        f"govern: subject 'R-{i}': " for i in (2, 3, 4)
    ]
    assert lines[2] == (
        "govern: subject 'R-4': selection where \"doc_id = 'x'\": expected at least one of 11 "
        "documents, found none; try the condition with `govern manifest query`"
    )
    assert tree_digest(here.base) == before
    assert not (here.base / "after").exists()


FORM = "; the form is published in docs/schemas/request-v1.schema.json"


@pytest.mark.usefixtures("here")
def test_what_is_wrong_is_said_a_line_each(run: Run) -> None:
    good = subject("R-1", doc_ids=["poem"])
    write(
        good,
        good,
        {"reference": "R-2", "reason": "r"},
        subject("R-3"),
        subject("R-4", doc_ids=["a"], where="true"),
        subject("R-5", doc_ids=[]),
        {**subject("R-6", doc_ids=["a"]), "extra": 1},
        subject("R-7", doc_ids="poem"),
        "R-8",
    )
    code, out, err = run("--quiet", *WHOLE, "--plan")
    assert code == 1
    assert out == ""
    at = "govern: --request-file REQ.json: subjects"
    one = "expected exactly one of doc_ids, sequence_ids, where and text_files, not empty"
    lines = err.splitlines()
    assert all(line.endswith(FORM) for line in lines)
    assert [line.removesuffix(FORM) for line in lines] == [
        "govern: --request-file REQ.json: expected every reference once, found 'R-1'",
        f"{at}[2].selection: expected a value, found nothing",
        f"{at}[3].selection: {one}, found none",
        f"{at}[4].selection: {one}, found ['doc_ids', 'where']",
        f"{at}[5].selection: {one}, found ['doc_ids']",
        f"{at}[6]: expected only the fields ['min_similarity', 'reason', 'reference', "
        "'requester', 'selection'], found 'extra'",
        f"{at}[7].selection.doc_ids: expected a list, found str",
        f"{at}[8]: expected an object, found str",
    ]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a JSON file, found No such file or directory"),
        ("{", "expected a JSON file, found Expecting property name"),
        ("[" * 100_000, "expected a JSON file, found maximum recursion depth exceeded"),
        ("[]", "expected an object with format, format_version, subjects, found another value"),
        ('{"format": "x", "format_version": 1, "subjects": []}', "found 'x'"),
        (
            '{"format": "memsinks-govern request", "format_version": 1, "subjects": []}',
            "expected a list of subjects, found none",
        ),
    ],
)
def test_what_is_no_request_file(run: Run, content: str | None, message: str) -> None:
    if content is not None:
        Path("REQ.json").write_text(content)
    code, _, err = run("--quiet", *WHOLE, "--plan")
    assert code == 1
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_schema_agrees_with_the_reader(here: World) -> None:
    schema = json.loads(SCHEMA.read_text())
    write(*three(here))
    value = json.loads(Path("REQ.json").read_text())
    assert len(read_request_file(Path("REQ.json"))) == 4
    for bad in (
        {**value, "format_version": 2},
        {**value, "subjects": [{**value["subjects"][0], "extra": 1}]},
        {**value, "subjects": [{**value["subjects"][0], "selection": {}}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
