"""The bytes of a bank: strict headers, block ranges, leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from manifests import merkle
from manifests.errors import CheckpointError
from sinkmodel import bank_format, bank_tree

SHAPE = (7, 2, 3, 2, 4)


def write_bank(path: Path, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    values = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    save_file({"sinks.banks.0": values}, path)
    return values


def raw_file(path: Path, header: bytes, data: bytes) -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def test_bank_reads_what_safetensors_wrote(tmp_path: Path) -> None:
    values = write_bank(tmp_path / "sinks-00000.safetensors")
    bank = bank_format.open_bank(tmp_path / "sinks-00000.safetensors")
    assert (bank.tensor, bank.dtype, bank.shape, bank.blocks) == ("sinks.banks.0", "F32", SHAPE, 7)
    assert bank.block_bytes == 2 * 3 * 2 * 4 * 4
    for row in range(7):
        assert bank.read_block(row) == values[row].tobytes()
    assert bank.byte_ranges(6)[0][1] == bank.path.stat().st_size


@pytest.mark.parametrize("row", [-1, 7])
def test_no_row_outside_the_bank(tmp_path: Path, row: int) -> None:
    write_bank(tmp_path / "b.safetensors")
    bank = bank_format.open_bank(tmp_path / "b.safetensors")
    with pytest.raises(IndexError, match=f"row {row} of a bank of 7 blocks"):
        bank.byte_ranges(row)


@pytest.mark.parametrize("chunk", [1, 400, 4 << 20])
def test_leaves_equal_a_naive_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(bank_tree, "_CHUNK_BYTES", chunk)
    path = tmp_path / "sinks-00000.safetensors"
    values = write_bank(path, (101, 2, 3, 2, 4))
    naive = [merkle.leaf_hash(block.tobytes()) for block in values]
    bank = bank_format.open_bank(path)
    assert list(bank_tree.block_leaves(bank)) == naive
    assert bank_tree.write_leaves(bank) == merkle.tree_root(naive)
    stored = (tmp_path / "sinks-00000.leaves").read_bytes()
    assert stored == b"".join(b"".join(level) for level in merkle.tree_levels(naive))
    assert bank_tree.read_leaves(bank) == naive


def test_leaves_of_another_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sinks-00000.safetensors"
    write_bank(path)
    bank_tree.write_leaves(bank_format.open_bank(path))
    os.truncate(tmp_path / "sinks-00000.leaves", 31)
    with pytest.raises(CheckpointError, match="the 14 nodes over 7 blocks, 448 bytes, found 31"):
        bank_tree.read_leaves(bank_format.open_bank(path))


def test_banks_of_a_run_in_order(tmp_path: Path) -> None:
    write_bank(tmp_path / "sinks-00000.safetensors")
    write_bank(tmp_path / "sinks-00001.safetensors", (3, *SHAPE[1:]))
    assert [bank.blocks for bank in bank_format.open_banks(tmp_path)] == [7, 3]
    write_bank(tmp_path / "sinks-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"expected bank sinks-00002\.safetensors"):
        bank_format.open_banks(tmp_path)
    write_bank(tmp_path / "sinks-00002.safetensors", (3, 2, 3, 2, 5))
    with pytest.raises(CheckpointError, match="as in the first bank"):
        bank_format.open_banks(tmp_path)


GOOD = {"t": {"dtype": "F32", "shape": [2, 1, 3, 1, 1], "data_offsets": [0, 24]}}
HOSTILE: dict[str, tuple[bytes, str]] = {
    "not json": (b"{'a'", "a JSON header"),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "a JSON header"),
    "not utf-8": (b'{"\xff": 1}', "a JSON header"),
    "a list": (b"[]", "a JSON object as header, found list"),
    "key twice": (b'{"a": 1, "a": 2}', "a key that appears twice"),
    "entry not an object": (b'{"t": 3}', "dtype, shape and data_offsets"),
    "unknown dtype": (json.dumps({"t": GOOD["t"] | {"dtype": "PICKLE"}}).encode(), "known dtype"),
    "negative shape": (json.dumps({"t": GOOD["t"] | {"shape": [-2, 3]}}).encode(), "sizes as"),
    "bool shape": (json.dumps({"t": GOOD["t"] | {"shape": [True, 6]}}).encode(), "sizes as"),
    "float shape": (json.dumps({"t": GOOD["t"] | {"shape": [6.0]}}).encode(), "sizes as"),
    "huge shape": (json.dumps({"t": GOOD["t"] | {"shape": [2**62] * 5}}).encode(), "bytes of tens"),
    "nine axes": (json.dumps({"t": GOOD["t"] | {"shape": [1] * 9}}).encode(), "up to 8 sizes"),
    "past the end": (
        json.dumps({"t": {"dtype": "U8", "shape": [99], "data_offsets": [0, 99]}}).encode(),
        "inside the file",
    ),
    "before the data": (
        json.dumps({"t": GOOD["t"] | {"data_offsets": [-24, 0]}}).encode(),
        "two offsets",
    ),
    "gap": (
        json.dumps({"t": {"dtype": "U8", "shape": [4], "data_offsets": [20, 24]}}).encode(),
        "tensor 't' at",
    ),
    "short of the end": (
        json.dumps({"t": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode(),
        "end with the file",
    ),
    "overlap": (
        json.dumps({"t": GOOD["t"], "u": GOOD["t"]}).encode(),
        "tensor 'u' at",
    ),
    "four axes": (
        json.dumps({"t": GOOD["t"] | {"shape": [2, 1, 3, 1]}}).encode(),
        "one tensor [blocks, layers, 3, block_size, hidden]",
    ),
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_hostile_headers_are_errors(tmp_path: Path, case: str) -> None:
    header, message = HOSTILE[case]
    path = raw_file(tmp_path / "x.safetensors", header, bytes(24))
    with pytest.raises(CheckpointError) as caught:
        bank_format.open_bank(path)
    assert message in str(caught.value)


def test_the_good_header_of_the_table_is_good(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "x.safetensors", json.dumps(GOOD).encode(), bytes(24))
    assert bank_format.open_bank(path).blocks == 2


@pytest.mark.parametrize("length", [0, 1, 25, 2**31, 2**63, 2**64 - 1])
def test_header_lengths_are_bounded_by_the_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + bytes(24))
    with pytest.raises(CheckpointError, match="a header of 2 to 24 bytes"):
        bank_format.read_header(path)


def test_links_pipes_and_missing_files_are_refused(tmp_path: Path) -> None:
    write_bank(tmp_path / "real.safetensors")
    (tmp_path / "link.safetensors").symlink_to("real.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("link", "pipe", "absent"):
        with pytest.raises(CheckpointError, match="expected a regular file"):
            bank_format.read_header(tmp_path / f"{name}.safetensors")


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_any_changed_header_is_read_inside_the_file_or_refused(
    tmp_path: Path, position: int, value: int, cut: int
) -> None:
    path = tmp_path / "sinks-00000.safetensors"
    write_bank(path)
    raw = bytearray(path.read_bytes())
    data_start = 8 + int.from_bytes(raw[:8], "little")
    raw[position % data_start] = value
    path.write_bytes(raw[: len(raw) - cut] if cut > 200 else raw)
    try:
        tensors = bank_format.read_header(path)
    except CheckpointError:
        return
    size = path.stat().st_size
    assert all(8 <= tensor.start <= tensor.end <= size for tensor in tensors)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(raw=st.binary(max_size=300))
def test_arbitrary_bytes_never_crash_the_parser(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError):
        bank_format.open_bank(path)


# --- optimizer state -----------------------------------------------------------------------------


def write_state(path: Path, rows: int = 5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(6)
    tensors = {
        "blocks": np.arange(rows, dtype=np.int64)[::-1] * 3,
        "steps": np.arange(1, rows + 1, dtype=np.int64),
        "exp_avg": random.standard_normal((rows, 2, 3, 4)).astype(np.float32),
        "exp_avg_sq": random.standard_normal((rows, 2, 3, 4)).astype(np.float32),
    }
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("chunk", [1, 400, 4 << 20])
def test_a_row_of_state_is_its_slice_of_every_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(bank_tree, "_CHUNK_BYTES", chunk)
    name = "state/sinks-00000.safetensors"
    values = write_state(tmp_path / name)
    state = bank_format.open_blocks(tmp_path, name)
    assert isinstance(state, bank_format.BankState)
    assert state.held.tolist() == values["blocks"].tolist()
    assert [tensor.name for tensor in state.tensors] == ["steps", "exp_avg", "exp_avg_sq"]
    rows = [b"".join(values[t.name][row].tobytes() for t in state.tensors) for row in range(5)]
    assert [state.read_block(row) for row in range(5)] == rows
    assert list(bank_tree.block_leaves(state)) == [merkle.leaf_hash(row) for row in rows]
    assert bank_tree.write_leaves(state) == merkle.tree_root([merkle.leaf_hash(r) for r in rows])
    # Header and rows are the whole file: together with the root, its digest binds every byte.
    whole = bank_format.header_bytes(state) + b"".join(
        values[t.name].tobytes() for t in state.tensors
    )
    assert whole == state.path.read_bytes()


BAD_STATE = {
    "no index": ({"exp_avg": np.zeros((2, 3), np.float32)}, "'blocks' of block indices"),
    "an index alone": ({"blocks": np.zeros(2, np.int64)}, "'blocks' of block indices"),
    "an index that is not first": (
        {"a": np.zeros(2, np.int64), "blocks": np.zeros(2, np.int64)},
        "'blocks' of block indices before others",
    ),
    "an index of two axes": (
        {"blocks": np.zeros((2, 1), np.int64), "steps": np.zeros(2, np.int64)},
        "'blocks' of block indices",
    ),
    "numbers that are not whole": (
        {"blocks": np.zeros(2, np.float64), "steps": np.zeros(2, np.float64)},
        "'blocks' as I64 or I32, found F64",
    ),
    "another number of rows": (
        {"blocks": np.zeros(2, np.int64), "steps": np.zeros(3, np.int64)},
        "2 rows in 'steps', found [3]",
    ),
    "rows without bytes": (
        {"blocks": np.zeros(2, np.int64), "steps": np.zeros((2, 0), np.int64)},
        "rows of 'steps' with bytes, found [2, 0]",
    ),
}


@pytest.mark.parametrize("case", BAD_STATE)
def test_state_of_another_form_is_refused(tmp_path: Path, case: str) -> None:
    tensors, message = BAD_STATE[case]
    path = tmp_path / "sinks-00000.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        bank_format.open_state(path)
    assert message in str(caught.value)
