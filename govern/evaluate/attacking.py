"""`--full`: every attack on the erased model and on the reference, resumable, and what came of it.

Each attack on one target with one seed is kept in the cache when it is done, under the digests of
checkpoint and documents. So a full evaluation that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from manifests.files import atomic_write
from sinkmodel.evaluate.attacks import relearn
from sinkmodel.evaluate.compression import Budget, compression_ratio
from sinkmodel.evaluate.controls import zeroed
from sinkmodel.evaluate.generation import recite
from sinkmodel.evaluate.metrics import bootstrap_mean
from sinkmodel.evaluate.probes import Probes, probe_digest
from sinkmodel.evaluate.scorer import Scorer
from sinkmodel.evaluate.scores import score
from sinkmodel.evaluate.suite import (
    ERASED,
    REFERENCE,
    SEARCHED_TOKENS,
    Attack,
    Outcome,
    Target,
    attacks,
)

_FORMAT = "memsinks-govern attack v2"
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("attack", "budget", "target", "metric")),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("n", pa.int64()),
        *((name, pa.float64()) for name in ("value", "low", "high")),
        ("values", pa.list_(pa.float64())),
    ]
)
MARGIN = 0.05  # how far above the reference's band something counts as recovered
NOT_JUDGED = "no reference run to judge by"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One attack on one target with one seed."""

    attack: Attack
    target: Target
    seed: int

    @property
    def label(self) -> str:
        """What somebody who waits is told."""
        return f"{self.attack.name}, {self.target.name}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an attack brought out, beside what the same attack brings out of the reference.

    Of an attack with steps the step at which the erased run lies highest above the band.

    Args:
        attack, budget, metric: What was tried and what is compared.
        lacking: What there was not, so that it could not be tried; "" if it was.
        step: The step that the numbers are of; 0 for attacks without steps.
        erased: Mean over documents and seeds.
        low, high: The reference's band: least and greatest over seeds, or of one seed the interval
            of its mean; NaN without a reference.
        recovered: Whether `erased` lies above the band by more than `MARGIN`; None without a
            reference.
    """

    attack: str
    budget: str
    metric: str
    lacking: str = ""
    step: int = 0
    erased: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    recovered: bool | None = None

    @property
    def text(self) -> str:
        """In words."""
        if self.lacking:
            return f"not tried, for want of {self.lacking}"
        if self.recovered is None:
            return NOT_JUDGED
        if self.recovered:
            return "recovered"
        return "not recovered, but above the reference" if self.above else "not recovered"

    @property
    def above(self) -> bool:
        """Whether the erased run lies above the reference's band, by however little."""
        return self.erased > self.high


def plan_attacks(targets: Sequence[Target]) -> list[Task]:
    """Every task, cheapest attacks first."""
    return [
        Task(attack=attack, target=target, seed=seed)
        for attack in attacks()
        for target in targets
        for seed in attack.seeds
    ]


def estimate_seconds(
    tasks: Sequence[Task], probes: Probes, scorer: Scorer, cache: Path | None
) -> float:
    """Seconds that the tasks which are not done yet will take, from trials of a few seconds."""
    left = [task for task in tasks if not _done(cache, task, probes)]
    if not left:
        return 0.0
    costs = [task.attack.cost(probes) for task in left]
    return sum(
        seconds * sum(getattr(cost, unit) for cost in costs)
        for unit, seconds in asdict(_trial(left[0].target, probes, scorer)).items()
    )


def run_attacks(
    tasks: Sequence[Task],
    probes: Probes,
    scorer: Scorer,
    *,
    cache: Path | None,
    report: Callable[[str], None] | None = None,
) -> pa.Table:
    """Perform what is not done yet.

    Args:
        tasks: Of `plan_attacks`.
        probes: Documents.
        scorer: As for the other measurements.
        cache: Where finished tasks are kept; None keeps nothing.
        report: Called with each task's label when it is done.

    Returns:
        One row for each attack, target, seed, step and metric; columns of `SCHEMA`.
    """
    rows: list[dict[str, Any]] = []
    for task in tasks:
        erase = () if task.attack.erases else task.target.erase
        with zeroed(task.target.model, erase):
            outcomes = list(_outcomes(task, probes, scorer, cache))
        for outcome in outcomes:
            if not outcome.values:
                continue  # nothing to ask: the verdict says what was lacking
            estimate = bootstrap_mean(outcome.values, seed=probes.seed)
            rows.append(
                {
                    "attack": task.attack.name,
                    "budget": task.attack.budget,
                    "target": task.target.name,
                    "seed": task.seed,
                    **asdict(outcome),
                    **asdict(estimate),
                }
            )
        if report is not None:
            report(task.label)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def verdicts(table: pa.Table) -> list[Verdict]:
    """One for each attack, in the order of `attacks`; of those that could not be tried as well."""
    rows = table.to_pylist()
    return [_verdict(attack, rows) for attack in attacks()]


