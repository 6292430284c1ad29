"""How much main memory this process may still take, also inside a container or a Slurm job."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath

CGROUPS = Path("/sys/fs/cgroup")
# files of a control group: limit and use in bytes, and in memory.stat the pages of files, which
# the kernel gives up first; Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available() -> int | None:
    """Bytes; None where the system does not tell."""
    try:
        free = _number(Path("/proc/meminfo"), "MemAvailable:") * 1024
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return None  # not Linux
    rooms = [room for line in groups for room in _rooms(*line.split(":", 2)[1:])]
    return max(0, min([free, *rooms]))


def _rooms(controllers: str, group: str) -> Iterator[int]:
    """Bytes left in a control group and in those above it, where they limit memory."""
    inner = PurePath(group.lstrip("/"))
    if not controllers:  # version 2 names none
        yield from _limited(CGROUPS, inner, *VERSION_2)
    elif "memory" in controllers.split(","):
        yield from _limited(CGROUPS / "memory", inner, *VERSION_1)


def _limited(top: Path, inner: PurePath, limit: str, used: str, unused: str) -> Iterator[int]:
    for folder in (top / inner, *(top / above for above in inner.parents)):
        with suppress(OSError, ValueError):  # no such file, or the word `max`
            room = int((folder / limit).read_text()) - int((folder / used).read_text())
            yield room + _number(folder / "memory.stat", unused)


def _number(path: Path, name: str) -> int:
    """The number behind a name at the start of a line. Raises ValueError without the name."""
    for line in path.read_text().splitlines():
        if line.split()[:1] == [name]:
            return int(line.split()[1])
    raise ValueError(f"{path} has no {name}")
