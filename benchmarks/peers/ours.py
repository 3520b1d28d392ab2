"""This project, called as the command line calls it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from govern.ids.compiled import sketch
from govern.ids.minhash import permutations
from govern.ids.pipeline import BuildConfig, build_ids
from manifests import open_manifest
from peers.script import NGRAM, PERMUTATIONS, write_clusters

PACKAGES = ("numba", "numpy", "pyarrow")
_BATCH_BYTES = 4 << 20


def prepare(texts: list[str]) -> list[pa.Array]:
    """Batches as the readers hand them out: Arrow strings of some megabytes."""
    batches, batch, size = [], [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_BYTES:
            batches.append(pa.array(batch, pa.large_string()))
            batch, size = [], 0
    return [*batches, pa.array(batch, pa.large_string())] if batch else batches


def signatures(batches: list[pa.Array]) -> None:
    for texts in batches:  # also the digest of each normalised text, which is part of a sketch
        sketch(texts, ngram=NGRAM, permutations=permutations(PERMUTATIONS, 1))


def cluster(shards: list[Path], out: Path, workers: int) -> None:
    build_ids(shards, out / "manifest", BuildConfig(workers=workers))


def export(shards: list[Path], out: Path) -> None:  # noqa: ARG001
    """Also `links.tsv`, a line `document ID <tab> document ID` a verified pair."""
    manifest = open_manifest(out / "manifest")
    table = manifest.table("documents", ["doc_id", "sequence_id"])
    write_clusters(out, table["doc_id"].to_pylist(), table["sequence_id"].to_pylist())
    links = manifest.table("links", ["doc_id_a", "doc_id_b"]).to_pydict()
    with (out / "links.tsv").open("w") as file:
        file.writelines(f"{a}\t{b}\n" for a, b in zip(*links.values(), strict=True))
