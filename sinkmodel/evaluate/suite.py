"""The attacks of a full evaluation: what is tried on an erased model, and at which budget.

An attack on one target with one seed is a task of its own, so that a long evaluation can stop after
any of them and go on. The targets are the erased model, with its erased sinks routed to again, and,
where there is one, a reference that never saw the texts: what the same attack brings out there is
the band inside which nothing was recovered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from sinkmodel.evaluate.attacks import (
    RELEARN_STEPS,
    changed_weights,
    pruned,
    quantised,
    relearn,
    sampled_verbatim,
)
from sinkmodel.evaluate.compression import Budget, compression_ratio
from sinkmodel.evaluate.controls import other_sequences
from sinkmodel.evaluate.probes import Probe, Probes
from sinkmodel.evaluate.rows import values_of
from sinkmodel.evaluate.scorer import LENGTH, Scorer
from sinkmodel.evaluate.scores import score
from sinkmodel.modeling_sink import SinkForCausalLM

ERASED, REFERENCE = "erased", "reference"
SEEDS = (0, 1, 2)
SAMPLES = 20
_TAUGHT = 64  # documents that relearning uses at most
SEARCHED, SEARCHED_TOKENS = 3, 20  # documents whose prompt is searched for, and their tokens
_SEARCH = Budget()


@dataclass(frozen=True, kw_only=True)
class Target:
    """A model that is attacked.

    Args:
        name: `erased` or `reference`.
        model: In eval mode.
        checkpoint: Names its weights.
        unknown: Sequences that it has no sinks for: their documents run with sinks off.
    """

    name: str
    model: SinkForCausalLM
    checkpoint: str
    unknown: frozenset[int] = frozenset()

    def probes(self, probes: Sequence[Probe]) -> list[Probe]:
        """The documents as this target is asked for them."""
        return [replace(p, sequence_id=0) if p.sequence_id in self.unknown else p for p in probes]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a task takes, in the units that an estimate is made of."""

    scored: int = 0  # documents
    recited: int = 0  # documents, 50 tokens each
    trained: int = 0  # steps of relearning
    searched: int = 0  # gradient steps of a prompt search


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came back: one metric of every document after `step` steps of the attack."""

    metric: str
    step: int
    values: tuple[float, ...]


Perform = Callable[[Target, Probes, Scorer, int], Iterator[Outcome]]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack.

    Args:
        name: In tables.
        budget: In words; printed with every verdict.
        judged: The metric that says whether anything was recovered.
        seeds: Repetitions.
        cost: Of one of them.
        perform: Does it.
    """

    name: str
    budget: str
    judged: str
    cost: Callable[[Probes], Cost]
    perform: Perform
    seeds: tuple[int, ...] = (0,)


def attacks() -> tuple[Attack, ...]:
    """All of them, cheapest first."""
    return (
        *(_weights(f"{bits} bit", f"all weights rounded to {bits} bits", _rounded(bits))
          for bits in (8, 4)),
        *(_weights(f"pruning {share:.0%}", f"the smallest {share:.0%} of all weights cut",
                   _cut(share)) for share in (0.1, 0.2)),
        Attack(
            name="other sinks",
            budget="under the sinks of 8 other sequences, the best of them",
            judged="exact_memorization",
            cost=lambda probes: Cost(scored=8 * len(probes.forgotten)),
            perform=_misrouted,
        ),
        *(_sampled(temperature) for temperature in (0.7, 1.0)),
        _relearning("relearning half", "half of the texts", _half),
        _relearning("relearning others", "other texts of the same corpus", _adjacent),
        Attack(
            name="prompt search",
            budget=f"{_SEARCH.steps} gradient steps with {_SEARCH.candidates} candidates each, "
            f"for {SEARCHED_TOKENS} tokens of {SEARCHED} documents",
            judged="compression_ratio",
            cost=lambda probes: Cost(
                searched=_SEARCH.steps * len(_searched(probes.forgotten))
            ),
            perform=_compressed,
        ),
    )  # fmt: skip


