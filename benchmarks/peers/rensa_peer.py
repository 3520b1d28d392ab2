"""rensa: full-set R-MinHash from token lists in one call, its native LSH, union-find.

Its faster `rho` sketch samples token positions: no MinHash of the set, so it is not compared. Its
threads are those of Rayon; the environment sets their number.
"""

from __future__ import annotations

from pathlib import Path

from rensa import RMinHash, RMinHashLSH

from peers.script import (
    PERMUTATIONS,
    THRESHOLD,
    components,
    records,
    shingles,
    write_clusters,
)

PACKAGES = ("rensa",)
BANDS = 16  # of 8 rows, half of the pairs at 0.7: nothing verifies what it finds
_BATCH = 1000


def signatures(texts: list[str]) -> None:
    for at in range(0, len(texts), _BATCH):
        sets = [shingles(text) for text in texts[at : at + _BATCH]]
        RMinHash.digest_matrix_from_token_sets(sets, PERMUTATIONS, 42)


def cluster(shards: list[Path], out: Path, workers: int) -> None:  # noqa: ARG001
    names, texts = zip(*records(shards), strict=True)
    lsh = RMinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, num_bands=BANDS)
    sketches: list[RMinHash] = []
    for at in range(0, len(texts), _BATCH):
        sets = [shingles(text) for text in texts[at : at + _BATCH]]
        sketches += RMinHash.from_token_sets(sets, PERMUTATIONS, 42)
    lsh.insert_many(sketches)
    found = (
        (at + place, others)
        for at in range(0, len(sketches), _BATCH)
        for place, others in enumerate(lsh.query_all(sketches[at : at + _BATCH]))
    )
    write_clusters(out, names, components(len(names), found))
