"""`govern evaluate` on a tiny trained run: figures, files, cache, refusals."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from evaluate_world import EvaluateWorld
from page_structure import structure_faults

from govern.cli import cli
from govern.evaluate import evaluating
from govern.evaluate.charts import extracted_share, extraction_chart
from govern.evaluate.figures import blocks, comparisons, heads
from manifests.errors import CheckpointError, InputError, SelectionError
from manifests.files import sha256_file
from sinkmodel.evaluate import membership
from sinkmodel.evaluate.probes import Probes

WHERE = "doc_id LIKE 'strict-%'"


def govern(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_evaluate(world: EvaluateWorld, out: Path, *more: object) -> dict[str, object]:
    result = govern(
        *("--quiet", "--output", "json", "evaluate", world.run),
        *("--manifest", world.base / "manifest", "--out", out, *more),
    )
    found: dict[str, object] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="session")
def evaluated(world: EvaluateWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    run_evaluate(world, out, "--where", WHERE, "--reference", world.reference)
    return out


def test_the_figures_are_those_of_a_text_known_by_heart(evaluated: Path) -> None:
    rows = pq.read_table(evaluated / "metrics.parquet").to_pylist()
    value = {(r["metric"], r["group"], r["phase"]): r for r in rows}
    assert value["exact_memorization", "chosen:strict", "before"]["value"] > 0.95
    assert value["exact_memorization", "chosen:strict", "erased"]["value"] < 0.2
    assert value["loss_gap_closed", "chosen:strict", "erased"]["value"] > 0.9
    assert value["identical_losses", "kept", "erased"]["value"] == 1.0
    assert value["placebo_share", "chosen:strict", "erased"]["value"] == 0.0
    # An attacker tells the run's own texts from reserved ones, and no longer once they are erased.
    assert value["membership_auc_loss", "chosen", "before"]["value"] == 1.0
    assert value["membership_auc_loss", "chosen", "erased"]["value"] < 0.95
    # Five members and seven others: at 1 % false positives none of the others may be taken for one.
    rate = value["membership_tpr_loss", "chosen", "before"]
    assert (rate["value"], rate["low"], rate["high"]) == (1.0, 1.0, 1.0)
    assert value["membership_tpr_loss", "chosen", "erased"]["value"] < 1.0
    loss = value["loss", "chosen:strict", "before"]
    assert loss["n"] == 5
    assert loss["low"] <= loss["value"] <= loss["high"]
    documents = pq.read_table(evaluated / "documents.parquet").to_pylist()
    mine = [d["loss"] for d in documents if (d["group"], d["phase"]) == ("chosen", "before")]
    assert loss["value"] == pytest.approx(sum(mine) / len(mine))
    assert {d["phase"] for d in documents if d["group"] == "chosen"} == {
        *("before", "erased", "backbone", "placebo", "wrong", "routed", "reference")
    }


def test_every_number_is_also_in_csv_and_in_duckdb(evaluated: Path) -> None:
    for name in ("metrics", "documents"):
        files = (
            f"read_csv('{evaluated}/{name}.csv', allow_quoted_nulls=false)",
            f"'{evaluated}/{name}.parquet'",
        )
        csv, parquet = (
            duckdb.sql(f"SELECT * FROM {file} ORDER BY ALL").fetchall() for file in files
        )
        assert csv == parquet
        assert csv


def test_the_page_loads_nothing_and_shows_its_charts(evaluated: Path) -> None:
    page = (evaluated / "EVALUATION.html").read_text()
    assert not re.findall(r"<script|src=|href=|@import|url\(", page)
    assert page.count("<svg") == 3
    assert structure_faults(page) == []
    assert "Extraction curves" in page
    assert "strict-0" in page
    summary = (evaluated / "summary.md").read_text()
    assert "| loss_gap_closed | chosen:strict | erased | 5 |" in summary
    card = (evaluated / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| strict | 5 |" in card
    assert str(evaluated) not in page + summary + card


def test_asked_again_it_answers_from_its_cache(
    world: EvaluateWorld, evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (evaluated / "metrics.parquet").read_bytes()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr("sinkmodel.evaluate.scorer.score", never)
    monkeypatch.setattr("sinkmodel.evaluate.scorer.recite", never)
    run_evaluate(world, evaluated, "--where", WHERE, "--reference", world.reference)
    assert (evaluated / "metrics.parquet").read_bytes() == before
    # Other documents are another question.
    with pytest.raises(AssertionError, match="scored again"):
        run_evaluate(world, evaluated, "--where", "doc_id = 'strict-0'")


def test_a_reference_that_saw_what_is_measured_is_refused(
    world: EvaluateWorld, tmp_path: Path
) -> None:
    asked = ("evaluate", world.run, "--manifest", world.base / "manifest", "--out", tmp_path / "o")
    # The run itself knows all of them.
    with pytest.raises(CheckpointError) as refused:
        govern(*asked, "--where", WHERE, "--reference", world.run)
    assert str(refused.value) == (
        f"reference run {world.run}: expected a run that never saw the chosen documents, "
        "found sinks for 5 of their 5 sequences; "
        "choose by --where what it never saw, or leave out --reference"
    )


def test_the_run_is_left_alone(world: EvaluateWorld, tmp_path: Path) -> None:
    before = {p.name: sha256_file(p) for p in world.run.iterdir() if p.is_file()}
    found = run_evaluate(world, tmp_path / "out", "--where", "doc_id = 'strict-0'")
    assert found["chosen"] == {"matched": 1, "trained": 1, "measured": 1}
    assert {p.name: sha256_file(p) for p in world.run.iterdir() if p.is_file()} == before


def test_what_is_missing_is_said(
    world: EvaluateWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reserved document and no reference run: there is nothing to compare with."""
    make = evaluating.make_probes

    def without_reserved(*arguments: Any, **options: Any) -> Probes:
        return replace(make(*arguments, **options), held_out=())

    monkeypatch.setattr(evaluating, "make_probes", without_reserved)
    found = run_evaluate(world, tmp_path / "out", "--where", "doc_id = 'strict-0'")
    missing = [
        "No interval for held-out: 0 documents: too few for an interval",
        "Not measured: membership_auc on chosen: 1 documents against 0 reserved ones; "
        "two of each are needed",
    ]
    assert [line for line in found["findings"] if line in missing] == missing  # type: ignore[attr-defined]
    page = (tmp_path / "out" / "EVALUATION.html").read_text()
    assert all(f"<li>{line}</li>" in page for line in missing)
    metrics = pq.read_table(tmp_path / "out" / "metrics.parquet")["metric"].to_pylist()
    assert not [name for name in metrics if name.startswith(("membership_auc", "loss_gap"))]


