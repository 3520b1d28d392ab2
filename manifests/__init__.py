"""Manifests: which document became which training sequence, as Parquet that DuckDB queries.

    errors        the one exception root of the project
    sequence_id   the ID: derive, print, parse
    files         atomic writes, digests, locks
    merkle        RFC 6962 trees (bank roots, ledger)
    schema        Arrow schemas of all tables and the format version
    writer        tables -> Parquet, committed as one snapshot; policy changes
    reader        open a manifest; refuse what does not fit
    checks        digests, sums and invariants, one result each
    queries       one function per question -> pa.Table; the DuckDB views
    tombstones    forgotten sequences; the check on re-ingestion

Needs pyarrow and duckdb only, and imports neither before a function needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifests.reader import Manifest, open_manifest

__all__ = ["Manifest", "open_manifest"]


def __getattr__(name: str) -> Any:
    # Lazy, because `import manifests.errors` must not cost a pyarrow import.
    if name in __all__:
        from manifests import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
