"""Comparisons on figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sinkmodel.evaluate.comparisons import Phases, compare_phases
from sinkmodel.evaluate.metrics import Estimate
from sinkmodel.evaluate.probes import Probe, Probes
from sinkmodel.evaluate.rows import Measured, NotMeasured, interval_rows, settled_rows


def values(*losses: float, strength: float = 0.1) -> dict[str, list[float]]:
    return {"loss": list(losses), "extraction_strength": [strength] * len(losses)}


# Two documents: known by heart before (loss 1), as good as never seen after (loss 3).
HONEST = Phases(
    before=values(1.0, 1.0, strength=0.9),
    after=values(3.0, 3.0, strength=0.2),
    backbone=values(3.0, 3.0),
    placebo=values(1.0, 1.5),
    wrong=values(4.0, 4.0),
    routed=values(3.0, 2.5),
    reference=values(3.0, 3.0, strength=0.05),
    reserved=values(2.0, 2.0, 2.0, strength=0.125),
)


def compared(phases: Phases) -> dict[str, float]:
    return {item.metric: item.value for item in compare_phases(phases)}


def test_every_comparison_by_hand() -> None:
    assert compared(HONEST) == pytest.approx(
        {
            "loss_gap_closed": 1.0,
            "over_forgetting": 0.0,
            "extraction_strength_excess": 0.2 - 0.125,  # the higher of the two floors
            "sink_residual": 0.0,
            "placebo_share": 0.25 / 2.0,
            "routing_advantage": 3.0,
            "kept_copy_share": 0.25,  # of 2 nats of recall the second document gets half a nat
        }
    )


def test_reserved_documents_stand_in_for_the_reference() -> None:
    found = compared(replace(HONEST, reference=None))
    assert found["loss_gap_closed"] == 2.0  # (3 - 1) / (2 - 1)
    assert "over_forgetting" not in found


def test_what_cannot_be_compared_is_left_out() -> None:
    nothing = replace(HONEST, reference=None, reserved=values(), routed=None)
    assert not {"loss_gap_closed", "extraction_strength_excess", "kept_copy_share"} & set(
        compared(nothing)
    )
    # An untrained run remembers nothing: there is no gap, and no recall to give back.
    flat = values(3.0, 3.0)
    untrained = Phases(
        before=flat, after=flat, backbone=flat, placebo=flat, wrong=flat, routed=flat,
        reference=flat, reserved=flat,
    )  # fmt: skip
    found = compared(untrained)
    assert found == {
        "extraction_strength_excess": 0.0, "sink_residual": 0.0, "routing_advantage": 0.0
    }  # fmt: skip


def test_the_worst_document_counts_and_over_forgetting_is_named() -> None:
    assert compared(replace(HONEST, after=values(3.0, 1.0)))["sink_residual"] == 2.0
    assert compared(replace(HONEST, after=values(4.0, 4.0)))["over_forgetting"] == 0.5


def probe(sequence_id: int) -> Probe:
    tokens = np.array([1, 2], dtype=np.int32)
    return Probe(key=("s", str(sequence_id)), sequence_id=sequence_id, tokens=tokens, text=b"x")


@pytest.mark.parametrize(
    ("measured", "covered", "missing"),
    [(1, 1, 0.0), (4, 4, 0.0), (4, 9, 1.0), (5, 9, 0.0)],
)
def test_an_interval_is_missing_only_from_a_sample(
    measured: int, covered: int, missing: float
) -> None:
    probes = Probes(
        forgotten=tuple(probe(i + 1) for i in range(measured)),
        policies={i + 1: "strict" for i in range(measured)},
        kept=(),
        held_out=tuple(probe(0) for _ in range(4)),
        covered={"forgotten:strict": covered},
    )
    found = {row.group: row.estimate.value for row in interval_rows(probes, reference=False)}
    assert found == {"forgotten:strict": missing, "held-out": 1.0}
    (only,) = interval_rows(probes, reference=True)
    assert only.group == "forgotten:strict"


def test_what_failed_is_counted_and_named() -> None:
    probes = Probes(forgotten=(probe(1),), policies={1: "strict"}, kept=(), held_out=())
    good = Measured(
        metric="loss",
        group="kept",
        phase="after",
        estimate=Estimate(n=1, value=1.0, low=None, high=None),
        seed=0,
        probe_sha256="",
    )
    bad = replace(good, estimate=Estimate(n=1, value=float("nan"), low=None, high=None))
    gone = NotMeasured(metric="membership_auc", group="forgotten", why="nothing to compare")
    first, count = settled_rows([good, bad, gone], probes)
    assert first == good
    assert count.estimate.value == 2.0
    assert count.note == (
        "loss on kept: its value after is not a finite number; "
        "membership_auc on forgotten: nothing to compare"
    )
