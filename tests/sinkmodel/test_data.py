"""The data order: what the policies promise must already hold in the schedule."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sinkmodel.data import MicroBatch, collate, schedule
from sinkmodel.losses import IGNORED
from sinkmodel.recipes import TrainConfig
from sinkmodel.tokens import TokenStore

CONFIG = TrainConfig(
    context_length=16, batch_rows=2, epochs=2, governed_exposures=5, backbone_exposures=2
)
POLICIES = ("shared", "private", "strict", "pooled")


def make_store(sizes: list[tuple[int, int]]) -> TokenStore:
    """Documents from (sequence ID, length); token values encode (document, position)."""
    sizes = sorted(sizes)
    lengths = [length for _, length in sizes]
    return TokenStore(
        tokens=np.arange(sum(lengths), dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        sequence_ids=np.array([sequence_id for sequence_id, _ in sizes], dtype=np.int64),
    )


def policy_of(sequence_id: int) -> str:
    return POLICIES[sequence_id % 4]


def policies(store: TokenStore) -> list[str]:
    return [policy_of(int(i)) for i in store.sequence_ids]


def text_of(store: TokenStore, batch: MicroBatch) -> list[list[tuple[int, int, int]]]:
    """Rows as (sequence ID, first token within the document, length), without document indices."""
    return [
        [(int(store.sequence_ids[c.document]), c.begin, c.end - c.begin) for c in row]
        for row in batch.rows
    ]


documents = st.lists(st.tuples(st.integers(1, 12), st.integers(2, 40)), min_size=1, max_size=20)


@given(documents)
def test_every_exposure_happens_with_all_its_tokens(sizes: list[tuple[int, int]]) -> None:
    store = make_store(sizes)
    seen: Counter[int] = Counter()
    for batch in schedule(store, policies(store), CONFIG):
        for row in batch.rows:
            assert sum(c.end - c.begin for c in row) <= CONFIG.context_length
            for chunk in row:
                seen[int(store.sequence_ids[chunk.document])] += chunk.end - chunk.begin
    for sequence_id in set(store.sequence_ids.tolist()):
        lengths = [n for i, n in sorted(sizes) if i == sequence_id]
        exposures = len(lengths) * CONFIG.epochs
        if policy_of(sequence_id) in ("private", "strict"):
            exposures = max(exposures, CONFIG.governed_exposures)
        assert seen[sequence_id] == sum(lengths[k % len(lengths)] for k in range(exposures))


@given(documents)
def test_streams_follow_the_policies(sizes: list[tuple[int, int]]) -> None:
    store = make_store(sizes)
    open_private: Counter[int] = Counter()
    for batch in schedule(store, policies(store), CONFIG):
        inside = {int(store.sequence_ids[c.document]) for row in batch.rows for c in row}
        kinds = {policy_of(i) for i in inside}
        if batch.stream == "strict":
            assert kinds == {"strict"}
            assert len(inside) == 1
        elif batch.stream == "sealed":
            assert kinds == {"private"}
        else:
            assert "strict" not in kinds
            for row in batch.rows:
                for c in row:
                    if policy_of(int(store.sequence_ids[c.document])) == "private" and not c.begin:
                        open_private[int(store.sequence_ids[c.document])] += 1
    for sequence_id in {i for i, _ in sizes if policy_of(i) == "private"}:
        assert open_private[sequence_id] == CONFIG.backbone_exposures


@given(documents, st.integers(1, 12).filter(lambda i: policy_of(i) == "strict"))
def test_strict_documents_change_nothing_else(sizes: list[tuple[int, int]], strict_id: int) -> None:
    without = [(i, n) for i, n in sizes if i != strict_id]
    if not without:
        return
    with_it, bare = make_store([*without, (strict_id, 33), (strict_id, 5)]), make_store(without)
    rest = [
        (b.stream, b.time, text_of(with_it, b))
        for b in schedule(with_it, policies(with_it), CONFIG)
        if text_of(with_it, b)[0][0][0] != strict_id
    ]
    assert rest == [
        (b.stream, b.time, text_of(bare, b)) for b in schedule(bare, policies(bare), CONFIG)
    ]


def test_exposures_spread_over_the_training() -> None:
    store = make_store([(2, 10)])
    times = [b.time for b in schedule(store, ["strict"], CONFIG)]
    assert [int(t * 5) for t in times] == [0, 1, 2, 3, 4]


def test_infinite_budget_is_all_open() -> None:
    config = TrainConfig(context_length=16, governed_exposures=9, backbone_exposures=float("inf"))
    store = make_store([(1, 10)])
    assert {b.stream for b in schedule(store, ["private"], config)} == {"open"}


def test_collated_labels_never_cross_chunks() -> None:
    store = make_store([(4, 5), (8, 6)])
    batch = schedule(store, ["shared", "shared"], TrainConfig(context_length=16, batch_rows=1))[0]
    tensors = collate(store, batch, 16, pad_id=99)
    boundary = torch.nonzero(tensors.position_ids[0] == 0).flatten()
    assert (tensors.labels[0, boundary] == IGNORED).all()
    real = tensors.sequence_ids[0] != 0
    assert (tensors.labels[0][~real] == IGNORED).all()
    inside = real & (tensors.position_ids[0] != 0)
    assert (tensors.labels[0][inside] == tensors.input_ids[0][inside]).all()
    assert (tensors.input_ids[0][~real] == 99).all()
    assert real.sum() == 11
