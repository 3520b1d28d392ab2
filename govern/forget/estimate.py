"""How much an erase will read, write and zero, and about how long that takes.

Bytes are counted from the files' headers and sizes, never from their data. They are upper bounds:
optimizer state exists only for blocks that were trained since it was begun, and a file system that
shares extents copies less. Seconds follow from two stated rates and leave measuring behaviour out,
which needs a model; `docs/benchmarks/forget.md` has what was measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from govern.audit.records import Count, Record
from govern.forget.plan import Plan
from sinkmodel import run_files
from sinkmodel.bank_format import leaves_name, open_banks, open_state
from sinkmodel.erase_files import READ_BELOW_BYTES

# Hashing on one core, and writing with a sync, on modest hardware; opening and recording.
_READ_BYTES_PER_SECOND = 500e6
_WRITE_BYTES_PER_SECOND = 250e6
_FIXED_SECONDS = 0.5
# Each planned block is read with its two neighbours, before the erase and after it.
_READS_OF_A_BLOCK = 6


@dataclass(frozen=True, kw_only=True)
class Estimate(Record):
    """What an erase costs; all but `bytes_zeroed` are upper bounds or rough.

    Attributes:
        bytes_zeroed: Of weights.
        state_bytes_zeroed: Of optimizer state, at most.
        bytes_read: Before and after the erase.
        bytes_written_in_place, bytes_written_to_copy: At most, where no extents are shared.
        seconds: Of reading and writing in place, without measuring behaviour.
    """

    bytes_zeroed: Count
    state_bytes_zeroed: Count
    bytes_read: Count
    bytes_written_in_place: Count
    bytes_written_to_copy: Count
    seconds: float


def estimate(plan: Plan, run: Path) -> Estimate:
    """Estimate the erase of a plan.

    Raises:
        CheckpointError: The run cannot be read.
    """
    sizes = {name: (run / name).stat().st_size for name in run_files.list_files(run)}
    banks = open_banks(run)
    planned = Counter(block // banks[0].blocks for block in plan.blocks)
    state = copied = state_read = linked = 0
    for index, bank in enumerate(banks):
        name = f"state/{bank.path.name}"
        size = sizes.get(name, 0)
        rows = _state_bytes(run / name, planned[index]) if size else 0
        has_tree = leaves_name(name) in sizes
        state_read += min(2 * size, _READS_OF_A_BLOCK * rows) if has_tree else 2 * size
        if planned[index]:
            copied += sizes[bank.path.name] + size
            names = (bank.path.name, name)
            linked += _linked_bytes(run, [*names, *map(leaves_name, names)])
            state += rows
    small = sum(size for size in sizes.values() if size < READ_BELOW_BYTES)
    zeroed = len(plan.blocks) * plan.block_bytes
    read = _READS_OF_A_BLOCK * zeroed + state_read + 2 * small
    written = zeroed + state + small
    return Estimate(
        bytes_zeroed=zeroed,
        state_bytes_zeroed=state,
        bytes_read=read,
        bytes_written_in_place=written + linked,
        bytes_written_to_copy=copied + small,
        seconds=round(
            _FIXED_SECONDS + read / _READ_BYTES_PER_SECOND + written / _WRITE_BYTES_PER_SECOND, 1
        ),
    )


def _state_bytes(path: Path, blocks: int) -> int:
    """Bytes of the state of so many blocks, or of all that the file has."""
    found = open_state(path)
    return found.block_bytes * min(blocks, found.blocks)


def _linked_bytes(run: Path, names: Iterable[str]) -> int:
    """Bytes of files that another run shares by hard link: an erase copies them first."""
    there = [path.stat() for name in names if (path := run / name).exists()]
    return sum(status.st_size for status in there if status.st_nlink > 1)


def estimate_text(found: Estimate) -> str:
    """Two lines for people."""
    return (
        f"Estimate   about {found.seconds:g} s without measuring; {found.bytes_read:,} bytes read\n"
        f"  at most {found.state_bytes_zeroed:,} bytes of optimizer state zeroed; written in place "
        f"{found.bytes_written_in_place:,}, to a copy {found.bytes_written_to_copy:,}"
    )
