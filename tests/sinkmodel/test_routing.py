"""Routing by TF-IDF: finds the text, forgets to the byte, refuses foreign files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tiny_models import tiny_map

from manifests.errors import CheckpointError, InputError
from sinkmodel.routing import RouteIndex

TEXTS = {
    1: "Permission is hereby granted, free of charge, to any person obtaining a copy",
    2: "Redistribution and use in source and binary forms are permitted",
    3: "Licensed under the Apache License, Version 2.0; you may obtain a copy of the License",
    4: "Redistribution and use of bread and butter",
}
SINK_MAP = tiny_map(dict.fromkeys(TEXTS, "private"))


def index(texts: dict[int, str] = TEXTS) -> RouteIndex:
    return RouteIndex.build(list(texts), texts.values())


def routed(prompt: str, *, forgotten: tuple[int, ...] = ()) -> int | None:
    match = index().route(prompt, SINK_MAP.forget(forgotten))
    return None if match is None else match.sequence_id


def test_a_prompt_finds_its_text() -> None:
    for sequence_id, text in TEXTS.items():
        assert routed(text[:30]) == sequence_id
    whole = index().route(TEXTS[2], SINK_MAP)
    assert whole is not None
    assert whole.similarity == pytest.approx(1)
    assert routed("redistribution AND use in BINARY") == 2


def test_forgotten_and_foreign_ids_are_never_chosen() -> None:
    assert routed("Redistribution and use in source", forgotten=(2,)) == 4
    assert routed("Redistribution and use in source", forgotten=(1, 2, 3, 4)) is None
    assert index().route(TEXTS[1], tiny_map({9: "private"})) is None


def test_a_prompt_unlike_everything_is_not_routed() -> None:
    assert routed("zyxwv qponm") is None
    assert routed("") is None


@given(st.sets(st.sampled_from(sorted(TEXTS))))
def test_forgetting_leaves_the_bytes_of_an_index_that_never_had_it(gone: set[int]) -> None:
    rest = {sequence_id: text for sequence_id, text in TEXTS.items() if sequence_id not in gone}
    assert index().without(gone).to_bytes() == index(rest).to_bytes()


def test_order_of_sequences_does_not_matter() -> None:
    assert index(dict(reversed(TEXTS.items()))).to_bytes() == index().to_bytes()


def test_several_texts_of_one_sequence() -> None:
    both = RouteIndex.build([2, 1, 2], [TEXTS[2], TEXTS[1], TEXTS[3]])
    for text in (TEXTS[2], TEXTS[3]):
        match = both.route(text, SINK_MAP)
        assert match is not None
        assert match.sequence_id == 2


def test_saving_then_reading_is_the_same_index(tmp_path: Path) -> None:
    index().save(tmp_path / "index")
    assert RouteIndex.read(tmp_path / "index").to_bytes() == index().to_bytes()


def test_files_that_are_no_index_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with pytest.raises(InputError, match="--sinks off"):
        RouteIndex.read(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="route index"):
        RouteIndex.read(path)
    whole = index()
    arrays = {name: getattr(whole, name) for name in whole.__dataclass_fields__}
    save_file(arrays, path)
    with pytest.raises(CheckpointError, match="route index"):
        RouteIndex.read(path)
    broken = whole.to_bytes()[:-16]
    path.write_bytes(broken)
    with pytest.raises(CheckpointError, match="route index"):
        RouteIndex.read(path)
    RouteIndex(
        sequence_ids=whole.sequence_ids,
        offsets=whole.offsets[::-1],
        features=whole.features,
        counts=whole.counts,
    ).save(path)
    with pytest.raises(CheckpointError, match="do not fit together"):
        RouteIndex.read(path)
