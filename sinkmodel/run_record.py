"""`training.json`, the record of a training: reading and checking it, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifests.errors import CheckpointError
from manifests.files import canonical_json

FORMAT = "memsinks-govern run"
FORMAT_VERSION = 2
RECORD = "training.json"


def read_record(path: Path) -> Mapping[str, Any]:
    """Read and check `training.json` of a run directory.

    Raises:
        CheckpointError: No run there, not canonical JSON, another format version, or no manifest
            snapshot that the run was trained on.
    """
    file = path / RECORD
    if not file.is_file():
        raise CheckpointError(
            f"run {path}",
            expected=f"a run directory with {RECORD}",
            found="no such file" if path.is_dir() else "no such directory",
            remedy="give the --out of `govern train`",
        )
    data = file.read_bytes()
    try:
        record = json.loads(data)
        canonical = canonical_json(record) == data
    except (ValueError, RecursionError):
        canonical, record = False, None
    if not canonical or not isinstance(record, dict):
        raise _foreign(file, "other content")
    if (record.get("format"), record.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise _foreign(file, f"{record.get('format')!r} {record.get('format_version')!r}"[:80])
    pin = record.get("manifest")
    if (
        not isinstance(pin, dict)
        or type(pin.get("content_digest")) is not str
        or type(pin.get("snapshot")) is not int
    ):
        raise _foreign(file, "no manifest snapshot")
    return record


def _foreign(file: Path, found: str) -> CheckpointError:
    return CheckpointError(
        str(file),
        expected=f"the canonical record of a training, format {FORMAT!r} {FORMAT_VERSION}",
        found=found,
        remedy="restore the file from a backup of the run",
    )
