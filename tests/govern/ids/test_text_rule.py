"""The compiled kernel against the rule in plain Python, and against datasketch."""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from types import ModuleType

import exact
import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from govern.ids import compiled, plain, reference
from govern.ids.compiled import normalise
from govern.ids.minhash import Banding, choose_banding, permutations
from govern.ids.shingle import sketch
from manifests.errors import InputError

# Characters that exercise every branch: cases, folds that grow, marks in and out of order,
# Hangul jamo, scripts without spaces, digits, separators, planes beyond the first.
TRICKY = (
    "aZ09 _-.'\n\t\x00éẞßİıſΐΆσςﬀŉǰ"
    "\u0301\u0323\u0327\u0345\u3099\u0e34\u0e48\u0e38\u200b\u200d\u00a0"
    "\u1100\u1161\u11a8가각"
    + "漢字かなカナｶﾞ、。ที่ไทยລາວខ្មែរမြန်မာ"
    + "हिन्दीعربى𐐀𝔸🙂𠀀\u212b\u2126\u0958"
)
TEXTS = st.one_of(
    st.text(alphabet=st.sampled_from(TRICKY), min_size=1, max_size=60),
    st.text(min_size=1, max_size=40),
    st.text(alphabet="ab 1", min_size=1, max_size=80),
).filter(lambda text: bool(text.strip()))


def normalised(texts: list[str]) -> list[str]:
    result = normalise(pa.array(texts, pa.large_string()))
    raw = result.text.tobytes()
    bounds = result.offsets.tolist()
    return [raw[b:e].decode() for b, e in itertools.pairwise(bounds)]


@settings(max_examples=400, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8))
@example(["!!!", "a", "e\u0301", "漢字 abc"])
@example(["ΐ" * 40])
def test_kernel_equals_the_reference(texts: list[str]) -> None:
    result = normalise(pa.array(texts, pa.large_string()))
    assert normalised(texts) == [reference.normalised(text) for text in texts]
    assert result.n_words.tolist() == [len(reference.words(text)) for text in texts]


@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("way", [compiled, plain])
@given(st.lists(TEXTS, min_size=1, max_size=6), st.integers(1, 6), st.integers(0, 3))
def test_sketches_equal_datasketch(way: ModuleType, texts: list[str], ngram: int, cut: int) -> None:
    num_perm = 32
    # A slice, because offsets of a sliced Arrow array do not start at 0.
    array = pa.array(["x y z"] * cut + texts, pa.large_string()).slice(cut)
    result = way.sketch(array, ngram=ngram, permutations=permutations(num_perm, 1))
    assert result.n_words.tolist() == [len(reference.words(text)) for text in texts]
    for i, text in enumerate(texts):
        shingles = [s.encode() for s in reference.shingles(text, ngram)]
        judge = MinHash(num_perm=num_perm, seed=1, hashfunc=reference.token_hash)
        judge.update_batch(shingles)
        assert result.signatures[i].tolist() == judge.hashvalues.tolist()
        begin, end = result.hash_offsets[i : i + 2]
        assert result.hashes[begin:end].tolist() == [reference.shingle_hash(s) for s in shingles]
        assert (
            result.content[i].tobytes()
            == hashlib.sha256(reference.normalised(text).encode()).digest()
        )


def test_golden_signature_of_datasketch_affine32() -> None:
    tokens = [b"the quick brown fox jumps", b"quick brown fox jumps over"]
    found = permutations(128, 1)
    hashes = np.array(
        [int.from_bytes(hashlib.sha1(t).digest()[:4], "little") for t in tokens], dtype=np.uint64
    )
    from govern.ids import kernel

    signature = np.empty((1, 128), dtype=np.uint32)
    kernel.sign(hashes, np.array([0, 2]), found.a, found.b, signature)
    assert signature[0, :4].tolist() == [823763964, 412836237, 895845949, 729940982]


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_composed_and_decomposed_text_are_one(text: str) -> None:
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    if all(form.strip() for form in forms):
        assert len(set(normalised(forms))) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't panic: 42 times!", ["don", "t", "panic", "42", "times"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("日本語2024年abc", ["日", "本", "語", "2024", "年", "abc"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("... !", ["...!"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert reference.words(text) == words
    assert normalised([text]) == [" ".join(words)]


def test_short_documents_are_one_shingle_and_stay_apart() -> None:
    assert reference.shingles("one two", 5) == ["one two"]
    assert reference.shingles("a b c d e f", 5) == ["a b c d e", "b c d e f"]
    sketched = sketch(
        pa.array(["one two", "one", "two"]), ngram=5, permutations=permutations(16, 1)
    )
    assert len(set(sketched.hashes.tolist())) == 3


def test_banding_reaches_its_recall() -> None:
    assert choose_banding(0.7, 128) == Banding(bands=32, rows=4)
    assert Banding(bands=32, rows=4).recall(0.7) == pytest.approx(0.9998, abs=1e-4)
    for threshold in (0.5, 0.6, 0.75, 0.8, 0.9, 1.0):
        chosen = choose_banding(threshold, 128)
        assert chosen.recall(threshold) >= 0.999
        assert chosen.bands * chosen.rows <= 128
    with pytest.raises(InputError, match="raise the threshold"):
        choose_banding(0.1, 16)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_the_rule_as_documented_gives_the_same_words(text: str) -> None:
    assert exact.words(text) == reference.words(text)