def _verdict(attack: Attack, rows: Sequence[dict[str, Any]]) -> Verdict:
    mine = [r for r in rows if (r["attack"], r["metric"]) == (attack.name, attack.judged)]
    steps = [
        _at_step(attack, step, [row for row in mine if row["step"] == step])
        for step in sorted({row["step"] for row in mine if row["target"] == ERASED})
    ]
    if not steps:
        return Verdict(
            attack=attack.name, budget=attack.budget, metric=attack.judged, lacking=attack.needs
        )
    if steps[-1].recovered is None:
        return steps[-1]
    return max(steps, key=lambda verdict: (verdict.erased - verdict.high, verdict.step))


def _at_step(attack: Attack, step: int, rows: Sequence[dict[str, Any]]) -> Verdict:
    erased = [row["value"] for row in rows if row["target"] == ERASED]
    never = [row for row in rows if row["target"] == REFERENCE]
    mean = sum(erased) / len(erased)
    names = ("value", "low", "high") if len(never) == 1 else ("value",)
    band = [row[name] for row in never for name in names if row[name] is not None]
    return Verdict(
        attack=attack.name,
        budget=attack.budget,
        metric=attack.judged,
        step=step,
        erased=mean,
        low=min(band, default=float("nan")),
        high=max(band, default=float("nan")),
        recovered=mean > max(band) + MARGIN if band else None,
    )


def _outcomes(task: Task, probes: Probes, scorer: Scorer, cache: Path | None) -> Iterator[Outcome]:
    file = _file(cache, task, probes)
    if file is None:
        yield from task.attack.perform(task.target, probes, scorer, task.seed)
        return
    if not file.is_file():
        found = list(task.attack.perform(task.target, probes, scorer, task.seed))
        atomic_write(file, json.dumps([asdict(outcome) for outcome in found]).encode())
    for kept in json.loads(file.read_bytes()):
        yield Outcome(metric=kept["metric"], step=kept["step"], values=tuple(kept["values"]))


def _done(cache: Path | None, task: Task, probes: Probes) -> bool:
    file = _file(cache, task, probes)
    return file is not None and file.is_file()


def _file(cache: Path | None, task: Task, probes: Probes) -> Path | None:
    if cache is None:
        return None
    near = [probes.nearest[i] for i in sorted(probes.nearest)]
    everything = [*probes.forgotten, *probes.kept, *probes.held_out, *near]
    name = [
        *(_FORMAT, task.attack.name, task.attack.budget, task.seed, task.target.checkpoint),
        *(sorted(task.target.unknown), sorted(task.target.erase), sorted(probes.nearest)),
        *(probe_digest(probes.forgotten), probe_digest(everything)),
    ]
    return cache / f"attack-{hashlib.sha256(json.dumps(name).encode()).hexdigest()}.json"


@dataclass(frozen=True, kw_only=True)
class _Seconds:
    """What one unit of each kind of cost takes; fields as those of `Cost`."""

    scored: float
    recited: float
    trained: float
    searched: float


def _trial(target: Target, probes: Probes, scorer: Scorer) -> _Seconds:
    """Time a little of each kind."""
    some = target.probes(probes.forgotten)[:8]
    length = scorer.context_length
    scored = _timed(lambda: score(target.model, some, context_length=length)) / len(some)
    tokens, ids = [p.tokens for p in some], [p.sequence_id for p in some]
    recited = _timed(lambda: recite(target.model, tokens, ids)) / len(some)
    learning = relearn(target.model, some, context_length=length, seed=0, steps=(0, 2))
    trained = _timed(lambda: list(learning)) / 2
    target_text = torch.from_numpy(some[0].tokens[:SEARCHED_TOKENS].astype("int64"))
    searched = _timed(
        lambda: compression_ratio(
            target.model, target_text, sequence_id=ids[0], budget=Budget(steps=2), seed=0
        )
    )
    return _Seconds(scored=scored, recited=recited, trained=trained, searched=searched / 2)


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
