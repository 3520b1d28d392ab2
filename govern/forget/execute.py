"""Execute: select, plan, measure, erase, verify, measure again, sign, record. One call, `forget`.

The order makes a kill harmless. What each moment leaves, and what a re-run of the same call does:

    while planning or measuring     nothing, or an unused `.pending`     begins anew
    after the job is written        `.pending/job.json`                  continues with its plan
    while erasing                   a clone, or a journal                completes it
    after the erase                 the erased run with its receipt      verifies, measures, signs
    after the statement is signed   `.pending/envelope.json`             appends this very envelope
    after the ledger                an entry                             finds it there
    after the tombstones            rows in the manifest                 finds them there
    after REPORT.json               receipt and `.pending`               clears both away

So a report exists only for an erase that was completed and verified, and there is one for each.

Where a request names several checkpoints, each has its own `.pending`, and every step is done for
all of them before the next one begins: nothing is erased before all can be, nothing is recorded
before all are erased. A re-run takes up each where it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from govern.audit.disclosure import Disclosure, new_key
from govern.audit.report import render_report
from govern.audit.report_file import issue, read_report, sign_statement, write_report
from govern.audit.signing import Envelope, PrivateKey
from govern.audit.statement import Predicate
from govern.forget.call import (
    PAGE,
    REPORT,
    Call,
    ForgetOutcome,
    bad_call,
    locked,
    private_keys,
    require_outside,
)
from govern.forget.checkpoints import read_checkpoints, report_dirs
from govern.forget.evidence import Erased, make_disclosure, make_statement
from govern.forget.measuring import Measurements, Measurer, MeasureRequest
from govern.forget.pending import Job, require_same
from govern.forget.plan import Plan, make_plan, require_executable
from govern.forget.plan_file import PlanFile, require_same_plan, require_unchanged
from govern.forget.request import ForgetRequest
from govern.forget.selection import select
from govern.forget.tombstone import add_forgotten
from manifests import open_manifest
from manifests.errors import CheckpointError, InputError, IntegrityError
from manifests.files import atomic_write
from manifests.sequence_id import parse_id
from sinkmodel.erase import (
    Check,
    EraseReceipt,
    erase_locked,
    require_settled,
    settle,
    verify_erased,
)


def plan_forget(
    run: Path | str, manifest: Path | str, request: ForgetRequest, *, max_collateral: float = 0.0
) -> Plan:
    """What `forget` would do. Writes nothing.

    Args:
        run: The run directory.
        manifest: The manifest that it was trained on.
        request: What is to be forgotten.
        max_collateral: The share of its sinks (0 to 1) that a kept sequence may lose.

    Raises:
        SelectionError: Nothing was found.
        CheckpointError, ManifestError: Not a run, or not its manifest.
    """
    return plan_checkpoints((run,), manifest, request, max_collateral=max_collateral)[0]


def plan_checkpoints(
    runs: Sequence[Path | str],
    manifest: Path | str,
    request: ForgetRequest,
    *,
    max_collateral: float = 0.0,
) -> tuple[Plan, ...]:
    """The plan for each of several checkpoints of one training; see `plan_forget`.

    Raises:
        InputError: A run is named twice, or lies inside another one.
    """
    opened = open_manifest(manifest)
    first, *also = map(Path, runs)
    return tuple(
        make_plan(opened, select(opened, request, view), view, max_collateral=max_collateral)
        for view in read_checkpoints(first, also, opened)
    )


def forget(
    run: Path | str,
    manifest: Path | str,
    request: ForgetRequest,
    *,
    also: Sequence[Path | str] = (),
    out: Path | str | None = None,
    in_place: bool = False,
    key: Path | str | PrivateKey | Sequence[Path | str | PrivateKey],
    ledger: Path | str | None = None,
    report_dir: Path | str | None = None,
    max_collateral: float = 0.0,
    measurer: Measurer | None = None,
    operator: str = "operator",
    approved: PlanFile | None = None,
) -> ForgetOutcome:
    """Forget: zero the sinks of what the request selects, prove it, and record it.

    Args:
        run: The run directory.
        manifest: The manifest that it was trained on; gets the tombstones.
        request: What is to be forgotten.
        also: Other checkpoints of the same training, to be erased in place with `run`.
        out: A directory that does not exist yet, for the erased copy.
        in_place: Erase `run` itself instead; nothing can undo it.
        key: Ed25519 private key that signs report and ledger; of several each signs the statement,
            for instance an operator and an approver, and the first signs the ledger.
        ledger: The ledger directory; by default `ledger` beside the run.
        report_dir: For REPORT.json and REPORT.html; by default beside the erased run, named after
            the request's reference. With `also`, the report of each run is in a directory of its
            name there.
        max_collateral: The share of its sinks (0 to 1) that a kept sequence may lose.
        measurer: Measures behaviour; None leaves the evidence structural.
        operator: Who executes the request, for the statement.
        approved: The plan file that is executed: `request` is the one it has, and its limit stands
            for `max_collateral`. It is about one run, so it does not go with `also`.

    Returns:
        The outcome for `run`, with those of `also` in it.

    Raises:
        SelectionError: Nothing was found, or nothing of it can be erased.
        CollateralError: Kept sequences would lose more than was allowed.
        IntegrityError: The erased files are not what they must be; no report is written.
        LockedError: Another process works on the run, the report, the ledger or the manifest.
        CheckpointError, ManifestError, InputError: Something given cannot be used.
    """
    _require_modes(in_place, out, also, approved)
    if not 0 <= max_collateral <= 1:
        raise bad_call("--max-collateral", "a share between 0 and 1", f"{max_collateral:g}")
    opened, target = open_manifest(manifest), Path(out) if out else None
    views = read_checkpoints(Path(run), [Path(path) for path in also], opened)
    homes = [target or view.path for view in views]
    reports = report_dirs(homes, request.reference, given=Path(report_dir) if report_dir else None)
    keys = private_keys(key)
    calls = [
        Call(
            request=request,
            run=view,
            manifest=opened,
            out=target,
            keys=keys,
            ledger=Path(ledger) if ledger else views[0].path.parent / "ledger",
            report_dir=directory,
            max_collateral=approved.plan.collateral.max_allowed if approved else max_collateral,
            measurer=measurer,
            operator=operator,
            approved=approved,
            checkpoints=len(views),
        )
        for view, directory in zip(views, reports, strict=True)
    ]
    require_outside(calls)
    with locked(calls):
        first, *others = _forget(calls)
    return replace(first, also=tuple(others))


def _require_modes(
    in_place: bool, out: object, also: Sequence[object], approved: PlanFile | None
) -> None:
    """Where the erase happens is said once, and fits what is given besides."""
    if in_place == (out is not None):
        raise bad_call("forget", "either an output or in place", "both" if in_place else "neither")
    if also and (out is not None or approved is not None):
        expected = "no other checkpoint with an output or a plan file, which are those of one run"
        raise bad_call("--also", expected, "both")


def _forget(calls: Sequence[Call]) -> list[ForgetOutcome]:
    """Each step for all runs before the next one; what was done before is passed over."""
    found = [_found(call) for call in calls]
    jobs = [
        _begin(call, state) if isinstance(state, Plan) else state
        for call, state in zip(calls, found, strict=True)
    ]
    signed = [
        state if isinstance(state, ForgetOutcome) else (state.plan, *_signed(call, state))
        for call, state in zip(calls, jobs, strict=True)
    ]
    return [
        state if isinstance(state, ForgetOutcome) else _record(call, *state)
        for call, state in zip(calls, signed, strict=True)
    ]


def _found(call: Call) -> Plan | Job | ForgetOutcome:
    """Where a run stands: a plan that can be executed, a job that has begun, or all done."""
    job = call.pending.job()
    if job is not None:
        require_same(job, call.identity, call.report_dir)
        return job
    call.pending.end()  # what a kill left of measuring, or of this very clearing
    plan = call.approved.plan if call.approved else _plan(call)
    done = _done_before(call, plan)
    if done is not None:
        return done
    if call.approved is not None:
        require_unchanged(call.approved, call.manifest, call.run.path)
        require_same_plan(call.approved, _plan(call))
    require_executable(plan, None if call.checkpoints == 1 else call.run.path)
    if call.out is not None and call.out.exists() and any(call.out.iterdir()):
        raise CheckpointError(
            f"output {call.out}",
            expected="a directory that does not exist yet",
            found="something there already",
            remedy="give another --out",
        )
    require_settled(call.run.path)
    return plan


def _signed(call: Call, job: Job) -> tuple[Envelope, Disclosure]:
    """The signed statement of the erase, which is done here unless it was before."""
    envelope, disclosure = call.pending.signed() or _erase_and_sign(call, job)
    if {signature.keyid for signature in envelope.signatures} != {
        k.public.key_id for k in call.keys
    }:
        raise bad_call("--key", "the keys that signed this statement already", "other ones")
    return envelope, disclosure


def _record(call: Call, plan: Plan, envelope: Envelope, disclosure: Disclosure) -> ForgetOutcome:
    """Ledger, tombstones and report; then nothing is pending any more."""
    report = issue(envelope, disclosure, keys=call.keys, ledger=call.ledger, time=_now())
    add_forgotten(call.manifest, plan, call.request.reference, report)
    write_report(report, call.report_dir / REPORT)
    atomic_write(call.report_dir / PAGE, render_report(report).encode())
    settle(call.result)
    call.pending.end()
    return _outcome(call, plan, report.statement().predicate)


def _plan(call: Call) -> Plan:
    selection = select(call.manifest, call.request, call.run)
    return make_plan(call.manifest, selection, call.run, max_collateral=call.max_collateral)


def _begin(call: Call, plan: Plan) -> Job:
    """Fix the thresholds, measure what was before, and remember both."""
    wanted = _measure_request(call, plan)
    thresholds = call.measurer.thresholds(wanted) if call.measurer else ()
    job = Job(
        identity=call.identity,
        plan=plan,
        thresholds=thresholds,
        measured=call.measurer is not None,
        received_at=call.approved.made_at if call.approved else _now(),
        key=new_key().hex(),
        approved=call.approved.digest if call.approved else None,
    )
    before = call.measurer.before(call.run.path, wanted) if call.measurer else b""
    call.pending.begin(job, before)
    return job


def _erase_and_sign(call: Call, job: Job) -> tuple[Envelope, Disclosure]:
    if job.measured and call.measurer is None:
        raise bad_call(
            "measuring", "a measurer, as the first attempt had", "none; it cannot be completed so"
        )
    receipt = erase_locked(call.run.path, job.plan.blocks, job.plan.ids, out=call.out, pending=True)
    if receipt.already_erased:
        raise CheckpointError(
            f"run {call.result}",
            expected="the receipt of the erase that began here",
            found="an erased run without it",
            remedy="restore the run from before the erase, and forget again",
        )
    checks = verify_erased(receipt, call.result)
    _require_passed(checks, call.result)
    measurements: Measurements | None = None
    if call.measurer is not None and job.measured:
        wanted = _measure_request(call, job.plan)
        measurements = call.measurer.after(call.result, wanted, call.pending.before())
    erased = _evidence(call, job, receipt, checks, measurements)
    disclosure = make_disclosure(erased)
    envelope = sign_statement(make_statement(erased, disclosure), call.keys)
    call.pending.keep_signed(envelope, disclosure)
    return envelope, disclosure


def _evidence(
    call: Call,
    job: Job,
    receipt: EraseReceipt,
    checks: tuple[Check, ...],
    measurements: Measurements | None,
) -> Erased:
    return Erased(
        request=call.request,
        job=job,
        source=call.run.path,
        in_place=call.out is None,
        allocation=call.run.allocation,
        receipt=receipt,
        checks=checks,
        measurements=measurements,
        operator=call.operator,
        key_ids=tuple(key.public.key_id for key in call.keys),
        executed_at=_now(),
        checkpoints=call.checkpoints,
    )


def _outcome(call: Call, plan: Plan, predicate: Predicate) -> ForgetOutcome:
    report = call.report_dir / REPORT
    page = call.report_dir / PAGE
    return ForgetOutcome(
        plan=plan,
        run=call.result,
        report=report,
        html=page if page.exists() else None,
        ledger=call.ledger,
        verdict=predicate.verdict.result,
        reasons=predicate.verdict.reasons,
    )


def _done_before(call: Call, plan: Plan) -> ForgetOutcome | None:
    """The outcome where an earlier request did all this; otherwise None.

    Raises:
        InputError: The report directory has the report of another request.
    """
    report = call.report_dir / REPORT
    if report.exists():
        predicate = read_report(report).statement().predicate
        same = predicate.request.reference == call.request.reference
        ids = {s.sequence_id for s in plan.sequences} or set(plan.already_forgotten)
        if same and ids == set(predicate.selection.sequence_ids) and call.result.is_dir():
            return replace(_outcome(call, plan, predicate), already_forgotten=True)
        raise InputError(
            f"report directory {call.report_dir}",
            expected="no report yet",
            found=f"the report of request {predicate.request.reference!r}",
            remedy="give another --report",
        )
    if plan.sequences or plan.without_sinks or plan.not_trained or not plan.already_forgotten:
        return None
    return ForgetOutcome(
        plan=plan,
        run=call.run.path,
        report=None,
        html=None,
        ledger=None,
        verdict=None,
        already_forgotten=True,
    )


def _measure_request(call: Call, plan: Plan) -> MeasureRequest:
    return MeasureRequest(
        manifest=call.manifest,
        forgotten=tuple((d.source, d.doc_id, parse_id(d.sequence_id)) for d in plan.documents),
        policies={parse_id(s.sequence_id): s.policy for s in plan.sequences},
        share_lost={parse_id(a.sequence_id): a.share_lost for a in plan.collateral.affected},
    )


def _require_passed(checks: tuple[Check, ...], run: Path) -> None:
    for check in checks:
        if not check.passed:
            raise IntegrityError(
                f"erased run {run}",
                expected=check.name,
                found=check.detail,
                remedy="no report was written; restore the run and find out what changed it",
            )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
