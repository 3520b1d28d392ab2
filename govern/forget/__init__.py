"""Forget: from a request to an erased run and a signed report.

    request         what is asked for
    request_file    many subjects in one JSON file
    run_view        the run as planning sees it: its record, sink map and block shape
    selection       request -> documents and sequence IDs, closed over duplicates and aliases
    lookup          rows of a large manifest by sequence ID, read sparingly
    text_file       which documents of a manifest hold a given text
    quoting         other sequences that quote the selected ones, and are not covered
    plan            selection + sink map -> blocks, and what other IDs would lose (pure)
    estimate        what the erase of a plan will read and write
    plan_file       a plan that is approved now and executed later
    plan_text       the plan for people
    measuring       the interface through which behaviour is measured before and after
    model_measurer  the measurer that loads models
    pending         what `execute` must remember to be completed after a kill
    call            arguments of one call, resolved; what it must not touch
    checkpoints     several checkpoints of one training in one call
    evidence        receipt + measurements -> statement (pure)
    caveats         what the statement says that it does not cover (pure)
    tombstone       what the manifest remembers of it
    execute         select, plan, measure, erase, verify, measure, sign, record: `forget`

No torch here: measuring brings it in where it is wanted.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from govern.forget.call import ForgetOutcome
    from govern.forget.execute import forget, plan_forget
    from govern.forget.request import ForgetRequest

_API = {
    "ForgetOutcome": "govern.forget.call",
    "ForgetRequest": "govern.forget.request",
    "forget": "govern.forget.execute",
    "plan_forget": "govern.forget.execute",
}
__all__ = ["ForgetOutcome", "ForgetRequest", "forget", "plan_forget"]


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(importlib.import_module(_API[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _CallablePackage(types.ModuleType):
    """Importing any part of this package binds `govern.forget` to the package itself, so that
    `from govern import forget` would give the function at first and the package later. Calling
    either does the same.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from govern.forget.execute import forget

        return forget(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
