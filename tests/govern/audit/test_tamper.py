"""Single bytes, exhaustively on a small world: every flip is found and the thing is named."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from audit_world import World
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_run import BANK_BLOCKS, BLOCK_SIZE, HIDDEN, LAYERS
from tampering import REPORT_CHECKS, Tampering, member, restored

from govern.cli import cli

KINDS = ("report", "run", "ledger", "manifest")
# Of shared weights and optimizer state, which nothing but their digests binds, every n-th byte.
SAMPLED = {"model-shared.safetensors": 4, "state": 4}


def positions(path: Path) -> range:
    step = SAMPLED.get(path.name) or SAMPLED.get(path.parent.name) or 1
    return range(0, path.stat().st_size, step)


@pytest.mark.parametrize("kind", KINDS)
def test_some_flipped_bytes_are_found(kind: str, world: World) -> None:
    tampering, count = Tampering(world), 0
    for path in tampering.files(kind):
        size = path.stat().st_size
        chosen = random.Random(path.name).sample(range(size), min(size, 12))
        if kind == "report":
            chosen = list(range(0, size, 103))
        count += tampering.sweep(kind, path, chosen, 0x01 << (size % 8))
    assert count >= 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "mask"),
    # A second mask tells more only where bytes are characters that others can replace.
    [("report", 0x01), ("report", 0x20), ("run", 0x01), ("ledger", 0x01), ("manifest", 0x01)],
)
def test_every_flipped_byte_is_found(
    kind: str, mask: int, world: World, record_property: Callable[[str, object], None]
) -> None:
    tampering, counts = Tampering(world), {}
    for path in tampering.files(kind):
        counts[str(path)] = tampering.sweep(kind, path, positions(path), mask)
    for name, count in counts.items():
        record_property(name, count)  # shown by --junitxml=FILE -o junit_family=xunit1
    least = {"report": 15_000, "run": 8_500, "ledger": 14_000, "manifest": 20_000}
    assert sum(counts.values()) >= least[kind]


# --- any edit at all -----------------------------------------------------------------------------


@st.composite
def edits(draw: st.DrawFn, size: int) -> tuple[int, int, bytes]:
    """Replace bytes [begin, end) by others: a flip, an insertion, a deletion, a truncation."""
    begin = draw(st.integers(0, size))
    end = draw(st.one_of(st.integers(begin, min(size, begin + 4)), st.just(size)))
    return begin, end, draw(st.binary(max_size=4))


@pytest.mark.parametrize("kind", KINDS)
def test_any_edit_of_any_file_is_found(kind: str, world: World) -> None:
    """The property: a file whose bytes differ fails by name; one whose bytes do not passes."""
    tampering = Tampering(world)
    files = tampering.files(kind)

    @given(st.data())
    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    def law(choice: st.DataObject) -> None:
        path = choice.draw(st.sampled_from(files))
        data = path.read_bytes()
        begin, end, other = choice.draw(edits(len(data)))
        edited = data[:begin] + other + data[end:]
        if edited == data:
            return
        with restored(path):
            path.write_bytes(edited)
            failed = tampering.evidence[kind][1]()
            if len(edited) == len(data):
                assert tampering.names(kind, path, data, begin, failed), (path.name, failed)
            else:
                assert failed, path.name

    law()
    for known in KINDS:
        assert tampering.evidence[known][1]() == [], "something was not put back"


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
        with restored(bank):
            data = bytearray(bank.read_bytes())
            data[begin + block * block_bytes] ^= 1
            bank.write_bytes(data)
            assert detail in {c.name: c.detail for c in Tampering(world).run()}[name]


# --- the command line ----------------------------------------------------------------------------


def verify(world: World, *, manifest: bool = False) -> tuple[int, str]:
    """Exit code, and the lines of the checks that failed."""
    command = [
        "audit", "verify", str(world.report_path), "--model", str(world.run),
        "--ledger", str(world.ledger), "--public-key", str(world.public_key),
        *(["--manifest", str(world.manifest)] if manifest else []),
    ]  # fmt: skip
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    failed = [line for line in result.output.splitlines() if line.startswith("FAILED")]
    return result.exit_code, "\n".join(failed)


def test_one_byte_of_each_kind_through_the_command_line(world: World) -> None:
    """The contract: exit 3, and the thing is named."""
    table = sorted((world.manifest / "documents").glob("*.parquet"))[0]
    cases = {
        world.report_path: "report",
        world.run / "sinks-00001.safetensors": "sinks-00001.safetensors",
        world.run / "sink_map.parquet": "sink_map.parquet",
        world.ledger / "entries" / "00000000.json": "entries/00000000.json",
        world.ledger / "heads" / "00000001.json": "heads/00000001.json",
        table: table.name,
        world.manifest / "manifest.json": f"manifest {world.manifest}",
    }
    assert verify(world, manifest=True) == (0, "")
    for path, named in cases.items():
        with restored(path):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
            code, failed = verify(world, manifest=world.manifest in path.parents)
            assert code == 3
            assert named in failed, (named, failed)
    assert verify(world, manifest=True) == (0, "")


def test_every_byte_of_a_report_belongs_to_a_member(world: World) -> None:
    """The map that says which check must fail covers the report, each part where it lies."""
    data = world.report_path.read_bytes()
    order = [member(data, at) for at in range(len(data))]
    seen: Sequence[str] = list(dict.fromkeys(order))
    assert seen == sorted(REPORT_CHECKS)
    assert member(data, data.index(b'"payload":"') + 50) == "envelope"
    assert member(data, data.index(b'"inclusion_path"')) == "ledger"
    assert member(data, data.index(b"BEGIN PUBLIC KEY")) == "public_keys"
