"""Verification: an honest world passes, and each dishonest one fails in the named place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import audit_world
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audit_world import World, build_world, forget
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from govern.audit import statement as records
from govern.audit.report_file import issue, read_report, sign_statement, write_report
from govern.audit.signing import new_private_key
from govern.audit.verify import Verification, verify_report
from govern.audit.verify_checkpoint import root_with
from manifests import merkle
from manifests.errors import InputError
from manifests.files import canonical_json
from sinkmodel.bank_format import open_bank, open_state
from sinkmodel.bank_tree import write_leaves


def check(world: World, **changed: Any) -> Verification:
    """Everything but the manifest, whose own checks take most of the time."""
    given_paths: dict[str, Any] = {
        "model": world.run,
        "public_key": world.public_key,
        "ledger": world.ledger,
    }
    return verify_report(world.report_path, **{**given_paths, **changed})


def outcome(found: Verification, name: str) -> tuple[str, str]:
    matching = [c for c in found.checks if c.name == name]
    assert len(matching) == 1, [c.name for c in found.checks]
    return matching[0].outcome, matching[0].detail


def resigned(world: World, change: Callable[[records.Predicate], records.Predicate]) -> World:
    """What a dishonest operator can do: sign a changed statement with the real key."""
    predicate = change(world.statement.predicate)
    subject = records.subjects(predicate.integrity.files)
    statement = replace(world.statement, predicate=predicate, subject=subject)
    shutil.rmtree(world.ledger)
    envelope = sign_statement(statement, [world.key])
    report = issue(
        envelope, world.report.disclosure, keys=[world.key], ledger=world.ledger,
        time=audit_world.TIME,
    )  # fmt: skip
    write_report(report, world.report_path)
    return replace(world, statement=statement, report=report)


def test_an_honest_world_passes_every_check(pristine: World) -> None:
    found = check(pristine, manifest=pristine.manifest)
    assert [c for c in found.checks if c.outcome != "passed"] == []
    assert len(found.checks) == 17


def test_what_is_missing_is_not_counted_as_passed(pristine: World) -> None:
    found = verify_report(pristine.report_path)
    assert not found.failed
    open_questions = {c.name for c in found.checks if c.outcome == "not checkable"}
    assert open_questions == {"signed by a trusted key", "ledger", "checkpoint", "manifest"}


def test_verifying_reads_only(pristine: World) -> None:
    before = {p: p.stat().st_mtime_ns for p in pristine.base.rglob("*")}
    check(pristine, manifest=pristine.manifest)
    assert {p: p.stat().st_mtime_ns for p in pristine.base.rglob("*")} == before


def test_a_withheld_disclosure_is_not_checkable(world: World) -> None:
    write_report(replace(world.report, disclosure=None), world.report_path)
    found = check(world)
    assert not found.failed
    assert outcome(found, "disclosure")[0] == "not checkable"
    text = world.report_path.read_text()
    assert "doc-22" not in text
    # Shown later, it is proven again.
    write_report(world.report, world.report_path)
    assert outcome(check(world), "disclosure") == ("passed", "4 names fit the keyed hashes")


def test_a_wrong_public_key_fails(world: World) -> None:
    world.public_key.write_text(new_private_key().public.pem)
    found = check(world)
    assert [c.name for c in found.failed] == ["signed by a trusted key"]


@pytest.mark.parametrize(
    ("option", "path"), [("model", "none"), ("manifest", "REPORT.json"), ("ledger", "none")]
)
def test_a_wrong_path_is_an_input_error(option: str, path: str, pristine: World) -> None:
    with pytest.raises(InputError, match=f"--{option}"):
        check(pristine, **{option: pristine.base / path})
    with pytest.raises(InputError, match="expected a REPORT"):
        verify_report(pristine.base / "none.json")
    with pytest.raises(InputError, match="key file"):
        check(pristine, public_key=pristine.base / "none.pem")


# --- the checkpoint ------------------------------------------------------------------------------


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _link(path: Path) -> None:
    aside = path.parent.parent / "aside"
    path.rename(aside)
    path.symlink_to(aside)


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "the checkpoint before the erase": (
        lambda run: (shutil.rmtree(run), shutil.copytree(run.parent / "run-before", run)),
        "checkpoint files",
        "sinks-00000.safetensors has other bytes",
    ),
    "a file too many": (
        lambda run: (run / "hidden.bin").write_bytes(b"a copy of the old bank"),
        "checkpoint files",
        "hidden.bin is not in the statement",
    ),
    "a hidden file": (
        lambda run: (run / ".sinks-00000.safetensors.tmp").write_bytes(b"x"),
        "checkpoint files",
        ".sinks-00000.safetensors.tmp is not in the statement",
    ),
    "a bank too many": (
        lambda run: shutil.copy(run / "sinks-00001.safetensors", run / "sinks-00002.safetensors"),
        "sink banks",
        "sinks-00002.safetensors is not in the statement",
    ),
    "a missing file": (
        lambda run: (run / "model-shared.safetensors").unlink(),
        "checkpoint files",
        "model-shared.safetensors is missing",
    ),
    "a missing bank": (
        lambda run: (run / "sinks-00001.safetensors").unlink(),
        "sink banks",
        "sinks-00001.safetensors is missing",
    ),
    "a missing map": (
        lambda run: (run / "sink_map.parquet").unlink(),
        "sink map",
        "sink_map.parquet is missing",
    ),
    "a map that is not parquet": (
        lambda run: (run / "sink_map.parquet").write_bytes(b"PAR1 no PAR1"),
        "sink map",
        "sink_map.parquet",
    ),
    "a map with nulls": (
        lambda run: pq.write_table(
            pa.table(
                {"sequence_id": [22, None], "blocks": pa.array([[2], None], pa.list_(pa.int32()))}
            ),
            run / "sink_map.parquet",
        ),
        "sink map",
        "other types, nulls",
    ),
    "a map of other columns": (
        lambda run: pq.write_table(pa.table({"x": [1]}), run / "sink_map.parquet"),
        "sink map",
        "a Parquet file of sequences and blocks",
    ),
    "a list of forgotten IDs that is none": (
        lambda run: (run / "forgotten.txt").write_bytes(b"sq-22\n"),
        "sink map",
        "one sequence ID a line",
    ),
    "a list of forgotten IDs with one twice": (
        lambda run: (run / "forgotten.txt").write_bytes(b"sq-0000000000000016\n" * 2),
        "sink map",
        "another order, or one twice",
    ),
    "no list of forgotten IDs": (
        lambda run: (run / "forgotten.txt").unlink(),
        "sink map",
        "forgotten.txt is missing",
    ),
    "a link out of the run": (
        lambda run: _link(run / "config.json"),
        "checkpoint files",
        "a symbolic link",
    ),
    "a bank with a hostile header": (
        lambda run: (run / "sinks-00000.safetensors").write_bytes(b"\xff" * 64),
        "checkpoint files",
        "sinks-00000.safetensors",
    ),
    "optimizer state removed": (
        lambda run: [p.unlink() for p in (run / "state").glob("sinks-*")],
        "optimizer state",
        "the run differs",
    ),
    "a kept row of optimizer state changed, and its tree made anew": (
        lambda run: _change_state(run),
        "checkpoint files",
        "state/sinks-00000.leaves has other bytes; state/sinks-00000.safetensors has other bytes",
    ),
    "a tree of optimizer state that lies": (
        lambda run: _flip(run / "state" / "sinks-00000.leaves", 40),
        "checkpoint files",
        "state/sinks-00000.leaves has other bytes",
    ),
    "optimizer state without its tree": (
        lambda run: (run / "state" / "sinks-00000.leaves").unlink(),
        "checkpoint files",
        "state/sinks-00000.leaves is missing",
    ),
    "optimizer state of no rows": (
        lambda run: save_file(
            {"blocks": np.zeros(0, np.int64), "steps": np.zeros(0, np.int64)},
            run / "state" / "sinks-00000.safetensors",
        ),
        "checkpoint files",
        "state/sinks-00000.safetensors has other bytes",
    ),
    "optimizer state with a hostile header": (
        lambda run: (run / "state" / "sinks-00000.safetensors").write_bytes(b"\xff" * 64),
        "checkpoint files",
        "sinks-00000.safetensors",
    ),
    "training.json edited": (
        lambda run: (run / "training.json").write_bytes(
            canonical_json({**json.loads((run / "training.json").read_bytes()), "banks": []})
        ),
        "record of training",
        "lists other banks",
    ),
    "training.json not canonical": (
        lambda run: (run / "training.json").write_bytes(b"{}"),
        "record of training",
        "canonical JSON",
    ),
}


def _change_state(run: Path) -> None:
    """The last byte of the state: a row that no erase of these tests touches."""
    path = run / "state" / "sinks-00000.safetensors"
    _flip(path, path.stat().st_size - 1)
    write_leaves(open_state(path))


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_another_checkpoint_fails(name: str, world: World) -> None:
    change, where, detail = CHECKPOINTS[name]
    change(world.run)
    found = check(world)
    result, text = outcome(found, where)
    assert result == "failed"
    assert detail in text
    assert not any(c.name in ("signatures", "ledger receipt", "ledger") for c in found.failed)


def test_ignored_files_are_the_lock_and_the_report(world: World) -> None:
    for name in (".lock", "REPORT.json", "REPORT.html"):
        (world.run / name).write_text("x")
    assert not check(world).failed
    (world.run / "state" / ".lock").write_text("x")
    assert "state/.lock" in outcome(check(world), "checkpoint files")[1]


def test_a_report_for_another_checkpoint_fails(world: World) -> None:
    """Replay: the old report beside the checkpoint of a later erase."""
    later = forget(world.base, [11], "run-after", "run-later", world.key, "LATER")
    found = check(later, model=world.base / "run-later")
    assert "checkpoint files" in {c.name for c in found.failed}
    assert not verify_report(
        world.base / "LATER.json", model=world.base / "run-later", ledger=world.ledger
    ).failed


# --- what only a dishonest operator could sign ---------------------------------------------------

Change = Callable[[records.Predicate], records.Predicate]


def _banks(change: Callable[[records.BankIntegrity], records.BankIntegrity]) -> Change:
    def apply(p: records.Predicate) -> records.Predicate:
        banks = tuple(map(change, p.integrity.banks))
        return replace(p, integrity=replace(p.integrity, banks=banks))

    return apply


def _verdict_hidden(p: records.Predicate) -> records.Predicate:
    bad = replace(p.verification.metrics[0], value=0.1)
    metrics = (bad, *p.verification.metrics[1:])
    return replace(p, verification=replace(p.verification, metrics=metrics))


def _extra_selected(p: records.Predicate) -> records.Predicate:
    ids = (*p.selection.sequence_ids, "sq-0000000000000037")
    return replace(p, selection=replace(p.selection, sequence_ids=ids))


def _more_blocks(p: records.Predicate) -> records.Predicate:
    first = replace(p.blocks.sequences[0], exclusive=(*p.blocks.sequences[0].exclusive, 3))
    return replace(p, blocks=replace(p.blocks, sequences=(first, *p.blocks.sequences[1:])))


def _fewer_blocks(p: records.Predicate) -> records.Predicate:
    return replace(p, blocks=replace(p.blocks, sequences=p.blocks.sequences[1:]))


def _other_files(p: records.Predicate) -> records.Predicate:
    first = replace(p.integrity.files[0], digest_before="0" * 64)
    files = (first, *p.integrity.files[1:])
    return replace(p, integrity=replace(p.integrity, files=files))


def _other_snapshot(p: records.Predicate) -> records.Predicate:
    pin = replace(p.selection.manifest, content_digest="0" * 64)
    return replace(p, selection=replace(p.selection, manifest=pin))


def _state_claim(p: records.Predicate) -> records.Predicate:
    state = replace(p.integrity.optimizer_state, blocks_zeroed=17)
    return replace(p, integrity=replace(p.integrity, optimizer_state=state))


def _unknown_requester(p: records.Predicate) -> records.Predicate:
    return replace(p, request=replace(p.request, requester="0" * 64))


def _no_changes(bank: records.BankIntegrity) -> records.BankIntegrity:
    return replace(bank, changed=())


def _same_root(bank: records.BankIntegrity) -> records.BankIntegrity:
    return replace(bank, root_before=bank.root_after)


def _row_twice(bank: records.BankIntegrity) -> records.BankIntegrity:
    return replace(bank, changed=(*bank.changed, *bank.changed))


def _row_outside(bank: records.BankIntegrity) -> records.BankIntegrity:
    return replace(bank, changed=tuple(replace(c, row=10**6) for c in bank.changed))


def _other_size(bank: records.BankIntegrity) -> records.BankIntegrity:
    return replace(bank, blocks=bank.blocks + 1)


LIES: dict[str, tuple[Change, str, str]] = {
    "PASSED above failing figures": (
        _verdict_hidden,
        "verdict follows from the figures",
        "its figures FAILED",
    ),
    "an ID that was not erased": (_extra_selected, "sink map", "is not listed in forgotten.txt"),
    "a block that was not erased": (_more_blocks, "erased blocks are zero", "block 3 in sinks-"),
    "a block erased in silence": (_fewer_blocks, "inner consistency", "without being planned"),
    "another file before": (_other_files, "record of training", "not as training left it"),
    "another manifest": (_other_snapshot, "manifest snapshot", "another content digest"),
    "another manifest than trained on": (_other_snapshot, "record of training", "pins another"),
    "optimizer state not zeroed": (_state_claim, "optimizer state", "the statement says 17"),
    "a requester out of the air": (_unknown_requester, "disclosure", "the requester"),
    "changes left out": (_banks(_no_changes), "sink banks", "beside the stated ones changed"),
    "nothing changed": (_banks(_same_root), "sink banks", "beside the stated ones changed"),
    "a row twice": (_banks(_row_twice), "sink banks", "impossible rows"),
    "a row outside": (_banks(_row_outside), "sink banks", "impossible rows"),
    "another number of blocks": (_banks(_other_size), "sink banks", "blocks, the statement says"),
}


@pytest.mark.parametrize("name", sorted(LIES))
def test_a_signed_lie_is_found_in_the_files(name: str, world: World) -> None:
    change, where, detail = LIES[name]
    manifest = world.manifest if where == "manifest snapshot" else None
    found = check(resigned(world, change), manifest=manifest)
    result, text = outcome(found, where)
    assert result == "failed"
    assert detail in text
    assert outcome(found, "signatures")[0] == "passed"


def test_a_root_that_training_never_had_needs_the_ledger(world: World) -> None:
    """A bank changed in silence between training and erase is told from a recorded erase."""
    run = world.base / "silent"
    shutil.copytree(world.base / "run-before", run)
    bank = run / "sinks-00000.safetensors"
    _flip(bank, bank.stat().st_size - 1)
    write_leaves(open_bank(bank))
    silent = forget(world.base, [11], "silent", "silent-after", world.key, "SILENT")
    path, model = world.base / "SILENT.json", world.base / "silent-after"
    assert outcome(verify_report(path, model=model), "record of training")[0] == "not checkable"
    found = verify_report(path, model=model, ledger=silent.ledger)
    result, text = outcome(found, "record of training")
    assert result == "failed"
    assert "before that training or an earlier statement left" in text


def test_a_chain_of_erases_leads_back_to_training(world: World) -> None:
    forget(world.base, [55], "run-after", "run-2", world.key, "SECOND")
    forget(world.base, [11], "run-2", "run-3", world.key, "THIRD")
    third, model = world.base / "THIRD.json", world.base / "run-3"
    alone = verify_report(third, model=model, manifest=world.manifest)
    assert outcome(alone, "record of training")[0] == "not checkable"
    assert not alone.failed
    found = verify_report(third, model=model, manifest=world.manifest, ledger=world.ledger)
    assert not found.failed
    assert outcome(found, "record of training") == (
        "passed",
        "roots before follow from training through 2 earlier statements",
    )


# --- ledger and manifest -------------------------------------------------------------------------


def test_a_ledger_cut_back_behind_the_report_fails(world: World) -> None:
    forget(world.base, [11], "run-after", "run-later", world.key, "LATER")
    for name in ("entries/00000001.json", "heads/00000002.json"):
        (world.ledger / name).unlink()
    later = verify_report(world.base / "LATER.json", ledger=world.ledger)
    assert "1 entries, the report's signed head covers 2" in outcome(later, "ledger")[1]
    assert not check(world).failed


def test_a_ledger_rewritten_by_somebody_else_fails(world: World) -> None:
    other = build_world(world.base / "other", ids=(11,))
    found = check(world, ledger=other.ledger)
    assert "is not this report's envelope" in outcome(found, "ledger")[1]
    stranger = new_private_key()
    forget(world.base, [11], "run-after", "run-later", stranger, "LATER")
    world.public_key.write_text(world.key.public.pem)
    assert "signed by the unknown key" in outcome(check(world), "ledger")[1]
    known = world.base / "later.pem"
    known.write_text(stranger.public.pem)
    assert not check(world, public_key=[world.public_key, known]).failed


def test_a_receipt_of_another_envelope_fails(world: World) -> None:
    other = build_world(world.base / "other", ids=(11,), key=world.key)
    write_report(replace(world.report, ledger=other.report.ledger), world.report_path)
    found = check(world)
    assert outcome(found, "ledger receipt") == (
        "failed",
        "the receipt belongs to another envelope",
    )


def test_a_missing_or_foreign_tombstone_fails(world: World) -> None:
    fresh = world.base / "fresh"
    audit_world.write_manifest(fresh)
    found = check(world, manifest=fresh)
    assert "sq-0000000000000016 has no tombstone" in outcome(found, "tombstones")[1]
    other = replace(world.statement, predicate=replace(
        world.statement.predicate, limitations=("other",)))  # fmt: skip
    audit_world.bury(fresh, [22, 33], other)
    assert "names another statement" in outcome(check(world, manifest=fresh), "tombstones")[1]


def test_an_id_forgotten_twice_keeps_its_first_tombstone(world: World) -> None:
    """The same ID erased from a second checkpoint: the ledger knows the first statement."""
    forget(world.base, [22, 33], "run-before", "run-twin", world.key, "TWIN")
    paths = {"model": world.base / "run-twin", "manifest": world.manifest}
    assert not verify_report(world.base / "TWIN.json", ledger=world.ledger, **paths).failed
    found = verify_report(world.base / "TWIN.json", **paths)
    assert [c.name for c in found.failed] == []
    assert outcome(found, "tombstones")[0] == "not checkable"


def test_a_report_is_the_same_when_issued_again(world: World) -> None:
    again = issue(
        world.report.envelope, world.report.disclosure, keys=[world.key], ledger=world.ledger,
        time="2030-01-01T00:00:00Z",
    )  # fmt: skip
    assert again == read_report(world.report_path)


def test_a_statement_is_signed_by_whom_it_names(pristine: World) -> None:
    with pytest.raises(ValueError, match="names keys"):
        sign_statement(pristine.statement, [new_private_key()])


def test_a_missing_signature_of_a_named_approver_fails(world: World) -> None:
    approver = new_private_key()
    named = (world.key.public.key_id, approver.public.key_id)
    predicate = replace(
        world.statement.predicate,
        operator=replace(world.statement.predicate.operator, key_ids=named),
    )
    envelope = sign_statement(replace(world.statement, predicate=predicate), [world.key, approver])
    keys = [world.key, approver]
    report = issue(
        envelope, world.report.disclosure, keys=keys, ledger=world.base / "l2",
        time=audit_world.TIME,
    )  # fmt: skip
    write_report(report, world.report_path)
    assert outcome(check(world, ledger=None), "signatures")[0] == "passed"
    first = tuple(s for s in envelope.signatures if s.keyid == world.key.public.key_id)
    report = replace(report, envelope=replace(envelope, signatures=first))
    write_report(report, world.report_path)
    assert "is named but did not sign" in outcome(check(world, ledger=None), "signatures")[1]


# --- the arithmetic ------------------------------------------------------------------------------


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_the_root_with_leaves_put_back_is_the_root_of_the_old_tree(
    case: tuple[int, set[int]],
) -> None:
    size, changed = case
    leaves = [merkle.leaf_hash(str(i).encode()) for i in range(size)]
    old = {i: merkle.leaf_hash(f"old {i}".encode()) for i in changed}
    before = [old.get(i, leaf) for i, leaf in enumerate(leaves)]
    assert root_with(merkle.tree_levels(leaves), old) == merkle.tree_root(before)
