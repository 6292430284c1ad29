"""Fixtures of several test files."""

from collections.abc import Iterator

import pytest

from tests.wandb_server import Server, server


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