def test_a_figure_that_is_no_number_is_said(
    world: EvaluateWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "min_k_score", lambda _: float("nan"))
    found = run_evaluate(world, tmp_path / "out", "--where", WHERE, "--reference", world.reference)
    (line,) = [text for text in found["findings"] if text.startswith("Not measured")]  # type: ignore[attr-defined]
    assert line == "Not measured: membership_auc_min_k on chosen: a score is not finite"


def test_tables_of_the_page_by_hand() -> None:
    def row(metric: str, group: str, phase: str, value: float) -> dict[str, object]:
        return {"metric": metric, "group": group, "phase": phase, "value": value, "n": 3}

    metrics = pa.Table.from_pylist(
        [
            row("loss", "chosen:private", "before", 1.0),
            row("loss", "chosen:private", "reference", 3.0),
            row("loss", "chosen:private", "erased", 2.0),
            row("loss_gap_closed", "chosen:private", "erased", 0.5),
            row("loss", "kept", "before", 4.0),
            row("loss", "kept", "erased", 5.0),
            row("interval_missing", "chosen:private", "erased", 0.0),
            row("metrics_not_measured", "report", "before", 0.0),
            row("metrics_not_measured", "report", "erased", 0.0),
        ]
    )
    private, kept = blocks(metrics)
    assert (private.group, private.phases) == ("private", ("before", "erased", "reference"))
    (line,) = private.lines
    assert [cell["value"] for cell in line.cells if cell] == [1.0, 2.0, 3.0]
    assert (kept.group, kept.phases) == ("kept", ("before", "erased"))
    (head,) = heads(metrics)
    assert [shown.metric for shown in head.lines] == ["mean loss, nats per token"]
    assert [figure["metric"] for figure in comparisons(metrics)] == ["loss_gap_closed"]


def test_what_cannot_be_evaluated_is_refused(world: EvaluateWorld, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary.txt").write_text("dear")
    with pytest.raises(InputError, match="found other files; choose another name with --out"):
        run_evaluate(world, mine)
    with pytest.raises(InputError, match="one inside the run"):
        run_evaluate(world, world.run / "evaluation")
    with pytest.raises(SelectionError, match="found none among 0 that match"):
        run_evaluate(world, tmp_path / "out", "--where", "doc_id = 'nobody'")
    with pytest.raises(SelectionError, match="expected some that the run was trained on"):
        run_evaluate(world, tmp_path / "out", "--where", "reserved")
    assert "Example: govern evaluate" in govern("evaluate", "--help").stdout


def test_extraction_curve_by_hand() -> None:
    # Known by heart, known after half, and never known (floor 1/4): needs of 0, 1/2 and 3/4.
    strengths = [1.0, 0.5, 0.25]
    assert [extracted_share(strengths, p) for p in (0.0, 0.49, 0.5, 0.75)] == pytest.approx(
        [1 / 3, 1 / 3, 2 / 3, 1.0]
    )
    chart = extraction_chart({"before": strengths, "reference": []})
    assert chart is not None
    (curve,) = chart.curves
    assert curve.spoken == "before: 67% of 3 documents are recited after half of them"
    first = curve.points.split()[0]
    assert first == f"{chart.left:.2f},{chart.base - (chart.base - chart.top) / 3:.2f}"
    assert extraction_chart({"before": []}) is None
