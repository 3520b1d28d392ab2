"""What a forget must remember to be completed after a kill, in `REPORT_DIR/.pending/`.

    job.json        the request's identity, the plan, thresholds, times, the key of keyed hashes
    before.bin      what was measured before the erase
    envelope.json   the signed statement, once it exists
    disclosure.json the names behind its keyed hashes

Each file appears atomically and in this order; a re-run takes up after the last one that is there.
The directory goes when the report is written. It names documents, so it is readable by its owner
only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from govern.audit.disclosure import Disclosure
from govern.audit.measured import Threshold
from govern.audit.records import Record, Sha256, Utc, canonical, parse_canonical
from govern.audit.signing import Envelope
from govern.forget.plan import Plan
from govern.forget.request import ForgetRequest
from manifests.errors import InputError
from manifests.files import atomic_write

DIRECTORY = ".pending"


@dataclass(frozen=True, kw_only=True)
class Job(Record):
    """A forget that has begun.

    Attributes:
        identity: `identity_of` of its request.
        plan: What is erased; made before the erase, so it cannot be made again.
        thresholds: Fixed before anything was measured.
        measured: Whether behaviour is measured at all.
        received_at: When the command began.
        key: Key of the keyed hashes, 32 bytes in hex.
        approved: Digest of the plan file that is executed, if one is.
    """

    identity: Sha256
    plan: Plan
    thresholds: tuple[Threshold, ...]
    measured: bool
    received_at: Utc
    key: Sha256
    approved: Sha256 | None = None


@dataclass(frozen=True)
class Pending:
    """The directory of a pending forget."""

    report_dir: Path

    @property
    def path(self) -> Path:
        """Where its files lie."""
        return self.report_dir / DIRECTORY

    def job(self) -> Job | None:
        """The job that has begun, or None.

        Raises:
            IntegrityError: The file was altered.
        """
        data = self._read("job.json")
        return None if data is None else Job.from_dict(parse_canonical(data, "pending job"))

    def begin(self, job: Job, before: bytes) -> None:
        """Remember the job. What was measured goes first: the job says that it is there."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if before:
            self._write("before.bin", before)
        self._write("job.json", job.canonical())

    def before(self) -> bytes:
        """What was measured before the erase."""
        return self._read("before.bin") or b""

    def signed(self) -> tuple[Envelope, Disclosure] | None:
        """The signed statement with its disclosure, or None."""
        envelope, disclosure = self._read("envelope.json"), self._read("disclosure.json")
        if envelope is None or disclosure is None:
            return None
        return (
            Envelope.from_dict(parse_canonical(envelope, "pending envelope")),
            Disclosure.from_dict(parse_canonical(disclosure, "pending disclosure")),
        )

    def keep_signed(self, envelope: Envelope, disclosure: Disclosure) -> None:
        """Remember the signed statement, so that the ledger gets this one and no second."""
        self._write("disclosure.json", disclosure.canonical())
        self._write("envelope.json", envelope.canonical())

    def end(self) -> None:
        """Forget the job; the job file goes first, so that no half of it is taken up again."""
        (self.path / "job.json").unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def _read(self, name: str) -> bytes | None:
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def _write(self, name: str, data: bytes) -> None:
        atomic_write(self.path / name, data, mode=0o600)


def identity_of(
    request: ForgetRequest, *, run: Path, out: Path | None, approved: str | None = None
) -> str:
    """Hex SHA-256 over what makes two calls the same request: re-runs must agree on it.

    Args:
        request: What is asked for.
        run, out: Where.
        approved: Digest of the plan file that is executed, if one is.
    """
    value = {
        "kind": request.kind,
        "values": list(request.values),
        "reference": request.reference,
        "reason": request.reason,
        "requester": request.requester,
        "min_similarity": request.min_similarity,
        "quotations": request.quotations,
        "subjects": [subject.to_dict() for subject in request.subjects],
        "run": str(run.resolve()),
        "out": None if out is None else str(out.resolve()),
        "approved": approved,
    }
    return hashlib.sha256(canonical(value)).hexdigest()


def require_same(job: Job, identity: str, report_dir: Path) -> None:
    """Refuse to complete another request's work.

    Raises:
        InputError: The pending job there is another one.
    """
    if job.identity != identity:
        query = json.loads(job.plan.query)
        raise InputError(
            f"report directory {report_dir}",
            expected="no other request under way",
            found=f"an unfinished one for {query[0]}",
            remedy="run the command that began it once more, or give another --report",
        )
