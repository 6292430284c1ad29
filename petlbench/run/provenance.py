"""Where a number comes from: versions, commit, device."""

import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from petlbench.model.backbone import Backbone
from petlbench.train.precision import Precision

PACKAGES = ("petlbench", "torch", "torchvision", "timm", "numpy", "hydra-core")


def origin(config: Mapping[str, Any], device: torch.device, backbone: Backbone) -> dict[str, Any]:
    """The part of a record's provenance that is known before anything is measured."""
    return {
        "checkpoint": dict(backbone.checkpoint),
        "versions": versions(),
        "device": device_name(device),
        "precision": Precision(config["train"]["precision"], device).name,
        "attention": backbone.attention,
        "deterministic": device.type == "cpu",
    }


@cache
def versions() -> dict[str, str | None]:
    """Versions of the packages that decide a result; the commit if this is a git checkout."""
    found = {name: _version(name) for name in PACKAGES}
    found["torch"] = torch.__version__  # with the build's tag, which the package's version lacks
    found["python"] = platform.python_version()
    found["cuda"] = torch.version.cuda if torch.cuda.is_available() else None
    found["commit"] = _commit()
    return found


def device_name(device: torch.device) -> str:
    """The name of the GPU, or the CPU's model and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {torch.get_num_threads()} threads"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout that holds this file, `-dirty` if its code differs from it."""
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None
    command = [
        "git",
        "-C",
        str(folder),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


@cache
def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
