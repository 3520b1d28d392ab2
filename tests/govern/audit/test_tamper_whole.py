"""Whole files and reports: cut, exchanged, replayed, resigned, or valid for something else."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from audit_world import TIME, World, build_world, forget
from synthetic_run import RunShape, write_run
from tampering import Tampering, restored

from govern.audit.report_file import issue, read_report, write_report
from govern.audit.signing import new_private_key, sign
from govern.audit.statement import PAYLOAD_TYPE
from govern.audit.verify import verify_report

KINDS = ("report", "run", "ledger", "manifest")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose ledger has three entries, of which its report is the second."""
    base = tmp_path_factory.mktemp("three") / "world"
    world = build_world(base, ids=[11])
    second = forget(base, [22, 33], "run-before", "run-after-2", world.key)
    forget(base, [55], "run-before", "run-after-3", world.key, "THIRD")
    shutil.rmtree(base / "run-after")
    (base / "run-after-2").rename(base / "run-after")
    return second


def failed_names(world: World, **paths: Path) -> set[str]:
    return {check.name for check in verify_report(world.report_path, **paths).failed}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_or_lengthened_file_is_found(kind: str, world: World) -> None:
    tampering = Tampering(world)
    for path in tampering.files(kind):
        data = path.read_bytes()
        for other in (b"", data[:1], data[: len(data) // 2], data[:-1], data + b"\0", data + b"\n"):
            with restored(path):
                path.write_bytes(other)
                assert tampering.evidence[kind][1](), (path.name, len(other))


@pytest.mark.parametrize("kind", ["run", "ledger", "manifest"])
def test_a_missing_file_is_found(kind: str, world: World) -> None:
    tampering = Tampering(world)
    for path in tampering.files(kind):
        with restored(path):
            path.unlink()
            failed = tampering.evidence[kind][1]()
            assert failed, path.name


@pytest.mark.parametrize("kind", ["run", "ledger", "manifest"])
def test_two_files_exchanged_are_found(kind: str, three: World, tmp_path: Path) -> None:
    world = three.copy(tmp_path / "world")
    tampering = Tampering(world)
    assert tampering.evidence[kind][1]() == []
    pairs = 0
    for first, second in itertools.combinations(tampering.files(kind), 2):
        if first.read_bytes() == second.read_bytes():
            continue
        with restored(first), restored(second):
            one, other = first.read_bytes(), second.read_bytes()
            first.write_bytes(other)
            second.write_bytes(one)
            assert tampering.evidence[kind][1](), (first.name, second.name)
            pairs += 1
    assert pairs >= 20


def test_entries_reordered_together_with_their_heads_are_found(
    three: World, tmp_path: Path
) -> None:
    """A head of every size binds the order; moving both gives heads of the wrong size."""
    orders = [order for order in itertools.permutations(range(3)) if order != (0, 1, 2)]
    for number, order in enumerate(orders):
        world = three.copy(tmp_path / str(number))
        for heads_too in (False, True):
            for place, origin in enumerate(order):
                copy_entry(three, world, origin, place)
                if heads_too:
                    copy_head(three, world, origin, place)
            assert Tampering(world).ledger(), (order, heads_too)


def copy_entry(source: World, target: World, origin: int, place: int) -> None:
    name = "entries/{:08d}.json"
    shutil.copy(source.ledger / name.format(origin), target.ledger / name.format(place))


def copy_head(source: World, target: World, origin: int, place: int) -> None:
    name = "heads/{:08d}.json"
    shutil.copy(source.ledger / name.format(origin + 1), target.ledger / name.format(place + 1))


@pytest.mark.parametrize("kept", [0, 1])
def test_a_ledger_cut_back_before_the_report_is_found(
    kept: int, three: World, tmp_path: Path
) -> None:
    """Cut at a head, the ledger holds together by itself; the report remembers more."""
    world = three.copy(tmp_path / "world")
    for number in range(kept, 3):
        (world.ledger / "entries" / f"{number:08d}.json").unlink()
        (world.ledger / "heads" / f"{number + 1:08d}.json").unlink()
    (failed,) = Tampering(world).ledger()
    assert f"the ledger has {kept} entries, the report's signed head covers 2" in failed.detail


# --- whole reports -------------------------------------------------------------------------------


def test_parts_of_two_valid_reports_do_not_mix(three: World, tmp_path: Path) -> None:
    """Every way to put one report together from two: only the two themselves hold."""
    elsewhere = build_world(tmp_path / "elsewhere", ids=[11])
    ours, theirs = read_report(three.report_path), read_report(elsewhere.report_path)
    names = [f.name for f in fields(ours) if not f.name.startswith("format")]
    assert names == ["envelope", "ledger", "public_keys", "disclosure"]
    for taken in itertools.product((False, True), repeat=len(names)):
        parts = {name: getattr(theirs, name) for name, take in zip(names, taken, strict=True)
                 if take}  # fmt: skip
        write_report(replace(ours, **parts), tmp_path / "mixed.json")
        failed = verify_report(tmp_path / "mixed.json").failed
        assert bool(failed) == (any(taken) and not all(taken)), (taken, failed)


def test_a_report_signed_by_the_wrong_key_fails(world: World) -> None:
    """The honest statement under another key: it names whom it should be signed by."""
    stranger = new_private_key()
    payload = world.report.envelope.payload_bytes()
    envelope = sign(payload, PAYLOAD_TYPE, [stranger])
    shutil.rmtree(world.ledger)
    report = issue(
        envelope, world.report.disclosure, keys=[stranger], ledger=world.ledger, time=TIME
    )
    write_report(report, world.report_path)
    failed = {c.name: c.detail for c in verify_report(world.report_path, model=world.run).failed}
    assert set(failed) == {"signatures"}
    assert "is named but did not sign" in failed["signatures"]


def test_a_whole_forgery_under_another_key_fails_the_trusted_key(world: World) -> None:
    """Statement, ledger and keys all of a stranger, and true of the run: only the key tells."""
    shutil.rmtree(world.ledger)
    shutil.rmtree(world.run)
    forgery = forget(world.base, [22, 33], "run-before", "run-after", new_private_key())
    honest_key = world.base / "honest.pem"
    honest_key.write_text(world.key.public.pem)
    assert failed_names(forgery, model=forgery.run, ledger=forgery.ledger) == set()
    assert failed_names(
        forgery, model=forgery.run, ledger=forgery.ledger, public_key=honest_key
    ) == {"signed by a trusted key"}


def test_an_old_report_beside_a_new_checkpoint_fails(world: World) -> None:
    """Replay: 55 was forgotten as well since then, and the checkpoint is another one."""
    later = forget(world.base, [55], "run-after", "run-later", world.key, "LATER")
    old = {"model": later.base / "run-later", "ledger": later.ledger}
    assert {"checkpoint files", "sink banks"} <= failed_names(world, **old)
    new = verify_report(later.base / "LATER.json", **old)
    assert new.failed == ()
    # And the new one beside the old checkpoint.
    stale = verify_report(later.base / "LATER.json", model=world.run, ledger=world.ledger)
    assert "checkpoint files" in {check.name for check in stale.failed}


OTHER_MODELS: dict[str, tuple[Callable[[World], object], set[str]]] = {
    "other weights": (
        lambda w: write_run(w.base / "run-before", shape=RunShape(manifest=_pin(w), seed=8)),
        {"checkpoint files", "sink banks", "record of training"},
    ),
    "other weights beside the banks": (
        lambda w: write_run(
            w.base / "run-before", shape=RunShape(manifest=_pin(w), shared_bytes=4000)
        ),
        {"checkpoint files"},
    ),
}


def _pin(world: World) -> dict[str, object]:
    stated = world.statement.predicate.selection.manifest
    return {"content_digest": stated.content_digest, "snapshot": stated.snapshot}


@pytest.mark.parametrize("name", sorted(OTHER_MODELS))
def test_a_valid_report_for_another_model_fails(name: str, world: World, tmp_path: Path) -> None:
    """Same data, same IDs, same operator, same key: still not this model."""
    train, checks = OTHER_MODELS[name]
    other = world.copy(tmp_path / "other")
    for stale in ("run-before", "run-after", "ledger"):
        shutil.rmtree(other.base / stale)
    train(other)
    other = forget(other.base, [22, 33], "run-before", "run-after", world.key)
    assert failed_names(other, model=other.run, ledger=other.ledger) == set()
    assert checks <= failed_names(other, model=world.run, ledger=other.ledger)
    assert checks <= failed_names(world, model=other.run, ledger=world.ledger)
