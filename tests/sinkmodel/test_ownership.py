"""Who owns what: laws of the rule, of the shards that it cuts, and of the chunks that it deals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import BLOCK_SIZE, SEED, tiny_map, tiny_model

from manifests.errors import CheckpointError
from sinkmodel.allocation import SinkMap
from sinkmodel.bank_parts import bank_ranges, merged_state, merged_weights
from sinkmodel.data import Chunk, MicroBatch
from sinkmodel.ownership import ANYONE, deal, owners, shard_of
from sinkmodel.pool import draw_pool, pool_part
from sinkmodel.sink_mlp import SinkBanks

POLICIES = st.sampled_from(["shared", "pooled", "private", "strict"])
SEQUENCES = st.dictionaries(st.integers(1, 2**63 - 1), POLICIES, min_size=1, max_size=25)


def test_the_rule_stays_as_it_is() -> None:
    """Computed with Python's own integers from the formula of `sinkmodel.ownership`."""

    def mix(z: int) -> int:
        z = (z + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    ids = [1, 2, 3, 2**40 + 5, 2**63 - 1]
    found = owners(np.array(ids), ["private", "strict"] * 2 + ["private"], world=5)
    assert found.tolist() == [mix(i ^ 0x4F574E455221) % 5 for i in ids]
    assert pool_part(np.array(ids), 7).tolist() == [mix(i ^ 0x504152545321) % 7 for i in ids]


def test_ranks_own_about_as_much() -> None:
    ids = np.arange(1, 100_001)
    counts = np.bincount(owners(ids, ["private"] * len(ids), world=8), minlength=8)
    assert abs(counts / 12_500 - 1).max() < 0.05


@given(SEQUENCES, st.integers(1, 5), st.integers(1, 3))
def test_shards_are_a_partition_of_the_map(
    sequences: dict[int, str], world: int, parts: int
) -> None:
    """Every block in use is on one rank, with the IDs that use it, in their own order."""
    sink_map = _map(sequences, parts)
    shards = [shard_of(sink_map, rank=r, world=world, pool_parts=parts) for r in range(world)]
    owned = np.concatenate([shard.blocks for shard in shards])
    used = np.arange(sink_map.num_blocks) if world == 1 else np.unique(sink_map.lists.blocks)
    assert sorted(owned.tolist()) == used.tolist()
    for sequence_id, policy in sequences.items():
        holders = [s for s in shards if sequence_id in s.sink_map.sequence_ids]
        assert len(holders) == (world if policy == "shared" else 1)
        for shard in holders:
            local = shard.sink_map.blocks_of(sequence_id)
            assert shard.blocks[local].tolist() == sink_map.blocks_of(sequence_id)


@given(SEQUENCES, st.integers(2, 4))
def test_shards_begin_with_the_values_of_the_whole(sequences: dict[int, str], world: int) -> None:
    """Initial blocks, and one bank of all parts again: what one process has, to the bit."""
    sink_map = _map(sequences, 2)
    whole = _banks(sink_map, np.arange(sink_map.num_blocks))
    parts = []
    for rank in range(world):
        shard = shard_of(sink_map, rank=rank, world=world, pool_parts=2)
        blocks = torch.from_numpy(shard.blocks)
        weights = _banks(shard.sink_map, shard.blocks)
        assert torch.equal(weights, whole[blocks])
        half = len(blocks) // 2  # as if it had two banks
        parts += [
            {"blocks": blocks[piece], "weights": weights[piece]}
            for piece in (slice(0, half), slice(half, None))
        ]
    for begin, size in bank_ranges(sink_map.num_blocks, 3):
        assert torch.equal(merged_weights(parts, begin, size), whole[begin : begin + size])


def test_merged_state_is_in_the_order_of_blocks() -> None:
    parts = [
        {"blocks": torch.tensor([1, 6, 9]), "steps": torch.tensor([10, 60, 90])},
        {"blocks": torch.tensor([4, 5]), "steps": torch.tensor([40, 50])},
    ]
    merged = merged_state(parts, 4, 4)
    assert merged["blocks"].tolist() == [4, 5, 6]
    assert merged["steps"].tolist() == [40, 50, 60]


CHUNKS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 16)), min_size=1, max_size=30)


