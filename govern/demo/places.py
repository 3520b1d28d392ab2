"""Where the demo keeps its things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the demo keeps its things, all below one directory."""

    out: Path

    @property
    def corpus(self) -> Path:
        """The embedded corpus, a JSONL file for each source."""
        return self.out / "corpus"

    @property
    def manifest(self) -> Path:
        """Sequence IDs of the corpus."""
        return self.out / "manifest"

    @property
    def tokenizer(self) -> Path:
        """The BPE that both runs use."""
        return self.out / "tokenizer"

    @property
    def run(self) -> Path:
        """The trained model."""
        return self.out / "run"

    @property
    def reference(self) -> Path:
        """The same recipe, without the documents that will be forgotten."""
        return self.out / "run-never-saw-it"

    @property
    def forgotten(self) -> Path:
        """The model after forgetting."""
        return self.out / "run-after"

    @property
    def keys(self) -> Path:
        """The key pair that signs the report."""
        return self.out / "keys"

    @property
    def ledger(self) -> Path:
        """The ledger that the statement is entered in."""
        return self.out / "ledger"

    @property
    def report(self) -> Path:
        """REPORT.json and REPORT.html."""
        return self.out / "report"
