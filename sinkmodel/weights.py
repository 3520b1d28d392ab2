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
    banks = {name: tensor for name, tensor in state.items() if _BANK_KEY.fullmatch(name)}
    shared = {name: tensor for name, tensor in state.items() if name not in banks}
    write_shared(directory, shared, {name: tensor.nbytes for name, tensor in banks.items()})
    for name, tensor in banks.items():
        write_bank(directory, int(name.rpartition(".")[2]), tensor)


def write_shared(
    directory: Path, shared: Mapping[str, Tensor], bank_bytes: Mapping[str, int]
) -> None:
    """Write the shared weights and the index; the banks are to follow, each by `write_bank`.

    Args:
        directory: As in `write_weights`.
        shared: Tensors by name.
        bank_bytes: Bytes of each bank by its name `sinks.banks.N`.

    Raises:
        CheckpointError: As in `write_weights`.
    """
    if (directory / "model.safetensors").exists():
        raise CheckpointError(
            str(directory),
            expected="a directory for a sink model",
            found="model.safetensors of another model",
            remedy="save into a directory of its own",
        )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in shared.items()}
    atomic_write(directory / SHARED_FILE, save(tensors, metadata=_METADATA))
    files = {name: bank_file(int(name.rpartition(".")[2])) for name in bank_bytes}
    index = {
        "metadata": {
            "total_size": sum(t.nbytes for t in tensors.values()) + sum(bank_bytes.values())
        },
        "weight_map": {**dict.fromkeys(tensors, SHARED_FILE), **files},
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    atomic_write(directory / INDEX_FILE, text.encode())
    for path in directory.iterdir():
        if _BANK_FILE.fullmatch(path.name) and path.name not in files.values():
            path.unlink()


def bank_name(bank: int) -> str:
    """Name of a bank in the state dict."""
    return f"sinks.banks.{bank}"


def write_bank(directory: Path, bank: int, tensor: Tensor) -> None:
    """Write one bank into its file."""
    tensors = {bank_name(bank): tensor.detach().cpu().contiguous()}
    atomic_write(directory / bank_file(bank), save(tensors, metadata=_METADATA))
