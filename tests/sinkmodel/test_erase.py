"""Erasing blocks of a run: only planned bytes change, in both modes; locks, links, refusals."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from synthetic_run import (
    BANK_BLOCKS,
    BLOCK_SIZE,
    HIDDEN,
    LAYERS,
    POOLED,
    PRIVATE,
    MapRow,
    RunShape,
    contents,
    tree_digest,
    write_run,
    write_sink_map,
)

from manifests.errors import CheckpointError, IntegrityError, LockedError
from manifests.files import writer_lock
from sinkmodel import bank_format, bank_tree, erase
from sinkmodel.allocation import SinkMap

MODES = ["out", "in place"]
BLOCK_BYTES = LAYERS * 3 * BLOCK_SIZE * HIDDEN * 4


def run_erase(
    run: Path, mode: str, blocks: list[int], ids: list[int]
) -> tuple[erase.EraseReceipt, Path]:
    out = run.with_name("erased") if mode == "out" else None
    receipt = erase.erase_blocks(run, blocks, ids, out=out)
    return receipt, out or run


def failed(receipt: erase.EraseReceipt, run: Path) -> list[str]:
    return [check.name for check in erase.verify_erased(receipt, run) if not check.passed]


@pytest.mark.parametrize("state_trees", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_only_the_planned_bytes_change(tmp_path: Path, mode: str, state_trees: bool) -> None:
    run = write_run(tmp_path / "run", shape=RunShape(state_trees=state_trees))
    before = contents(run)
    receipt, result = run_erase(run, mode, [7, 8, 9], [33])
    after = contents(result)
    assert set(before) == set(after)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "forgotten.txt",
        *(f"sinks-0000{i}.{kind}" for i in (0, 1) for kind in ("leaves", "safetensors")),
        *(f"state/sinks-0000{i}.safetensors" for i in (0, 1)),
        *(f"state/sinks-0000{i}.leaves" for i in (0, 1) if state_trees),
    }
    assert changed == {file.name for file in receipt.files if file.touched}

    planned: dict[str, list[tuple[int, int]]] = {}
    for index, rows in ((0, [7]), (1, [0, 1])):
        bank = bank_format.open_bank(run / f"sinks-0000{index}.safetensors")
        planned[bank.path.name] = [span for row in rows for span in bank.byte_ranges(row)]
        state = f"state/{bank.path.name}"
        held = load_file(result / state)["blocks"].tolist()
        planned[state] = [
            tensor.row_range(held.index(block))
            for tensor in bank_format.read_header(result / state)
            if tensor.name != "blocks"
            for block in (7, 8, 9)
            if block in held
        ]
    zeroed = 0
    for name, ranges in planned.items():
        expected = bytearray(before[name])
        for begin, end in ranges:
            expected[begin:end] = bytes(end - begin)
            zeroed += end - begin
        assert after[name] == expected, name
    assert receipt.bytes_zeroed == zeroed
    # Ranges that touch are one, else an erase of many blocks is slow with many small writes.
    begin, end = planned["sinks-00001.safetensors"][0][0], planned["sinks-00001.safetensors"][1][1]
    stated = [(z.begin, z.end) for z in receipt.zeroed if z.file == "sinks-00001.safetensors"]
    assert stated == [(begin, end)]
    assert (receipt.ids, receipt.blocks, receipt.already_erased) == ((33,), (7, 8, 9), False)
    # Block 8 is the one that the second state file never saw.
    assert (receipt.optimizer_state, receipt.optimizer_blocks) == (True, 2)
    assert failed(receipt, result) == []


@pytest.mark.parametrize("mode", MODES)
def test_map_and_leaves_follow(tmp_path: Path, mode: str) -> None:
    run = write_run(tmp_path / "run")
    old = SinkMap.read(run / "sink_map.parquet").table.to_pylist()
    receipt, result = run_erase(run, mode, [0, 1], [11])
    rows = SinkMap.read(result / "sink_map.parquet").table.to_pylist()
    assert rows == [r | ({"status": "forgotten"} if r["sequence_id"] == 11 else {}) for r in old]
    for bank in bank_format.open_banks(result):
        assert list(bank_tree.block_leaves(bank)) == bank_tree.read_leaves(bank)
    first, second = receipt.banks
    assert [leaf.block for leaf in first.changed] == [0, 1]
    assert second.changed == ()
    assert second.root_before == second.root_after
    assert first.root_before != first.root_after


def test_out_of_place_leaves_the_source_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shape=RunShape(shared_bytes=3 << 20))
    digest = tree_digest(run)
    _, result = run_erase(run, "out", [2], [22])
    assert tree_digest(run) == digest
    # What is shared by hard link stays the source's when the copy is erased in place.
    source = [(p, p.stat().st_nlink) for p in run.rglob("*.safetensors")]
    assert {p.name for p, links in source if links > 1} <= {"model-shared.safetensors"}
    erase.erase_blocks(result, [0, 1], [11])
    assert tree_digest(run) == digest


def test_a_hard_linked_bank_is_not_changed_behind_the_other_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    twin = tmp_path / "twin"
    shutil.copytree(run, twin, copy_function=os.link)
    digest = tree_digest(twin)
    receipt = erase.erase_blocks(run, [0, 1], [11])
    assert tree_digest(twin) == digest
    assert failed(receipt, run) == []
    bank = run / "sinks-00000.safetensors"
    assert not os.path.samefile(bank, twin / bank.name)


def test_modes_give_the_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    _, result = run_erase(run, "out", [0, 1, 2], [11, 22])
    erase.erase_blocks(run, [2, 1, 0, 0], [22, 11])
    assert contents(run) == contents(result)


def test_erasing_twice_says_so_and_writes_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    erase.erase_blocks(run, [0, 1], [11])
    digest, times = tree_digest(run), {p: p.stat().st_mtime_ns for p in run.rglob("*.*")}
    for out in (None, tmp_path / "out"):
        receipt = erase.erase_blocks(run, [0, 1], [11], out=out)
        assert receipt.already_erased
        assert receipt.bytes_zeroed == 0
    assert tree_digest(run) == digest
    assert all(p.stat().st_mtime_ns == t for p, t in times.items() if p.name != ".lock")
    assert not (tmp_path / "out").exists()


def test_an_id_marked_forgotten_whose_blocks_live_is_erased(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", (MapRow(11, "private", (0, 1), "forgotten"),))
    receipt = erase.erase_blocks(run, [0, 1], [11])
    assert not receipt.already_erased
    assert failed(receipt, run) == []


def test_overlapping_pooled_ids_one_after_the_other(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", POOLED)
    erase.erase_blocks(run, [0, 1, 2, 3], [11])
    receipt = erase.erase_blocks(run, [2, 3, 4, 5], [22])
    assert receipt.blocks == (2, 3, 4, 5)
    assert [leaf.block for leaf in receipt.banks[0].changed] == [4, 5]
    assert failed(receipt, run) == []


@pytest.mark.parametrize(
    ("blocks", "ids", "message"),
    [
        ([0], [11], "all of them among the blocks to erase, found 2 blocks"),
        ([0], [99], "sequence sq-0000000000000063 in sink_map.parquet: expected blocks"),
        ([0], [44], "found 0 blocks"),
        ([2, 14], [22], "expected blocks 0 to 13, found block 14"),
        ([2, -1], [22], "expected blocks 0 to 13, found block -1"),
        ([], [], "found no block"),
    ],
)
def test_a_request_that_does_not_fit_changes_nothing(
    tmp_path: Path, blocks: list[int], ids: list[int], message: str
) -> None:
    run = write_run(tmp_path / "run")
    digest = tree_digest(run)
    with pytest.raises(CheckpointError) as caught:
        erase.erase_blocks(run, blocks, ids)
    assert message in str(caught.value)
    assert tree_digest(run) == digest


def test_a_bank_changed_behind_its_leaves_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    bank = bank_format.open_bank(run / "sinks-00000.safetensors")
    raw = bytearray(bank.path.read_bytes())
    raw[bank.byte_ranges(1)[0][0]] ^= 1
    bank.path.write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"block 1 in sinks-00000\.safetensors"):
        erase.erase_blocks(run, [0, 1], [11])


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    outside = tmp_path / "outside"
    shutil.move(run / "sinks-00000.safetensors", outside)
    (run / "sinks-00000.safetensors").symlink_to(outside)
    data = outside.read_bytes()
    with pytest.raises(CheckpointError, match="found a symbolic link or a special file"):
        erase.erase_blocks(run, [0, 1], [11])
    assert outside.read_bytes() == data


def test_a_taken_output_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="found something there already; give another --out"):
        erase.erase_blocks(run, [0, 1], [11], out=tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a run directory, found nothing"):
        erase.erase_blocks(tmp_path / "absent", [0], [11])
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("mode", MODES)
def test_a_locked_run_names_the_holder(tmp_path: Path, mode: str) -> None:
    run = write_run(tmp_path / "run")
    digest = tree_digest(run)
    with writer_lock(run), pytest.raises(LockedError, match=f"a lock held by pid {os.getpid()}"):
        run_erase(run, mode, [0, 1], [11])
    assert tree_digest(run) == digest


def test_a_kept_receipt_is_found_again_until_settled(tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "run"), tmp_path / "out"
    first = erase.erase_blocks(run, [0, 1], [11], out=out, pending=True)
    again = erase.erase_blocks(run, [0, 1], [11], out=out, pending=True)
    assert (again.files, again.banks, again.already_erased) == (first.files, first.banks, False)
    with pytest.raises(CheckpointError, match="found an unreported erase of 1 sequence IDs"):
        erase.erase_blocks(out, [2], [22])
    erase.settle(out)
    assert erase.pending_erase(out) is None
    erase.erase_blocks(out, [2], [22])


def test_a_forged_journal_is_an_error(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / erase.JOURNAL).write_text('{"format_version": 2, "finished": "yes", "receipt": {}}')
    with pytest.raises(CheckpointError, match="expected a journal of format version 2"):
        erase.erase_blocks(run, [0, 1], [11])


def test_unknown_optimizer_state_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    save_file({"exp_avg": np.zeros((3, 2), np.float32)}, run / "state" / "sinks-00000.safetensors")
    with pytest.raises(CheckpointError, match="a tensor 'blocks' of block indices"):
        erase.erase_blocks(run, [0, 1], [11])


def test_a_run_without_optimizer_state(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shape=RunShape(state=False))
    (run / "state" / "sinks-00000.leaves").write_bytes(b"left behind by whoever removed the state")
    receipt = erase.erase_blocks(run, [0, 1], [11])
    assert (receipt.optimizer_state, receipt.optimizer_blocks) == (False, 0)
    assert failed(receipt, run) == []


# --- verification can fail -----------------------------------------------------------------------

STATE = "state/sinks-00000.safetensors"
ROW_BYTES = BLOCK_BYTES  # of a moment: as many numbers as the block has


def flip(path: Path, position: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("name", "position", "check"),
    [
        # Blocks 0 and 1 are erased: the bank's row 2 of 8 is their neighbour.
        ("sinks-00000.safetensors", -6 * BLOCK_BYTES, "only planned blocks of sinks-00000"),
        ("sinks-00000.safetensors", 20, "only planned blocks of sinks-00000"),
        ("sinks-00000.leaves", 3 * 32, "only planned blocks of sinks-00000"),
        ("sinks-00000.leaves", -1, "only planned blocks of sinks-00000"),
        ("sinks-00001.leaves", -1, "only planned blocks of sinks-00001"),
        ("sinks-00001.safetensors", -1, "files not read again are as they were left"),
        ("sinks-00000.leaves", 0, "only planned blocks of sinks-00000"),
        ("model-shared.safetensors", -1, "untouched files are as before"),
        ("training.json", 0, "untouched files are as before"),
        # Block 1 is the last row of its state; block 2, its neighbour, stands before it.
        (STATE, -1, "only planned blocks of state/sinks-00000"),
        (STATE, -ROW_BYTES - 1, "only planned blocks of state/sinks-00000"),
        # Its index: before seven steps and as many rows of two moments.
        (STATE, -14 * ROW_BYTES - 2 * 7 * 8, "only planned blocks of state/sinks-00000"),
        ("state/sinks-00000.leaves", 5 * 32, "only planned blocks of state/sinks-00000"),
        ("state/sinks-00000.leaves", -1, "only planned blocks of state/sinks-00000"),
        ("state/sinks-00001.leaves", -1, "only planned blocks of state/sinks-00001"),
        ("state/sinks-00001.safetensors", -1, "files not read again are as they were left"),
        ("state/trainer.json", -2, "untouched files are as before"),
    ],
)
def test_one_changed_byte_is_found(tmp_path: Path, name: str, position: int, check: str) -> None:
    run = write_run(tmp_path / "run")
    receipt = erase.erase_blocks(run, [0, 1], [11])
    flip(run / name, position)
    assert [name for name in failed(receipt, run) if name.startswith(check)]


@pytest.mark.parametrize(
    ("name", "check"),
    [
        (STATE, "every other byte of the touched files is as before"),
        ("state/sinks-00001.safetensors", "untouched files are as before"),
    ],
)
def test_state_without_a_tree_is_read_in_full(tmp_path: Path, name: str, check: str) -> None:
    """As runs have it that were trained before state had trees."""
    run = write_run(tmp_path / "run", shape=RunShape(state_trees=False))
    receipt = erase.erase_blocks(run, [0, 1], [11])
    assert receipt.states == ()
    assert {file.basis for file in receipt.files if file.name.startswith("state/")} == {"read"}
    assert failed(receipt, run) == []
    flip(run / name, 2 * -ROW_BYTES - 1)
    assert failed(receipt, run) == [check]


def test_what_was_not_read_again_is_said(tmp_path: Path) -> None:
    """A block far from the erased ones is `audit verify`'s business, and the check admits it."""
    run = write_run(tmp_path / "run")
    receipt = erase.erase_blocks(run, [0, 1], [11])
    flip(run / "sinks-00000.safetensors", -1)
    bank = bank_format.open_bank(run / "sinks-00000.safetensors")
    assert list(bank_tree.block_leaves(bank)) != bank_tree.read_leaves(bank)
    details = {check.name: check.detail for check in erase.verify_erased(receipt, run)}
    assert details["only planned blocks of sinks-00000.safetensors changed"].endswith(
        "2 changed blocks, 3 read again with their neighbours, 5 leaves from the stored tree"
    )


