"""Fixtures of several test files, and Python's garbage collector."""

import gc
from collections.abc import Iterator

import pytest

from tests.wandb_server import Server, server


def pytest_collection_finish() -> None:
    # each full collection walks the million objects of torch
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of W&B on loopback, with all that an environment may say of runs."""
    import wandb

    with server() as serving:
        wandb.teardown()
        monkeypatch.setenv("WANDB_BASE_URL", serving.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_RUN_ID", "shared")
        monkeypatch.setenv("WANDB_NAME", "shared")
        yield serving
        wandb.teardown()
