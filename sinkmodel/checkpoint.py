"""Save and load a run directory, with the record that pins what it was.

`training.json` is written last and never changed afterwards: it is the record of training. It names
the manifest snapshot, every option, the library versions, the Merkle root of every bank and the
digest of every other file at the end of training. Banks and their trees are pinned by their roots,
so that an erase can tell their digests before and after without reading them.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from manifests import Manifest
from manifests.errors import CheckpointError
from manifests.files import atomic_write, canonical_json, fsync_directory, sha256_file
from manifests.merkle import HASH_BYTES
from sinkmodel.bank_format import leaves_name, open_bank, open_banks
from sinkmodel.bank_tree import files_with_trees, leaves_path, stored_digests, write_leaves
from sinkmodel.erase import require_settled
from sinkmodel.modeling_sink import SinkForCausalLM
from sinkmodel.run_record import FORMAT, FORMAT_VERSION, RECORD, read_record

STATE = "state"
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory, loaded.

    Args:
        path: The directory.
        model: In eval mode, its sink map attached.
        tokenizer: As saved with it.
        record: `training.json`, read-only.
    """

    path: Path
    model: SinkForCausalLM
    tokenizer: PreTrainedTokenizerBase
    record: Mapping[str, Any]

    @property
    def context_length(self) -> int:
        """Tokens a row had in training."""
        return int(self.record["config"]["context_length"])


def library_versions() -> dict[str, str]:
    """Versions of Python, this distribution and the libraries that shape the weights."""
    versions = {name: version(name) for name in _LIBRARIES}
    return versions | {
        "python": platform.python_version(),
        "memsinks-govern": version("memsinks-govern"),
    }


def load_run(path: Path | str, *, settled: bool = True) -> Run:
    """Load model, tokenizer, sink map and record of a run directory.

    Args:
        path: The directory.
        settled: Refuse a run whose erase has no report yet; the one who makes the report must not.

    Raises:
        CheckpointError: Not a run, one whose files do not fit together, or an unfinished erase.
    """
    path = Path(path)
    if settled:
        require_settled(path)
    record = read_record(path)
    try:
        with _without_progress_bars():
            model = SinkForCausalLM.from_pretrained(path)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"run {path}",
            expected="weights and tokenizer as `govern train` wrote them",
            found=(str(error).splitlines() or ["an unreadable file"])[0],
            remedy="restore the run from a backup, or check it with `govern audit verify`",
        ) from error
    model.eval()
    return Run(path=path, model=model, tokenizer=tokenizer, record=record)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Loading takes a moment: no bar of the library in the middle of our own output."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def pin_manifest(manifest: Manifest) -> dict[str, Any]:
    """What `training.json` keeps of the manifest: the snapshot, and its content digest."""
    return {"content_digest": manifest.content_digest(), "snapshot": manifest.snapshot}


def save_model(
    path: Path, model: SinkForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """Write weights with their sink map, tokenizer and Merkle leaves into an empty directory.

    Returns:
        file, blocks and root of every bank.
    """
    path.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    for file in path.glob("sinks-*.safetensors"):
        write_leaves(open_bank(file))
    return bank_records(path)


def bank_records(path: Path) -> list[dict[str, Any]]:
    """file, blocks and root of every bank of a run, the root from its stored tree."""
    banks = []
    for bank in open_banks(path):
        root = leaves_path(bank.path).read_bytes()[-HASH_BYTES:]
        banks.append({"file": bank.path.name, "blocks": bank.blocks, "root": root.hex()})
    return banks


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write optimizer state as safetensors: named tensors, no pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read what `save_tensors` wrote."""
    return load_file(path)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def seal(path: Path, record: Mapping[str, Any]) -> None:
    """Write `training.json` with a digest of every other file, last and durably.

    Args:
        path: The run directory.
        record: Everything else that `training.json` holds; `banks` as `save_model` returned them.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != RECORD)
    for file in files:
        sync_file(file)
    pinned = _pinned_by_root(path)
    names = {file.relative_to(path).as_posix(): file for file in files}
    digests = {name: pinned.get(name) or sha256_file(file) for name, file in names.items()}
    body = {"format": FORMAT, "format_version": FORMAT_VERSION, **record, "files": digests}
    for directory in {file.parent for file in files}:
        fsync_directory(directory)
    atomic_write(path / RECORD, canonical_json(body))


def _pinned_by_root(path: Path) -> dict[str, str]:
    """Digests of each block file (`bank_format.bank_digest`) and of its tree (the root, in hex)."""
    pinned = {}
    for name, file in files_with_trees(path).items():
        pinned[name], pinned[leaves_name(name)] = stored_digests(file)
    return pinned
