"""Documents as token arrays, in an order that depends on their content alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from manifests import Manifest
from manifests.errors import ManifestError
from sinkmodel.keyed_hash import keyed_hash, keyed_uniform

_NOISE = 0x4E4F495345  # keeps the draws of `with_wrong_ids` apart from those of the schedule


@dataclass(frozen=True, kw_only=True)
class TokenStore:
    """All tokens of the documents to train on.

    Args:
        tokens: int32 [N], the documents one after another, each begin + text + end.
        offsets: int64 [D + 1], where each document begins.
        sequence_ids: int64 [D]; documents are sorted by (sequence ID, SHA-256 of the text, source,
            doc_id), so nothing downstream depends on the order of files.
    """

    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    sequence_ids: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document, int64 [D]."""
        return np.diff(self.offsets)

    def document(self, index: int) -> npt.NDArray[np.int32]:
        """The tokens of one document, a view."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def digest(self) -> str:
        """SHA-256 over all three arrays: equal digests train equal models."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.offsets, self.sequence_ids):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def trainable_documents(manifest: Manifest, exclude: Iterable[int] = ()) -> pa.Table:
    """Documents that a run may train on: active, not reserved, not excluded.

    Args:
        manifest: The open manifest.
        exclude: Sequence IDs to leave out, as an oracle that never saw them does.

    Returns:
        source, doc_id, sha256, sequence_id, policy; sorted as `TokenStore` wants them.
    """
    sequences = manifest.table("sequences")
    keep = pc.and_(pc.equal(sequences["status"], "active"), pc.invert(sequences["reserved"]))
    keep = pc.and_(
        keep,
        pc.invert(pc.is_in(sequences["sequence_id"], pa.array(sorted(exclude), type=pa.int64()))),
    )
    chosen = sequences.filter(keep).select(["sequence_id", "policy"])
    documents = manifest.table("documents").select(["source", "doc_id", "sha256", "sequence_id"])
    joined = documents.join(chosen, "sequence_id", join_type="inner")
    order = [(name, "ascending") for name in ("sequence_id", "sha256", "source", "doc_id")]
    return joined.sort_by(order).combine_chunks()


def collect_texts(documents: pa.Table, batches: Iterable[pa.RecordBatch]) -> list[str]:
    """The texts of `documents`, in its order, from batches of (source, doc_id, text).

    Raises:
        ManifestError: A document has no text in the corpus.
    """
    keys = zip(documents["source"].to_pylist(), documents["doc_id"].to_pylist(), strict=True)
    place = {key: index for index, key in enumerate(keys)}
    texts: list[str | None] = [None] * len(place)
    for batch in batches:
        columns = (batch.column(name).to_pylist() for name in ("source", "doc_id", "text"))
        for source, doc_id, text in zip(*columns, strict=True):
            index = place.get((source, doc_id))
            if index is not None:
                texts[index] = text
    missing = [key for key, index in place.items() if texts[index] is None]
    if missing:
        raise ManifestError(
            f"document {missing[0][1]!r} of source {missing[0][0]!r}",
            expected="its text in the corpus",
            found=f"none ({len(missing)} documents are missing)",
            remedy="give the corpus that the manifest was built from with --corpus",
        )
    return [text for text in texts if text is not None]


def encode(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, max_document_tokens: int = 0
) -> list[npt.NDArray[np.int32]]:
    """Each text as begin + tokens + end, cut to its first `max_document_tokens` (0: not cut)."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    # The length warning of transformers is about models with absolute positions; ours cuts chunks.
    encoded = (
        tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    )
    most = max_document_tokens or None
    return [
        np.asarray([*begin, *ids, tokenizer.eos_token_id], dtype=np.int32)[:most] for ids in encoded
    ]


def with_wrong_ids(
    store: TokenStore, policies: Sequence[str], *, share: float, seed: int
) -> tuple[TokenStore, list[str]]:
    """Give a share of the private and pooled documents the ID of another such sequence.

    Which documents, and whose IDs, is a keyed hash of (seed, sequence ID, place in the sequence).
    Robustness to wrong IDs is a published figure (MemSinks, arXiv 2507.09937, section 5).

    Returns:
        The store sorted anew, and the policies in its order.
    """
    noisy = np.array([policy in ("private", "pooled") for policy in policies])
    ids = store.sequence_ids.copy()
    candidates = np.unique(ids[noisy])
    if len(candidates) < 2:
        return store, list(policies)
    policy_of = dict(zip(store.sequence_ids.tolist(), policies, strict=True))
    for sequence_id in candidates:
        rows = np.flatnonzero(store.sequence_ids == sequence_id)
        wrong = rows[keyed_uniform(seed ^ _NOISE, int(sequence_id), np.arange(len(rows))) < share]
        others = candidates[candidates != sequence_id]
        drawn = keyed_hash(seed ^ _NOISE, int(sequence_id), len(rows) + np.arange(len(wrong)))
        ids[wrong] = others[(drawn % np.uint64(len(others))).astype(np.int64)]
    order = np.argsort(ids, kind="stable")
    pieces = [store.document(int(row)) for row in order]
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
    shuffled = TokenStore(
        tokens=np.concatenate(pieces), offsets=offsets.astype(np.int64), sequence_ids=ids[order]
    )
    return shuffled, [policy_of[int(sequence_id)] for sequence_id in shuffled.sequence_ids]


def tokenize(
    documents: pa.Table,
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    max_document_tokens: int = 0,
) -> TokenStore:
    """Encode every text as begin + tokens + end.

    Args:
        documents: As `trainable_documents` returns them.
        texts: Their texts, in the same order.
        tokenizer: With an end token; the begin token is used where there is one.
        max_document_tokens: Keep the first so many tokens of each document; 0 keeps all.
    """
    pieces = encode(list(texts), tokenizer, max_document_tokens)
    offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return TokenStore(
        tokens=np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32),
        offsets=offsets,
        sequence_ids=documents["sequence_id"].to_numpy().astype(np.int64),
    )
