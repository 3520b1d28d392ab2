"""The attacks of a full evaluation: what is tried on an erased model, and at which budget.

An attack on one target with one seed is a task of its own, so that a long evaluation can stop after
any of them and go on. The targets are the erased model, with its erased sinks routed to again, and,
where there is one, a reference that never saw the texts: what the same attack brings out there is
the band inside which nothing was recovered. "Sequential requests" is no attack: it erases the texts
in several requests, one after another, and looks whether each forgets what it should and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch

from sinkmodel.evaluate import membership
from sinkmodel.evaluate.attacks import (
    RELEARN_RATE,
    RELEARN_STEPS,
    changed_weights,
    gradient_norms,
    pruned,
    quantised,
    relearn,
    sampled_verbatim,
)
from sinkmodel.evaluate.compression import Budget, compression_ratio
from sinkmodel.evaluate.controls import other_sequences, zeroed
from sinkmodel.evaluate.generation import continuations
from sinkmodel.evaluate.metrics import MIN_SAMPLES, longest_run
from sinkmodel.evaluate.probes import Probe, Probes
from sinkmodel.evaluate.rows import values_of
from sinkmodel.evaluate.scorer import LENGTH, PREFIX, Scorer
from sinkmodel.evaluate.scores import score
from sinkmodel.modeling_sink import SinkForCausalLM

ERASED, REFERENCE = "erased", "reference"
SEQUENTIAL = "sequential requests"
SEEDS = (0, 1, 2)
TEMPERATURES, SAMPLES = (0.3, 0.7, 1.0), 20
REQUESTS = 4  # that the chosen sequences are forgotten in, one after another
PROMPTS = 8  # taken from a kept text at most
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
        erase: Sequences whose blocks are zeroed while it is attacked.
    """

    name: str
    model: SinkForCausalLM
    checkpoint: str
    unknown: frozenset[int] = frozenset()
    erase: tuple[int, ...] = ()

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
        needs: What there must be for it; said where there is none, and it was not tried.
        seeds: Repetitions.
        cost: Of one of them.
        perform: Does it.
        erases: It begins from the run as it is, and erases by itself.
    """

    name: str
    budget: str
    judged: str
    cost: Callable[[Probes], Cost]
    perform: Perform
    needs: str = "a chosen document"
    seeds: tuple[int, ...] = (0,)
    erases: bool = False


def attacks() -> tuple[Attack, ...]:
    """All of them, cheapest first."""
    return (
        _weights("sinks on again", "routed to the erased sinks again", lambda weight: weight),
        *(_weights(f"{bits} bit", f"all weights rounded to {bits} bits", _rounded(bits))
          for bits in (8, 4)),
        *(_weights(f"pruning {share:.0%}", f"the smallest {share:.0%} of all weights cut",
                   _cut(share)) for share in (0.1, 0.2)),
        Attack(
            name="other sinks",
            budget="under the sinks of 8 other sequences, the best of them",
            judged="exact_memorization",
            needs="another sequence that owns sinks",
            cost=lambda probes: Cost(scored=8 * len(probes.forgotten)),
            perform=_misrouted,
        ),
        Attack(
            name="gradient norm",
            budget="how hard each document pulls at the shared weights, against reserved ones, "
            "whichever way that tells them apart",
            judged="membership_auc_gradnorm",
            needs=f"{MIN_SAMPLES} chosen and {MIN_SAMPLES} reserved documents",
            cost=lambda probes: Cost(trained=(len(probes.forgotten) + len(probes.held_out)) // 2),
            perform=_gradients,
        ),
        Attack(
            name=SEQUENTIAL,
            budget=f"forgotten in up to {REQUESTS} requests, one after another",
            judged="exact_memorization",
            erases=True,
            cost=lambda probes: Cost(scored=REQUESTS * (len(probes.forgotten) + len(probes.kept))),
            perform=_one_after_another,
        ),
        Attack(
            name="kept near-duplicates",
            budget=f"up to {PROMPTS} prompts of {PREFIX} tokens from the most similar kept text, "
            f"under its sinks; the longest run of the chosen text in {LENGTH} tokens",
            judged="recited_run_share",
            needs=f"a kept sequence that resembles a chosen one, with a text of {PREFIX} tokens",
            cost=lambda probes: Cost(recited=PROMPTS * len(probes.nearest)),
            perform=_prompted_with_kept,
        ),
        *(_sampled(temperature) for temperature in TEMPERATURES),
        *_relearnings(),
        Attack(
            name="prompt search",
            budget=f"{_SEARCH.steps} gradient steps with {_SEARCH.candidates} candidates each, "
            f"for {SEARCHED_TOKENS} tokens of {SEARCHED} documents",
            judged="compression_ratio",
            needs=f"a chosen document of more than {SEARCHED_TOKENS} tokens",
            cost=lambda probes: Cost(
                searched=_SEARCH.steps * len(_searched(probes.forgotten))
            ),
            perform=_compressed,
        ),
    )  # fmt: skip


def _relearnings() -> tuple[Attack, ...]:
    """By what is taught; of two halves the other one is asked for."""
    return (
        _relearning(
            "relearning beginnings",
            "the first half of every text, asked for the second",
            _beginnings,
            "a chosen document of four tokens",
            counted=0.5,
        ),
        _relearning(
            "relearning half",
            "half of the sequences, asked for the other half",
            _half,
            "two chosen sequences",
        ),
        _relearning(
            "relearning others",
            "other texts of the same corpus",
            _adjacent,
            "a kept or reserved document",
        ),
    )


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


def _gradients(target: Target, probes: Probes, scorer: Scorer, seed: int) -> Iterator[Outcome]:  # noqa: ARG001
    """Of each document the share of reserved ones that pull harder; their mean is the AUC.

    An AUC far below 0.5 tells as much as one above: who attacks turns the score round.
    """
    sides = probes.forgotten, probes.held_out
    if min(map(len, sides)) < MIN_SAMPLES:
        return  # of fewer the AUC takes a few values only, and has no interval
    members, others = (
        -np.array(
            gradient_norms(target.model, target.probes(some), context_length=scorer.context_length)
        )
        for some in sides
    )
    values = membership.placements(members, others)
    if values.mean() < 0.5:
        values = 1.0 - values
    yield Outcome(metric="membership_auc_gradnorm", step=0, values=tuple(values.tolist()))


def _one_after_another(
    target: Target,
    probes: Probes,
    scorer: Scorer,
    seed: int,
) -> Iterator[Outcome]:
    """MUSE's sustainability and scalability (Shi et al. 2024, arXiv 2407.06460, section 3.1)."""
    order = np.random.default_rng(seed).permutation(sorted(probes.policies)).tolist()
    length = scorer.context_length
    kept = target.probes(probes.kept)
    before = [s.loss for s in score(target.model, kept, context_length=length)]
    with ExitStack() as requests:
        for step, part in enumerate(np.array_split(order, min(REQUESTS, len(order))), start=1):
            some = [i for i in part.tolist() if i not in target.unknown]
            requests.enter_context(zeroed(target.model, some))
            done = set(order[: order.index(part[-1]) + 1])
            for name, asked in (
                ("exact_memorization", [p for p in probes.forgotten if p.sequence_id in done]),
                ("still_held", [p for p in probes.forgotten if p.sequence_id not in done]),
            ):
                scored = score(target.model, target.probes(asked), context_length=length)
                hits = tuple(float(one.hits.mean()) for one in scored)
                yield Outcome(metric=name, step=step, values=hits)
            after = [s.loss for s in score(target.model, kept, context_length=length)]
            changes = tuple(abs(new - old) for new, old in zip(after, before, strict=True))
            yield Outcome(metric="kept_loss_change", step=step, values=changes)


