"""What was measured before an erase, as bytes: it must survive until the report is written.

One NumPy archive of plain arrays (never pickled objects). `unpack(pack(x))` measures as `x` does.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.errors import InputError
from sinkmodel.evaluate.generation import Recital
from sinkmodel.evaluate.rows import Before, Scored
from sinkmodel.evaluate.scores import DocumentScore

_TOKEN_ARRAYS = ("losses", "hits", "means", "deviations")
Arrays = Mapping[str, npt.NDArray[Any]]


def pack(before: Before) -> bytes:
    """The measurements before an erase as one archive."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for field in dataclasses.fields(before):
        scored = getattr(before, field.name)
        if scored is not None:
            for name, array in _arrays(scored).items():
                arrays[f"{field.name}.{name}"] = array
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(data: bytes) -> Before:
    """What `pack` wrote.

    Raises:
        InputError: The bytes are not such an archive.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = dict(archive)
        names = {name.split(".")[0] for name in arrays}
        fields = [field.name for field in dataclasses.fields(Before)]
        present = {name: _scored(arrays, name) for name in fields if name in names}
        return Before(**{"reference": None, **present})  # type: ignore[arg-type]  # KeyError tells
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "measurements before the erase",
            expected="the archive that this request wrote",
            found=str(error),
            remedy="remove the report directory and begin the request anew",
        ) from error


def pack_scored(scored: Scored) -> bytes:
    """One probe set under one routing as an archive; `unpack_scored` gives an equal one."""
    buffer = io.BytesIO()
    arrays = {f"scored.{name}": array for name, array in _arrays(scored).items()}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack_scored(data: bytes) -> Scored:
    """What `pack_scored` wrote."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return _scored(dict(archive), "scored")


def _arrays(scored: Scored) -> dict[str, npt.NDArray[Any]]:
    lengths = [len(score.losses) for score in scored.scores]
    tokens = {
        name: np.concatenate([getattr(s, name) for s in scored.scores] or [np.empty(0)])
        for name in _TOKEN_ARRAYS
    }
    able = [i for i, recital in enumerate(scored.recitals) if recital is not None]
    chosen = [recital for recital in scored.recitals if recital is not None]
    return {
        **tokens,
        "lengths": np.array(lengths, dtype=np.int64),
        "keys": np.array([score.key for score in scored.scores], dtype=str).reshape(-1, 2),
        "able": np.array(able, dtype=np.int64),
        "truth": np.array([recital.truth for recital in chosen], dtype=np.int64),
        "recited": np.array([recital.recited for recital in chosen], dtype=np.int64),
        "rouge_l": np.array([recital.rouge_l for recital in chosen], dtype=np.float64),
        "verbatim": np.array([recital.verbatim for recital in chosen], dtype=np.int64),
    }


def _scored(arrays: Arrays, prefix: str) -> Scored:
    def take(name: str) -> npt.NDArray[Any]:
        return arrays[f"{prefix}.{name}"]

    lengths = take("lengths")
    cuts = np.cumsum(lengths)[:-1]
    columns = [np.split(take(name), cuts) for name in _TOKEN_ARRAYS] if len(lengths) else [[]] * 4
    scores = [
        DocumentScore(
            key=(str(source), str(doc_id)),
            losses=losses,
            hits=hits.astype(bool),
            means=means,
            deviations=deviations,
        )
        for (source, doc_id), losses, hits, means, deviations in zip(
            take("keys"), *columns, strict=True
        )
    ]
    recitals: list[Recital | None] = [None] * len(scores)
    for row, index in enumerate(take("able").tolist()):
        recitals[index] = Recital(
            truth=tuple(take("truth")[row].tolist()),
            recited=tuple(take("recited")[row].tolist()),
            verbatim=int(take("verbatim")[row]),
            rouge_l=float(take("rouge_l")[row]),
        )
    return Scored(scores=tuple(scores), recitals=tuple(recitals))
