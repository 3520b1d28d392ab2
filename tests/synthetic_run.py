"""A small run directory in the fixed format, written without a model or training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors.numpy import save_file

from manifests.files import canonical_json, sha256_file
from sinkmodel.allocation import SCHEMA, SinkMap
from sinkmodel.bank_format import leaves_name, open_bank, open_state
from sinkmodel.bank_tree import files_with_trees, stored_digests, write_leaves

LAYERS, BLOCK_SIZE, HIDDEN = 2, 2, 4
BANK_BLOCKS = 8


@dataclass(frozen=True)
class MapRow:
    """A row of the sink map to be."""

    sequence_id: int
    policy: str
    blocks: tuple[int, ...] = ()
    status: str = "active"


PRIVATE = (
    MapRow(11, "private", (0, 1)),
    MapRow(22, "private", (2,)),
    MapRow(33, "strict", (7, 8, 9)),
    MapRow(44, "shared"),
    MapRow(55, "private", (12,)),
)
POOLED = (
    MapRow(11, "pooled", (0, 1, 2, 3)),
    MapRow(22, "pooled", (2, 3, 4, 5)),
    MapRow(33, "pooled", (3, 5, 6, 7)),
    MapRow(44, "pooled", (8, 9, 10, 11)),
)


def write_sink_map(path: Path, sequences: Sequence[MapRow]) -> None:
    columns = {
        "sequence_id": [s.sequence_id for s in sequences],
        "policy": [s.policy for s in sequences],
        "status": [s.status for s in sequences],
        "blocks": [list(s.blocks) for s in sequences],
        "n_tokens": [100] * len(sequences),
    }
    SinkMap(pa.table(columns, schema=SCHEMA)).save(path)


@dataclass(frozen=True, kw_only=True)
class RunShape:
    """What varies between the runs of the tests."""

    blocks: int = 14
    state: bool = True
    state_trees: bool = True  # runs of old have none
    shared_bytes: int = 3000
    seed: int = 7
    manifest: Mapping[str, object] = field(
        default_factory=lambda: {"content_digest": "c" * 64, "snapshot": 1}
    )


def write_run(
    run: Path, sequences: Sequence[MapRow] = PRIVATE, shape: RunShape | None = None
) -> Path:
    """Banks of 8 blocks, their leaves, the sink map, optimizer state, `training.json`."""
    shape = shape or RunShape()
    random = np.random.default_rng(shape.seed)
    (run / "state").mkdir(parents=True)
    (run / "config.json").write_bytes(
        canonical_json({"block_size": BLOCK_SIZE, "num_hidden_layers": LAYERS})
    )
    save_file(
        {"model.embed": random.standard_normal(shape.shared_bytes // 4).astype(np.float32)},
        run / "model-shared.safetensors",
    )
    banks = []
    for index, first in enumerate(range(0, shape.blocks, BANK_BLOCKS)):
        rows = min(BANK_BLOCKS, shape.blocks - first)
        size = (rows, LAYERS, 3, BLOCK_SIZE, HIDDEN)
        path = run / f"sinks-{index:05d}.safetensors"
        save_file({f"sinks.banks.{index}": random.standard_normal(size).astype(np.float32)}, path)
        root = write_leaves(open_bank(path)).hex()
        banks.append({"file": path.name, "blocks": rows, "root": root})
        if shape.state:
            # Only some blocks have been stepped, and their rows are in the order of first use.
            held = np.array(sorted(range(first, first + rows), key=lambda b: -b)[:-1], np.int64)
            save_file(
                {
                    "blocks": held,
                    "steps": np.arange(1, len(held) + 1),
                    "exp_avg": random.standard_normal((len(held), *size[1:])).astype(np.float32),
                    "exp_avg_sq": random.standard_normal((len(held), *size[1:])).astype(np.float32)
                    ** 2,
                },
                run / "state" / path.name,
            )
            if shape.state_trees:
                write_leaves(open_state(run / "state" / path.name))
    (run / "state" / "trainer.json").write_bytes(canonical_json({"done": 9}))
    write_sink_map(run / "sink_map.parquet", sequences)
    files = sorted(p for p in run.rglob("*") if p.is_file())
    digests = {p.relative_to(run).as_posix(): sha256_file(p) for p in files}
    for name, file in files_with_trees(run).items():
        digests[name], digests[leaves_name(name)] = stored_digests(file)
    record = {
        "format": "memsinks-govern run",
        "format_version": 2,
        "manifest": dict(shape.manifest),
        "config": {"block_size": BLOCK_SIZE, "num_hidden_layers": LAYERS},
        "seed": 0,
        "allocation": {"scheme": "splitmix64-v1", "seed": 0},
        "versions": {},
        "banks": banks,
        "files": digests,
    }
    (run / "training.json").write_bytes(canonical_json(record))
    return run


def contents(run: Path) -> dict[str, bytes]:
    """Bytes of every file of a run; locks and temporary files left out."""
    return {
        p.relative_to(run).as_posix(): p.read_bytes()
        for p in sorted(run.rglob("*"))
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(run).parts)
    }


def tree_digest(run: Path) -> str:
    """One digest over names and bytes of a run."""
    state = hashlib.sha256()
    for name, data in contents(run).items():
        state.update(f"{name} {len(data)}\n".encode() + data)
    return state.hexdigest()