@given(CHUNKS, st.lists(st.integers(-1, 3), min_size=10, max_size=10), st.integers(1, 4))
def test_every_chunk_is_dealt_once_and_to_its_owner(
    chunks: list[tuple[int, int]], owner_of: list[int], world: int
) -> None:
    rows = tuple((Chunk(document, 0, size),) for document, size in chunks)
    batch = MicroBatch("open", 0.25, rows)
    owner = np.where(np.array(owner_of) < world, owner_of, world - 1)
    dealt = [deal(batch, owner, rank=r, world=world, length=16) for r in range(world)]
    found = []
    for rank, share in enumerate(dealt):
        for row in share.rows if share else ():
            assert share is not None
            assert (share.stream, share.time) == ("open", 0.25)
            assert row
            assert sum(chunk.end - chunk.begin for chunk in row) <= 16
            assert all(owner[chunk.document] in (rank, ANYONE) or world == 1 for chunk in row)
            found += row
    key = lambda chunk: (chunk.document, chunk.end)  # noqa: E731
    assert sorted(found, key=key) == sorted((row[0] for row in rows), key=key)


def test_text_of_nobody_evens_the_load() -> None:
    rows = tuple((Chunk(document, 0, 16),) for document in range(8))
    owner = np.array([0, 0, 0, -1, -1, -1, -1, -1])
    batch = MicroBatch("open", 0.0, rows)
    sizes = [len(deal(batch, owner, rank=r, world=2, length=16).rows) for r in range(2)]  # type: ignore[union-attr]
    assert sizes == [4, 4]


@given(st.lists(st.integers(1, 2**63 - 1), min_size=1, unique=True), st.integers(1, 4))
def test_an_id_draws_from_its_own_part(ids: list[int], parts: int) -> None:
    drawn = draw_pool(np.array(ids), pool_blocks=22, draws=4, seed=3, parts=parts)
    size = 22 // parts
    assert (drawn // size == pool_part(np.array(ids), parts)[:, None]).all()
    assert all(len(set(row)) == 4 for row in drawn.tolist())


def test_a_part_too_small_for_its_draws_is_refused() -> None:
    with pytest.raises(CheckpointError, match="between 1 and pool_blocks=8 / pool_parts=4 draws"):
        draw_pool(np.array([1]), pool_blocks=8, draws=3, seed=0, parts=4)


def _map(sequences: dict[int, str], parts: int) -> SinkMap:
    return tiny_map(sequences, pool_blocks=8, pool_parts=parts)


def _banks(sink_map: SinkMap, blocks: np.ndarray) -> torch.Tensor:
    """Initial values of so many blocks, as one tensor."""
    banks = SinkBanks([len(blocks)], layers=2, block_size=BLOCK_SIZE, hidden=8)
    banks.initialise(sink_map, seed=SEED, blocks=blocks)
    return banks.banks[0].detach()


def test_a_model_of_one_shard_computes_what_the_whole_does() -> None:
    """The bits of a sequence's logits do not depend on which other sinks the model has."""
    sequences = {1: "private", 2: "private", 3: "strict", 4: "private"}
    sink_map = tiny_map(sequences)
    whole = tiny_model(sink_map)
    tokens = torch.arange(3, 13)[None]
    for rank in range(2):
        shard = shard_of(sink_map, rank=rank, world=2)
        part = tiny_model(shard.sink_map)
        for sequence_id in shard.sink_map.sequence_ids.tolist():
            ids = torch.full_like(tokens, sequence_id)
            with torch.no_grad():
                assert torch.equal(
                    part(tokens, sequence_ids=ids).logits, whole(tokens, sequence_ids=ids).logits
                )
