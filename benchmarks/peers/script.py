"""What a user of a MinHash library writes around it: shingles, reading, union-find."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path

NGRAM = 5
PERMUTATIONS = 128
THRESHOLD = 0.7
CHINESE = os.environ.get("PEER_LANGUAGE", "").startswith("cmn")
_WORDS_AND_HAN = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+").findall


def shingles(text: str) -> list[str]:
    """Five-word shingles, repeats kept, by the quickest Python there is: zip, join, no loop.

    Words are what stands between white space; in Chinese, which has none, each character is one.
    """
    words = _WORDS_AND_HAN(text.lower()) if CHINESE else text.lower().split()
    if len(words) <= NGRAM:
        return [" ".join(words)]
    return list(map(" ".join, zip(*(words[i:] for i in range(NGRAM)), strict=False)))


def records(shards: list[Path]) -> Iterator[tuple[str, str]]:
    """(document ID, text) of every line."""
    for shard in shards:
        with shard.open() as file:
            for line in file:
                record = json.loads(line)
                yield record["id"], record["text"]


def components(count: int, neighbours: Iterable[tuple[int, Iterable[int]]]) -> list[int]:
    """The component of each of `count` documents, by union-find with path halving."""
    parent = list(range(count))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node, others in neighbours:
        for other in others:
            a, b = find(node), find(other)
            if a != b:
                parent[max(a, b)] = min(a, b)
    return [find(node) for node in range(count)]


def write_clusters(out: Path, names: Iterable[str], clusters: Iterable[Hashable]) -> None:
    with (out / "clusters.tsv").open("w") as file:
        file.writelines(f"{n}\t{c}\n" for n, c in zip(names, clusters, strict=True))
