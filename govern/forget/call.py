"""One call of `forget`: its arguments resolved, what it gives back, what it must not touch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from govern.audit.signing import PrivateKey, load_private_key
from govern.forget.measuring import Measurer
from govern.forget.pending import Pending, identity_of
from govern.forget.plan import Plan
from govern.forget.plan_file import PlanFile
from govern.forget.request import ForgetRequest
from govern.forget.run_view import RunView
from manifests import Manifest
from manifests.errors import InputError
from manifests.files import writer_lock

REPORT, PAGE = "REPORT.json", "REPORT.html"


@dataclass(frozen=True, kw_only=True)
class ForgetOutcome:
    """What a call did.

    Attributes:
        plan: What was to be erased.
        run: The run in which it is erased.
        report: REPORT.json, or None where an earlier request had erased everything.
        html: The page to read, beside it.
        ledger: The ledger that has the statement, or None.
        verdict: PASSED, WARNED or FAILED, with its reasons; None without a report.
        reasons: Why the verdict is not PASSED.
        already_forgotten: Nothing was left to do, and nothing was written.
        also: The outcomes of the other checkpoints that the request names, in its order.
    """

    plan: Plan
    run: Path
    report: Path | None
    html: Path | None
    ledger: Path | None
    verdict: str | None
    reasons: tuple[str, ...] = ()
    already_forgotten: bool = False
    also: tuple[ForgetOutcome, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of one `forget`, resolved, for one of the `checkpoints` that it names."""

    request: ForgetRequest
    run: RunView
    manifest: Manifest
    out: Path | None
    keys: tuple[PrivateKey, ...]
    ledger: Path
    report_dir: Path
    max_collateral: float
    measurer: Measurer | None
    operator: str
    approved: PlanFile | None
    checkpoints: int = 1

    @property
    def result(self) -> Path:
        """The run in which the erase ends."""
        return self.out or self.run.path

    @property
    def pending(self) -> Pending:
        """What is remembered between two attempts."""
        return Pending(self.report_dir)

    @property
    def identity(self) -> str:
        """Which request this is."""
        digest = self.approved.digest if self.approved else None
        return identity_of(self.request, run=self.run.path, out=self.out, approved=digest)


def private_keys(
    given: Path | str | PrivateKey | Sequence[Path | str | PrivateKey],
) -> tuple[PrivateKey, ...]:
    """The keys, each once: nobody can be operator and approver with one key."""
    several = [given] if isinstance(given, (str, Path, PrivateKey)) else list(given)
    keys = [key if isinstance(key, PrivateKey) else load_private_key(Path(key)) for key in several]
    if not keys or len({key.public.key_id for key in keys}) < len(keys):
        found = "the same key twice" if keys else "none"
        raise bad_call("--key", "one key, or several different ones", found)
    return tuple(keys)


def default_report_dir(run: Path, reference: str) -> Path:
    """Where the report of a request lies unless it is said: beside the erased run."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", reference).strip("-")[:40]
    if slug != reference:
        # Two references must not meet in one directory because they differ in other signs.
        slug = f"{slug}-{hashlib.sha256(reference.encode()).hexdigest()[:8]}".lstrip("-")
    return run.parent / f"{run.name}-report-{slug}"


def require_outside(calls: Sequence[Call]) -> None:
    """Reports and ledger must not change a run that they are about."""
    runs = {path.resolve() for call in calls for path in (call.run.path, call.result)}
    for call in calls:
        for name, path in (("--report", call.report_dir), ("--ledger", call.ledger)):
            for run in sorted(runs):
                if path.resolve().is_relative_to(run):
                    raise bad_call(name, f"a directory outside the run {run.name}", str(path))


@contextmanager
def locked(calls: Sequence[Call]) -> Iterator[None]:
    """Hold the locks of all runs and report directories, or of none.

    The runs come in the order of their real paths, so that of two calls that name the same ones
    the later stops at the first.
    """
    with ExitStack() as stack:
        for call in sorted(calls, key=lambda call: call.run.path.resolve()):
            stack.enter_context(_locked(call))
        yield


@contextmanager
def _locked(call: Call) -> Iterator[None]:
    """One forget at a time for a run, and for a report directory.

    A request that is refused leaves no new directory behind.
    """
    with writer_lock(call.run.path):
        new = not call.report_dir.exists()
        call.report_dir.mkdir(parents=True, exist_ok=True)
        try:
            with writer_lock(call.report_dir):
                yield
        finally:
            if new and {path.name for path in call.report_dir.iterdir()} <= {".lock"}:
                (call.report_dir / ".lock").unlink(missing_ok=True)
                call.report_dir.rmdir()


def bad_call(what: str, expected: str, found: str) -> InputError:
    """An argument that cannot be used."""
    return InputError(what, expected=expected, found=found, remedy="correct the call")
