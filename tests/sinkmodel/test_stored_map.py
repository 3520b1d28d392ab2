"""The sink map on disk: what is read of it for a few IDs is what the whole map says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import PRIVATE, MapRow, write_run, write_sink_map

from manifests.errors import CheckpointError
from sinkmodel import allocation, forgotten, stored_map
from sinkmodel.allocation import SinkMap
from sinkmodel.run_record import read_record

IDS = st.integers(1, 2**63 - 1)


@st.composite
def maps(draw: st.DrawFn) -> list[MapRow]:
    """Private IDs with blocks of their own, pooled ones with any of the first six."""
    rows, free = [], 6
    for sequence_id in sorted(draw(st.sets(IDS, min_size=1, max_size=40))):
        policy = draw(st.sampled_from(["shared", "private", "strict", "pooled"]))
        count = 0 if policy == "shared" else draw(st.integers(1, 3))
        blocks: Sequence[int] = range(free, free + count)
        if policy == "pooled":
            blocks = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True))
        else:
            free += count
        rows.append(
            MapRow(
                sequence_id, policy, tuple(blocks), draw(st.sampled_from(["active", "forgotten"]))
            )
        )
    return rows


@given(rows=maps(), others=st.sets(IDS, max_size=3), data=st.data())
def test_law_find_is_the_whole_map_restricted(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[MapRow],
    others: set[int],
    data: st.DataObject,
) -> None:
    run = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "_ROWS_PER_GROUP", 4)
        write_sink_map(run / "sink_map.parquet", rows)
    wanted = data.draw(st.sets(st.sampled_from([r.sequence_id for r in rows]))) | others
    whole = SinkMap.read(run / "sink_map.parquet")
    assert [r["status"] for r in whole.table.to_pylist()] == [r.status for r in rows]
    pooled = any(r.policy == "pooled" for r in rows if r.sequence_id in wanted)
    expected = [
        row
        for row in whole.table.to_pylist()
        if row["sequence_id"] in wanted or (pooled and row["policy"] == "pooled")
    ]
    assert stored_map.find(run, wanted).table.to_pylist() == expected
    assert stored_map.known(run, wanted) == wanted & {r.sequence_id for r in rows}


@given(ids=st.sets(IDS))
def test_law_what_is_forgotten_reads_back(
    tmp_path_factory: pytest.TempPathFactory, ids: set[int]
) -> None:
    path = tmp_path_factory.mktemp("list") / "forgotten.txt"
    path.write_bytes(forgotten.encode_forgotten(ids))
    assert forgotten.read_forgotten(path).tolist() == sorted(ids)


@pytest.mark.parametrize(
    "data",
    [
        b"sq-1\n",
        b"sq-0000000000000002",
        b"sq-0000000000000002\r\n",
        b"sq-0000000000000002\nsq-0000000000000001\n",
        b"sq-0000000000000001\nsq-0000000000000001\n",
        b"sq-8000000000000000\n",
        b"SQ-0000000000000001\n",
    ],
)
def test_other_lists_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "forgotten.txt").write_bytes(data)
    with pytest.raises(CheckpointError, match="the forgotten sequence IDs of a run"):
        forgotten.read_forgotten(tmp_path / "forgotten.txt")


def test_a_list_that_is_missing_or_names_strangers_is_refused(tmp_path: Path) -> None:
    write_sink_map(tmp_path / "sink_map.parquet", PRIVATE)
    (tmp_path / "forgotten.txt").write_bytes(forgotten.encode_forgotten([11, 12]))
    with pytest.raises(CheckpointError, match=r"forgotten\.txt: expected IDs of the sink map"):
        SinkMap.read(tmp_path / "sink_map.parquet")
    (tmp_path / "forgotten.txt").unlink()
    with pytest.raises(CheckpointError, match=r"forgotten\.txt: .* No such file"):
        stored_map.find(tmp_path, [11])


def test_a_map_that_is_not_the_one_of_training_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    record = read_record(run)
    stored_map.require_pinned(run, record)
    write_sink_map(run / "sink_map.parquet", PRIVATE[1:])
    with pytest.raises(CheckpointError, match="expected the sink map of training, sha256"):
        stored_map.require_pinned(run, record)
    (run / "sink_map.parquet").write_bytes(b"no map")
    with pytest.raises(CheckpointError, match="expected the sink map of a run"):
        stored_map.find(run, [11])
