"""What a statement says that it leaves open: limits, what nobody looked at, what is to be done."""

from __future__ import annotations

from pathlib import Path

from govern.audit.statement import Outstanding
from govern.forget.plan import Plan
from govern.forget.quoting import QUOTED_FROM
from sinkmodel.erase import EraseReceipt

_NOT_EXAMINED = (
    "exports and quantised copies of the run",
    "backups",
    "outputs that the model gave before",
)
_OTHER_CHECKPOINTS = "other checkpoints of the same training"

_LIMITS = {
    "pooled": "Pooled sequences also trained the shared neurons every time: what these hold of "
    "them is measured, not removed.",
    "private": "Private sequences also trained the shared neurons in their first exposures: a "
    "residual stays there; it is measured, not removed.",
    "strict": "Strict sequences never trained the shared neurons; the run is as if it had not "
    "trained on them, provided that the tokenizer saw none of their text.",
}
_GENERAL_LIMITS = (
    "The statement is about these weights. It claims nothing about a topic, a fact or a style, and "
    "nothing about legal compliance.",
    "The same content may stand in documents that are no near-duplicates of the selected ones.",
    "Attacks other than those listed under verification were not tried.",
)
_NOT_READ = (
    "At the time of the erase only the files that say so were read in full; of the sink banks the "
    "erased blocks and their neighbours were. `govern audit verify` reads every byte."
)
_UNMEASURED = "Behaviour was not measured: the evidence is structural only."


def not_examined(checkpoints: int) -> tuple[str, ...]:
    """What nobody looked at, where a request names so many checkpoints of one training."""
    others = _OTHER_CHECKPOINTS
    if checkpoints > 1:
        others += f"; the request names {checkpoints} in all, each has a statement of its own"
    return (*_NOT_EXAMINED, others)


def limitations(plan: Plan, receipt: EraseReceipt, *, measured: bool) -> tuple[str, ...]:
    """What an erase does not reach, and what was not looked for or not measured."""
    policies = {s.policy for s in plan.sequences}
    limits = [_LIMITS[policy] for policy in sorted(policies)]
    if plan.without_sinks:
        limits.append(
            f"{len(plan.without_sinks)} selected sequences have policy shared: nothing was "
            "erased for them, and nothing is claimed."
        )
    limits.append(_quotation_limit(plan))
    if not measured:
        limits.append(_UNMEASURED)
    if any(file.basis != "read" for file in receipt.files):
        limits.append(_NOT_READ)
    return (*limits, *_GENERAL_LIMITS)


def _quotation_limit(plan: Plan) -> str:
    if plan.quotations is None:
        return "Nobody looked for other sequences that quote what was forgotten."
    return (
        f"{len(plan.quotations)} other sequences have at least {QUOTED_FROM:.0%} of the shingles "
        "of a forgotten text: they were not erased. Shorter quotations were not looked for."
    )


def outstanding(plan: Plan, source: Path | None) -> tuple[Outstanding, ...]:
    """What the holder must still do; `source` is the run that was copied from, if one was."""
    items = []
    if source is not None:
        items.append(
            Outstanding(
                item="delete the source checkpoint, which still holds what was forgotten",
                location=str(source),
            )
        )
    # No URI here: where each document is a file, its name is the document's.
    files = len({document.uri for document in plan.documents})
    items.append(
        Outstanding(
            item=f"remove {len(plan.documents)} documents from the corpus ({files} files)",
            location="the uri that the manifest has for each document of the disclosure",
        )
    )
    items += [
        Outstanding(item=item, location="wherever the holder keeps them")
        for item in ("exports and quantised copies", "backups")
    ]
    return tuple(items)
