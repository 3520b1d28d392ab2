"""datasketch: MinHash in bulk with a fast hash function, then its LSH and union-find."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from datasketch import MinHash, MinHashLSH
from xxhash import xxh32_intdigest

from peers.script import (
    PERMUTATIONS,
    THRESHOLD,
    components,
    records,
    shingles,
    write_clusters,
)

PACKAGES = ("datasketch", "xxhash")
_BATCH = 1000


def _sketches(texts: list[str]) -> list[MinHash]:
    sets = [[shingle.encode() for shingle in shingles(text)] for text in texts]
    return MinHash.bulk(sets, num_perm=PERMUTATIONS, hashfunc=xxh32_intdigest)


def signatures(texts: list[str]) -> None:
    _sketches(texts)


def cluster(shards: list[Path], out: Path, workers: int) -> None:
    names, texts = zip(*records(shards), strict=True)
    batches = [list(texts[at : at + _BATCH]) for at in range(0, len(texts), _BATCH)]
    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    sketches: list[MinHash] = []
    with ProcessPoolExecutor(workers) as pool:
        for batch in pool.map(_sketches, batches):
            sketches += batch
    with lsh.insertion_session() as session:
        for number, sketch in enumerate(sketches):
            session.insert(number, sketch, check_duplication=False)
    found = ((number, lsh.query(sketch)) for number, sketch in enumerate(sketches))
    write_clusters(out, names, components(len(names), found))
