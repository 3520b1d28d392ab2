"""Routing a prompt to the sequence that it most resembles: TF-IDF over an index saved with the run.

The index holds counts of hashed words, no text and no pickle: row by row, so that a forgotten
sequence is removed by leaving out its rows, to the bytes of an index that never had them. Document
frequencies are computed from the rows when the index is read, for the same reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from manifests.errors import CheckpointError, InputError
from manifests.files import atomic_write
from sinkmodel.allocation import IntArray, SinkMap

ROUTE_INDEX_FILE = "route_index.safetensors"
_PARAMETERS = {"format": "memsinks-govern route index v1", "features": 2**18, "words": [1, 2]}


@dataclass(frozen=True, kw_only=True)
class Match:
    """The sequence that a prompt was routed to, and the cosine similarity in (0, 1]."""

    sequence_id: int
    similarity: float


@dataclass(frozen=True, kw_only=True)
class RouteIndex:
    """Counts of hashed words and word pairs of documents, in compressed rows.

    Args:
        sequence_ids: int64 [rows], ascending; a sequence may have several rows.
        offsets: int64 [rows + 1]: row k has the entries `offsets[k]:offsets[k + 1]`.
        features: int32 [entries], ascending within a row.
        counts: int32 [entries].
    """

    sequence_ids: IntArray
    offsets: IntArray
    features: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]

    @classmethod
    def build(cls, sequence_ids: Sequence[int], texts: Iterable[str]) -> RouteIndex:
        """Index texts, one row each; the order of the texts of one sequence is kept."""
        order = np.argsort(np.asarray(sequence_ids, dtype=np.int64), kind="stable")
        counts = _count(texts)[order]
        return cls(
            sequence_ids=np.asarray(sequence_ids, dtype=np.int64)[order],
            offsets=counts.indptr.astype(np.int64),
            features=counts.indices.astype(np.int32),
            counts=counts.data.astype(np.int32),
        )

    @classmethod
    def read(cls, path: Path) -> RouteIndex:
        """Read an index.

        Raises:
            InputError: The run has none.
            CheckpointError: The file is not an index of this version.
        """
        if not path.is_file():
            raise InputError(
                str(path),
                expected="the route index of a run",
                found="no such file",
                remedy="choose the sinks with --sinks off or --sinks ID",
            )
        data = path.read_bytes()
        try:
            arrays = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            parameters = json.loads(header["__metadata__"]["parameters"])
            index = cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        except (SafetensorError, KeyError, ValueError) as error:
            raise _foreign(path, str(error)) from error
        if parameters != _PARAMETERS:
            raise _foreign(path, json.dumps(parameters))
        index._check(path)
        return index

    def to_bytes(self) -> bytes:
        """A safetensors file; equal indexes give equal bytes."""
        arrays: dict[str, npt.NDArray[Any]] = {
            name: np.ascontiguousarray(getattr(self, name)) for name in self.__dataclass_fields__
        }
        return save(arrays, metadata={"parameters": json.dumps(_PARAMETERS, sort_keys=True)})

    def save(self, path: Path) -> None:
        """Replace the file at `path` atomically."""
        atomic_write(path, self.to_bytes())

    def without(self, sequence_ids: Iterable[int]) -> RouteIndex:
        """The index as if these sequences had never been indexed, to the byte."""
        dropped = np.fromiter(sequence_ids, dtype=np.int64)
        keep = ~np.isin(self.sequence_ids, dropped)
        lengths = np.diff(self.offsets)
        entries = np.repeat(keep, lengths)
        return RouteIndex(
            sequence_ids=self.sequence_ids[keep],
            offsets=np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64),
            features=self.features[entries],
            counts=self.counts[entries],
        )

    def route(self, prompt: str, sink_map: SinkMap) -> Match | None:
        """The active sequence whose text is most similar to the prompt.

        Cosine similarity of TF-IDF with logarithmic term frequency (scikit-learn,
        `TfidfTransformer`, `sublinear_tf`). Of equal ones the least ID is taken.

        Args:
            prompt: Any text.
            sink_map: Of the run; IDs that it has forgotten or does not know are never chosen.

        Returns:
            None if no word of the prompt occurs in any indexed text.
        """
        from scipy.sparse import csr_matrix
        from sklearn.feature_extraction.text import TfidfTransformer

        active = sink_map.sequence_ids[sink_map.active]
        allowed = np.isin(self.sequence_ids, active)
        if not allowed.any():
            return None
        shape = (len(self.sequence_ids), _PARAMETERS["features"])
        counts = csr_matrix((self.counts, self.features, self.offsets), shape=shape, dtype=float)
        weigh = TfidfTransformer(sublinear_tf=True).fit(counts)
        similarity = (weigh.transform(counts) @ weigh.transform(_count([prompt])).T).toarray()[:, 0]
        best = int(np.argmax(np.where(allowed, similarity, -1.0)))
        if similarity[best] <= 0:
            return None
        return Match(
            sequence_id=int(self.sequence_ids[best]), similarity=min(1.0, float(similarity[best]))
        )

    def _check(self, path: Path) -> None:
        """Refuse arrays that do not describe rows."""
        rows, entries = len(self.sequence_ids), len(self.features)
        fits = (
            [str(array.dtype) for array in (self.sequence_ids, self.offsets, self.features)]
            == ["int64", "int64", "int32"]
            and self.counts.shape == self.features.shape == (entries,)
            and self.offsets.shape == (rows + 1,)
            and self.offsets[0] == 0
            and self.offsets[-1] == entries
            and bool((np.diff(self.offsets) >= 0).all())
            and (not entries or 0 <= self.features.min() <= self.features.max() < 2**18)
        )
        if not fits:
            raise _foreign(path, "arrays that do not fit together")


def _count(texts: Iterable[str]) -> Any:
    """Sparse counts [texts, features] of lower-case words and pairs of neighbouring words."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        n_features=_PARAMETERS["features"],
        ngram_range=tuple(_PARAMETERS["words"]),  # type: ignore[arg-type]
        token_pattern=r"(?u)\w+",
        alternate_sign=False,
        norm=None,
    )
    texts = list(texts)
    if not texts:  # which scikit-learn refuses
        return csr_matrix((0, _PARAMETERS["features"]))
    counts = vectorizer.transform(texts).tocsr()
    counts.sort_indices()
    return counts


def _foreign(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        str(path),
        expected=f"a {_PARAMETERS['format']}",
        found=found[:200],
        remedy="restore the file from the training run or a backup",
    )
