"""The verdict: a pure function of the thresholds and what was measured.

It stands alone so that whoever verifies a report can derive it again: nobody can write PASSED above
figures that say otherwise.

Rules, in the order of the reasons:
    a structural check that failed                                        FAILED
    a measured row beyond its threshold                                   as the threshold says
    a threshold that nothing was measured for                             WARNED
    a sequence of policy `shared`, which has no sinks to remove           WARNED
    collateral above the limit, allowed by an explicit override           WARNED
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Literal

from govern.audit.measured import MetricRow, Threshold, Verification
from govern.audit.statement import Blocks, Mechanism, Predicate, Verdict

Result = Literal["PASSED", "WARNED", "FAILED"]
SEVERITY: dict[Result, int] = {"PASSED": 0, "WARNED": 1, "FAILED": 2}
_COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}
_SIGNS = {"<=": "≤", ">=": "≥", "==": "="}


def decide(*, verification: Verification, mechanism: Mechanism, blocks: Blocks) -> Verdict:
    """The verdict that follows from a statement's own figures."""
    findings: list[tuple[Result, str]] = [*_structural(verification), *_breaches(verification)]
    shared = sum(1 for p in mechanism.policies if p.policy == "shared")
    if shared:
        findings.append(
            ("WARNED", f"{shared} sequences have policy shared: they own no sinks, none was erased")
        )
    if blocks.collateral.override:
        worst = max((a.share_lost for a in blocks.collateral.affected), default=0.0)
        findings.append(
            ("WARNED", f"collateral of up to {worst:.4g} of a kept sequence's sinks was allowed")
        )
    levels: list[Result] = ["PASSED", *(level for level, _ in findings)]
    result = max(levels, key=SEVERITY.__getitem__)
    return Verdict(result=result, reasons=tuple(reason for _, reason in findings))


def compare(threshold: Threshold, row: MetricRow) -> bool:
    """Whether a measured row meets a threshold."""
    return bool(_COMPARE[threshold.comparison](row.value, threshold.bound))


def understated(predicate: Predicate) -> Verdict | None:
    """The verdict that the figures demand, if the stated one is milder; otherwise None."""
    derived = decide(
        verification=predicate.verification,
        mechanism=predicate.mechanism,
        blocks=predicate.blocks,
    )
    milder = SEVERITY[predicate.verdict.result] < SEVERITY[derived.result]
    return derived if milder else None


def _structural(verification: Verification) -> list[tuple[Result, str]]:
    structural = verification.structural
    failed: list[tuple[Result, str]] = [
        ("FAILED", f"structural check {check.name}: {check.detail or 'failed'}")
        for check in structural.checks
        if not check.passed
    ]
    if not structural.passed and not failed:
        failed.append(("FAILED", "the structural verification failed"))
    return failed


def _breaches(verification: Verification) -> list[tuple[Result, str]]:
    findings: list[tuple[Result, str]] = []
    for threshold in verification.thresholds:
        rows = list(_rows_of(threshold, verification.metrics))
        if not rows:
            where = f" on {threshold.group}" if threshold.group else ""
            findings.append(("WARNED", f"{threshold.metric}{where} was not measured"))
        findings += [
            (
                threshold.on_breach,
                f"{row.metric} on {row.group} is {row.value:.4g}, wanted "
                f"{_SIGNS[threshold.comparison]} {threshold.bound:.4g}",
            )
            for row in rows
            if not compare(threshold, row)
        ]
    return findings


def _rows_of(threshold: Threshold, metrics: Iterable[MetricRow]) -> Iterable[MetricRow]:
    return (
        row
        for row in metrics
        if row.metric == threshold.metric
        and row.phase == threshold.phase
        and threshold.group in (None, row.group)
    )
