"""`forgotten.txt`: the sequence IDs that a run has forgotten, beside its sink map.

One printed ID a line, ascending, nothing else; empty at the end of training. The sink map itself is
never written again, so marking one sequence of a million costs a line and not a million rows, and
the digest that training pinned stays that of the map for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests.errors import CheckpointError
from manifests.sequence_id import format_id

FORGOTTEN_FILE = "forgotten.txt"
_LINES = re.compile(rb"(sq-[0-9a-f]{16}\n)*")
_LINE_BYTES = len("sq-") + 16 + 1
IntArray = npt.NDArray[np.int64]


def encode_forgotten(sequence_ids: Iterable[int]) -> bytes:
    """The bytes of the file; equal sets give equal bytes."""
    return "".join(f"{format_id(i)}\n" for i in sorted(set(sequence_ids))).encode()


def read_forgotten(path: Path) -> IntArray:
    """IDs, int64, ascending; `encode_forgotten` is the inverse.

    Raises:
        CheckpointError: The file is missing, or is not such a list.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _foreign(path, error.strerror or "an error") from error
    if not _LINES.fullmatch(data):
        raise _foreign(path, "other lines")
    hexadecimal = b"".join(data[at + 3 : at + 19] for at in range(0, len(data), _LINE_BYTES))
    unsigned = np.frombuffer(bytes.fromhex(hexadecimal.decode()), dtype=">u8")
    if len(unsigned) and (unsigned[-1] >= 2**63 or (unsigned[1:] <= unsigned[:-1]).any()):
        raise _foreign(path, "IDs that are too large or not ascending")
    return unsigned.astype(np.int64)


def _foreign(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        str(path),
        expected="the forgotten sequence IDs of a run, one a line, ascending",
        found=found,
        remedy="restore the file from the training run or a backup",
    )
