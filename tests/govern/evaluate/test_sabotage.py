"""A detector's detector: forgets that were sabotaged, and what the default report says of them.

Every sabotage is judged by its measurements alone. In a real `govern forget` most of them would be
refused earlier, by the structural checks of the files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluate_world import FORGOTTEN, EvaluateWorld
from safetensors.torch import load_file, save_file

from govern.audit.measured import MetricRow, Structural, Threshold, Verification
from govern.audit.statement import (
    Allocation,
    Blocks,
    Collateral,
    Mechanism,
    SequencePolicy,
    Verdict,
)
from govern.audit.verdict import decide
from govern.forget.measuring import MeasureRequest
from govern.forget.model_measurer import ModelMeasurer
from manifests.sequence_id import format_id
from sinkmodel.allocation import SINK_MAP_FILE, SinkMap
from sinkmodel.erase import erase_blocks

SHARED = "model-shared.safetensors"


class Bench:
    """Measures the world's run once, and any number of forgets of it against that."""

    def __init__(self, world: EvaluateWorld, request: MeasureRequest, measurer: ModelMeasurer):
        self.world, self.request, self.measurer = world, request, measurer
        self.thresholds = measurer.thresholds(request)
        self.before = measurer.before(world.run, request)

    def rows(self, run: Path) -> tuple[MetricRow, ...]:
        return self.measurer.after(run, self.request, self.before).rows

    def verdict(self, run: Path) -> Verdict:
        return verdict(self.request, self.thresholds, self.rows(run))


def verdict(
    request: MeasureRequest, thresholds: tuple[Threshold, ...], rows: tuple[MetricRow, ...]
) -> Verdict:
    policies = tuple(
        SequencePolicy(sequence_id=format_id(i), policy=policy)  # type: ignore[arg-type]
        for i, policy in request.policies.items()
    )
    return decide(
        verification=Verification(
            thresholds=thresholds,
            structural=Structural(passed=True, checks=()),
            metrics=rows,
            per_document=(),
            kept=(),
        ),
        mechanism=Mechanism(
            kind="weight-zeroing",
            policies=policies,
            block_size=8,
            layers=(0, 1),
            allocation=Allocation(
                scheme="none",
                seed=0,
                sink_map_sha256="0" * 64,
            ),
        ),
        blocks=Blocks(sequences=(), collateral=Collateral(max_allowed=0.0, override=False)),
    )


@pytest.fixture(scope="session")
def bench(world: EvaluateWorld) -> Bench:
    request = world.request(*FORGOTTEN)
    return Bench(world, request, ModelMeasurer(reference=world.reference))


def erase(run: Path, ids: list[int], out: Path) -> Path:
    """An honest forget, without its report."""
    sink_map = SinkMap.read(run / SINK_MAP_FILE)
    blocks = [block for i in ids for block in sink_map.blocks_of(i)]
    erase_blocks(run, blocks, ids, out=out)
    return out


@pytest.fixture(scope="session")
def honest(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[MetricRow, ...]:
    """Rows of an honest forget."""
    out = tmp_path_factory.mktemp("honest") / "out"
    return bench.rows(erase(bench.world.run, list(bench.request.policies), out))


def do_nothing(world: EvaluateWorld, _: MeasureRequest, out: Path) -> None:
    world.copy(out)


def switch_routing_off(world: EvaluateWorld, request: MeasureRequest, out: Path) -> None:
    world.copy(out)
    path = out / SINK_MAP_FILE
    SinkMap.read(path).forget(request.policies).save(path)


def zero_the_wrong_ids(world: EvaluateWorld, request: MeasureRequest, out: Path) -> None:
    erase(world.run, [world.sequence("poem-0")], out)
    SinkMap.read(world.run / SINK_MAP_FILE).forget(request.policies).save(out / SINK_MAP_FILE)


def leave_one_sequence(world: EvaluateWorld, request: MeasureRequest, out: Path) -> None:
    left = world.sequence("strict-0")
    erase(world.run, [i for i in request.policies if i != left], out)


def break_the_model(world: EvaluateWorld, request: MeasureRequest, out: Path) -> None:
    erase(world.run, list(request.policies), out)
    weights = load_file(out / SHARED)
    generator = torch.Generator().manual_seed(0)
    noisy = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in weights.items()}
    save_file(noisy, out / SHARED, metadata={"format": "pt"})


def test_an_honest_forget_passes(bench: Bench, honest: tuple[MetricRow, ...]) -> None:
    assert verdict(bench.request, bench.thresholds, honest) == Verdict(result="PASSED", reasons=())
    value = {(row.metric, row.group): row.value for row in honest if row.phase == "after"}
    for group in ("forgotten:private", "forgotten:strict"):
        # Zero blocks add exact zeros: what is left is what the shared neurons hold, to the bit.
        assert value["sink_residual", group] == 0.0
        assert value["placebo_share", group] == 0.0
        assert value["kept_copy_share", group] < 0.2
    # The measurements are about something: all this was known by heart before.
    recalled = [r for r in honest if (r.metric, r.phase) == ("exact_memorization", "before")]
    assert all(row.value > 0.95 for row in recalled if row.group.startswith("forgotten"))


