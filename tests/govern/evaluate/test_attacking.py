"""`govern evaluate --full`: what attacks bring out, said with their budgets, and resumable."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from evaluate_world import EvaluateWorld
from page_structure import structure_faults

from govern.cli import cli
from govern.evaluate import attacking
from govern.evaluate.attacking import SCHEMA, Verdict, verdicts
from govern.evaluate.evaluating import EvaluateRequest, Evaluation, evaluate
from govern.evaluate.figures import requests
from govern.evaluate.page import gaps, render_page
from govern.evaluate.relearning_chart import relearning_charts
from manifests.files import sha256_file
from sinkmodel.evaluate import controls, suite
from sinkmodel.evaluate.compression import Budget
from sinkmodel.evaluate.probes import Probe, Probes

STEPS = (0, 6, 12)


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attack as it is, only shorter."""
    monkeypatch.setattr(suite, "RELEARN_STEPS", STEPS)
    monkeypatch.setattr(suite, "SEEDS", (0, 1))
    monkeypatch.setattr(suite, "SAMPLES", 2)
    monkeypatch.setattr(suite, "_SEARCH", Budget(steps=3, steps_of_length=2, candidates=8))


def request(world: EvaluateWorld) -> EvaluateRequest:
    return EvaluateRequest(
        run=world.run,
        manifest=world.base / "manifest",
        where="doc_id LIKE 'strict-%'",
        reference=world.reference,
        most=3,
        full=True,
    )


@pytest.fixture(scope="module")
def attacked(
    world: EvaluateWorld, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, Path]:
    cache = tmp_path_factory.mktemp("attacked")
    with pytest.MonkeyPatch.context() as patch:
        small_budgets.__wrapped__(patch)  # type: ignore[attr-defined]
        return evaluate(request(world), cache=cache), cache


def by_attack(evaluation: Evaluation) -> dict[str, Verdict]:
    assert evaluation.attacks is not None
    return {verdict.attack: verdict for verdict in verdicts(evaluation.attacks)}


def test_an_erased_text_comes_back_under_no_attack(attacked: tuple[Evaluation, Path]) -> None:
    found = by_attack(attacked[0])
    assert set(found) == {attack.name for attack in suite.attacks()}
    # Three documents are too few for an AUC, which is said; everything else was tried.
    assert (
        found.pop("gradient norm").text
        == "not tried, for want of 5 chosen and 5 reserved documents"
    )
    assert [v.recovered for v in found.values()] == [False] * len(found)
    assert found["8 bit"].erased < 0.2


