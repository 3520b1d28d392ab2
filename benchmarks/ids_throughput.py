"""Raw text to MinHash signatures: megabytes per second of one core, beside datasketch.

    python benchmarks/ids_throughput.py CORPUS.jsonl.zst [MORE…]

Each corpus is read into memory first; the clock sees normalisation, shingling, hashing, signatures
and both SHA-256 digests. One thread; the best of several runs, in CPU seconds of that thread, so
that other work on the machine counts as little as it can.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pyarrow as pa
from datasketch import MinHash

from govern.ids.compiled import sketch
from govern.ids.corpus import ReadOptions, read_corpus
from govern.ids.minhash import permutations
from govern.ids.shingle import digests, text_buffers

RUNS = 5
PEER_DOCUMENTS = 300


def seconds_of_sketch(batches: list[pa.Array]) -> float:
    coefficients = permutations(128, 1)
    best = float("inf")
    for _ in range(RUNS):
        begin = time.thread_time()
        for texts in batches:
            sketch(texts, ngram=5, permutations=coefficients)
            digests(*text_buffers(texts))
        best = min(best, time.thread_time() - begin)
    return best


def seconds_of_datasketch(texts: list[str]) -> float:
    """datasketch as people use it: split into words, shingles, one bulk update a document."""
    begin = time.thread_time()
    for text in texts:
        words = text.lower().split()
        shingles = {" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))}
        MinHash(num_perm=128).update_batch(shingles)
    return time.thread_time() - begin


def main(paths: list[str]) -> None:
    sketch(pa.array(["warm up é"]), ngram=5, permutations=permutations(128, 1))
    print(f"{'corpus':34} {'MB':>7} {'docs':>7} {'MB/s':>7} {'docs/s':>9} {'datasketch MB/s':>16}")
    for path in paths:
        batches = [batch.documents["text"] for batch in read_corpus([path], ReadOptions())]
        batches = [texts for texts in batches if len(texts)]
        size = sum(int(text_buffers(texts)[1][-1]) for texts in batches) / 1e6
        count = sum(map(len, batches))
        taken = seconds_of_sketch(batches)
        some = batches[0].slice(0, PEER_DOCUMENTS).to_pylist()
        peer = sum(len(t.encode()) for t in some) / 1e6 / seconds_of_datasketch(some)
        print(
            f"{Path(path).name:34} {size:7.1f} {count:7} {size / taken:7.1f} "
            f"{count / taken:9.0f} {peer:16.2f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
