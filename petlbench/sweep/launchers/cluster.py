"""Ray and the nodes of its cluster: whether it answers, what they have, what they see."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from petlbench.errors import UserError, one_line
from petlbench.system import temporary_file

ANSWER_S = 20.0  # that a standing cluster has to answer
SEEN_S = 5.0  # after which another machine must see a new file
QUIET: Mapping[str, Any] = {
    "log_to_driver": False,
    "configure_logging": False,
    "logging_level": "ERROR",
}
T = TypeVar("T")


def load() -> Any:
    """The package. Raises UserError if it is not installed."""
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise UserError("hydra/launcher=ray needs Ray; pip install 'petlbench[ray]'") from error
    # it prints each killed worker, which `engine` says in a line of its own
    ray._private.worker._worker_logs_enabled = False
    return ray


def check_answer(address: str) -> None:
    """Refuse an address without a cluster; in a process that can be killed while it waits."""
    script = f"import ray, sys; ray.init(sys.argv[1], **{QUIET})"  # what it says goes to the pipe
    command = [sys.executable, "-c", script, address]
    try:
        answered = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
        lines = answered.stderr.strip().splitlines() or ["it ended"]
        reason = lines[-1].rstrip(".") if answered.returncode else None
    except subprocess.TimeoutExpired:
        reason = f"no answer within {ANSWER_S:g} s"
    if reason is not None:
        raise UserError(
            f"hydra.launcher.address={address}: {reason}; start Ray there (ray start --head), or "
            "leave it out"
        )


def nodes() -> list[Any]:
    """The nodes that are alive."""
    return [node for node in load().nodes() if node["Alive"]]


def has(node: Any, resource: str) -> float:
    """How much a node has of CPU or GPU."""
    return float(node["Resources"].get(resource, 0))


def check_folders(roots: set[str]) -> None:
    """Refuse a node that does not see the folder of the command or what is written to a root."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(temporary_file(Path(root).expanduser())) for root in roots]
        names = [file.name for file in files]
        for node in nodes():
            unseen = ask(node, _unseen, str(Path.cwd()), names)
            if unseen is not None:
                raise UserError(
                    f"node {node['NodeManagerHostname']} of Ray does not see '{unseen}'; set "
                    "results.root to a folder that all nodes share, and start the command in one"
                )


def ask(node: Any, function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns on a node. Raises UserError if it cannot be called there."""
    ray = load()
    affinity = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    place = affinity(node["NodeID"], soft=False)
    task = ray.remote(function).options(num_cpus=0, scheduling_strategy=place)
    try:
        answer: T = ray.get(task.remote(*arguments))
    except ray.exceptions.RayError as error:
        raise UserError(
            f"node {node['NodeManagerHostname']} of Ray cannot work: {one_line(error)}; install "
            "the same petlbench there"
        ) from error
    return answer


def _unseen(folder: str, names: Sequence[str]) -> str | None:
    """A task: the first folder that this node does not see, or None."""
    try:
        os.chdir(folder)
    except OSError:
        return folder
    end = time.monotonic() + SEEN_S
    for name in names:
        while not os.path.exists(name):  # file systems of a network may show it later
            if time.monotonic() > end:
                return os.path.dirname(name)
            time.sleep(0.1)
    return None
