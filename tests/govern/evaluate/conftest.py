"""One tiny trained run for every test of evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from evaluate_world import EvaluateWorld, build_evaluate_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> EvaluateWorld:
    """The trained world; to be copied, never changed."""
    return build_evaluate_world(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from threads, and equal work gives equal bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
