"""text-dedup: `python -m text_dedup.minhash` with xxh3 on 32 bits, its fastest setting."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np

from peers.script import NGRAM, PERMUTATIONS, THRESHOLD, records, write_clusters

PACKAGES = ("text-dedup", "datasets", "numpy")


def signatures(texts: list[str]) -> None:
    from text_dedup.minhash import RNG, embed_func
    from text_dedup.utils import optimal_param, xxh3_32hash

    prime, kind = np.uint32((1 << 32) - 5), np.uint32
    bands, rows = optimal_param(THRESHOLD, PERMUTATIONS, 0.5, 0.5)
    settings = {
        "num_perm": PERMUTATIONS,
        "ngram_size": NGRAM,
        "min_length": 1,
        "hashranges": [(i * rows, (i + 1) * rows) for i in range(bands)],
        "permutations": (
            RNG.randint(1, prime, size=(PERMUTATIONS,), dtype=kind),
            RNG.randint(0, prime, size=(PERMUTATIONS,), dtype=kind),
        ),
        "hash_func": xxh3_32hash,
        "dtype": kind,
        "max_hash": np.uint32((1 << 32) - 1),
        "modulo_prime": prime,
    }
    for number, text in enumerate(texts):
        embed_func(text, number, **settings)


def cluster(shards: list[Path], out: Path, workers: int) -> None:
    command = [sys.executable, "-m", "text_dedup.minhash", "--path", "json", "--split", "train"]
    command += ["--data_files", str(shards[0].parent / "*.jsonl"), "--column", "text"]
    command += ["--cache_dir", str(out / "cache"), "--debug"]
    command += ["--output", str(out / "kept"), "--num_proc", str(workers), "--min_length", "1"]
    command += ["--ngram", str(NGRAM), "--num_perm", str(PERMUTATIONS)]
    command += ["--threshold", str(THRESHOLD), "--hash_func", "xxh3", "--hash_bits", "32"]
    subprocess.run(command, check=True)


def export(shards: list[Path], out: Path) -> None:
    found = pickle.loads((out / "kept" / "uf.pkl").read_bytes())
    names = [name for name, _ in records(shards)]
    write_clusters(out, names, map(found.find, range(len(names))))
