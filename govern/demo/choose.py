"""Which texts the demo forgets, chosen from the manifest of whatever is installed here.

A text that stands inside documents of other sequences cannot be forgotten with its own: the others
were trained on it too, and rightly. So the choice falls on texts that are quoted nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from govern.ids.reference import shingles
from manifests import Manifest
from manifests.errors import InputError
from manifests.queries import run_sql

QUOTED = 0.5  # share of a text's shingles in another document from which on it counts as quoted
_MIN_COPIES = 5
_CANDIDATES = 8
Texts = Mapping[tuple[str, str], str]  # (source, document ID) -> text


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """One text of the demo.

    Args:
        source, doc_id: The document that is shown.
        sequence_id: Its sequence.
        copies: Documents of that sequence.
        quoted: Largest share of it that stands in a document of another sequence.
        agreement: Share of the copies that have its very wording.
    """

    source: str
    doc_id: str
    sequence_id: int
    copies: int
    quoted: float
    agreement: float


class Chooser:
    """Chooses from one manifest and its texts.

    Args:
        manifest: Built from the embedded corpus.
        texts: The text of every document.
        ngram: Words of a shingle.
    """

    def __init__(self, manifest: Manifest, texts: Texts, *, ngram: int) -> None:
        self.manifest = manifest
        self.texts = texts
        self._shingles = {key: set(shingles(text, ngram)) for key, text in texts.items()}

    def family(self) -> Chosen:
        """The licence with the most copies among those that nothing else quotes.

        Raises:
            InputError: No licence here has enough copies.
        """
        return self._least_quoted(
            "SELECT sequence_id FROM sequences WHERE representative_source = 'licenses' "
            f"AND n_docs >= {_MIN_COPIES} AND NOT reserved ORDER BY n_docs DESC, sequence_id",
            "a licence text with several copies",
        )

    def strict(self) -> Chosen:
        """A documentation topic of moderate length without copies, which nothing quotes.

        Raises:
            InputError: There is none.
        """
        return self._least_quoted(
            "SELECT sequence_id FROM document_sequences WHERE source = 'topics' AND n_docs = 1 "
            "AND NOT reserved AND n_words BETWEEN 150 AND 500 ORDER BY sequence_id",
            "a documentation topic of 150 to 500 words",
        )

    def neighbour(self, family: Chosen) -> Chosen:
        """Another licence with copies, which is kept: the one whose copies agree most.

        Raises:
            InputError: There is none.
        """
        ids = self._ids(
            "SELECT sequence_id FROM sequences WHERE representative_source = 'licenses' "
            f"AND n_docs > 2 AND NOT reserved AND sequence_id <> {family.sequence_id} "
            "ORDER BY n_docs DESC, sequence_id",
        )
        if not ids:
            raise _nothing("a second licence text with copies")
        return max((self._chosen(sequence_id) for sequence_id in ids), key=lambda c: c.agreement)

    def _ids(self, sql: str) -> list[int]:
        found = run_sql(self.manifest, f"{sql} LIMIT {_CANDIDATES}")["sequence_id"].to_pylist()
        return [int(sequence_id) for sequence_id in found]

    def _least_quoted(self, sql: str, wanted: str) -> Chosen:
        found = [self._chosen(sequence_id) for sequence_id in self._ids(sql)]
        if not found:
            raise _nothing(wanted)
        free = [chosen for chosen in found if chosen.quoted < QUOTED]
        return free[0] if free else min(found, key=lambda chosen: chosen.quoted)

    def _chosen(self, sequence_id: int) -> Chosen:
        members = run_sql(
            self.manifest,
            "SELECT source, doc_id FROM documents "
            f"WHERE sequence_id = {sequence_id} ORDER BY source, doc_id",
        ).to_pylist()
        keys = [(row["source"], row["doc_id"]) for row in members]
        # The wording that most copies share is the one that a model can learn by heart.
        wording = {key: " ".join(self.texts[key].split()) for key in keys}
        common, agreeing = Counter(wording.values()).most_common(1)[0]
        key = next(key for key in keys if wording[key] == common)
        return Chosen(
            source=key[0],
            doc_id=key[1],
            sequence_id=sequence_id,
            copies=len(keys),
            quoted=self._quoted(key, set(keys)),
            agreement=agreeing / len(keys),
        )

    def _quoted(self, key: tuple[str, str], own: set[tuple[str, str]]) -> float:
        wanted = self._shingles[key]
        others = (found for other, found in self._shingles.items() if other not in own)
        return max((len(wanted & found) / len(wanted) for found in others), default=0.0)


def _nothing(wanted: str) -> InputError:
    return InputError(
        "the text of this Python installation",
        expected=wanted,
        found="none that is not reserved",
        remedy="install the project with its dependencies, or try `govern ids build` on a corpus",
    )
