"""Add documents to a manifest as a new snapshot: `add_documents`.

    find files ─▶ ingest ─▶ what is there already? ─▶ settle ─▶ unite ─▶ relink ─▶ cluster ─▶ carry
        ─▶ amend ─▶ commit

The stored signatures are the index and the stored shingle sets the evidence: no old text is read.
The partition is that of one build over all documents; only IDs remember what was there first.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from govern.engines import LOCAL, open_engine
from govern.ids.corpus import ReadOptions, kept_type
from govern.ids.inputs import Inputs, find_inputs
from govern.ids.pipeline import MEMORY, MEMORY_RANGE, held_pairs
from govern.ids.progress import Progress, Silent
from govern.ids.refusals import require_countable, require_documents, require_within
from govern.ids.rules import require_rules, require_shingles
from manifests.errors import InputError
from manifests.files import writer_lock
from manifests.index import InputFile, Snapshot
from manifests.reader import Manifest, open_manifest
from manifests.writer import WORK_NAME, commit, make_index, sweep

if TYPE_CHECKING:
    from govern.engines.base import Engine
    from govern.ids.amend import Addition, Amended
    from govern.ids.ingest import Ingested
    from govern.ids.settle import Settled
    from govern.ids.stored import Stored

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class AddConfig:
    """What an addition may choose; all else is as the manifest was built.

    Attributes:
        source: The source of the new documents; by default as for the build.
        workers: Threads.
        memory: Bytes; new candidate pairs are compared in pieces that take a quarter of them.
        engine: Who reads the new documents: one of `govern.engines.ENGINES`.
        engine_address: The cluster; by default one on this machine.
    """

    source: str | None = None
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    memory: int = MEMORY
    engine: str = LOCAL
    engine_address: str | None = None

    def __post_init__(self) -> None:
        require_within("--workers", self.workers, 1, 1024)
        require_within("--memory", self.memory, *MEMORY_RANGE)


@dataclass(frozen=True, kw_only=True)
class AddReport:
    """What an addition found.

    Attributes:
        path: The manifest.
        digest: Of the manifest now.
        snapshot: Its newest snapshot; as before when nothing was new.
        files, records, rejects, reject_reasons, text_bytes: What was read.
        skipped: Files that were passed over, by what they are.
        extractors: What shaped the text beside this package.
        other_extractors: What shaped that of earlier snapshots, where it is another release.
        already_there: Records whose source, ID and text the manifest had.
        documents: New documents.
        new_sequences: Sequences founded now.
        joined: New documents that joined a sequence that was there.
        merged: IDs that became aliases.
        reassigned: Old documents that have another ID now, not counting merged ones.
        reappeared_forgotten: New documents in forgotten sequences: they are kept from training.
        repeated_shared: Sequences of one document and policy `shared` that have copies now.
        candidates, links: Verified pairs, and new rows of `links`.
        seconds: Wall time.
    """

    path: Path
    digest: str
    snapshot: int
    files: int
    skipped: Mapping[str, int]
    extractors: tuple[str, ...]
    other_extractors: tuple[str, ...]
    records: int
    documents: int
    rejects: int
    reject_reasons: Mapping[str, int]
    already_there: int
    new_sequences: int = 0
    joined: int = 0
    merged: int = 0
    reassigned: int = 0
    reappeared_forgotten: int = 0
    repeated_shared: int = 0
    candidates: int = 0
    links: int = 0
    text_bytes: int
    seconds: float


def add_documents(
    inputs: Sequence[str | os.PathLike[str]],
    manifest: Path | str,
    config: AddConfig | None = None,
    progress: Progress | None = None,
) -> AddReport:
    """Add a corpus to a manifest as a new snapshot.

    Documents are read, told apart and linked as in the build. A record that is already there is
    counted and changes nothing, so repeating an addition changes nothing; adding only such records
    makes no snapshot.

    Args:
        inputs: Files, folders, glob patterns or fsspec URLs.
        manifest: The manifest's directory.
        config: How.
        progress: Told about stages.

    Returns:
        Counts, and the digest of the manifest.

    Raises:
        InputError: An input cannot be used, no record has text, or a document that is there has
            another text now.
        ManifestError: Not a manifest, or one by other rules than this release's.
        LockedError: Another process writes there.
    """
    begin = time.perf_counter()
    config = config or AddConfig()
    known = open_manifest(manifest)
    require_rules(known)
    require_shingles(known)
    found = find_inputs(inputs, config.source or known.parameters["source"])
    with (
        open_engine(config.engine, config.engine_address, config.workers) as engine,
        _writing(Path(manifest)) as opened,
    ):
        counts = _add(found, opened, config, engine, progress or Silent())
    return AddReport(
        path=Path(manifest),
        files=len(found.files),
        skipped=found.skipped,
        extractors=found.extractors,
        other_extractors=found.other_releases(known.extractors()),
        seconds=time.perf_counter() - begin,
        **counts,
    )


def _add(
    read: Inputs, manifest: Manifest, config: AddConfig, engine: Engine | None, progress: Progress
) -> dict[str, Any]:
    from govern.ids.amend import write_addition
    from govern.ids.settle import settle
    from govern.ids.staged import Staged, read_inputs
    from govern.ids.stored import load_stored

    known = manifest.parameters
    work = manifest.path / WORK_NAME
    ingested = read_inputs(
        read,
        _read_options(known, config),
        known,
        work,
        staged=Staged(engine, work, progress) if engine else None,
        workers=config.workers,
        durable=False,
        progress=progress,
    )
    with ingested.documents, ThreadPoolExecutor(config.workers) as pool:
        require_documents(ingested.rejects, len(ingested.keys))
        stored = load_stored(manifest)
        there = _already_there(manifest, stored, ingested)
        settled = settle(ingested, there)
        rejected = Counter(ingested.rejects["reason"].to_pylist())
        rejected.update(settled.rejects["reason"].to_pylist())
        n_documents = int((settled.text_of >= 0).sum())
        counts: dict[str, Any] = {
            "records": len(ingested.keys) + ingested.rejects.num_rows,
            "documents": n_documents,
            "rejects": sum(rejected.values()),
            "already_there": int(there.sum()),
        }
        found = {
            "reject_reasons": dict(sorted(rejected.items())),
            "text_bytes": ingested.text_bytes,
        }
        if not n_documents:
            digest = manifest.digest
            return {**counts, **found, "digest": digest, "snapshot": manifest.snapshot}
        _require_kept_types(manifest, ingested)
        addition = _decide(manifest, stored, ingested, settled, config, pool, progress)
        progress.stage("writing", n_documents, "documents")
        amended = write_addition(
            manifest.path, addition, reserve=known["reserve"], advance=progress.advance
        )
    inputs = tuple(InputFile(uri=f.uri, bytes=f.bytes) for f in read.files)
    snapshot = Snapshot(
        snapshot=addition.assigned.snapshot,
        inputs=inputs,
        extractors=read.extractors,
        content_digest="",
        **counts,
    )
    index = make_index(
        parameters=known, earlier=manifest.snapshots, snapshot=snapshot, tables=amended.tables
    )
    counts |= found | _effects(addition, amended)
    commit(manifest.path, index)
    return {**counts, "digest": index.digest, "snapshot": snapshot.snapshot}


def _decide(
    manifest: Manifest,
    stored: Stored,
    ingested: Ingested,
    settled: Settled,
    config: AddConfig,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> Addition:
    """The stages between reading and writing."""
    from govern.ids.amend import Addition
    from govern.ids.relink import NewTexts, Resources, bucket_rule, reclustered, relink
    from govern.ids.sets import build_sets, chosen_sets
    from govern.ids.standing import decide
    from govern.ids.stored import load_links
    from govern.ids.tables import Assigned
    from govern.ids.union import unite

    work = manifest.path / WORK_NAME
    sets = build_sets(ingested, settled.document_of, work / "sets.u64")
    union = unite(stored.content, np.asarray(ingested.content)[settled.document_of])
    require_countable(len(union.rank), "build a manifest of its own for them")
    fresh = np.flatnonzero(union.fresh)
    new = NewTexts(
        signatures=ingested.signatures,
        rows=settled.document_of[fresh],
        sets=chosen_sets(sets, fresh),
    )
    resources = Resources(
        work=work,
        pool=pool,
        workers=config.workers,
        held=held_pairs(config.memory),
        advance=progress.advance,
    )
    progress.stage("verifying pairs", None, "pairs")
    relinked = relink(manifest, stored, load_links(manifest, pool), union, new, resources)
    clusters = reclustered(manifest, len(union.rank), relinked, pool)
    standing = decide(manifest, stored, union, clusters, relinked.added)
    assigned = Assigned(
        ingested=ingested,
        settled=settled,
        sets=sets,
        banding=bucket_rule(manifest.parameters).banding,
        numbers=union.numbers,
        fresh=union.fresh,
        sequence_ids=standing.carried.sequence_ids[union.numbers],
        similarity=standing.similarity[union.numbers],
        represents=standing.representative[union.numbers] == union.numbers,
        snapshot=manifest.snapshot + 1,
    )
    return Addition(
        manifest=manifest,
        stored=stored,
        union=union,
        relinked=relinked,
        standing=standing,
        assigned=assigned,
    )


def _effects(addition: Addition, amended: Amended) -> dict[str, int]:
    """What the report says about sequences."""
    assigned, standing = addition.assigned, addition.standing
    texts = assigned.settled.text_of
    ids = assigned.sequence_ids[texts[texts >= 0]]
    return {
        "new_sequences": len(standing.carried.founded),
        "joined": int((~np.isin(ids, standing.carried.founded)).sum()),
        "merged": len(standing.carried.merged),
        "reassigned": amended.reassigned,
        "reappeared_forgotten": int(np.isin(ids, standing.forgotten).sum()),
        "repeated_shared": amended.repeated_shared,
        "candidates": addition.relinked.candidates,
        "links": len(addition.relinked.added.a),
    }


def _read_options(known: Mapping[str, Any], config: AddConfig) -> ReadOptions:
    return ReadOptions(
        source=config.source or known["source"],
        text_field=known["text_field"],
        id_field=known["id_field"],
        keep=tuple(known["keep"]),
        max_record_bytes=known["max_record_bytes"],
    )


def _already_there(manifest: Manifest, stored: Stored, ingested: Ingested) -> npt.NDArray[np.bool_]:
    """Which records the manifest has with the same text; bool [records].

    Raises:
        InputError: It has one of them with another text.
    """
    there = np.zeros(len(ingested.keys), dtype=np.bool_)
    new_ids = pa.chunked_array(ingested.documents.column("doc_id"), pa.string())
    old = np.flatnonzero(pc.is_in(stored.names["doc_id"], value_set=new_ids).to_numpy())
    if not len(old):
        return there
    rows = manifest.table("documents", ["source", "doc_id", "sha256"]).take(pa.array(old))
    new = np.flatnonzero(pc.is_in(new_ids, value_set=rows["doc_id"]).to_numpy())
    known = {(r["source"], r["doc_id"]): r["sha256"] for r in rows.to_pylist()}
    changed = []
    found = ingested.documents.take(new, ["source", "doc_id", "sha256"]).to_pylist()
    for record, row in zip(new.tolist(), found, strict=True):
        sha256 = known.get((row["source"], row["doc_id"]))
        there[record] = sha256 == row["sha256"]
        if sha256 is not None and sha256 != row["sha256"]:
            changed.append(f"{row['doc_id']} of source {row['source']}")
    if changed:
        names = ", ".join(sorted(changed)[:_SHOWN])
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise InputError(
            f"document {names}{more}",
            expected=f"the text that manifest {manifest.path} has under this source and ID",
            found="another text",
            remedy="give the new version another ID or --source, or build the manifest anew",
        )
    return there


def _require_kept_types(manifest: Manifest, ingested: Ingested) -> None:
    """Refuse kept values that do not fit the types of the manifest's columns."""
    import pyarrow.parquet as pq

    types = pq.read_schema(manifest.files("documents")[0])
    for name, kinds in zip(manifest.parameters["keep"], ingested.kinds, strict=True):
        target = types.field(name).type
        found = kept_type(kinds)
        whole = target == pa.float64() and found == pa.int64()
        if kinds and found != target and target != pa.string() and not whole:
            raise InputError(
                f"kept column {name}",
                expected=f"values of type {target}, as manifest {manifest.path} has them",
                found=f"{', '.join(sorted(kinds))} values",
                remedy="correct the corpus, or build the manifest anew",
            )


@contextmanager
def _writing(directory: Path) -> Iterator[Manifest]:
    """The manifest, locked, with an empty working folder; as before when it fails."""
    with writer_lock(directory):
        manifest = open_manifest(directory)
        sweep(directory, manifest.index)
        (directory / WORK_NAME).mkdir()
        try:
            yield manifest
        except OSError as error:
            raise InputError(
                f"--manifest {directory}",
                expected="a disk that takes the working files and the new tables",
                found=str(error),
                remedy="make room, then run it again",
            ) from error
        finally:
            # After a commit its own sweep has done this; after a failure the old state stands.
            sweep(directory, open_manifest(directory).index)
