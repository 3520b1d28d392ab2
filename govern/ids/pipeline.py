"""The build, as its stages: `build_ids`.

    find files ─▶ ingest ─▶ settle ─▶ lsh ─▶ verify ─▶ cluster ─▶ assign ─▶ tables ─▶ commit

Large results of a stage lie in working files inside the manifest's directory, which are gone when
the build ends. `manifest.json` comes last: before it the directory holds no manifest.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from govern.engines import LOCAL, open_engine
from govern.ids.corpus import ReadOptions
from govern.ids.inputs import Inputs, find_inputs
from govern.ids.lsh import BUCKET_CAP, PIVOTS
from govern.ids.minhash import SCHEME, Banding, choose_banding
from govern.ids.output import Begun, output
from govern.ids.parts import MOST_ENGINE_TASKS, MOST_TASKS, PARTS_NAME, plan_tasks
from govern.ids.progress import Progress, Silent
from govern.ids.refusals import require_countable, require_documents, require_within
from govern.ids.rules import require_comparable
from manifests.files import require_path
from manifests.index import InputFile, Snapshot
from manifests.reader import open_manifest
from manifests.writer import WORK_NAME, commit, make_index

if TYPE_CHECKING:
    from govern.engines.base import Engine
    from govern.ids.ingest import Ingested
    from govern.ids.lsh import Pairs
    from govern.ids.sets import ShingleSets
    from govern.ids.settle import Settled
    from govern.ids.staged import Staged
    from govern.ids.tables import Assigned
    from govern.ids.verify import Links

# Of a candidate pair while it is verified and one of the next piece merged: copies of both, texts,
# similarity; and the pairs may take a quarter of the memory.
_BYTES_PER_PAIR = 4 * 80


MEMORY = 4 * 10**9
MEMORY_RANGE = (10**8, 10**15)


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How documents become sequences.

    Attributes:
        read: How records are read.
        threshold: The least exact Jaccard similarity to a representative.
        ngram: Words of a shingle.
        reserve: Fraction of sequences set aside as never-trained reference.
        num_perm: Values of a signature.
        seed: Seed of the permutations.
        workers: Threads.
        memory: Bytes; candidate pairs are compared in pieces that take a quarter of them. What
            grows with the documents is not bounded by it: about 200 bytes each and, while pairs are
            verified, 8 for each of their words in a file that is mapped.
        tombstones: Manifests whose forgotten sequences must be recognised when they come back.
        engine: Who does the work: one of `govern.engines.ENGINES`. `out` must then lie on a file
            system that all its machines have at the same path.
        engine_address: The cluster; by default one on this machine.
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    threshold: float = 0.7
    ngram: int = 5
    reserve: float = 0.0
    num_perm: int = 128
    seed: int = 1
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    tombstones: tuple[Path, ...] = ()
    memory: int = MEMORY
    engine: str = LOCAL
    engine_address: str | None = None

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("--threshold", self.threshold, 0.1, 1.0),
            ("--ngram", self.ngram, 1, 64),
            ("--reserve", self.reserve, 0.0, 0.999),
            ("--workers", self.workers, 1, 1024),
            ("num_perm", self.num_perm, 16, 4096),
            ("--memory", self.memory, *MEMORY_RANGE),
        ):
            require_within(name, value, low, high)

    @property
    def banding(self) -> Banding:
        """Bands and rows that find a pair at the threshold with a chance of 99.9 %."""
        return choose_banding(self.threshold, self.num_perm)


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build found."""

    path: Path
    digest: str
    files: int
    skipped: Mapping[str, int]
    extractors: tuple[str, ...]
    records: int
    documents: int
    rejects: int
    reject_reasons: Mapping[str, int]
    distinct_texts: int
    sequences: int
    candidates: int
    links: int
    forgotten: int
    text_bytes: int
    seconds: float


