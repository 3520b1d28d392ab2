"""Working files: gathering from anywhere, sorting, and giving memory back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from govern.ids import sets
from govern.ids.names import Names
from govern.ids.order import ascending
from govern.ids.store import ArrayFile, DocumentStore, release
from govern.ids.tables import Stream, write_streams
from manifests import schema
from manifests.files import sha256_file

STATUS = Path("/proc/self/status")
ROWS = st.lists(st.tuples(*[st.sampled_from([0, 1, 2, 2**63, 2**64 - 1])] * 3), max_size=40)


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_rows_are_sorted_by_all_their_columns(rows: list[tuple[int, int, int]]) -> None:
    columns = np.array(rows, dtype=np.uint64).reshape(-1, 3).T
    order = ascending(*columns)
    assert sorted(order.tolist()) == list(range(len(rows)))
    assert [rows[i] for i in order] == sorted(rows)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=6), min_size=1, max_size=20),
    st.data(),
    st.integers(1, 30),
)
def test_sets_come_in_the_order_asked_for(
    values: list[list[int]], data: st.DataObject, stretch: int
) -> None:
    lying = data.draw(st.permutations(range(len(values))))
    chosen = data.draw(st.lists(st.sampled_from(range(len(values)))))
    begins = np.zeros(len(values), dtype=np.int64)
    flat: list[int] = []
    for i in lying:
        begins[i] = len(flat)
        flat += values[i]
    stored = sets.ShingleSets(
        values=np.array(flat, dtype=np.uint64),
        begins=begins,
        sizes=np.array([len(one) for one in values], dtype=np.int64),
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sets, "_STRETCH", stretch)
        found = sets.gather(stored, np.array(chosen, dtype=np.int64))
    assert found.tolist() == [value for i in chosen for value in values[i]]


def batches() -> Iterator[pa.RecordBatch]:
    for first in (0, 4, 9):
        rows = range(first, first + 4 + first % 3)
        yield pa.record_batch(
            {
                "source": pa.array([f"s{i % 2}" for i in rows]),
                "doc_id": pa.array(["ä" * i for i in rows]),
                "key": pa.array([bytes([i]) * 16 for i in rows], pa.binary(16)),
            }
        )


def test_documents_and_names_are_looked_up_in_any_order(tmp_path: Path) -> None:
    paths = [tmp_path / "0.arrow", tmp_path / "1.arrow"]
    written = list(batches())
    for path, some in zip(paths, (written[:2], written[2:]), strict=True):
        with pa.ipc.new_file(path, written[0].schema) as file:
            for batch in some:
                file.write_batch(batch)
    expected = pa.Table.from_batches(written)
    rows = np.array([9, 0, 5, 5, 12, 3])
    with DocumentStore(paths, ("key",)) as store:
        for _ in range(2):  # memory that was given back is there again
            assert store.take(rows).equals(expected.select(["source", "doc_id"]).take(rows))
        names = Names(store.once("source", "doc_id"), tmp_path)
        assert [key for (column,) in store.once("key") for key in column.to_pylist()] == (
            expected["key"].to_pylist()
        )
    assert names.take(rows).equals(expected.select(["source", "doc_id"]).take(rows))
    assert names.take(np.zeros(0, dtype=np.int64)).num_rows == 0


def mapped_bytes() -> int:
    lines = dict(line.split(":") for line in STATUS.read_text().splitlines())
    return int(lines["RssFile"].split()[0]) * 1024


@pytest.mark.skipif(not STATUS.exists(), reason="resident memory is read from /proc")
def test_memory_that_is_given_back_is_not_resident(tmp_path: Path) -> None:
    size = 64 << 20
    file = ArrayFile(tmp_path / "array", np.uint64, 2)
    file.append(np.arange(size // 8, dtype=np.uint64))
    array = file.finish()
    before = mapped_bytes()
    total = int(array.sum())
    assert mapped_bytes() - before > size * 0.9
    release(array[: len(array) // 2])
    assert size * 0.4 < mapped_bytes() - before < size * 0.6
    release(array)
    assert mapped_bytes() - before < size * 0.1
    assert int(array.sum()) == total == (size // 8) * (size // 8 - 1) // 2


def rejects(count: int) -> Iterator[pa.Table]:
    for row in range(count):
        columns = {"uri": ["u"], "row": [row], "reason": ["empty_text"], "context": [b""]}
        yield pa.table(columns, schema=schema.REJECTS)


def test_tables_written_side_by_side_are_those_written_one_by_one(tmp_path: Path) -> None:
    def streams() -> dict[str, Stream]:
        aliases = schema.ALIASES
        return {
            "rejects": Stream(schema.REJECTS, rejects(40_000)),
            "aliases": Stream(aliases, iter([aliases.empty_table()])),
        }

    one = write_streams(tmp_path / "one", streams())
    with ThreadPoolExecutor(2) as pool:
        other = write_streams(tmp_path / "other", streams(), pool)
    assert one == other
    for entries in one.values():
        for entry in entries:
            assert sha256_file(tmp_path / "other" / entry.path) == entry.sha256


def test_one_table_that_fails_ends_the_others(tmp_path: Path) -> None:
    begun = Event()

    def endless() -> Iterator[pa.Table]:
        while True:
            yield from rejects(1)
            begun.set()

    def failing() -> Iterator[pa.Table]:
        assert begun.wait(10)
        yield schema.ALIASES.empty_table()
        raise OSError(28, "No space left on device")

    streams = {
        "rejects": Stream(schema.REJECTS, endless()),
        "aliases": Stream(schema.ALIASES, failing()),
    }
    with ThreadPoolExecutor(2) as pool, pytest.raises(OSError, match="No space"):
        write_streams(tmp_path, streams, pool)
