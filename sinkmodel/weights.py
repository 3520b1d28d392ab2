"""The weight files of a run directory: one for the shared weights, one for each bank.

A bank alone in its file makes every block a byte range that can be zeroed where it lies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from manifests.errors import CheckpointError
from manifests.files import atomic_write

SHARED_FILE = "model-shared.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_BANK_KEY = re.compile(r"sinks\.banks\.(\d+)")
_BANK_FILE = re.compile(r"sinks-\d{5,}\.safetensors")
_METADATA = {"format": "pt"}  # transformers refuses files without it


def bank_file(bank: int) -> str:
    """File name of a bank."""
    return f"sinks-{bank:05d}.safetensors"


def write_weights(directory: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict in the layout of a run directory; equal tensors give equal bytes.

    Args:
        directory: Exists. Banks of an earlier save that the state does not have are removed.
        state: Tensors by name; `sinks.banks.N` are the banks, all others are shared.

    Raises:
        CheckpointError: `directory` holds a `model.safetensors`, which would be loaded instead.
    """
    if (directory / "model.safetensors").exists():
        raise CheckpointError(
            str(directory),
            expected="a directory for a sink model",
            found="model.safetensors of another model",
            remedy="save into a directory of its own",
        )
    files: dict[str, dict[str, Tensor]] = {SHARED_FILE: {}}
    for name, tensor in state.items():
        bank = _BANK_KEY.fullmatch(name)
        file = bank_file(int(bank[1])) if bank else SHARED_FILE
        files.setdefault(file, {})[name] = tensor.detach().cpu().contiguous()
    for file, tensors in files.items():
        atomic_write(directory / file, save(tensors, metadata=_METADATA))
    index = {
        "metadata": {"total_size": sum(t.numel() * t.element_size() for t in state.values())},
        "weight_map": {name: file for file, tensors in files.items() for name in tensors},
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    atomic_write(directory / INDEX_FILE, text.encode())
    for path in directory.iterdir():
        if _BANK_FILE.fullmatch(path.name) and path.name not in files:
            path.unlink()