def build_ids(
    inputs: Sequence[str | os.PathLike[str]],
    out: Path | str,
    config: BuildConfig | None = None,
    progress: Progress | None = None,
    *,
    resume: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> BuildReport:
    """Give every document of a raw corpus a sequence ID and write the manifest.

    The same set of records and the same configuration give the same bytes, whatever the order of
    files, the number of threads or the size of batches, resumed or not. A build that stops keeps
    what it has read (one to three times the text on disk) in `out`, in parts of 256 MB of text.

    Args:
        inputs: Files, folders, glob patterns or fsspec URLs.
        out: The manifest's directory; must not hold anything but an unfinished build.
        config: How; the defaults fit prose.
        progress: Told about stages.
        resume: Go on with the unfinished build there, if there is one, instead of beginning anew.
        note: Told, in a line, what becomes of an unfinished build.

    Returns:
        Counts, and the digest of the new manifest.

    Raises:
        InputError: An input cannot be used, no record has text, `out` holds something else, or
            the build there that is to be resumed is another one.
        LockedError: Another build writes there.
    """
    begin = time.perf_counter()
    config = config or BuildConfig()
    require_path("--out", out)
    found = find_inputs(inputs, config.read.source)
    _require_tombstones(config)
    begun = Begun.of({**parameters(config), "reading_tasks": _reading_tasks(found, config)}, found)
    with (
        open_engine(config.engine, config.engine_address, config.workers) as engine,
        output(Path(out), begun, resume=resume, note=note) as directory,
    ):
        counts = _build(found, directory, config, engine, progress or Silent())
    return BuildReport(
        path=Path(out),
        files=len(found.files),
        skipped=found.skipped,
        extractors=found.extractors,
        seconds=time.perf_counter() - begin,
        **counts,
    )


def _reading_tasks(found: Inputs, config: BuildConfig) -> int:
    """In how many tasks the corpus is read: parts of other tasks cannot be gone on with."""
    most = MOST_TASKS if config.engine == LOCAL else MOST_ENGINE_TASKS
    return len(plan_tasks(found.files, most))


def _require_tombstones(config: BuildConfig) -> None:
    """Refuse manifests whose forgotten texts cannot be recognised, before hours of reading."""
    for path in config.tombstones:
        manifest = open_manifest(path)
        if manifest.table("tombstones", ["sequence_id"]).num_rows:
            require_comparable(manifest, parameters(config))


def parameters(config: BuildConfig) -> dict[str, Any]:
    """Everything that shaped the IDs, as the manifest records it."""
    from govern.ids.shingle import TOKEN_HASH, TOKENIZER

    return {
        "ngram": config.ngram,
        "threshold": config.threshold,
        "num_perm": config.num_perm,
        "seed": config.seed,
        "scheme": SCHEME,
        "bands": config.banding.bands,
        "rows": config.banding.rows,
        "bucket_cap": BUCKET_CAP,
        "pivots": PIVOTS,
        "token_hash": TOKEN_HASH,
        "tokenizer": TOKENIZER,
        "reserve": config.reserve,
        "source": config.read.source,
        "text_field": config.read.text_field,
        "id_field": config.read.id_field,
        "keep": list(config.read.keep),
        "max_record_bytes": config.read.max_record_bytes,
        "code": f"memsinks-govern {version('memsinks-govern')}",
    }


@dataclass(frozen=True, kw_only=True)
class _Decided:
    """What the stages up to `assign` found, with the counts that the report gives."""

    assigned: Assigned
    links: Links
    tombstones: pa.Table
    candidates: int


def _build(
    found: Inputs, directory: Path, config: BuildConfig, engine: Engine | None, progress: Progress
) -> dict[str, Any]:
    # Compiled code is loaded here, so that a wrong path is refused without waiting for it.
    from govern.ids.first_tables import write_tables
    from govern.ids.staged import Staged, read_inputs

    staged = Staged(engine, directory / WORK_NAME, progress) if engine else None
    ingested = read_inputs(
        found,
        config.read,
        parameters(config),
        directory / WORK_NAME,
        staged=staged,
        workers=config.workers,
        durable=True,
        progress=progress,
    )
    with ingested.documents, ThreadPoolExecutor(config.workers) as pool:
        if not len(ingested.keys):
            # To go on from here could only find the same again.
            shutil.rmtree(directory / WORK_NAME / PARTS_NAME)
        require_documents(ingested.rejects, len(ingested.keys))
        decided = _decide(ingested, directory / WORK_NAME, config, pool, staged, progress)
        settled = decided.assigned.settled
        n_documents = int((settled.text_of >= 0).sum())
        progress.stage("writing", n_documents, "documents")
        tables = write_tables(
            directory,
            decided.assigned,
            decided.links,
            reserve=config.reserve,
            tombstones=decided.tombstones,
            pool=pool,
            advance=progress.advance,
        )
    rejected = Counter(ingested.rejects["reason"].to_pylist())
    rejected.update(settled.rejects["reason"].to_pylist())
    snapshot = Snapshot(
        snapshot=1,
        inputs=tuple(InputFile(uri=f.uri, bytes=f.bytes) for f in found.files),
        extractors=found.extractors,
        records=len(ingested.keys) + ingested.rejects.num_rows,
        documents=n_documents,
        rejects=sum(rejected.values()),
        content_digest="",
    )
    index = make_index(parameters=parameters(config), earlier=(), snapshot=snapshot, tables=tables)
    commit(directory, index)
    return {
        "digest": index.digest,
        "records": snapshot.records,
        "documents": n_documents,
        "rejects": snapshot.rejects,
        "reject_reasons": dict(sorted(rejected.items())),
        "distinct_texts": len(settled.document_of),
        "sequences": sum(entry.rows for entry in tables["sequences"]),
        "candidates": decided.candidates,
        "links": sum(entry.rows for entry in tables["links"]),
        "forgotten": decided.tombstones.num_rows,
        "text_bytes": ingested.text_bytes,
    }


def _decide(
    ingested: Ingested,
    work: Path,
    config: BuildConfig,
    pool: ThreadPoolExecutor,
    staged: Staged | None,
    progress: Progress,
) -> _Decided:
    """The stages between reading and writing."""
    from govern.ids.assign import assign_ids
    from govern.ids.cluster import cluster
    from govern.ids.forgotten import find_forgotten
    from govern.ids.sets import build_sets
    from govern.ids.settle import settle
    from govern.ids.store import release
    from govern.ids.tables import Assigned

    settled = settle(ingested)
    texts = np.arange(len(settled.document_of))
    if staged:
        links, candidates = staged.link(settled, config.banding, config.threshold)
        sets = build_sets(ingested, settled.document_of, work / "sets.u64")
    else:
        require_countable(len(texts), "build it with --engine processes, ray or spark")
        runs = _pair_runs(ingested, settled, work, config, pool, progress)
        sets = build_sets(ingested, settled.document_of, work / "sets.u64")
        links, candidates = _verified(sets, runs, work, config, pool, progress)
    clusters = cluster(len(texts), links)
    ids = assign_ids(ingested.content[settled.document_of], clusters.representative)
    for array in (*vars(links).values(), ingested.content):
        release(array)
    assigned = Assigned(
        ingested=ingested,
        settled=settled,
        sets=sets,
        banding=config.banding,
        numbers=texts,
        fresh=np.ones(len(texts), dtype=np.bool_),
        sequence_ids=ids,
        similarity=clusters.similarity,
        represents=clusters.representative == texts,
        snapshot=1,
    )
    tombstones = find_forgotten(
        config.tombstones, assigned, parameters(config), work, pool, config.workers
    )
    return _Decided(assigned=assigned, links=links, tombstones=tombstones, candidates=candidates)


def _pair_runs(
    ingested: Ingested,
    settled: Settled,
    work: Path,
    config: BuildConfig,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> list[Pairs]:
    """The candidate pairs of each band; the keys of the bands are gone with this call."""
    from govern.ids.lsh import band_keys, spill_pairs

    progress.stage("comparing bands", config.banding.bands, "bands")
    keys, owners = band_keys(ingested.signatures, settled, config.banding, work / "bands.u64")
    return spill_pairs(keys, owners, work, pool, config.workers, progress.advance)


def _verified(
    sets: ShingleSets,
    runs: list[Pairs],
    work: Path,
    config: BuildConfig,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> tuple[Links, int]:
    """The links among the candidate pairs of all bands, and how many pairs there were."""
    from govern.ids.lsh import merge_pairs
    from govern.ids.verify import verify

    progress.stage("verifying pairs", None, "pairs")
    pieces = merge_pairs(runs, held_pairs(config.memory), pool)
    return verify(sets, pieces, config.threshold, work, pool, config.workers, progress.advance)


def held_pairs(memory: int) -> int:
    """How many candidate pairs `memory` bytes allow at a time."""
    return max(1, memory // _BYTES_PER_PAIR)
