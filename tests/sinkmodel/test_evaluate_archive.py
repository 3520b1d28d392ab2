"""Scores survive being packed, those without recitals too."""

from __future__ import annotations

import numpy as np
import pytest

from sinkmodel.evaluate.archive import pack_scored, unpack_scored
from sinkmodel.evaluate.generation import Recital
from sinkmodel.evaluate.rows import Scored, values_of
from sinkmodel.evaluate.scores import DocumentScore


def document(*losses: float) -> DocumentScore:
    array = np.array(losses)
    return DocumentScore(
        key=("s", f"d{len(losses)}"), losses=array, hits=array < 1.0, means=-array, deviations=array
    )


@pytest.mark.parametrize(
    "recital", [None, Recital(truth=(1, 2), recited=(1, 3), verbatim=1, rouge_l=0.5)]
)
def test_unpack_inverts_pack(recital: Recital | None) -> None:
    scored = Scored(scores=(document(0.5, 2.0), document(0.25)), recitals=(None, recital))
    back = unpack_scored(pack_scored(scored))
    assert back.recitals == scored.recitals
    assert [s.key for s in back.scores] == [s.key for s in scored.scores]
    assert values_of(back, [0, 1]) == values_of(scored, [0, 1])


def test_nothing_packs_to_nothing() -> None:
    assert unpack_scored(pack_scored(Scored(scores=()))) == Scored(scores=())