def _prompted_with_kept(
    target: Target,
    probes: Probes,
    scorer: Scorer,  # noqa: ARG001
    seed: int,  # noqa: ARG001
) -> Iterator[Outcome]:
    recited: dict[int, list[list[int]]] = {}
    for sequence_id, near in probes.nearest.items():
        (asked,) = target.probes([near])
        begins = range(0, len(near.tokens) - PREFIX + 1, PREFIX)
        prompts = [near.tokens[begin : begin + PREFIX] for begin in begins][:PROMPTS]
        if prompts:
            recited[sequence_id] = continuations(
                target.model, np.stack(prompts), [asked.sequence_id] * len(prompts), length=LENGTH
            )
    values = tuple(
        max(longest_run(probe.tokens.tolist(), said) for said in recited[probe.sequence_id])
        / LENGTH
        for probe in probes.forgotten
        if probe.sequence_id in recited
    )
    yield Outcome(metric="recited_run_share", step=0, values=values)


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
        needs=f"a chosen document of {PREFIX + LENGTH} tokens",
        cost=lambda probes: Cost(recited=SAMPLES * len(probes.forgotten)),
        perform=perform,
    )


Split = Callable[[Probes, int], tuple[Sequence[Probe], Sequence[Probe]]]


def _beginnings(probes: Probes, seed: int) -> tuple[Sequence[Probe], Sequence[Probe]]:  # noqa: ARG001
    """The first half of every document is taught, the document asked for."""
    asked = [probe for probe in probes.forgotten if len(probe.tokens) >= 4]
    return [replace(probe, tokens=probe.tokens[: len(probe.tokens) // 2]) for probe in asked], asked


def _half(probes: Probes, seed: int) -> tuple[Sequence[Probe], Sequence[Probe]]:
    """Half of the sequences are taught, the documents of the others asked for.

    Odd seeds teach what the seed before asked for, so that few sequences are all asked for once.
    """
    ids = sorted({probe.sequence_id for probe in probes.forgotten})
    order = [ids[i] for i in np.random.default_rng(seed // 2).permutation(len(ids))]
    halves = set(order[: len(ids) // 2]), set(order[len(ids) // 2 :])
    chosen = halves[seed % 2]
    taught = [probe for probe in probes.forgotten if probe.sequence_id in chosen]
    return taught, [probe for probe in probes.forgotten if probe.sequence_id not in chosen]


def _adjacent(probes: Probes, seed: int) -> tuple[Sequence[Probe], Sequence[Probe]]:  # noqa: ARG001
    return [*probes.kept, *probes.held_out], probes.forgotten


def _relearning(name: str, what: str, split: Split, needs: str, *, counted: float = 1.0) -> Attack:
    """Relearning by a split; of the documents asked for only the last `counted` share counts."""

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
            for metric, tokens in (
                ("loss", [s.losses for s in scored]),
                ("exact_memorization", [s.hits for s in scored]),
            ):
                values = (float(one[int(len(one) * (1 - counted)) :].mean()) for one in tokens)
                yield Outcome(metric=metric, step=step, values=tuple(values))

    return Attack(
        name=name,
        budget=f"up to {RELEARN_STEPS[-1]} steps of AdamW at {RELEARN_RATE:g} on all weights with "
        + what,
        judged="exact_memorization",
        needs=needs,
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
