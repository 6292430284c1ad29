"""The provenance of a number: versions, commit, weights, device."""

import hashlib
import inspect
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from petlbench.config.schema import Config
from petlbench.model.backbone import Backbone
from petlbench.run import build
from petlbench.system import package_version, sha256_of
from petlbench.train.precision import Precision

PACKAGES = (
    *("petlbench", "torch", "torchvision", "timm", "numpy", "pillow", "hydra-core"),
    "peft",
)


def of_run(config: Config, device: torch.device, backbone: Backbone) -> dict[str, Any]:
    """What a record's provenance has before training: weights, versions, device, precision."""
    return {
        "checkpoint": dict(backbone.checkpoint),
        "versions": versions(),
        "device": device_name(device),
        "precision": Precision(config.train.precision, device).name,
        "attention": backbone.attention,
        # some CUDA kernels add in any order: torch's notes on reproducibility
        "deterministic": device.type == "cpu",
    }


@cache
def versions() -> dict[str, str | None]:
    """Versions of the packages that affect results, and the commit in a git checkout."""
    packages = {name: package_version(name) for name in PACKAGES}
    # with the build tag, which the version of the package lacks; plain, as files hold it
    packages["torch"] = str(torch.__version__)
    packages["python"] = platform.python_version()
    packages["cuda"] = torch.version.cuda if torch.cuda.is_available() else None
    packages["commit"] = _commit()
    return packages


@cache
def code(used: type) -> str:
    """A digest of the Python files of petlbench and of those beside the file of a class.

    They may change while the versions stay, also below a commit that is `-dirty` already.
    """
    own, beside = Path(__file__).resolve().parents[1], Path(inspect.getfile(used)).parent
    found = {*own.glob("**/*.py"), *beside.glob("*.py")}
    files = {file.resolve() for file in found if file.is_file()}  # editors leave broken links
    # sorted by content: the folders of two machines differ
    return hashlib.sha256("".join(sorted(map(sha256_of, files))).encode()).hexdigest()


def comparable_device(name: str, timed: object) -> str:
    """The device in the identity of a probe: `cpu` for counts, which are equal on all CPUs.

    Timings and GPUs get the name of the device. Used by the interpolation of `probe.device`.
    name: the value of `device`. timed: the value of `probe.speed`.
    """
    device = build.device(str(name))
    return "cpu" if device.type == "cpu" and timed is not True else device_name(device)


def device_name(device: torch.device) -> str:
    """The name of the GPU, or the model of the CPU and the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {torch.get_num_threads()} threads"


def _commit() -> str | None:
    """Commit of the checkout with this file, with `-dirty` if files differ from it."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    # no tag matches --exclude=*, so that --always prints the abbreviated commit
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
    # no /proc outside of Linux
    return platform.processor() or platform.machine()
