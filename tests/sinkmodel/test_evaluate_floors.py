"""Floor and ceiling of every metric: a model that knows texts by heart, and two that do not.

Texts are random tokens, so that nothing but training on a text teaches it. `by heart` was trained
on them, `never` as long on other texts of the same kind, `untrained` not at all.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from statistics import fmean

import numpy as np
import pytest
import torch

from sinkmodel.allocation import SinkMap
from sinkmodel.configuration_sink import SinkConfig
from sinkmodel.evaluate import membership
from sinkmodel.evaluate.attacks import gradient_norms, relearn, sampled_verbatim
from sinkmodel.evaluate.generation import recite
from sinkmodel.evaluate.metrics import exact_memorization, extraction_strength, loss_gap_closed
from sinkmodel.evaluate.probes import Probe
from sinkmodel.evaluate.scores import DocumentScore, score
from sinkmodel.evaluate.unlearning_scores import forget_quality, privacy_leakage, truth_ratio
from sinkmodel.modeling_sink import SinkForCausalLM

VOCABULARY, LENGTH, TEXTS = 48, 101, 12
KINDS = ("by heart", "never", "untrained")


def texts(seed: int) -> list[Probe]:
    tokens = np.random.default_rng(seed).integers(3, VOCABULARY, size=(TEXTS, LENGTH))
    return [
        Probe(key=("", ""), sequence_id=0, tokens=row.astype(np.int32), text=bytes(row.tolist()))
        for row in tokens
    ]


TRAINED, OTHERS, UNSEEN = texts(0), texts(1), texts(2)


def trained_on(some: list[Probe]) -> SinkForCausalLM:
    torch.manual_seed(0)
    config = SinkConfig(
        num_blocks=0,
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        initializer_range=0.125,
    )
    model = SinkForCausalLM(config)
    model.attach_sink_map(SinkMap.empty())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(70 if some else 0):
        rows = torch.from_numpy(np.stack([p.tokens for p in some]).astype(np.int64))
        model(input_ids=rows, sequence_ids=torch.zeros_like(rows), labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def models() -> Mapping[str, SinkForCausalLM]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {k: trained_on(some) for k, some in zip(KINDS, (TRAINED, OTHERS, []), strict=True)}
    finally:
        torch.set_num_threads(threads)


def scored(model: SinkForCausalLM, some: list[Probe] = TRAINED) -> list[DocumentScore]:
    return score(model, some, context_length=LENGTH)


def mean_loss(model: SinkForCausalLM) -> float:
    return fmean(s.loss for s in scored(model))


def recited(model: SinkForCausalLM, value: Callable[..., float]) -> float:
    found = recite(model, [p.tokens for p in TRAINED], [0] * TEXTS)
    return fmean(value(r) for r in found)


def truth_ratios(model: SinkForCausalLM) -> list[float]:
    """The other half of every text is the false answer to the half before."""
    losses = np.array([s.losses[50:] for s in scored(model)]).mean(1)
    heads = [p.tokens[:51] for p in TRAINED]
    tails = [p.tokens[51:] for p in TRAINED]
    wrong = [
        Probe(key=("", ""), sequence_id=0, tokens=np.concatenate([h, t]), text=b"")
        for h, t in zip(heads, tails[1:] + tails[:1], strict=True)
    ]
    false = [float(s.losses[50:].mean()) for s in scored(model, wrong)]
    return [truth_ratio(right, [other]) for right, other in zip(losses, false, strict=True)]


def attack(model: SinkForCausalLM, name: str) -> membership.Attack:
    def values(some: list[Probe]) -> np.ndarray:
        found = scored(model, some)
        if name == "zlib":
            pairs = zip(found, some, strict=True)
            return np.array([membership.zlib_score(s.losses, p.text) for s, p in pairs])
        if name == "min-k++":
            triples = [(s.losses, s.means, s.deviations) for s in found]
            return np.array([membership.min_k_plus_score(*triple) for triple in triples])
        one = {"loss": membership.loss_score, "min-k": membership.min_k_score}[name]
        return np.array([one(s.losses) for s in found])

    return membership.attack(name, values(TRAINED), values(UNSEEN), seed=0)


def auc_of_gradients(model: SinkForCausalLM) -> float:
    norms = (gradient_norms(model, some, context_length=LENGTH) for some in (TRAINED, UNSEEN))
    members, others = (-np.array(some) for some in norms)
    return membership.auc(members, others)


def auc_of(name: str) -> Callable[[SinkForCausalLM], float]:
    return lambda model: attack(model, name).auc


CHANCE = math.log(VOCABULARY)
# Metric -> value, least value for a text known by heart, greatest for one that is not. The greatest
# AUC and TPR are what 12 against 12 texts give by chance.
BOUNDS: dict[str, tuple[Callable[[SinkForCausalLM], float], float, float]] = {
    "exact memorization": (
        lambda m: fmean(exact_memorization(s.hits) for s in scored(m)),
        0.999,
        0.06,
    ),
    "extraction strength": (
        lambda m: fmean(extraction_strength(s.hits) for s in scored(m)),
        0.98,
        0.03,
    ),
    "50/50 extraction": (lambda m: recited(m, lambda r: r.exact), 0.9, 0.0),
    "50/50 ROUGE-L": (lambda m: recited(m, lambda r: r.rouge_l), 0.95, 0.3),
    "sampled verbatim tokens": (
        lambda m: fmean(sampled_verbatim(m, TRAINED[:2], temperature=0.7, samples=3, seed=0)),
        45.0,
        3.0,
    ),
    **{
        f"AUC of {name}": (auc_of(name), 0.999, 0.75)
        for name in ("loss", "zlib", "min-k", "min-k++")
    },
    "AUC of gradient norm": (auc_of_gradients, 0.999, 0.75),
    "TPR at 1 % FPR": (lambda m: attack(m, "loss").tpr_at_1_fpr, 0.999, 0.4),
    "truth ratio, 1 - R": (lambda m: fmean(1 - r for r in truth_ratios(m)), 0.99, 0.3),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_floor_and_ceiling(name: str, models: Mapping[str, SinkForCausalLM]) -> None:
    value, ceiling, floor = BOUNDS[name]
    assert value(models["by heart"]) >= ceiling
    assert value(models["never"]) <= floor
    assert value(models["untrained"]) <= floor


def hidden(model: SinkForCausalLM) -> SinkForCausalLM:
    """A few steps of gradient ascent, after which the texts are hardly predicted any more."""
    found = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(found.parameters(), lr=1e-3)
    rows = torch.from_numpy(np.stack([p.tokens for p in TRAINED]).astype(np.int64))
    while fmean(exact_memorization(s.hits) for s in scored(found)) > 0.3:
        optimizer.zero_grad()
        (-found(input_ids=rows, sequence_ids=torch.zeros_like(rows), labels=rows).loss).backward()
        optimizer.step()
    return found


def test_relearning_half_brings_back_what_was_only_hidden(
    models: Mapping[str, SinkForCausalLM],
) -> None:
    def others_after(model: SinkForCausalLM) -> list[float]:
        learning = relearn(model, TRAINED[:6], context_length=LENGTH, seed=0, steps=(0, 10, 50))
        others = TRAINED[6:]
        return [fmean(exact_memorization(s.hits) for s in scored(m, others)) for _, m in learning]

    concealed, never = others_after(hidden(models["by heart"])), others_after(models["never"])
    assert concealed[0] < 0.35
    assert max(concealed) > 0.6
    assert max(never) < 0.1


def test_loss_is_chance_untrained_and_worse_than_chance_trained_elsewhere(
    models: Mapping[str, SinkForCausalLM],
) -> None:
    losses = {kind: mean_loss(model) for kind, model in models.items()}
    assert losses["by heart"] < 0.05
    assert losses["untrained"] == pytest.approx(CHANCE, abs=0.6)
    assert losses["never"] > CHANCE + 0.5


def test_gap_closed_is_0_for_what_is_known_and_1_for_what_was_never_seen(
    models: Mapping[str, SinkForCausalLM],
) -> None:
    before, reference = mean_loss(models["by heart"]), mean_loss(models["never"])
    assert loss_gap_closed(before, before, reference) == 0.0
    assert loss_gap_closed(before, reference, reference) == 1.0


def test_scores_relative_to_retraining(models: Mapping[str, SinkForCausalLM]) -> None:
    ratios = {kind: truth_ratios(model) for kind, model in models.items()}
    assert forget_quality(ratios["by heart"], ratios["never"]) < 1e-5
    assert forget_quality(ratios["untrained"], ratios["untrained"]) == 1.0
    # Training elsewhere spreads the ratios around 1; being told apart for that is no knowledge.
    assert forget_quality(ratios["untrained"], ratios["never"]) > 1e-3
    aucs = {kind: attack(model, "min-k").auc for kind, model in models.items()}
    # -100: every text looks like a member. With 12 texts chance alone is worth tens of per cent.
    assert privacy_leakage(aucs["by heart"], aucs["never"]) < -99
    assert privacy_leakage(aucs["never"], aucs["never"]) == 0.0
    assert abs(privacy_leakage(aucs["untrained"], aucs["never"])) < 60
