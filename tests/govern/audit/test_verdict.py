"""The verdict follows from the figures, and only from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from audit_world import World
from hypothesis import given
from hypothesis import strategies as st

from govern.audit.disclosure import disclosure_faults, keyed_hash
from govern.audit.measured import MetricRow, Structural, StructuralCheck, Threshold, Verification
from govern.audit.statement import Blocks, Collateral, Mechanism, SequencePolicy, ShareLost, Verdict
from govern.audit.verdict import SEVERITY, decide, understated

ID = "sq-0000000000000001"
GOOD = Structural(passed=True, checks=(StructuralCheck(name="zero", passed=True),))


def row(value: float, metric: str = "loss gap closed", group: str = "forgotten") -> MetricRow:
    return MetricRow(metric=metric, group=group, phase="after", n=3, value=value)


def bound(comparison: str = ">=", value: float = 0.9, **more: str) -> Threshold:
    return Threshold.from_dict(
        {
            "metric": "loss gap closed", "group": None, "phase": "after", "on_breach": "FAILED",
            "comparison": comparison, "bound": value, **more,
        }
    )  # fmt: skip


@pytest.fixture
def mechanism(pristine: World) -> Mechanism:
    policy = SequencePolicy(sequence_id=ID, policy="private")
    return replace(pristine.statement.predicate.mechanism, policies=(policy,))


BLOCKS = Blocks(sequences=(), collateral=Collateral(max_allowed=0.0, override=False))


@pytest.mark.parametrize(
    ("thresholds", "metrics", "result", "reasons"),
    [
        ((), (), "PASSED", ()),
        ((bound(),), (row(0.95),), "PASSED", ()),
        ((bound(),), (row(0.9),), "PASSED", ()),
        (
            (bound(),),
            (row(0.8),),
            "FAILED",
            ("loss gap closed on forgotten is 0.8, wanted ≥ 0.9",),
        ),
        (
            (bound(on_breach="WARNED"),),
            (row(0.8),),
            "WARNED",
            ("loss gap closed on forgotten is 0.8, wanted ≥ 0.9",),
        ),
        (
            (bound("<="),),
            (row(1.1),),
            "FAILED",
            ("loss gap closed on forgotten is 1.1, wanted ≤ 0.9",),
        ),
        ((bound("==", 0.0),), (row(0.0),), "PASSED", ()),
        (
            (bound("==", 0.0),),
            (row(1e-300),),
            "FAILED",
            ("loss gap closed on forgotten is 1e-300, wanted = 0",),
        ),
        ((bound(),), (), "WARNED", ("loss gap closed was not measured",)),
        (
            (bound(group="kept"),),
            (row(0.95),),
            "WARNED",
            ("loss gap closed on kept was not measured",),
        ),
        ((bound(group="forgotten"),), (row(0.95), row(0.1, group="kept")), "PASSED", ()),
        (
            (bound(),),
            (row(0.95), row(0.1, group="kept")),
            "FAILED",
            ("loss gap closed on kept is 0.1, wanted ≥ 0.9",),
        ),
    ],
)
def test_thresholds(
    thresholds: tuple[Threshold, ...],
    metrics: tuple[MetricRow, ...],
    result: str,
    reasons: tuple[str, ...],
    mechanism: Mechanism,
) -> None:
    verification = Verification(thresholds=thresholds, structural=GOOD, metrics=metrics)
    verdict = decide(verification=verification, mechanism=mechanism, blocks=BLOCKS)
    assert (verdict.result, verdict.reasons) == (result, reasons)


def test_other_phases_do_not_count(mechanism: Mechanism) -> None:
    placebo = replace(row(0.0), phase="placebo")
    verification = Verification(
        thresholds=(bound(),), structural=GOOD, metrics=(row(0.95), placebo)
    )
    verdict = decide(verification=verification, mechanism=mechanism, blocks=BLOCKS)
    assert verdict.result == "PASSED"


@pytest.mark.parametrize("claimed", [True, False])
def test_a_failed_structural_check_fails_whatever_the_summary_says(
    claimed: bool, mechanism: Mechanism
) -> None:
    check = StructuralCheck(name="zero", passed=False, detail="block 7")
    verification = Verification(
        thresholds=(), structural=Structural(passed=claimed, checks=(check,))
    )
    verdict = decide(verification=verification, mechanism=mechanism, blocks=BLOCKS)
    assert verdict == Verdict(result="FAILED", reasons=("structural check zero: block 7",))


def test_a_failed_summary_without_a_check_fails(mechanism: Mechanism) -> None:
    verification = Verification(thresholds=(), structural=Structural(passed=False, checks=()))
    verdict = decide(verification=verification, mechanism=mechanism, blocks=BLOCKS)
    assert verdict.result == "FAILED"


def test_shared_policy_and_overridden_collateral_warn(mechanism: Mechanism) -> None:
    shared = replace(mechanism, policies=(SequencePolicy(sequence_id=ID, policy="shared"),))
    verification = Verification(thresholds=(), structural=GOOD)
    verdict = decide(verification=verification, mechanism=shared, blocks=BLOCKS)
    assert verdict.result == "WARNED"
    assert "policy shared" in verdict.reasons[0]
    collateral = Collateral(
        max_allowed=0.5, override=True, affected=(ShareLost(sequence_id=ID, share_lost=0.25),)
    )
    verdict = decide(
        verification=verification,
        mechanism=mechanism,
        blocks=replace(BLOCKS, collateral=collateral),
    )
    assert verdict.result == "WARNED"
    assert "up to 0.25" in verdict.reasons[0]


@pytest.mark.parametrize("result", sorted(SEVERITY))
def test_a_verdict_may_be_harder_than_its_figures_never_milder(
    result: str, pristine: World
) -> None:
    predicate = pristine.statement.predicate
    stated = replace(predicate, verdict=Verdict.from_dict({"result": result, "reasons": []}))
    assert understated(stated) is None
    broken = replace(predicate.verification, structural=Structural(passed=False, checks=()))
    derived = understated(replace(stated, verification=broken))
    assert (derived is None) == (result == "FAILED")


# --- keyed hashes --------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32), st.lists(st.text(), max_size=3), st.lists(st.text()))
def test_different_names_have_different_hashes(key: bytes, a: list[str], b: list[str]) -> None:
    assert (keyed_hash(key, "document", *a) == keyed_hash(key, "document", *b)) == (a == b)
    assert keyed_hash(key, "document", *a) != keyed_hash(key, "query", *a)
    other = bytes([key[0] ^ 1]) + key[1:]
    assert keyed_hash(key, "document", *a) != keyed_hash(other, "document", *a)


def test_a_keyed_hash_is_fixed_for_ever() -> None:
    """Computed from RFC 2104 by hand, so that old reports stay verifiable."""
    import hashlib

    def frame(text: str) -> bytes:
        return len(text.encode()).to_bytes(8, "big") + text.encode()

    key = bytes(range(32))
    message = b"".join(
        map(frame, ["memsinks-govern keyed hash v1", "document", "corpus", "naïve\n.txt"])
    )
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in block) + message).digest()
    expected = hashlib.sha256(bytes(b ^ 0x5C for b in block) + inner).hexdigest()
    assert keyed_hash(key, "document", "corpus", "naïve\n.txt") == expected


def test_every_misfit_of_a_disclosure_is_named(pristine: World) -> None:
    disclosure, predicate = pristine.report.disclosure, pristine.statement.predicate
    assert disclosure is not None
    assert disclosure_faults(disclosure, predicate) == []
    renamed = replace(disclosure.documents[0], doc_id="another")
    cases = {
        "the query": replace(disclosure, query="another"),
        "the requester": replace(disclosure, requester="somebody"),
        "has another name": replace(disclosure, documents=(renamed, *disclosure.documents[1:])),
        "1 documents of the statement are not named": replace(
            disclosure, documents=disclosure.documents[1:]
        ),
    }
    for fault, changed in cases.items():
        faults = disclosure_faults(changed, predicate)
        assert "its digest is not the one that the statement pins" in faults
        assert any(fault in text for text in faults), (fault, faults)
    other_key = replace(disclosure, key="00" * 32)
    assert len(disclosure_faults(other_key, predicate)) == 2 + len(disclosure.documents)