def test_a_text_that_was_not_erased_comes_back(
    world: EvaluateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (controls, attacking, suite):
        monkeypatch.setattr(module, "zeroed", controls.reactivated)
    names = ("sinks on again", "8 bit", "gradient norm", "sequential requests", "sampling at 0.7")
    names = (*names, "relearning half")
    some = [attack for attack in suite.attacks() if attack.name in names]
    monkeypatch.setattr(attacking, "attacks", lambda: some)
    found = by_attack(evaluate(replace(request(world), most=9)))
    assert {name: verdict.text for name, verdict in found.items()} == {
        attack.name: "recovered" for attack in some
    }
    assert found["8 bit"].erased > 0.9


def values(evaluation: Evaluation, attack: str, metric: str, step: int) -> list[float]:
    """Of the erased run, with the first seed."""
    assert evaluation.attacks is not None
    found: list[float] = next(
        row["values"]
        for row in evaluation.attacks.to_pylist()
        if (row["attack"], row["metric"], row["step"], row["target"], row["seed"])
        == (attack, metric, step, "erased", 0)
    )
    return found


def test_requests_one_after_another_end_where_one_request_does(
    attacked: tuple[Evaluation, Path],
) -> None:
    def of(metric: str, step: int) -> list[float]:
        return values(attacked[0], suite.SEQUENTIAL, metric, step)

    assert attacked[0].attacks is not None
    found = requests(attacked[0].attacks)
    assert [request.number for request in found] == [1, 2, 3, 4]
    # Five sequences in four requests, three of them measured: what is asked for goes, the rest
    # stays known by heart, and no kept document changes at all.
    for request in found:
        forgotten, held = request.erased, request.held
        assert forgotten is None or forgotten < 0.2
        assert held is None or held > 0.95
        assert request.kept == 0.0
    assert found[0].held is not None
    assert found[-1].held is None
    at_once = values(attacked[0], "sinks on again", "exact_memorization", 0)
    assert of("exact_memorization", 4) == at_once


def test_two_seeds_ask_for_every_sequence() -> None:
    probes = tuple(
        Probe(key=("", ""), sequence_id=i, tokens=np.zeros(2, np.int32), text=b"")
        for i in (1, 1, 2, 3)
    )
    some = Probes(forgotten=probes, policies={}, kept=(), held_out=())
    split = [[{p.sequence_id for p in half} for half in suite._half(some, seed)] for seed in (0, 1)]
    assert all(taught | asked == {1, 2, 3} and not taught & asked for taught, asked in split)
    assert split[1] == split[0][::-1]


def test_a_kept_near_duplicate_recites_what_was_erased(
    world: EvaluateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`excerpt` repeats most of the licence and is kept; nothing resembles the strict texts."""
    some = [attack for attack in suite.attacks() if attack.name == "kept near-duplicates"]
    monkeypatch.setattr(attacking, "attacks", lambda: some)
    plain = replace(request(world), reference=None)
    copied = evaluate(replace(plain, where="doc_id LIKE 'licence-%'"))
    (found,) = by_attack(copied).values()
    assert found.erased > 0.7
    assert found.text == "no reference run to judge by"
    assert "Attacks have no verdict: there is no reference run to judge them by" in gaps(copied)
    (alone,) = by_attack(evaluate(plain)).values()
    assert alone.erased < 0.2


def test_an_attack_that_cannot_be_tried_is_said_so(
    world: EvaluateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [attack for attack in suite.attacks() if attack.name == "relearning half"]
    monkeypatch.setattr(attacking, "attacks", lambda: some)
    evaluation = evaluate(replace(request(world), where="doc_id = 'strict-0'"))
    assert gaps(evaluation)[-1] == "relearning half: not tried, for want of two chosen sequences"
    assert "<p>Not everything could be measured or judged</p>" in render_page(evaluation)


def test_a_full_evaluation_goes_on_where_it_was_stopped(
    world: EvaluateWorld,
    attacked: tuple[Evaluation, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop_after(label: str) -> Callable[[str], None]:
        def report(step: str) -> None:
            if step == label:
                raise KeyboardInterrupt

        return report

    few = suite.attacks()[1:4]
    monkeypatch.setattr(attacking, "attacks", lambda: few)
    with pytest.raises(KeyboardInterrupt):
        evaluate(request(world), cache=tmp_path, report=stop_after("4 bit, erased, seed 0"))
    assert len(list(tmp_path.glob("attack-*.json"))) == 3
    done: list[str] = []

    def counted(attack: suite.Attack) -> suite.Attack:
        def perform(*arguments: object) -> Iterator[suite.Outcome]:
            done.append(attack.name)
            yield from attack.perform(*arguments)  # type: ignore[arg-type]

        return replace(attack, perform=perform)

    monkeypatch.setattr(attacking, "attacks", lambda: tuple(map(counted, few)))
    again = evaluate(request(world), cache=tmp_path)
    assert done == ["4 bit", "pruning 10%", "pruning 10%"]  # 8 bit twice and 4 bit once were kept
    assert again.attacks is not None
    assert attacked[0].attacks is not None
    names = [attack.name for attack in few]
    same = attacked[0].attacks.filter(pc.field("attack").isin(names))
    assert again.attacks.equals(same)


def test_the_page_says_attack_budget_and_verdict(
    world: EvaluateWorld, attacked: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    before = {path.name: sha256_file(path) for path in world.run.iterdir() if path.is_file()}
    out = tmp_path / "out"
    (out / "scores").mkdir(parents=True)
    for file in attacked[1].iterdir():
        (out / "scores" / file.name).write_bytes(file.read_bytes())
    (out / ".govern-evaluation").touch()
    asked = request(world)
    result = CliRunner().invoke(
        cli,
        ["evaluate", str(asked.run), "--manifest", str(asked.manifest), "--out", str(out),
         "--where", str(asked.where), "--reference", str(asked.reference), "--full",
         "--documents", str(asked.most)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "38 attacks; those not done yet take about 0 s" in result.stderr
    line = r"8 bit \(all weights rounded to 8 bits\): not recovered[^;]*; exact memorization"
    assert re.search(line, result.stdout)
    page = (out / "EVALUATION.html").read_text()
    assert page.count('class="band"') == 3
    assert structure_faults(page) == []
    assert "A verdict is about this attack at this budget" in page
    table = pq.read_table(out / "attacks.parquet")
    assert table.equals(attacked[0].attacks)
    with (out / "attacks.csv").open(newline="") as file:
        lists = [json.loads(line["values"]) for line in csv.DictReader(file)]
    assert lists == table["values"].to_pylist()
    now = {path.name: sha256_file(path) for path in world.run.iterdir() if path.is_file()}
    assert now == before


def rows(**values: dict[int, list[float]]) -> pa.Table:
    """Relearning rows: target -> step -> value of each seed."""
    return pa.Table.from_pylist(
        [
            {"attack": "relearning half", "budget": "", "target": target, "step": step,
             "metric": "exact_memorization", "seed": seed, "n": 1, "value": value,
             "low": None, "high": None, "values": [value]}
            for target, steps in values.items()
            for step, of_seeds in steps.items()
            for seed, value in enumerate(of_seeds)
        ],
        schema=SCHEMA,
    )  # fmt: skip


def judged(table: pa.Table) -> Verdict:
    """What is said of the relearning in `rows`."""
    (found,) = [verdict for verdict in verdicts(table) if not verdict.lacking]
    assert found.attack == "relearning half"
    return found


def test_verdict_by_hand() -> None:
    band = {0: [0.1, 0.1], 12: [0.3, 0.5]}
    inside = judged(rows(erased={0: [0.02, 0.04], 12: [0.4, 0.6]}, reference=band))
    assert (inside.step, inside.erased, inside.low, inside.high) == (12, 0.5, 0.3, 0.5)
    assert inside.recovered is False
    above = judged(rows(erased={0: [0.1, 0.1], 12: [0.5, 0.62]}, reference=band))
    assert above.recovered is True
    near = judged(rows(erased={0: [0.1, 0.1], 12: [0.5, 0.58]}, reference=band))
    assert near.recovered is False
    assert (inside.text, near.text) == (
        "not recovered",
        "not recovered, but above the reference",
    )
    # What lies above the band at any step has come back, wherever the last one lies.
    early = judged(rows(erased={0: [0.2, 0.2], 12: [0.4, 0.4]}, reference=band))
    assert (early.step, early.recovered) == (0, True)
    alone = judged(rows(erased={0: [0.1], 12: [0.5]}))
    assert (alone.recovered, alone.step) == (None, 12)
    assert alone.text == "no reference run to judge by"
    (low,) = relearning_charts(rows(erased={0: [0.05], 12: [0.1]}))
    assert low.curves == ("64.00,190.00 696.00,140.00",)
    assert [tick.text for tick in low.y_ticks] == ["0%", "5%", "10%", "15%", "20%"]
    (chart,) = relearning_charts(rows(erased={0: [0.2], 12: [1.0]}, reference=band))
    assert chart.curves == ("64.00,200.00 696.00,40.00",)
    assert chart.band == "64.00,220.00 696.00,140.00 696.00,180.00 64.00,220.00"
    assert chart.spoken == (
        "relearning half: after 12 steps the erased run predicts 100% of the tokens, "
        "the reference 30% to 50% of the tokens"
    )
