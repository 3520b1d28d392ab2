"""The sink model: shared neurons that generalise, sink neurons that each sequence ID owns.

    configuration_sink, modeling_sink   the transformers model (Auto classes)
    sink_mlp        banks, routing, gathered forward, the naive masked reference
    allocation      sequence ID -> blocks; the sink map
    bank_format     the bytes of a bank on disk (no torch)
    data            manifest + corpus -> packed micro-batches in a deterministic order
    recipes, train  named configurations and the loop; prepare, trainer, saves, finish: its parts
    ranks, ownership   several processes: what they tell each other, and who owns which sinks
    checkpoint      save and load a run, with digests and Merkle roots
    erase           zero given blocks of a run on disk; erase_predict, erase_receipt, erase_verify
    run_files       the files of a run as files: digests, clones, links
    copying         large files past the page cache
    evaluate/       metrics and controls

`import sinkmodel` does not import torch; using one of its names does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sinkmodel.configuration_sink import SinkConfig
    from sinkmodel.modeling_sink import SinkForCausalLM
    from sinkmodel.train import train

_API = {
    "SinkConfig": "sinkmodel.configuration_sink",
    "SinkForCausalLM": "sinkmodel.modeling_sink",
    "train": "sinkmodel.train",
}
__all__ = ["SinkConfig", "SinkForCausalLM", "train"]


def __getattr__(name: str) -> Any:
    if name in _API:
        # The model class registers the Auto classes on import.
        value = getattr(importlib.import_module(_API[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
