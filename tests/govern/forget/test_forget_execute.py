"""The whole call: report, ledger, tombstones; refusals that change nothing; a stranger's view."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from forget_world import HOSTILE, FakeMeasurer, World, alias, build_world, with_aliases
from synthetic_run import MapRow, RunShape, tree_digest, write_run

import govern
from govern.audit.report_file import read_report
from govern.audit.signing import generate_keys
from govern.audit.verify import verify_report
from govern.forget import execute
from govern.forget.call import ForgetOutcome, default_report_dir
from govern.forget.measuring import Measurements, Measurer
from govern.forget.request import ForgetRequest, Kind
from manifests import open_manifest
from manifests.errors import (
    CheckpointError,
    CollateralError,
    GovernError,
    InputError,
    IntegrityError,
    LockedError,
    ManifestError,
    SelectionError,
)
from manifests.files import writer_lock
from manifests.sequence_id import format_id
from sinkmodel.allocation import SinkMap


@pytest.fixture
def world(tmp_path: Path) -> World:
    return build_world(tmp_path)


def call(
    world: World,
    *values: str,
    kind: Kind = "doc-id",
    in_place: bool = False,
    out: str = "after",
    reference: str = "R-17",
    limit: float = 0.0,
    measurer: Measurer | None = None,
) -> ForgetOutcome:
    return execute.forget(
        world.run,
        world.manifest,
        ForgetRequest(kind=kind, values=values, reference=reference, reason="GDPR art. 17"),
        out=None if in_place else world.base / out,
        in_place=in_place,
        key=world.key,
        max_collateral=limit,
        measurer=measurer,
    )


def state(world: World) -> dict[str, bytes]:
    """Every file of the world but locks."""
    return {
        p.relative_to(world.base).as_posix(): p.read_bytes()
        for p in sorted(world.base.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def faults(world: World, outcome: ForgetOutcome) -> list[str]:
    assert outcome.report is not None
    public = world.base / "public.pem"
    public.write_text(world.key.public.pem)
    found = verify_report(
        outcome.report,
        model=outcome.run,
        manifest=world.manifest,
        public_key=public,
        ledger=outcome.ledger,
    )
    assert not [c for c in found.checks if c.outcome == "not checkable"]
    return [f"{c.name}: {c.detail}" for c in found.checks if c.outcome == "failed"]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_stranger_verifies_the_report(world: World, in_place: bool) -> None:
    before = tree_digest(world.run)
    outcome = call(world, "licence-1", "secret", in_place=in_place)
    assert faults(world, outcome) == []
    assert (tree_digest(world.run) == before) is not in_place
    assert outcome.verdict == "PASSED"
    assert outcome.html is not None
    assert outcome.html.read_text().startswith("<!DOCTYPE html>")
    statement = read_report(outcome.report or Path()).statement()
    chosen = {format_id(world.ids[name]) for name in ("licence", "secret")}
    assert set(statement.predicate.selection.sequence_ids) == chosen
    assert len(statement.predicate.selection.documents) == 4
    tombstones = open_manifest(world.manifest).table("tombstones").to_pylist()
    assert {format_id(t["sequence_id"]) for t in tombstones} == chosen
    assert {len(t["signature"]) for t in tombstones} == {512}
    # Nothing of the machinery stays behind.
    hidden = {p.name for p in world.base.rglob(".*")}
    assert hidden <= {".lock"}


def test_no_name_of_a_document_is_in_statement_or_ledger(world: World) -> None:
    outcome = call(world, *HOSTILE)
    report = read_report(outcome.report or Path())
    signed = report.envelope.payload_bytes().decode()
    ledger = "".join(p.read_text() for p in (world.base / "ledger").rglob("*.json"))
    # A corpus file may be named after its only document.
    for name in (*HOSTILE, str(world.corpus), world.corpus.name):
        assert json.dumps(name)[1:-1] not in signed + ledger
    assert report.disclosure is not None
    assert {d.doc_id for d in report.disclosure.documents} == set(HOSTILE)
    page = (outcome.html or Path()).read_text()
    assert "<script>alert(1)</script>" not in page
    assert faults(world, outcome) == []


def test_one_request_after_another(world: World) -> None:
    first = call(world, "licence-0", in_place=True)
    second = call(world, "poem", in_place=True, reference="R-18")
    assert faults(world, second) == []
    assert first.report != second.report
    assert second.ledger is not None
    assert len(list((second.ledger / "entries").iterdir())) == 2


def test_all_sinks_are_dropped(world: World) -> None:
    outcome = call(world, kind="all-sinks")
    assert faults(world, outcome) == []
    predicate = read_report(outcome.report or Path()).statement().predicate
    assert predicate.mechanism.kind == "pool-drop"
    sink_map = SinkMap.read(outcome.run / "sink_map.parquet")
    assert not sink_map.active[[bool(b) for b in sink_map.table["blocks"].to_pylist()]].any()


def test_pooled_collateral_needs_leave_and_is_recorded(tmp_path: Path) -> None:
    world = build_world(tmp_path, {"licence": "pooled", "secret": "pooled", "poem": "pooled"})
    before = state(world)
    with pytest.raises(CollateralError, match="found 1 kept IDs that lose some"):
        call(world, "licence-0")
    assert state(world) == before
    outcome = call(world, "licence-0", limit=0.5)
    assert faults(world, outcome) == []
    assert outcome.verdict == "WARNED"
    assert "was allowed" in outcome.reasons[0]


def test_a_shared_id_beside_others_is_declined_and_warned_about(world: World) -> None:
    outcome = call(world, "poem", "common")
    assert faults(world, outcome) == []
    assert outcome.verdict == "WARNED"
    predicate = read_report(outcome.report or Path()).statement().predicate
    (declined,) = predicate.selection.declined
    assert declined.sequence_id == format_id(world.ids["common"])
    assert "owns no sinks" in declined.why


def test_measuring_happens_in_order_and_reaches_the_statement(world: World) -> None:
    measurer = FakeMeasurer()
    outcome = call(world, "licence-0", measurer=measurer)
    assert measurer.calls == ["thresholds", "before", "after"]
    verification = read_report(outcome.report or Path()).statement().predicate.verification
    assert [t.metric for t in verification.thresholds] == ["loss"]
    assert [row.value for row in verification.metrics] == [3.0]
    assert len(verification.per_document) == 3
    assert outcome.verdict == "PASSED"
    assert faults(world, outcome) == []


def test_a_failed_threshold_is_kept_in_a_signed_report(world: World) -> None:
    outcome = call(world, "licence-0", measurer=FakeMeasurer(after=1.5))
    assert outcome.verdict == "FAILED"
    assert outcome.reasons == ("loss on forgotten is 1.5, wanted ≥ 2",)
    assert faults(world, outcome) == []


def test_an_id_that_was_merged_away_since_the_training(tmp_path: Path) -> None:
    """The run knows the poem as 77; the manifest calls it by another ID today."""
    world = build_world(tmp_path)
    rows = SinkMap.read(world.run / "sink_map.parquet").table.to_pylist()
    renamed = [
        MapRow(
            77 if r["sequence_id"] == world.ids["poem"] else r["sequence_id"],
            r["policy"],
            tuple(r["blocks"]),
        )
        for r in rows
    ]
    shutil.rmtree(world.run)
    manifest = open_manifest(world.manifest)
    pin = {"content_digest": manifest.content_digest(), "snapshot": 1}
    write_run(
        world.run,
        sorted(renamed, key=lambda row: row.sequence_id),
        RunShape(blocks=manifest.rows("documents") + 9, manifest=pin),
    )
    with_aliases(world, [alias(77, world.ids["poem"], "merged")])
    outcome = call(world, "poem")
    predicate = read_report(outcome.report or Path()).statement().predicate
    assert predicate.selection.sequence_ids == (format_id(77),)
    tombstones = open_manifest(world.manifest).table("tombstones")
    assert tombstones["sequence_id"].to_pylist() == [world.ids["poem"]]
    assert faults(world, outcome) == []


# --- again, and refusals -------------------------------------------------------------------------


@pytest.mark.parametrize("in_place", [False, True])
def test_the_same_call_again_is_a_no_op_that_says_so(world: World, in_place: bool) -> None:
    first = call(world, "licence-0", in_place=in_place)
    before = state(world)
    again = call(world, "licence-0", in_place=in_place)
    assert again.already_forgotten
    assert again.report == first.report
    assert state(world) == before


def test_what_another_request_forgot_is_a_no_op_too(world: World) -> None:
    call(world, "licence-0", in_place=True)
    before = state(world)
    again = call(world, "licence-2", in_place=True, reference="R-99")
    assert again.already_forgotten
    assert again.report is None
    assert state(world) == before


@pytest.mark.parametrize(
    ("values", "kind", "error", "message"),
    [
        (["nobody"], "doc-id", SelectionError, "none with this ID"),
        (["common"], "doc-id", SelectionError, "1 of policy shared, which own no sinks"),
        (["doc_id = 'x'"], "where", SelectionError, "found none"),
    ],
)
def test_a_refused_request_changes_nothing(
    world: World, values: list[str], kind: Kind, error: type[GovernError], message: str
) -> None:
    before = state(world)
    with pytest.raises(error, match=message):
        call(world, *values, kind=kind)
    assert state(world) == before
    assert not default_report_dir(world.base / "after", "R-17").exists()


def test_another_manifest_is_refused_with_both_digests(world: World, tmp_path: Path) -> None:
    other = build_world(tmp_path / "other", {"licence": "private", "new": "private"})
    known = open_manifest(world.manifest).content_digest()
    found = open_manifest(other.manifest).content_digest()
    shutil.rmtree(world.manifest)
    shutil.copytree(other.manifest, world.manifest)
    with pytest.raises(ManifestError) as caught:
        call(world, "licence-0")
    assert known in str(caught.value)
    assert found in str(caught.value)


def test_a_taken_output_is_refused_before_anything_is_measured(world: World) -> None:
    (world.base / "after").mkdir()
    (world.base / "after" / "mine").write_text("mine")
    measurer = FakeMeasurer()
    with pytest.raises(CheckpointError, match="found something there already; give another --out"):
        call(world, "poem", measurer=measurer)
    assert measurer.calls == []


def test_the_report_directory_of_another_request_is_refused(world: World) -> None:
    outcome = call(world, "licence-0", in_place=True)
    assert outcome.report is not None
    with pytest.raises(InputError, match="found the report of request 'R-17'"):
        execute.forget(
            world.run,
            world.manifest,
            ForgetRequest(kind="doc-id", values=("poem",), reference="R-18", reason="r"),
            in_place=True,
            key=world.key,
            report_dir=outcome.report.parent,
        )


@pytest.mark.parametrize("where", ["run", "after"])
def test_report_and_ledger_stay_out_of_the_run(world: World, where: str) -> None:
    for option in ("report_dir", "ledger"):
        with pytest.raises(InputError, match="expected a directory outside the run"):
            execute.forget(
                world.run,
                world.manifest,
                ForgetRequest(kind="doc-id", values=("poem",), reference="R", reason="r"),
                out=world.base / "after",
                key=world.key,
                **{option: world.base / where / "x"},  # type: ignore[arg-type]
            )


def test_a_locked_run_names_the_holder(world: World) -> None:
    before = state(world)
    with writer_lock(world.run), pytest.raises(LockedError, match=f"pid {os.getpid()}"):
        call(world, "poem")
    assert state(world) == before


def test_a_fault_after_the_erase_leaves_no_report(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = execute.erase_locked

    def faulty(*args: object, **kwargs: object) -> object:
        receipt = real(*args, **kwargs)  # type: ignore[arg-type]
        bank = world.base / "after" / "sinks-00000.safetensors"
        raw = bytearray(bank.read_bytes())
        raw[-1] ^= 1
        bank.write_bytes(raw)
        return receipt

    monkeypatch.setattr(execute, "erase_locked", faulty)
    with pytest.raises(IntegrityError, match="no report was written"):
        call(world, "poem")
    assert not list(world.base.rglob("REPORT.json"))
    assert not (world.base / "ledger").exists()
    assert open_manifest(world.manifest).rows("tombstones") == 0


def test_a_measured_forget_is_not_completed_unmeasured(world: World) -> None:
    class Stops(FakeMeasurer):
        def after(self, *_: object) -> Measurements:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(world, "poem", in_place=True, measurer=Stops())
    with pytest.raises(InputError, match="expected a measurer, as the first attempt had"):
        call(world, "poem", in_place=True)
    with pytest.raises(InputError, match="found an unfinished one for doc-id"):
        call(world, "secret", in_place=True)
    with pytest.raises(CheckpointError, match="found an unreported erase of 1 sequence IDs"):
        call(world, "secret", in_place=True, reference="R-18", measurer=FakeMeasurer())
    assert not default_report_dir(world.run, "R-18").exists()
    outcome = call(world, "poem", in_place=True, measurer=FakeMeasurer())
    assert faults(world, outcome) == []


def test_a_key_file_signs(world: World) -> None:
    keys = generate_keys(world.base / "keys")
    outcome = execute.forget(
        world.run,
        world.manifest,
        ForgetRequest(kind="doc-id", values=("poem",), reference="R", reason="r"),
        out=world.base / "after",
        key=keys.private,
    )
    predicate = read_report(outcome.report or Path()).statement().predicate
    assert predicate.operator.key_ids == (keys.key_id,)


@pytest.mark.parametrize(
    ("reference", "pattern"),
    [
        ("R-17", "after-report-R-17"),
        ("../../evil", "after-report-evil-[0-9a-f]{8}"),
        ("a/b", "after-report-a-b-[0-9a-f]{8}"),
        ("…", "after-report-[0-9a-f]{8}"),
        ("x" * 500, "after-report-x{40}-[0-9a-f]{8}"),
    ],
)
def test_report_directories_are_named_after_references(reference: str, pattern: str) -> None:
    found = default_report_dir(Path("runs/after"), reference)
    assert found.parent == Path("runs")
    assert re.fullmatch(pattern, found.name)


def test_references_that_differ_in_signs_do_not_share_a_directory() -> None:
    names = {default_report_dir(Path("runs/after"), r).name for r in ("a/b", "a b", "a-b", "a.b")}
    assert len(names) == 4


def test_the_package_is_the_call_however_it_was_imported(world: World) -> None:
    outcome = govern.forget(
        world.run,
        world.manifest,
        ForgetRequest(kind="doc-id", values=("poem",), reference="R", reason="r"),
        out=world.base / "after",
        key=world.key,
    )
    assert outcome.verdict == "PASSED"
