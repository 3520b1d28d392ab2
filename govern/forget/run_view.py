"""The run as planning and reporting see it, read without torch: record, sink map, block shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manifests import Manifest
from manifests.errors import CheckpointError, ManifestError
from sinkmodel.bank_format import open_banks
from sinkmodel.run_record import read_record

if TYPE_CHECKING:
    from sinkmodel.allocation import SinkMap


@dataclass(frozen=True, kw_only=True)
class RunView:
    """What a plan needs of a run.

    Attributes:
        path: The run directory.
        content_digest, snapshot: The manifest snapshot that it was trained on.
        sink_map: SHA-256 of its sink map, which is that of its training.
        allocation: How blocks were given to sequences (scheme, seed).
        layers: Layers that have sinks.
        block_size: Sink neurons of one block in one layer.
        block_bytes: Bytes of one block over all layers.
    """

    path: Path
    content_digest: str
    snapshot: int
    sink_map: str
    allocation: tuple[str, int]
    layers: int
    block_size: int
    block_bytes: int

    def owners(self) -> list[int]:
        """IDs, ascending, that own blocks and are not forgotten. Reads the whole sink map."""
        from sinkmodel.allocation import SINK_MAP_FILE, SinkMap

        sink_map = SinkMap.read(self.path / SINK_MAP_FILE)
        rows = sink_map.active & (np.diff(sink_map.lists.offsets) > 0)
        return [int(i) for i in sink_map.sequence_ids[rows]]

    def known(self, sequence_ids: Iterable[int]) -> set[int]:
        """Those of the IDs that the run was trained with."""
        from sinkmodel import stored_map

        return stored_map.known(self.path, sequence_ids)

    def sinks_of(self, sequence_ids: Iterable[int]) -> SinkMap:
        """The rows of the sink map that a plan for these IDs needs; see `stored_map.find`."""
        from sinkmodel import stored_map

        return stored_map.find(self.path, sequence_ids)


def read_run(path: Path) -> RunView:
    """Read a run directory.

    Raises:
        CheckpointError: Not a run, one without sinks, or not with the sink map of its training.
    """
    from sinkmodel.allocation import SINK_MAP_FILE
    from sinkmodel.stored_map import require_pinned

    record = read_record(path)
    require_pinned(path, record)
    banks = open_banks(path)
    if not banks:
        raise CheckpointError(
            f"run {path}",
            expected="a run with sink banks",
            found="none: nothing in it can be forgotten",
            remedy="train with sequences of policy private, strict or pooled",
        )
    pin, allocation = record["manifest"], record.get("allocation", {})
    return RunView(
        path=path,
        content_digest=pin["content_digest"],
        snapshot=pin["snapshot"],
        sink_map=record["files"][SINK_MAP_FILE],
        allocation=(str(allocation.get("scheme", "unknown")), int(allocation.get("seed", 0))),
        layers=banks[0].shape[1],
        block_size=banks[0].shape[3],
        block_bytes=banks[0].block_bytes,
    )


def require_trained_on(run: RunView, manifest: Manifest) -> None:
    """Refuse a manifest that does not hold the snapshot that the run was trained on.

    Raises:
        ManifestError: Another manifest; both digests are in the message.
    """
    found = {s.snapshot: s.content_digest for s in manifest.snapshots}.get(run.snapshot)
    if found != run.content_digest:
        raise ManifestError(
            f"manifest {manifest.path}",
            expected=f"snapshot {run.snapshot} with content digest {run.content_digest}, "
            f"which {run.path.name} was trained on",
            found=f"content digest {found}" if found else f"no snapshot {run.snapshot}",
            remedy="give the manifest that the run was trained on",
        )
