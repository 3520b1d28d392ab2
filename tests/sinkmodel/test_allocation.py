"""The sink map: who owns which block, for ever."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import CheckpointError
from sinkmodel.allocation import SCHEMA, SinkMap, allocate
from sinkmodel.pool import draw_pool

IDS = st.integers(1, 2**63 - 1)
POLICY = st.sampled_from(["shared", "pooled", "private", "strict"])


@st.composite
def sequences(draw: st.DrawFn) -> pa.Table:
    ids = draw(st.lists(IDS, unique=True, max_size=30))
    return pa.table(
        {
            "sequence_id": pa.array(ids, pa.int64()),
            "policy": pa.array([draw(POLICY) for _ in ids], pa.string()),
            "n_tokens": pa.array([draw(st.integers(0, 5000)) for _ in ids], pa.int64()),
        }
    )


def given_blocks(table: pa.Table, existing: SinkMap | None = None, seed: int = 3) -> SinkMap:
    return allocate(
        table,
        block_size=8,
        neurons_per_kilotoken=64,
        pool_blocks=20,
        pool_draws=3,
        seed=seed,
        existing=existing,
    )


@given(sequences())
@settings(max_examples=60, deadline=None)
def test_every_policy_gets_its_blocks(table: pa.Table) -> None:
    sink_map = given_blocks(table)
    owned: list[int] = []
    for row in sink_map.table.to_pylist():
        blocks = row["blocks"]
        if row["policy"] == "shared":
            assert blocks == []
        elif row["policy"] == "pooled":
            assert len(set(blocks)) == 3
            assert set(blocks) <= set(range(20))
        else:
            neurons = int(np.ceil(row["n_tokens"] * 64 / 1000))
            assert len(blocks) == max(1, -(-neurons // 8))
            owned += blocks
    assert len(owned) == len(set(owned))
    assert sorted(owned) == list(range(20, 20 + len(owned)))


@given(sequences(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_order_of_the_rows_does_not_matter(table: pa.Table, random: object) -> None:
    order = list(range(table.num_rows))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert given_blocks(table.take(pa.array(order, pa.int64()))) == given_blocks(table)


@given(sequences(), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_extension_keeps_old_rows_and_never_reuses_blocks(table: pa.Table, count: int) -> None:
    old = given_blocks(table.slice(0, count))
    ids = old.sequence_ids.tolist()
    forgotten = old.forget(ids[::2])
    extended = given_blocks(table, existing=forgotten)
    rows = {row["sequence_id"]: row for row in extended.table.to_pylist()}
    for row in forgotten.table.to_pylist():
        assert rows.pop(row["sequence_id"]) == row
    for row in rows.values():
        if row["policy"] in ("private", "strict"):
            assert min(row["blocks"]) >= old.num_blocks


def test_extension_refuses_another_policy() -> None:
    columns = {"sequence_id": [5], "policy": ["private"], "n_tokens": [10]}
    old = given_blocks(pa.table(columns))
    with pytest.raises(CheckpointError, match="sq-0000000000000005: expected the policy private"):
        given_blocks(pa.table({**columns, "policy": ["shared"]}), existing=old)


@given(sequences())
@settings(max_examples=30, deadline=None)
def test_lookup_gives_each_id_its_list(table: pa.Table) -> None:
    sink_map = given_blocks(table)
    ids = np.array([0, *table["sequence_id"].to_pylist(), 0], dtype=np.int64)
    truth = {row["sequence_id"]: row["blocks"] for row in sink_map.table.to_pylist()}
    lists = sink_map.lookup(ids)
    for k, sequence_id in enumerate(ids.tolist()):
        found = lists.blocks[lists.offsets[k] : lists.offsets[k + 1]].tolist()
        assert found == truth.get(sequence_id, [])


def test_unknown_and_forgotten_ids_are_errors() -> None:
    sink_map = given_blocks(
        pa.table({"sequence_id": [5, 6], "policy": ["private"] * 2, "n_tokens": [1, 1]})
    )
    with pytest.raises(CheckpointError, match=r"sq-0000000000000007: .*not trained with"):
        sink_map.blocks_of(7)
    with pytest.raises(CheckpointError, match=r"sq-0000000000000007: .*not trained with"):
        sink_map.forget([7])
    after = sink_map.forget([5])
    with pytest.raises(CheckpointError, match=r"sq-0000000000000005: .*forgotten"):
        after.blocks_of(5)
    assert after.blocks_of(6) == sink_map.blocks_of(6)
    assert after.num_blocks == sink_map.num_blocks
    assert SinkMap.empty().lookup(np.zeros(2, dtype=np.int64)).offsets.tolist() == [0, 0, 0]
    with pytest.raises(CheckpointError):
        SinkMap.empty().blocks_of(1)


@given(sequences())
@settings(max_examples=20, deadline=None)
def test_saving_then_reading_is_the_same_map(
    tmp_path_factory: pytest.TempPathFactory, table: pa.Table
) -> None:
    sink_map = given_blocks(table)
    path = tmp_path_factory.mktemp("map") / "sink_map.parquet"
    sink_map.save(path)
    again = SinkMap.read(path)
    assert again == sink_map
    assert again.digest() == sink_map.digest()
    assert again.to_bytes() == path.read_bytes()


def test_digest_covers_every_column() -> None:
    rows = [(5, "private", "active", [3], 10), (6, "private", "active", [4, 5], 10)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    base = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)
    digests = {SinkMap(base).digest()}
    for name, values in [
        ("sequence_id", [5, 7]),
        ("policy", ["private", "strict"]),
        ("status", ["active", "forgotten"]),
        ("blocks", [[3, 4], [5]]),
        ("n_tokens", [10, 11]),
    ]:
        index = SCHEMA.names.index(name)
        column = pa.array(values, SCHEMA.field(name).type)
        digests.add(SinkMap(base.set_column(index, SCHEMA.field(name), column)).digest())
    assert len(digests) == 6


BROKEN_MAPS = {
    "descending": [(6, "private", "active", [1], 1), (5, "private", "active", [2], 1)],
    "repeated": [(5, "private", "active", [1], 1), (5, "private", "active", [2], 1)],
    "zero": [(0, "private", "active", [1], 1)],
    "negative block": [(5, "private", "active", [-1], 1)],
    "policy": [(5, "open", "active", [1], 1)],
    "status": [(5, "private", "gone", [1], 1)],
    "two owners": [(5, "private", "active", [1], 1), (6, "strict", "active", [1], 1)],
    "lent by the pool": [(5, "private", "active", [1], 1), (6, "pooled", "active", [1], 1)],
    "twice in one": [(5, "private", "active", [1, 1], 1)],
}


@pytest.mark.parametrize("name", BROKEN_MAPS)
def test_broken_maps_are_refused(name: str) -> None:
    columns = [list(column) for column in zip(*BROKEN_MAPS[name], strict=True)]
    table = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)
    with pytest.raises(CheckpointError):
        SinkMap(table)


def test_files_that_are_no_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected the sink map of a run"):
        SinkMap.read(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(CheckpointError, match="expected the sink map of a run"):
        SinkMap.read(tmp_path / "text.parquet")
    with pytest.raises(CheckpointError, match="expected columns"):
        SinkMap(pa.table({"sequence_id": [1]}))


def test_pool_draws_are_pinned() -> None:
    """The hash is a documented format: these numbers never change."""
    ids = np.array([1, 2, 2**63 - 1], dtype=np.int64)
    drawn = draw_pool(ids, pool_blocks=1000, draws=4, seed=3)
    # Computed with Python's own integers from the formula in `draw_pool`.
    assert drawn.tolist() == [[333, 158, 691, 482], [50, 836, 758, 629], [769, 633, 906, 361]]


def test_no_id_and_no_block_is_favoured() -> None:
    pool, draws, count = 64, 4, 4000
    drawn = draw_pool(np.arange(1, count + 1), pool_blocks=pool, draws=draws, seed=0)
    assert all(len(set(row)) == draws for row in drawn.tolist())
    load = np.bincount(drawn.reshape(-1), minlength=pool)
    p = draws / pool
    sigma = np.sqrt(count * p * (1 - p))
    assert np.abs(load - count * p).max() < 5 * sigma
    assert 0.6 < load.std() / sigma < 1.5
    # Neighbouring IDs overlap as often as chance has it.
    overlap = [len(set(a) & set(b)) for a, b in itertools.pairwise(drawn)]
    assert abs(np.mean(overlap) - draws * p) < 0.05
    other = draw_pool(np.arange(1, count + 1), pool_blocks=pool, draws=draws, seed=1)
    assert (other == drawn).mean() < 2 * p


def test_a_whole_pool_can_be_drawn() -> None:
    drawn = draw_pool(np.array([9]), pool_blocks=5, draws=5, seed=0)
    assert sorted(drawn[0].tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("ids", "pool", "draws", "message"),
    [
        ([0], 5, 2, "expected a positive ID"),
        ([-3], 5, 2, "expected a positive ID"),
        ([1], 5, 6, "between 1 and pool_blocks=5"),
        ([1], 0, 0, "between 1 and pool_blocks=0"),
    ],
)
def test_impossible_draws_are_refused(ids: list[int], pool: int, draws: int, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        draw_pool(np.array(ids), pool_blocks=pool, draws=draws, seed=0)


@pytest.mark.parametrize(
    ("ids", "policies", "message"),
    [
        ([0], ["private"], "expected a positive ID"),
        ([4, 4], ["private", "private"], "sq-0000000000000004: expected one row"),
        ([4], ["secret"], "expected a policy of"),
    ],
)
def test_impossible_sequences_are_refused(
    ids: list[int], policies: list[str], message: str
) -> None:
    table = pa.table({"sequence_id": ids, "policy": policies, "n_tokens": [1] * len(ids)})
    with pytest.raises(CheckpointError, match=message):
        given_blocks(table)