@pytest.mark.parametrize(
    ("sabotage", "reasons"),
    [
        (do_nothing, ["loss_gap_closed on forgotten:private is 0,", "sink_residual on forgotten"]),
        (switch_routing_off, ["loss_gap_closed on forgotten:strict is 0,", "sink_residual"]),
        (zero_the_wrong_ids, ["loss_gap_closed on forgotten:private is 0,", "identical_losses on"]),
        # Four of five strict texts are gone, and a mean would forgive the fifth.
        (leave_one_sequence, ["sink_residual on forgotten:strict"]),
        (break_the_model, ["identical_losses on kept", "worst_loss_change on held-out"]),
    ],
)
def test_a_sabotaged_forget_fails(
    bench: Bench,
    tmp_path: Path,
    sabotage: Callable[[EvaluateWorld, MeasureRequest, Path], None],
    reasons: list[str],
) -> None:
    sabotage(bench.world, bench.request, tmp_path / "out")
    found = bench.verdict(tmp_path / "out")
    assert found.result == "FAILED"
    for reason in reasons:
        assert any(line.startswith(reason) for line in found.reasons), found.reasons


def test_a_copy_kept_under_another_id_warns(world: EvaluateWorld, tmp_path: Path) -> None:
    """The request covers the licence; most of it stands in `excerpt`, which has its own sinks."""
    bench = Bench(world, world.request("licence-0"), ModelMeasurer())
    found = bench.verdict(erase(world.run, list(bench.request.policies), tmp_path / "out"))
    assert found.result == "WARNED"
    (reason,) = found.reasons
    assert reason.startswith("kept_copy_share on forgotten:private is 0.")


def test_weights_that_are_not_numbers_fail(bench: Bench, tmp_path: Path) -> None:
    out = erase(bench.world.run, list(bench.request.policies), tmp_path / "out")
    weights = load_file(out / SHARED)
    save_file(
        {k: v * torch.nan for k, v in weights.items()}, out / SHARED, metadata={"format": "pt"}
    )
    rows = bench.rows(out)
    found = verdict(bench.request, bench.thresholds, rows)
    assert found.result == "FAILED"
    assert "loss_gap_closed on forgotten:private was not measured" in found.reasons
    (count,) = [row for row in rows if row.metric == "metrics_not_measured"]
    assert count.value > 0
    assert "is not a finite number" in count.note


@pytest.mark.parametrize(
    "metric", ["loss_gap_closed", "identical_losses", "interval_missing", "kept_copy_share"]
)
def test_a_missing_figure_is_never_passed(
    bench: Bench, honest: tuple[MetricRow, ...], metric: str
) -> None:
    rows = tuple(row for row in honest if row.metric != metric)
    found = verdict(bench.request, bench.thresholds, rows)
    assert found.result == "WARNED"
    assert any("was not measured" in reason for reason in found.reasons)


def test_without_reserved_documents_the_verdict_is_at_best_a_warning(
    world: EvaluateWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, rows = with_reserved(world, tmp_path, monkeypatch, 0)
    assert found.result == "WARNED"
    assert "loss_gap_closed on forgotten:strict was not measured" in found.reasons
    (count,) = [row for row in rows if row.metric == "metrics_not_measured"]
    assert count.note.startswith("membership_auc on forgotten: 2 documents against 0 reserved ones")


def test_too_few_reserved_documents_warn(
    world: EvaluateWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, rows = with_reserved(world, tmp_path, monkeypatch, 3)
    assert found.result == "WARNED"
    assert found.reasons == ("interval_missing on held-out is 1, wanted ≤ 0",)
    (row,) = [r for r in rows if (r.metric, r.group) == ("interval_missing", "held-out")]
    assert row.note == "3 documents: too few for an interval"
    assert all(r.low is None for r in rows if r.metric.startswith("membership_auc"))


def with_reserved(
    world: EvaluateWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> tuple[Verdict, tuple[MetricRow, ...]]:
    """An honest forget of two strict texts, measured against `count` reserved documents."""
    make = ModelMeasurer._probes

    def few(self: ModelMeasurer, *arguments: object) -> object:
        probes = make(self, *arguments)  # type: ignore[arg-type]
        return replace(probes, held_out=probes.held_out[:count])

    monkeypatch.setattr(ModelMeasurer, "_probes", few)
    bench = Bench(world, world.request(*FORGOTTEN[2:4]), ModelMeasurer())
    rows = bench.rows(erase(world.run, list(bench.request.policies), tmp_path / "out"))
    return verdict(bench.request, bench.thresholds, rows), rows


def test_a_small_sample_of_many_documents_warns(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of five strict texts measured: their mean is no longer that of what was forgotten."""
    make = ModelMeasurer._probes

    def sampled(self: ModelMeasurer, *arguments: object) -> object:
        probes = make(self, *arguments)  # type: ignore[arg-type]
        few = [p for p in probes.forgotten if probes.policies[p.sequence_id] == "strict"][:3]
        return replace(probes, forgotten=tuple(few))

    monkeypatch.setattr(ModelMeasurer, "_probes", sampled)
    request = bench.world.request(*FORGOTTEN[2:])
    small = Bench(bench.world, request, ModelMeasurer(reference=bench.world.reference))
    found = small.verdict(erase(bench.world.run, list(request.policies), tmp_path / "out"))
    assert found.reasons == ("interval_missing on forgotten:strict is 1, wanted ≤ 0",)
