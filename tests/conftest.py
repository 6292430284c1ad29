"""Fixtures of several test files, and Python's garbage collector.

Fixtures import what they need: the process that hands out the tests does without torch.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.wandb_server import Server

settings.register_profile("every", max_examples=150)
settings.register_profile("fast", max_examples=50)


def pytest_configure(config: pytest.Config) -> None:
    """Let `make check-all` draw more examples of a property."""
    settings.load_profile("fast" if "not slow" in config.option.markexpr else "every")


def pytest_collection_finish() -> None:
    # each full collection walks the million objects of torch
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mini tasks with 40 images to train on and 10 to validate, for runs of a second."""
    from petlbench.mini import suite

    monkeypatch.setattr(suite, "TRAIN", 40)
    monkeypatch.setattr(suite, "VAL", 10)
    ends = {"train": (0, 40), "val": (40, 50), "trainval": (0, 50), "test": (50, None)}
    monkeypatch.setattr(suite, "SPLITS", {name: slice(*end) for name, end in ends.items()})


@pytest.fixture
def empty_store() -> Iterator[None]:
    """No stored outputs before and after."""
    from petlbench.train.output_store import STORE

    STORE.clear()
    yield
    STORE.clear()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of W&B on loopback, with all that an environment may say of runs."""
    import wandb

    from tests.wandb_server import server

    with server() as serving:
        wandb.teardown()
        monkeypatch.setenv("WANDB_BASE_URL", serving.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_RUN_ID", "shared")
        monkeypatch.setenv("WANDB_NAME", "shared")
        yield serving
        wandb.teardown()
