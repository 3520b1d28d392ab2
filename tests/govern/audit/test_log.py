"""`audit log`: entries, proofs that hold for whoever checks them, several keys, rotated keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from audit_world import World, build_world, forget
from click.testing import CliRunner, Result

from govern.audit.ledger import read_ledger
from govern.audit.log import log_entries, outstanding_of, prove_consistency, prove_inclusion
from govern.audit.signing import new_private_key
from govern.audit.verify import verify_report
from govern.cli import cli
from manifests import merkle
from manifests.errors import InputError


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Five entries; from the third on another key signs."""
    base = tmp_path_factory.mktemp("log") / "world"
    world = build_world(base, ids=[11])
    later = new_private_key()
    for number, (ids, key) in enumerate(
        [([22], world.key), ([33], later), ([55], later), ([11], later)]
    ):
        forget(base, ids, "run-before", f"run-{number}", key, f"REPORT-{number}")
    (base / "public.pem").write_text(world.key.public.pem)
    (base / "later.pem").write_text(later.public.pem)
    return world


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)


def unhex(digests: tuple[str, ...] | list[str]) -> list[bytes]:
    return [bytes.fromhex(digest) for digest in digests]


def test_every_inclusion_proof_holds_and_no_other(many: World) -> None:
    ledger = read_ledger(many.ledger)
    for index in range(5):
        proof = prove_inclusion(ledger, index)
        for claimed in range(5):
            found = merkle.root_from_inclusion(
                bytes.fromhex(proof.leaf), claimed, proof.tree_size, unhex(proof.path)
            )
            assert (found == bytes.fromhex(proof.root)) == (claimed == index)


def test_every_consistency_proof_holds_and_no_other(many: World) -> None:
    ledger = read_ledger(many.ledger)
    for size in range(1, 6):
        proof = prove_consistency(ledger, size)
        new = bytes.fromhex(proof.root)
        for claimed in range(1, 6):
            old = bytes.fromhex(prove_consistency(ledger, claimed).old_root)
            holds = merkle.consistency_holds(old, claimed, new, 5, unhex(proof.path))
            assert holds == (claimed == size)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--proof", "5", "--proof 5: expected an entry of this ledger, 0 to 4"),
        ("--proof", "-1", "0 to 4"),
        ("--since", "0", "--since 0: expected a tree size of this ledger, 1 to 5"),
        ("--since", "6", "1 to 5"),
    ],
)
def test_what_the_ledger_does_not_have_is_said(
    option: str, value: str, message: str, many: World
) -> None:
    with pytest.raises(InputError, match=message):
        invoke("audit", "log", "--ledger", many.ledger, option, value)


def test_the_command_prints_both_proofs(many: World) -> None:
    command = ["audit", "log", "--ledger", many.ledger, "--proof", 1, "--since", 3]
    value = json.loads(invoke("--output", "json", *command).output)
    assert len(value["entries"]) == 5
    root = value["tree_head"]["root"]
    assert value["inclusion"]["root"] == value["consistency"]["root"] == root
    text = invoke(*command).output
    assert "inclusion of entry 1 in the tree of 5" in text
    assert "consistency of the tree of 3 with that of 5" in text
    for proof in ("inclusion", "consistency"):
        for node in value[proof]["path"]:
            assert f"path {node}" in text
    assert "consistency" not in json.loads(
        invoke("--output", "json", "audit", "log", "--ledger", many.ledger).output
    )


def test_entries_say_what_the_statements_say(many: World) -> None:
    entries = log_entries(read_ledger(many.ledger))
    assert [entry.index for entry in entries] == list(range(5))
    assert {entry.verdict for entry in entries} == {"PASSED"}
    assert entries[0].statement_sha256 == many.statement.canonical_sha256()
    assert len({entry.signed_by for entry in entries}) == 2


def test_an_item_stays_outstanding_until_a_statement_closes_it(many: World) -> None:
    """All five name the same source checkpoint: it is one thing to do, not five."""
    ((index, item),) = outstanding_of(read_ledger(many.ledger))
    assert (index, item.location) == (4, "run-before")


def test_a_rotated_key_is_asked_for_and_then_trusted(many: World) -> None:
    """The first report stays valid under the old key; the ledger's newest head needs the new."""
    paths = {"ledger": many.ledger}
    old, both = many.public_key, [many.public_key, many.base / "later.pem"]
    (failed,) = verify_report(many.report_path, public_key=old, **paths).failed
    assert failed.name == "ledger"
    assert "a later key of the same holder? then give it with --public-key too" in failed.detail
    assert verify_report(many.report_path, public_key=both, **paths).failed == ()
    newest = many.base / "REPORT-3.json"
    assert verify_report(newest, public_key=many.base / "later.pem", **paths).failed == ()
    assert [c.name for c in verify_report(newest, public_key=old, **paths).failed] == [
        "signed by a trusted key"
    ]


def test_an_empty_ledger_says_so(tmp_path: Path) -> None:
    for folder in ("entries", "heads"):
        (tmp_path / folder).mkdir()
    assert "no entries" in invoke("audit", "log", "--ledger", tmp_path).output
    with pytest.raises(InputError, match="expected a ledger with entries"):
        invoke("audit", "log", "--ledger", tmp_path, "--proof", 0)
