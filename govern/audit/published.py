"""The published JSON Schemas: which records they describe, and where they lie.

`python -m govern.audit.published DIRECTORY` writes them anew from the records; a test holds the
shipped files, those in docs/schemas and the records equal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from govern.audit.records import json_schema
from govern.audit.report_file import Report
from govern.audit.statement import Statement

STATEMENT_SCHEMA = "forget-v1.schema.json"
REPORT_SCHEMA = "report-v1.schema.json"
PLAN_SCHEMA = "plan-v1.schema.json"
REQUEST_SCHEMA = "request-v1.schema.json"


def schemas() -> dict[str, dict[str, Any]]:
    """File name -> JSON Schema (draft 2020-12) of the JSON files that people exchange."""
    from govern.forget.plan_file import PlanFile
    from govern.forget.request_file import RequestFile

    return {
        STATEMENT_SCHEMA: json_schema(
            Statement,
            identifier="urn:memsinks-govern:schema:forget:v1",
            title="in-toto Statement of a forget operation",
        ),
        REPORT_SCHEMA: json_schema(
            Report,
            identifier="urn:memsinks-govern:schema:report:v1",
            title="REPORT.json of a forget operation",
        ),
        PLAN_SCHEMA: json_schema(
            PlanFile,
            identifier="urn:memsinks-govern:schema:plan:v1",
            title="PLAN.json of a forget operation",
        ),
        REQUEST_SCHEMA: json_schema(
            RequestFile,
            identifier="urn:memsinks-govern:schema:request:v1",
            title="A request file: many subjects to forget",
        ),
    }


def write_schemas(directory: Path) -> None:
    """Write every schema file, the same bytes each time."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