def _rounded(bits: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda weight: quantised(weight, bits)


def _cut(share: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda weight: pruned(weight, share)


def _weights(name: str, budget: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Attack:
    def perform(target: Target, probes: Probes, scorer: Scorer, seed: int) -> Iterator[Outcome]:  # noqa: ARG001
        with changed_weights(target.model, change):
            asked = target.probes(probes.forgotten)
            scored = scorer(name, target.model, asked, lambda p: p.sequence_id)
        yield from _outcomes(values_of(scored, range(len(asked))), step=0)

    return Attack(
        name=name,
        budget=budget,
        judged="exact_memorization",
        cost=lambda p: Cost(scored=len(p.forgotten), recited=len(p.forgotten)),
        perform=perform,
    )


def _misrouted(target: Target, probes: Probes, scorer: Scorer, seed: int) -> Iterator[Outcome]:
    others = other_sequences(target.model.sink_map, set(probes.policies), seed)[:8]
    best = np.zeros(len(probes.forgotten))
    for other in others:
        scored = score(
            target.model,
            probes.forgotten,
            context_length=scorer.context_length,
            route=lambda _, other=other: other,  # type: ignore[misc]
        )
        best = np.maximum(best, [float(one.hits.mean()) for one in scored])
    if others:
        yield Outcome(metric="exact_memorization", step=0, values=tuple(best.tolist()))


def _sampled(temperature: float) -> Attack:
    def perform(target: Target, probes: Probes, scorer: Scorer, seed: int) -> Iterator[Outcome]:  # noqa: ARG001
        values = sampled_verbatim(
            target.model,
            target.probes(probes.forgotten),
            temperature=temperature,
            samples=SAMPLES,
            seed=seed,
        )
        shares = tuple(value / LENGTH for value in values)
        yield Outcome(metric="sampled_verbatim_share", step=0, values=shares)

    return Attack(
        name=f"sampling at {temperature}",
        budget=f"{SAMPLES} samples of 50 tokens for each document, the best of them",
        judged="sampled_verbatim_share",
        cost=lambda probes: Cost(recited=SAMPLES * len(probes.forgotten)),
        perform=perform,
    )


Split = Callable[[Probes, int], tuple[Sequence[Probe], Sequence[Probe]]]


def _half(probes: Probes, seed: int) -> tuple[Sequence[Probe], Sequence[Probe]]:
    """Half of the sequences are taught, the documents of the others asked for."""
    ids = sorted({probe.sequence_id for probe in probes.forgotten})
    order = np.random.default_rng(seed).permutation(len(ids))
    chosen = {ids[i] for i in order[: len(ids) // 2]}
    taught = [probe for probe in probes.forgotten if probe.sequence_id in chosen]
    return taught, [probe for probe in probes.forgotten if probe.sequence_id not in chosen]


def _adjacent(probes: Probes, seed: int) -> tuple[Sequence[Probe], Sequence[Probe]]:  # noqa: ARG001
    return [*probes.kept, *probes.held_out], probes.forgotten


def _relearning(name: str, what: str, split: Split) -> Attack:
    def perform(target: Target, probes: Probes, scorer: Scorer, seed: int) -> Iterator[Outcome]:
        taught, asked = (target.probes(some) for some in split(probes, seed))
        if not taught or not asked:
            return
        learning = relearn(
            target.model,
            taught[:_TAUGHT],
            context_length=scorer.context_length,
            seed=seed,
            steps=RELEARN_STEPS,
        )
        for step, learner in learning:
            scored = score(learner, asked, context_length=scorer.context_length)
            losses, hits = [s.loss for s in scored], [float(s.hits.mean()) for s in scored]
            yield Outcome(metric="loss", step=step, values=tuple(losses))
            yield Outcome(metric="exact_memorization", step=step, values=tuple(hits))

    return Attack(
        name=name,
        budget=f"up to {RELEARN_STEPS[-1]} steps of AdamW on all weights with {what}",
        judged="exact_memorization",
        seeds=SEEDS,
        cost=lambda probes: Cost(
            scored=len(RELEARN_STEPS) * len(probes.forgotten), trained=RELEARN_STEPS[-1]
        ),
        perform=perform,
    )


def _searched(probes: Sequence[Probe]) -> list[Probe]:
    """Of the first few sequences one document each, if it is long enough."""
    first = {probe.sequence_id: probe for probe in reversed(probes)}
    long = [probe for probe in first.values() if len(probe.tokens) > SEARCHED_TOKENS]
    return sorted(long, key=lambda probe: probe.sequence_id)[:SEARCHED]


def _compressed(target: Target, probes: Probes, scorer: Scorer, seed: int) -> Iterator[Outcome]:  # noqa: ARG001
    chosen = target.probes(_searched(probes.forgotten))
    values = [
        compression_ratio(
            target.model,
            torch.from_numpy(probe.tokens[1 : 1 + SEARCHED_TOKENS].astype(np.int64)),
            sequence_id=probe.sequence_id,
            budget=_SEARCH,
            seed=seed,
        )
        for probe in chosen
    ]
    yield Outcome(metric="compression_ratio", step=0, values=tuple(values))


def _outcomes(values: Mapping[str, Sequence[float]], *, step: int) -> Iterator[Outcome]:
    for metric, numbers in values.items():
        if numbers:
            yield Outcome(metric=metric, step=step, values=tuple(numbers))
