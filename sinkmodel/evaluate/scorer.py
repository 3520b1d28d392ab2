"""Scores and recitals of a probe set, once: kept by (checkpoint digest, probe digest).

A measurement asks for the same probe sets again when it is repeated, or was interrupted. What was
scored is one file in the cache, written atomically; another checkpoint, text or routing is another
file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.files import atomic_write
from sinkmodel.evaluate.archive import pack_scored, unpack_scored
from sinkmodel.evaluate.generation import recite
from sinkmodel.evaluate.probes import Probe
from sinkmodel.evaluate.rows import Scored
from sinkmodel.evaluate.scores import score
from sinkmodel.modeling_sink import SinkForCausalLM

PREFIX = LENGTH = 50  # the 50/50 extraction of arXiv 2202.07646
_FORMAT = "memsinks-govern scores v1"


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores probe sets.

    Args:
        context_length: Tokens a chunk.
        cache: Directory of earlier scores; None scores always.
        report: Called with the name of a step when it is done.
    """

    context_length: int
    cache: Path | None = None
    report: Callable[[str], None] | None = None

    def __call__(
        self,
        step: str,
        model: SinkForCausalLM,
        probes: Sequence[Probe],
        route: Callable[[Probe], int],
        *,
        checkpoint: str = "",
        recites: bool = True,
    ) -> Scored:
        """Token scores of every probe and, unless `recites` is False, its 50/50 recital.

        Args:
            step: What this is, for whoever waits.
            model: To be asked.
            probes: In the order of the result.
            route: Sequence ID whose sinks are on for a probe; 0 is off.
            checkpoint: Names the weights that `model` has now; "" is never cached.
            recites: Whether to generate.
        """
        routes = [route(probe) for probe in probes]
        file = self._file(checkpoint, probes, routes, recites)
        if file is not None and file.is_file():
            scored = unpack_scored(file.read_bytes())
        else:
            scored = self._scored(model, probes, routes, recites)
            if file is not None:
                atomic_write(file, pack_scored(scored))
        if self.report is not None:
            self.report(step)
        return scored

    def _file(
        self, checkpoint: str, probes: Sequence[Probe], routes: Sequence[int], recites: bool
    ) -> Path | None:
        if self.cache is None or not checkpoint:
            return None
        digest = hashlib.sha256()
        settings = [_FORMAT, checkpoint, self.context_length, recites, PREFIX, LENGTH, len(probes)]
        digest.update(json.dumps(settings).encode())
        for probe, sequence_id in zip(probes, routes, strict=True):
            name = json.dumps([*probe.key, probe.sequence_id, sequence_id, len(probe.tokens)])
            digest.update(name.encode() + probe.tokens.tobytes())
        return self.cache / f"{digest.hexdigest()}.npz"

    def _scored(
        self,
        model: SinkForCausalLM,
        probes: Sequence[Probe],
        routes: Sequence[int],
        recites: bool,
    ) -> Scored:
        by_key = {id(probe): i for probe, i in zip(probes, routes, strict=True)}
        scores = score(
            model, probes, context_length=self.context_length, route=lambda p: by_key[id(p)]
        )
        if not recites:
            return Scored(scores=tuple(scores), recitals=(None,) * len(scores))
        tokens = [probe.tokens for probe in probes]
        recitals = recite(model, tokens, routes, prefix=PREFIX, length=LENGTH)
        return Scored(scores=tuple(scores), recitals=tuple(recitals))
