"""datatrove: its four MinHash stages, shingles of five words, 16 x 8 permutations (default 14 x 8).

There is no verification. The tokenizer is the one that it assigns to the language.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.typeshelper import Languages

from peers.script import NGRAM, write_clusters

PACKAGES = ("datatrove", "spacy")
CONFIG = MinhashConfig(n_grams=NGRAM, num_buckets=16, hashes_per_bucket=8)


def _language() -> str:
    return os.environ.get("PEER_LANGUAGE", Languages.english)


def signatures(texts: list[str]) -> None:
    step = MinhashDedupSignature("/dev/null", CONFIG, language=_language())
    for text in texts:
        shingles = step.get_shingles(text)
        if shingles.size:
            step.get_signature(shingles)


def cluster(shards: list[Path], out: Path, workers: int) -> None:
    reader = JsonlReader(str(shards[0].parent), glob_pattern="*.jsonl")
    part = {name: str(out / name) for name in ("signatures", "buckets", "removed", "kept")}
    stages = [
        (len(shards), [reader, MinhashDedupSignature(part["signatures"], CONFIG, _language())]),
        (
            CONFIG.num_buckets,
            [MinhashDedupBuckets(part["signatures"], part["buckets"], config=CONFIG)],
        ),
        (
            1,
            [MinhashDedupCluster(part["buckets"], part["removed"], CONFIG, save_cluster_id=True)],
        ),
        (
            len(shards),
            [
                reader,
                MinhashDedupFilter(
                    part["removed"],
                    exclusion_writer=JsonlWriter(str(out / "excluded"), compression=None),
                    load_cluster_ids=True,
                ),
                JsonlWriter(part["kept"], compression=None),
            ],
        ),
    ]
    for number, (tasks, pipeline) in enumerate(stages):
        LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=workers, logging_dir=str(out / f"log-{number}")
        ).run()


def export(shards: list[Path], out: Path) -> None:  # noqa: ARG001
    names, clusters = [], []
    for path in [*out.glob("kept/*"), *out.glob("excluded/*")]:
        for record in map(json.loads, path.open()):
            cluster_id = record["metadata"]["minhash_cluster_id"]
            names.append(record["id"])
            clusters.append(cluster_id if cluster_id >= 0 else f"alone {record['id']}")
    write_clusters(out, names, clusters)