def test_a_large_file_is_known_by_the_record_of_training(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shape=RunShape(shared_bytes=2 << 20))
    receipt = erase.erase_blocks(run, [0, 1], [11])
    basis = {file.name: file.basis for file in receipt.files}
    assert {name for name, known in basis.items() if known == "record"} == {
        "model-shared.safetensors"
    }
    assert {name for name, known in basis.items() if known == "tree"} == {
        f"{folder}sinks-0000{i}.{kind}"
        for folder in ("", "state/")
        for i in (0, 1)
        for kind in ("leaves", "safetensors")
    }
    flip(run / "model-shared.safetensors", -1)
    assert failed(receipt, run) == ["files not read again are as they were left"]


def test_a_block_that_is_not_zero_is_found(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    receipt = erase.erase_blocks(run, [0, 1], [11])
    flip(run / "sinks-00000.safetensors", receipt.zeroed[0].begin)
    assert "planned bytes are zero" in failed(receipt, run)


def test_files_that_came_or_went_and_a_list_put_back_are_found(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    receipt = erase.erase_blocks(run, [0, 1], [11])
    (run / "extra.bin").write_bytes(b"x")
    (run / "config.json").unlink()
    write_sink_map(run / "sink_map.parquet", PRIVATE)
    found = failed(receipt, run)
    assert "no file came or went" in found
    assert "the run lists the IDs as forgotten" in found


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(chosen=st.sets(st.sampled_from([11, 22, 33, 55]), min_size=1), in_place=st.booleans())
def test_law_zero_inside_equal_outside(tmp_path: Path, chosen: set[int], in_place: bool) -> None:
    run = tmp_path / "run"
    for old in (run, tmp_path / "erased"):
        shutil.rmtree(old, ignore_errors=True)
    write_run(run)
    before = [
        bank.read_block(r) for bank in bank_format.open_banks(run) for r in range(bank.blocks)
    ]
    blocks = [block for s in PRIVATE if s.sequence_id in chosen for block in s.blocks]
    receipt, result = run_erase(run, MODES[in_place], blocks, sorted(chosen))
    banks = bank_format.open_banks(result)
    for block, data in enumerate(before):
        found = banks[block // BANK_BLOCKS].read_block(block % BANK_BLOCKS)
        assert found == (bytes(len(data)) if block in blocks else data)
    assert failed(receipt, result) == []
