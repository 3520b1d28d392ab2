"""Tampering, exhaustively on a small run: every flipped byte is found and the thing is named."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from audit_world import World
from click.testing import CliRunner
from synthetic_run import BANK_BLOCKS, BLOCK_SIZE, HIDDEN, LAYERS

from govern.audit.checkpoint_files import scan_run
from govern.audit.findings import Check
from govern.audit.verify import verify_report
from govern.audit.verify_checkpoint import CheckpointChecks
from govern.cli import cli
from manifests.errors import GovernError

REPORT_CHECKS = {
    "report form", "signatures", "disclosure", "ledger receipt", "verdict follows from the figures",
    "inner consistency",
}  # fmt: skip


def flips(path: Path, positions: Iterator[int] | range, mask: int) -> Iterator[int]:
    """Flip one byte after the other on disk; the file is whole again at the end."""
    data = path.read_bytes()
    try:
        for at in positions:
            path.write_bytes(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])
            yield at
    finally:
        path.write_bytes(data)


def checkpoint_failures(world: World) -> list[Check]:
    """The failed checks of the run directory alone; the report was not touched."""
    try:
        run = scan_run(world.run)
    except GovernError as error:
        return [Check(name="checkpoint files", outcome="failed", detail=str(error))]
    checks = CheckpointChecks(statement=world.statement, run=run).all()
    return [check for check in checks if check.outcome == "failed"]


def report_positions(data: bytes, step: int) -> list[int]:
    """Every `step`-th byte; of the payload, one long base64 text, a tenth of those (all at 1)."""
    begin = data.index(b'"payload":"') + len(b'"payload":"')
    end = data.index(b'"', begin)
    return [
        *range(0, begin, step),
        *range(begin, end, 10 * step if step > 1 else 1),
        *range(end, len(data), step),
    ]


@pytest.mark.parametrize(
    ("mask", "step"),
    [(0x20, 7), pytest.param(0x01, 1, marks=pytest.mark.slow)],
)
def test_every_flipped_byte_of_the_report_is_found(world: World, mask: int, step: int) -> None:
    positions = report_positions(world.report_path.read_bytes(), step)
    for at in flips(world.report_path, iter(positions), mask):
        failed = verify_report(world.report_path).failed
        assert failed, f"byte {at} of the report"
        assert {check.name for check in failed} <= REPORT_CHECKS


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    ["sink_map.parquet", "sinks-00000.leaves", "sinks-00001.leaves", "training.json"],
)
def test_every_flipped_byte_of_a_small_file_is_found(name: str, step: int, world: World) -> None:
    path = world.run / name
    for at in flips(path, range(0, path.stat().st_size, step), 0x01):
        failed = checkpoint_failures(world)
        assert any(name in check.detail for check in failed), (name, at)


def test_flipped_bytes_of_banks_and_weights_are_found(world: World) -> None:
    sampled = 0
    for name in (
        "sinks-00000.safetensors", "sinks-00001.safetensors", "model-shared.safetensors",
        "state/sinks-00000.safetensors",
    ):  # fmt: skip
        path = world.run / name
        size = path.stat().st_size
        positions = sorted(random.Random(name).sample(range(size), min(size, 250)))
        for at in flips(path, iter(positions), 0x80):
            failed = checkpoint_failures(world)
            assert any(Path(name).name in check.detail for check in failed), (name, at)
            sampled += 1
    assert sampled == 1000


def test_a_flipped_byte_of_a_bank_names_the_block(world: World) -> None:
    """Where the statement's digests are forged as well, the Merkle root still tells."""
    bank = world.run / "sinks-00000.safetensors"
    block_bytes = LAYERS * 3 * BLOCK_SIZE * HIDDEN * 4
    begin = bank.stat().st_size - BANK_BLOCKS * block_bytes
    expected = {  # block -> the check that fails and what it says; 22 owned block 2, nobody 3
        3: ("sink banks", "blocks of sinks-00000.safetensors beside the stated ones changed"),
        2: ("erased blocks are zero", "block 2 in sinks-00000.safetensors is not zero"),
    }
    for block, (name, detail) in expected.items():
        for _ in flips(bank, iter([begin + block * block_bytes]), 0x01):
            failed = {check.name: check.detail for check in checkpoint_failures(world)}
            assert detail in failed[name]


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_report_is_refused(keep: int, world: World) -> None:
    world.report_path.write_bytes(world.report_path.read_bytes()[:keep])
    assert [check.name for check in verify_report(world.report_path).failed] == ["report form"]


def test_four_single_bytes_through_the_command_line(world: World) -> None:
    """The contract: exit 3, and the thing is named."""
    table = sorted((world.manifest / "documents").glob("*.parquet"))[0]
    cases = {
        world.report_path: "report",
        world.run / "sinks-00001.safetensors": "sinks-00001.safetensors",
        world.ledger / "entries" / "00000000.json": "entries/00000000.json",
        table: table.name,
        world.manifest / "manifest.json": f"manifest {world.manifest}",
    }
    command = [
        "audit", "verify", str(world.report_path), "--model", str(world.run),
        "--manifest", str(world.manifest), "--ledger", str(world.ledger),
        "--public-key", str(world.public_key),
    ]  # fmt: skip
    assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0
    for path, named in cases.items():
        for _ in flips(path, iter([path.stat().st_size // 2]), 0x01):
            result = CliRunner().invoke(cli, command, catch_exceptions=False)
            failed = [line for line in result.output.splitlines() if line.startswith("FAILED")]
            assert result.exit_code == 3
            assert named in "".join(failed), (named, result.output)
    assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0


def test_a_sample_of_manifest_bytes_is_found(world: World) -> None:
    paths = sorted(p for p in world.manifest.rglob("*") if p.is_file() and p.name != ".lock")
    for path in paths:
        size = path.stat().st_size
        for at in flips(path, iter([random.Random(path.name).randrange(size)]), 0x01):
            failed = verify_report(world.report_path, manifest=world.manifest).failed
            named = str(world.manifest) if path.name == "manifest.json" else path.name
            assert any(named in check.detail for check in failed), (path.name, at)
