"""The kept sequence that resembles each forgotten one most: where a copy would still be found."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from sinkmodel.evaluate.probes import Probe
from sinkmodel.routing import ROUTE_INDEX_FILE, RouteIndex

if TYPE_CHECKING:
    from sinkmodel.checkpoint import Run


def nearest_kept(
    run: Run, probes: Sequence[Probe], forgotten: Collection[int]
) -> dict[int, int] | None:
    """Route one document of each sequence as `govern generate --sinks route` would.

    Args:
        run: With its route index.
        probes: Documents of the sequences to look for.
        forgotten: Sequences that must not be found.

    Returns:
        Sequence ID -> the most similar other one, 0 where nothing resembles it; None where the run
        has no index.
    """
    file = run.path / ROUTE_INDEX_FILE
    if not file.is_file():
        return None
    index = RouteIndex.read(file)
    kept = run.model.sink_map.forget(sorted(forgotten))
    texts = {probe.sequence_id: probe.text.decode() for probe in probes}
    matches = {sequence_id: index.route(text, kept) for sequence_id, text in texts.items()}
    return {i: 0 if match is None else match.sequence_id for i, match in matches.items()}
