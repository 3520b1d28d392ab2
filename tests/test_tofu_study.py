"""What the TOFU study could get wrong: whom it forgets, how it unlearns, what its table says."""

from __future__ import annotations

import argparse
import copy
import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sinkmodel.allocation import SinkMap
from sinkmodel.evaluate.baselines import METHODS
from sinkmodel.evaluate.questions import Question, score_answers
from sinkmodel.modeling_sink import SinkForCausalLM
from tests.sinkmodel.tiny_models import random_answers, tiny_model

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def study() -> SimpleNamespace:
    """The benchmark's modules, by the name after `tofu_`."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        names = ("data", "measure", "unlearn", "table")
        modules: dict[str, ModuleType] = {n: importlib.import_module(f"tofu_{n}") for n in names}
        return SimpleNamespace(**modules, strict=importlib.import_module("tofu"))
    finally:
        sys.path.remove(str(BENCHMARKS))


# --- whom it forgets -----------------------------------------------------------------------------


def question(author: int, number: int = 0) -> Question:
    return Question(
        owner=author, question=f"Who is {author}?", answer=f"{author} {number}", right="", wrong=()
    )


def test_sets_are_the_last_authors(study: SimpleNamespace) -> None:
    asked = [question(author) for author in range(180, 200)]
    authors = {n: [q.owner for q in study.data.of_set(asked, n)] for n in study.data.FORGOTTEN}
    assert authors["forget01"] == [198, 199]
    assert authors["forget05"] == list(range(190, 200))
    assert authors["forget10"] == list(range(180, 200))


@pytest.mark.parametrize(("count", "kept"), [(200, 180), (40, 20), (20, 0), (3, 0)])
def test_fewer_authors_are_those_to_forget_first(
    study: SimpleNamespace, count: int, kept: int
) -> None:
    found = study.strict.chosen(count)
    assert len(found) == len(set(found)) == count
    assert found[:kept] == list(range(kept))
    assert found[kept:] == list(range(200 - (count - kept), 200))


# --- unlearning ----------------------------------------------------------------------------------


def test_log_probs_are_sums_of_losses(study: SimpleNamespace) -> None:
    model, some = tiny_model(SinkMap.empty()), random_answers(5)
    found = study.unlearn.log_probs(model, some)
    scored = score_answers(model, some)
    np.testing.assert_allclose(
        found.log_probs.detach().numpy(), [-s.losses.sum() for s in scored], atol=1e-4
    )
    assert found.lengths.tolist() == [len(a.tokens) - a.prompt for a in some]


@pytest.mark.parametrize("method", METHODS)
def test_unlearning_raises_the_loss_of_a_copy(study: SimpleNamespace, method: str) -> None:
    model, some, others = tiny_model(SinkMap.empty()), random_answers(12), random_answers(9)
    before = copy.deepcopy(model.state_dict())

    def loss(of: SinkForCausalLM, what: list[Any]) -> float:
        return float(np.mean([s.loss for s in score_answers(of, what)]))

    stops = study.unlearn.unlearn(
        model, method, some, others, rate=3e-3, seed=0, steps=(2, 20)
    )  # fmt: skip
    seen = [(stop.step, stop.seconds, loss(stop.model, some)) for stop in stops]
    assert [step for step, _, _ in seen] == [2, 20]
    assert seen[0][1] < seen[1][1]
    assert seen[1][2] > loss(model, some)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- the table -----------------------------------------------------------------------------------


def curve(*recalls: float) -> dict[str, list[dict[str, float]]]:
    return {"forget10": [{"step": 10 * i, "recall": r} for i, r in enumerate(recalls)]}


def test_the_band_and_where_a_curve_leaves_it(study: SimpleNamespace) -> None:
    oracles = [{"relearning": curve(0.1, 0.2, 0.4)}, {"relearning": curve(0.2, 0.3, 0.3)}]
    band = study.table.band_of(oracles, "forget10")
    assert band == {0: (0.1, 0.2), 10: (0.2, 0.3), 20: (0.3, 0.4)}

    def leaves(*recalls: float) -> int | None:
        return study.table.above_from({"relearning": curve(*recalls)}, band, "forget10")

    assert leaves(0.2, 0.3, 0.4) is None
    assert leaves(0.0, 0.0, 0.0) is None  # below is no recovery
    assert leaves(0.1, 0.31, 0.2) == 10
    assert leaves(0.21, 0.31, 0.5) == 0


def test_forget_quality_is_asked_of_the_set_alone(study: SimpleNamespace) -> None:
    random = np.random.default_rng(0)
    oracle = {"truth": random.uniform(0.5, 1.5, 400).tolist()}
    spoiled = {"truth": [0.01] * 360 + oracle["truth"][360:]}
    assert study.table.quality(oracle, oracle, "forget10") == 1.0
    assert study.table.quality(spoiled, oracle, "forget01") == 1.0
    assert study.table.quality(spoiled, oracle, "forget05") < 1e-6


def test_membership_inside_the_oracles_interval(study: SimpleNamespace) -> None:
    def row(auc: float) -> dict[str, Any]:
        return {"membership": {"forget10": {"loss": [auc, 0.45, 0.55]}}}

    verdicts = [study.table.inside_interval(row(a), row(0.5), "forget10") for a in (0.4, 0.5, 0.6)]
    assert verdicts == [False, True, False]


def stops(*qualities: float) -> list[dict[str, float]]:
    return [
        {"step": 10 * (i + 1), "seconds": 2.0 * (i + 1), "quality": q, "kept": 0.5}
        for i, q in enumerate(qualities)
    ]


def test_the_rate_is_chosen_by_forget_quality_at_the_first_seed(study: SimpleNamespace) -> None:
    def row(name: str, seed: int, rate: float, step: int, *qualities: float) -> dict[str, Any]:
        found = {"arm": "NPO", "set": name, "seed": seed, "rate": rate, "step": step}
        return found | {"stops": stops(*qualities)}

    rows = [
        row("forget10", 0, 1e-4, 20, 0.0, 0.2),
        row("forget10", 0, 3e-4, 10, 0.1, 0.0),
        row("forget10", 1, 3e-4, 10, 0.9, 0.0),
        row("forget05", 0, 3e-4, 10, 0.9, 0.0),
    ]
    assert study.table.best_rates(rows, "forget10") == {"NPO": 1e-4}
    assert study.table.best_rates(rows, "forget05") == {"NPO": 3e-4}


def test_the_baseline_to_compare_with_is_the_cheapest_that_is_not_told_apart(
    study: SimpleNamespace,
) -> None:
    random = np.random.default_rng(0)
    never = random.uniform(0.5, 1.5, 400)

    def row(
        arm: str, seconds: float, shift: float, kept: float, seed: int = 0, recall: float = 0.9
    ) -> dict[str, Any]:
        found = {"arm": arm, "set": "forget10", "seed": seed, "rate": 1e-3, "step": 10}
        found |= {"seconds": seconds, "truth": (never + shift).tolist(), "kept_utility": kept}
        found |= {
            "relearning": curve(recall),
            "membership": {"forget10": {"loss": [0.5, 0.4, 0.6]}},
        }
        return found | {"stops": stops(0.0), "standard": seed}

    oracles = [row("retain90", 300.0, 0.0, 0.3, seed=s, recall=0.5) for s in (0, 1)]
    before = [row("standard", 0.0, -0.4, 0.3, seed=seed) for seed in (0, 1)]
    cost = {"arm": "cost", "set": "forget10", "seed": 0, "seconds": 0.5, "zeroing": 0.1}
    rows = [
        *(*oracles, *before, cost),
        row("NPO", 40.0, 0.0, 0.25),
        row("NPO", 30.0, -0.4, 0.25, seed=1),
        row("gradient difference", 5.0, 0.01, 0.08),
        row("gradient ascent", 1.0, -0.4, 0.3),
        row("SimNPO", 60.0, 0.0, 0.25, recall=0.4),
    ]
    best, value = study.table.cheapest_alike(rows, "forget10")
    assert best["arm"] == "gradient difference"
    assert value > study.table.SAME

    def cheapest(**wanted: Any) -> str | None:
        found = study.table.cheapest_alike(rows, "forget10", study.table.Wanted(**wanted))
        return None if found is None else str(found[0]["arm"])

    assert cheapest(keeping=0.5) == "NPO"
    assert cheapest(keeping=0.9) is None
    # What relearning brings back from NPO lies above the oracles' band; SimNPO's does not.
    assert cheapest(keeping=0.5, everywhere=True) == "SimNPO"
    rows[-1]["membership"]["forget10"]["loss"][0] = 0.61
    assert cheapest(everywhere=True) is None
    assert study.table.cheapest_alike(rows, "forget05") is None
    assert study.table.cost_lines(rows, "forget10") == [
        "- a signed forget in place: 0.50 CPU s",
        "- zeroing in a loaded model: 0.100 CPU s",
        "- retraining: 300 ± 0 CPU s: 600 times the signed forget, 3000 the zeroing",
        "- the cheapest baseline that reaches a forget quality of 0.05: gradient difference at "
        "0.001, seed 0, 10 steps, 5.0 CPU s (1; in 1 of 1 seeds; kept utility 0.080): 10 times the "
        "signed forget, 50 the zeroing",
        "- the cheapest baseline that reaches a forget quality of 0.05, keeping half of the kept "
        "utility or more: NPO at 0.001, seed 0, 10 steps, 40.0 CPU s (1; in 1 of 2 seeds; kept "
        "utility 0.250): 80 times the signed forget, 400 the zeroing",
        "- no baseline reaches a forget quality of 0.05, the oracle's membership interval and its "
        "relearning band, keeping half",
    ]


def test_a_set_that_passes_with_nothing_forgotten_is_said(study: SimpleNamespace) -> None:
    never = np.random.default_rng(0).uniform(0.5, 1.5, 400).tolist()
    changed = [ratio - 0.5 for ratio in never[:200]] + never[200:]
    rows = [
        {"arm": "retain90", "seed": 0, "truth": never, "seconds": 1.0},
        {"arm": "retain95", "seed": 0, "truth": never, "seconds": 1.0},
        {"arm": "standard", "seed": 0, "truth": changed},
    ]
    told = "- the standard model, with nothing forgotten, has a forget quality of 0.05 or more"
    assert study.table.untouched(rows, "forget10")[0] < 1e-6
    assert not any(line.startswith(told) for line in study.table.cost_lines(rows, "forget10"))
    (line,) = [x for x in study.table.cost_lines(rows, "forget05") if x.startswith(told)]
    assert line == f"{told} in 1 of 1 seeds: there it tells nothing apart"


def test_strict_arms_are_compared_with_the_run_that_never_had_the_sinks(
    study: SimpleNamespace,
) -> None:
    arms = {arm: study.table.oracle_of(arm, "forget05") for arm in ("strict", "never", "NPO")}
    assert arms == {"strict": "never", "never": "never", "NPO": "retain95"}


def test_a_run_that_never_had_the_sinks_is_the_oracle_of_its_own_set(
    study: SimpleNamespace,
) -> None:
    rows = [{"arm": "never", "set": name} for name in study.data.FORGOTTEN] + [{"arm": "retain95"}]
    assert study.table.oracles_of(rows, "strict", "forget05") == [rows[1]]
    assert study.table.oracles_of(rows, "NPO", "forget05") == [rows[3]]
    where = {
        name: study.strict.run_path(
            Path(), "never", argparse.Namespace(forget=name, authors=4, seed=1)
        )
        for name in study.data.FORGOTTEN
    }
    assert len(set(where.values())) == len(where)


def test_one_bit_of_difference_is_said(study: SimpleNamespace) -> None:
    row = {"set": "forget10", "seed": 0, "kept_sha256": "a", "truth": [0.5]}
    row |= {"relearning": curve(0.1)}
    arms = ("strict before", "strict", "never")
    others = [{"arm": arm, **row, "set": "forget05", "kept_sha256": arm} for arm in arms]
    (same,) = study.table.to_the_bit(others + [{"arm": arm, **row} for arm in arms], "forget10")
    assert "NOT" not in same
    assert "CHANGED" not in same
    for arm, change, word in (
        ("strict", {"kept_sha256": "b"}, "CHANGED"),
        ("never", {"truth": [0.5 + 1e-6]}, "answers NOT equal"),
        ("never", {"relearning": curve(0.2)}, "curves NOT equal"),
    ):
        rows = [{"arm": a, **row, **(change if a == arm else {})} for a in arms]
        (found,) = study.table.to_the_bit(rows, "forget10")
        assert word in found
    truth = [0.25] * 400
    rows = [{"arm": arm, **row, "set": "forget05", "truth": truth} for arm in arms]
    for row in rows:
        row["relearning"] = {"forget05": []}
    rows[1]["truth"] = [0.5] * 200 + truth[:200]
    (found,) = study.table.to_the_bit(rows, "forget05")
    assert "answers equal" in found


def test_p_values_on_a_logarithmic_axis(study: SimpleNamespace) -> None:
    assert [study.table.logarithmic(p) for p in (1.0, 1e-4, 1e-8, 1e-30, 0.0)] == [1, 0.5, 0, 0, 0]
