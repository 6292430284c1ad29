"""A command imports what it needs: torch, pandas, scipy and matplotlib take seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import sampled

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "scipy",
    "sklearn",
    "pandas",
    "matplotlib",
    "wandb",
    "peft",
)
RUN = """
import runpy, sys
module, heavy = sys.argv.pop(1), sys.argv.pop(1).split(",")
sys.argv[0] = module
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as ended:
    assert not ended.code, ended.code
print("imported:", *(name for name in heavy if name in sys.modules), file=sys.stderr)
"""


def imported(folder: Path, module: str, *arguments: str) -> list[str]:
    """The modules of HEAVY that a command imports; it runs in `folder`."""
    command = [sys.executable, "-c", RUN, module, ",".join(HEAVY), *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr.rpartition("imported:")[2].split()


COMMANDS: dict[str, list[str]] = {
    "petlbench --help": [],
    "petlbench --version": [],
    "petlbench.probe --help": [],
    "petlbench.report --help": ["pandas"],
    "petlbench.data --help": [],
    "petlbench.data list": [],
    "petlbench.data list vtab": [],
}
FAST = ("petlbench.probe --help", "petlbench.report --help", "petlbench.data list vtab")


@pytest.mark.parametrize("command", sampled(COMMANDS, FAST))
def test_a_light_command_imports_nothing_heavy(command: str, tmp_path: Path) -> None:
    assert imported(tmp_path, *command.split()) == COMMANDS[command]
