"""Govern: raw corpora to sequence IDs, training runs to forgetting that a stranger can verify.

    ids/      corpus -> signatures -> links -> clusters -> sequence IDs -> manifest
    engines/  who runs the tasks of these stages: processes, Ray, Spark
    forget/   request -> selection -> plan -> erase -> statement
    audit/    statement, signature, ledger, verification, HTML report
    demo      the embedded corpus and the guided run
    cli/      one module per command group

The Python API mirrors the commands one to one; nothing here imports torch before it is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from govern.audit.verify import verify_report
    from govern.forget import forget
    from govern.ids.add import add_documents
    from govern.ids.pipeline import build_ids

_API = {
    "add_documents": "govern.ids.add",
    "build_ids": "govern.ids.pipeline",
    "forget": "govern.forget",
    "verify_report": "govern.audit.verify",
}
__all__ = ["add_documents", "build_ids", "forget", "verify_report"]


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(importlib.import_module(_API[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
