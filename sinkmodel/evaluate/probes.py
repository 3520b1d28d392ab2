"""Probes: the documents that are measured, as token arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One document to measure.

    Args:
        key: Names it in results; never printed into statements.
        sequence_id: The ID that it was trained under (0: none).
        tokens: int32 [n], with begin and end tokens as in training.
        text: Its UTF-8 bytes, for compression-based scores.
    """

    key: tuple[str, str]
    sequence_id: int
    tokens: Tokens
    text: bytes


@dataclass(frozen=True, kw_only=True)
class Probes:
    """The documents to measure.

    Args:
        forgotten: Documents of the sequences to forget.
        policies: Policy of each forgotten sequence ID.
        kept: Documents of other sequences that own sinks.
        held_out: Reserved documents, which no training saw.
        covered: Group -> documents that there are of it; where fewer are measured, these are a
            sample. A group that is missing was measured whole.
        seed: Of samples and intervals.
        nearest: Forgotten sequence ID -> a document of the kept sequence that resembles it most;
            only of sequences that have one, and only for attacks.
    """

    forgotten: tuple[Probe, ...]
    policies: Mapping[int, str]
    kept: tuple[Probe, ...]
    held_out: tuple[Probe, ...]
    covered: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    nearest: Mapping[int, Probe] = field(default_factory=dict)

    def groups(self) -> dict[str, list[int]]:
        """Indices into `forgotten` by group, `forgotten:POLICY`."""
        found: dict[str, list[int]] = {}
        for index, probe in enumerate(self.forgotten):
            found.setdefault(group_of(self.policies[probe.sequence_id]), []).append(index)
        return dict(sorted(found.items()))


def group_of(policy: str) -> str:
    """Name of the group of forgotten documents of this policy."""
    return f"forgotten:{policy}"


def probe_digest(probes: Sequence[Probe]) -> str:
    """SHA-256 over tokens and IDs of a probe set, whatever its order."""
    parts = sorted(
        hashlib.sha256(probe.sequence_id.to_bytes(8, "big") + probe.tokens.tobytes()).digest()
        for probe in probes
    )
    return hashlib.sha256(b"".join(parts)).hexdigest()
