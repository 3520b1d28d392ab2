"""A small world to forget in: corpus, manifest built from it, and a synthetic run trained on it."""

from __future__ import annotations

import atexit
import functools
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from synthetic_run import MapRow, RunShape, write_run

from govern.audit.measured import MetricRow, Threshold
from govern.audit.signing import PrivateKey, new_private_key
from govern.forget.measuring import DocumentChange, Measurements, MeasureRequest
from govern.ids.pipeline import BuildConfig, build_ids
from manifests import Manifest, open_manifest
from manifests.index import Snapshot
from manifests.queries import find_document
from manifests.schema import ALIASES
from manifests.writer import commit, make_index, write_table

HOSTILE = (
    "<script>alert(1)</script>",
    "'; DROP TABLE documents; --",
    "../../etc/passwd",
    "two\nlines\x1b[31m",
    "long-" + "x" * 10_000,
)
# Arguments -> exit code, stdout, stderr; the fixture `run` is one.
Run = Callable[..., tuple[int, str, str]]
BASE = ("forget", "run", "--manifest", "manifest")
SIGNED = ("--request", "R-17", "--reason", "GDPR art. 17", "--key", "keys/govern-private.pem")
POLICIES = {"licence": "private", "secret": "strict", "poem": "private", "common": "shared"}


def text(name: str, changes: int = 0) -> str:
    """200 words that only this name gives; some of them changed."""
    source = random.Random(name)
    words = [f"{name[:3]}{source.randrange(10**6)}" for _ in range(200)]
    for position in range(changes):
        words[190 - position] = f"changed{position}"
    return " ".join(words)


@dataclass(frozen=True, kw_only=True)
class World:
    """Where everything lies."""

    base: Path
    key: PrivateKey
    ids: Mapping[str, int]

    @property
    def run(self) -> Path:
        return self.base / "run"

    @property
    def manifest(self) -> Path:
        return self.base / "manifest"

    @property
    def corpus(self) -> Path:
        return self.base / "corpus.jsonl"


def build_world(base: Path, policies: Mapping[str, str] | None = None) -> World:
    """Documents: three near-copies of `licence`, one each of the others and of hostile names.

    Built once for each set of policies, and copied.
    """
    pristine, ids = _pristine(tuple((policies or POLICIES).items()))
    shutil.copytree(pristine, base, dirs_exist_ok=True)
    return World(base=base, key=new_private_key(), ids=ids)


@functools.cache
def _pristine(policies: tuple[tuple[str, str], ...]) -> tuple[Path, Mapping[str, int]]:
    base = Path(tempfile.mkdtemp(prefix="forget-world-"))
    atexit.register(shutil.rmtree, base)
    documents = [(f"licence-{i}", text("licence", changes=i)) for i in range(3)]
    documents += [(name, text(name)) for name, _ in policies if name != "licence"]
    documents += [(name, text(f"hostile{i}")) for i, name in enumerate(HOSTILE)]
    corpus = base / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": d, "text": t}) + "\n" for d, t in documents))
    build_ids([corpus], base / "manifest", BuildConfig(workers=1))
    manifest = open_manifest(base / "manifest")
    ids = {n: id_of(manifest, "licence-0" if n == "licence" else n) for n, _ in policies}
    rows = _map_rows(manifest, ids, dict(policies))
    shape = RunShape(
        blocks=1 + max((b for row in rows for b in row.blocks), default=0),
        manifest={"content_digest": manifest.content_digest(), "snapshot": manifest.snapshot},
    )
    write_run(base / "run", rows, shape)
    return base, ids


def id_of(manifest: Manifest, doc_id: str) -> int:
    return int(find_document(manifest, doc_id)["sequence_id"][0].as_py())


def _map_rows(
    manifest: Manifest, ids: Mapping[str, int], policies: Mapping[str, str]
) -> Sequence[MapRow]:
    """Three blocks for each owner; pooled ones overlap their neighbours by one."""
    rows, first = [], 0
    for name, policy in policies.items():
        if policy == "shared":
            rows.append(MapRow(ids[name], policy))
            continue
        rows.append(MapRow(ids[name], policy, tuple(range(first, first + 3))))
        first += 2 if policy == "pooled" else 3
    for name in HOSTILE:
        rows.append(MapRow(id_of(manifest, name), "private", (first + 1,)))
        first += 1
    return sorted(rows, key=lambda row: row.sequence_id)


def with_aliases(world: World, rows: Sequence[Mapping[str, object]]) -> None:
    """Give the manifest a second snapshot in which IDs changed."""
    manifest = open_manifest(world.manifest)
    entries = write_table(world.manifest, "aliases", pa.Table.from_pylist(rows, schema=ALIASES))
    index = make_index(
        parameters=manifest.parameters,
        earlier=manifest.snapshots,
        snapshot=Snapshot(
            snapshot=2, inputs=(), records=0, documents=0, rejects=0, content_digest=""
        ),
        tables={**manifest.index.tables, "aliases": entries},
    )
    commit(world.manifest, index)


def alias(old: int, new: int, reason: str, doc_id: str | None = None) -> dict[str, object]:
    """A row of `aliases` of that snapshot."""
    return {
        "alias_id": old,
        "sequence_id": new,
        "snapshot": 2,
        "reason": reason,
        "source": "corpus" if doc_id else None,
        "doc_id": doc_id,
    }


class FakeMeasurer:
    """Measures nothing real, and remembers what it was asked."""

    def __init__(self, after: float = 3.0) -> None:
        self.calls: list[str] = []
        self._after = after

    def thresholds(self, request: MeasureRequest) -> tuple[Threshold, ...]:
        self.calls.append("thresholds")
        assert request.policies
        return (Threshold(metric="loss", comparison=">=", bound=2.0),)

    def before(self, run: Path, request: MeasureRequest) -> bytes:
        self.calls.append("before")
        assert (run / "training.json").is_file()
        return json.dumps([list(item) for item in request.forgotten]).encode()

    def after(self, run: Path, request: MeasureRequest, before: bytes) -> Measurements:
        self.calls.append("after")
        assert (run / "training.json").is_file()
        assert json.loads(before) == [list(item) for item in request.forgotten]
        row = MetricRow(
            metric="loss", group="forgotten", phase="after", n=1, value=self._after, seed=0
        )
        return Measurements(
            rows=(row,),
            documents=tuple(
                DocumentChange(source=s, doc_id=d, before=1.0, after=self._after)
                for s, d, _ in request.forgotten
            ),
            kept=dict.fromkeys(request.share_lost, 0.0),
        )
