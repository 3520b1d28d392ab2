"""Sixth stage: sequence IDs for clusters."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from manifests import sequence_id
from manifests.errors import InputError, ManifestError

_RESERVE_DOMAIN = b"memsinks-govern reserve v1\x00"


def assign_ids(
    content: npt.NDArray[np.uint64], representative: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The sequence ID of each text: derived from the content hash of its representative.

    The representative has the smallest content hash of its cluster, so the ID depends on the
    cluster's texts alone.

    Args:
        content: uint64 [texts, 4], content hashes as big-endian words.
        representative: int64 [texts].

    Raises:
        ManifestError: Two clusters have the same ID (a chance of n^2 / 2^64).
    """
    founders = np.flatnonzero(representative == np.arange(len(representative)))
    raw = content[founders].astype(">u8").tobytes()
    ids = np.fromiter(
        (sequence_id.derive(raw[at : at + 32]) for at in range(0, len(raw), 32)),
        dtype=np.int64,
        count=len(founders),
    )
    check_distinct(ids)
    of_text = np.zeros(len(representative), dtype=np.int64)
    of_text[founders] = ids
    return of_text[representative]


def check_distinct(ids: npt.NDArray[np.int64]) -> None:
    """Refuse two clusters with one ID.

    Raises:
        ManifestError: An ID occurs twice.
    """
    ranked = np.sort(ids)
    twice = ranked[1:][ranked[1:] == ranked[:-1]]
    if len(twice):
        raise ManifestError(
            f"sequence ID {sequence_id.format_id(int(twice[0]))}",
            expected="one cluster",
            found="two clusters whose representatives hash to it",
            remedy="change --ngram or --threshold slightly, or leave one of the documents out",
        )


def reserved(ids: npt.NDArray[np.int64], fraction: float) -> npt.NDArray[np.bool_]:
    """Which sequences are set aside as never-trained reference.

    Whole clusters, chosen by a hash of the ID: the same ones for the same corpus, and a larger
    fraction keeps those of a smaller one.

    Raises:
        InputError: The fraction is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise InputError(
            f"--reserve {fraction}",
            expected="a fraction from 0 to below 1",
            found="another number",
            remedy="give for example 0.05",
        )
    if fraction == 0:
        return np.zeros(len(ids), dtype=np.bool_)
    bound = int(fraction * 2**64)
    return np.fromiter(
        (
            int.from_bytes(hashlib.sha256(_RESERVE_DOMAIN + i.to_bytes(8, "big")).digest()[:8])
            < bound
            for i in ids.tolist()
        ),
        dtype=np.bool_,
        count=len(ids),
    )
