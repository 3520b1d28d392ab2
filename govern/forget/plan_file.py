"""PLAN.json: a plan that somebody approves now and somebody executes later.

    format, format_version, made_at (UTC)
    request       what was asked for, in full
    plan          everything that `--plan` shows
    checkpoint    a pin of every file of the run (`sinkmodel.run_pins`)
    digest        SHA-256 over the RFC 8785 form of all the above

Its digest stands in the statement of the erase. Nothing in it is believed: execution refuses when
the digest does not fit, when manifest or run changed since, and when planning again gives any
other plan. It names documents, so it is readable by its owner only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from govern.audit.records import Count, Record, Sha256, Utc, canonical, malformed, parse_canonical
from govern.forget.plan import Plan
from govern.forget.request import ForgetRequest, Kind
from govern.forget.request_file import Subject
from manifests import Manifest
from manifests.errors import CheckpointError, InputError, ManifestError, SelectionError
from manifests.files import atomic_write
from sinkmodel.run_pins import FilePin, pin_files

_AGAIN = "plan again, and have that plan approved"


@dataclass(frozen=True, kw_only=True)
class PlannedRequest(Record):
    """The request, as `ForgetRequest` has it."""

    kind: Kind
    values: tuple[str, ...]
    reference: str
    reason: str
    requester: str | None = None
    min_similarity: float | None = None
    quotations: bool = True
    subjects: tuple[Subject, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PinnedFile(Record):
    """A file of the run when the plan was made; `changed_at_ns` is decimal, it exceeds 2^53."""

    name: str
    size: Count
    digest: Sha256 | None
    changed_at_ns: str | None


@dataclass(frozen=True, kw_only=True)
class _Body(Record):
    """PLAN.json without its digest."""

    format: Literal["memsinks-govern plan"] = "memsinks-govern plan"
    format_version: Literal[1] = 1
    made_at: Utc
    request: PlannedRequest
    plan: Plan
    checkpoint: tuple[PinnedFile, ...]


@dataclass(frozen=True, kw_only=True)
class PlanFile(_Body):
    """The content of PLAN.json; `digest` fits the rest, or there is no such record."""

    digest: Sha256

    def __post_init__(self) -> None:
        super().__post_init__()
        found = _digest(self)
        if found != self.digest:
            raise malformed("plan file", f"digest {found}", f"{self.digest}: it was edited")

    @property
    def asked(self) -> ForgetRequest:
        """The request that was planned."""
        return ForgetRequest(**{name: getattr(self.request, name) for name in vars(self.request)})


def make_plan_file(request: ForgetRequest, plan: Plan, run: Path) -> PlanFile:
    """The plan file of a plan that was just made for a run."""
    body = _Body(
        made_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        request=PlannedRequest(**vars(request)),
        plan=plan,
        checkpoint=tuple(_pinned(pin) for pin in pin_files(run)),
    )
    return PlanFile(**vars(body), digest=body.canonical_sha256())


def write_plan_file(file: PlanFile, path: Path) -> None:
    """Write PLAN.json, readable by its owner only."""
    atomic_write(path, file.canonical(), mode=0o600)


def read_plan_file(path: Path) -> PlanFile:
    """Read PLAN.json.

    Raises:
        InputError: It cannot be read.
        IntegrityError: It is not as `write_plan_file` left it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"--from-plan {path}",
            expected="a plan file",
            found=error.strerror or "an unreadable file",
            remedy="write one with --plan --plan-file PLAN.json",
        ) from None
    return PlanFile.from_dict(parse_canonical(data, f"plan file {path}"), f"plan file {path}")


def require_unchanged(file: PlanFile, manifest: Manifest, run: Path) -> None:
    """Refuse a plan whose manifest or run is no longer what it was made on.

    Raises:
        ManifestError, CheckpointError: One of them changed; names what.
    """
    pinned = file.plan.manifest.digest_before
    if manifest.digest != pinned:
        raise ManifestError(
            f"manifest {manifest.path}",
            expected=f"digest {pinned}, which the plan was made on",
            found=f"digest {manifest.digest}",
            remedy=_AGAIN,
        )
    before = {item.name: item for item in file.checkpoint}
    now = {pin.name: _pinned(pin) for pin in pin_files(run)}
    names = sorted(before.keys() | now.keys())
    changed = [name for name in names if before.get(name) != now.get(name)]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise CheckpointError(
            f"run {run}",
            expected="the files that the plan was made on",
            found=f"others: {', '.join(changed[:3])}{more}",
            remedy=_AGAIN,
        )


def require_same_plan(file: PlanFile, plan: Plan) -> None:
    """Refuse a plan that planning again does not give: whoever wrote it was not this command.

    Raises:
        SelectionError: They differ; names the fields.
    """
    if plan != file.plan:
        differ = [name for name in vars(plan) if getattr(plan, name) != getattr(file.plan, name)]
        raise SelectionError(
            "plan file",
            expected="the plan that its request gives",
            found=f"another in {', '.join(differ)}",
            remedy=_AGAIN,
        )


def _pinned(pin: FilePin) -> PinnedFile:
    changed = None if pin.mtime_ns is None else str(pin.mtime_ns)
    return PinnedFile(name=pin.name, size=pin.size, digest=pin.digest, changed_at_ns=changed)


def _digest(file: PlanFile) -> str:
    body = file.to_dict()
    del body["digest"]
    return hashlib.sha256(canonical(body)).hexdigest()
