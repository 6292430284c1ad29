"""Ctrl-C and SIGTERM: one line and the exit code of a shell, whenever they come."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from petlbench import interrupts
from petlbench.commands import predict, support
from petlbench.commands.data import main as data
from petlbench.report import __main__ as report
from petlbench.sweep import choose
from tests.helpers import sampled
from tests.processes import hear_interrupts

ROOT = Path(__file__).parent.parent
# sends itself the signal when a module is imported
SITE = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(os.environ["INTERRUPT_BY"]))

sys.meta_path.insert(0, Finder())
"""
COMMANDS = [
    ("petlbench", "hydra"),
    ("petlbench", "torch"),
    ("petlbench -m", "numpy"),
    ("petlbench.probe", "omegaconf"),
    ("petlbench.multitask -m", "torch"),
    ("petlbench.report table --records . --out out", "pandas"),
    ("petlbench.predict --delta x.safetensors sitecustomize.py", "PIL"),
    ("petlbench.data list", "rich"),
    ("petlbench.data list", "petlbench.commands.data.listing"),
    ("petlbench.support", "torch"),
    ("petlbench.testing lora", "timm"),
    ("petlbench.sweep.choose --records .", "numpy"),
    ("petlbench.mini.pretrain --out x", "torch.nn"),
]
FAST = (COMMANDS[1], COMMANDS[8])


def interrupted(folder: Path, command: str, module: str, by: int) -> tuple[int, str]:
    (folder / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": path, "INTERRUPT_AT": module, "INTERRUPT_BY": str(int(by))},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=hear_interrupts,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize(("command", "module"), sampled(COMMANDS, FAST))
def test_a_command_is_interrupted_during_its_imports(
    command: str, module: str, tmp_path: Path
) -> None:
    assert interrupted(tmp_path, command, module, signal.SIGINT) == (130, f"{interrupts.LINE}\n")


def test_sigterm_is_like_ctrl_c(tmp_path: Path) -> None:
    ended = interrupted(tmp_path, "petlbench", "torch", signal.SIGTERM)
    assert ended == (143, f"{interrupts.LINE}\n")


MAINS: list[tuple[str, Callable[[list[str]], int], list[str]]] = [
    ("petlbench.report.__main__.read", report.main, ["table", "--records", ".", "--out", "out"]),
    ("petlbench.sweep.choose.read", choose.main, ["--records", "."]),
    ("petlbench.commands.predictor.load", predict.main, ["--delta", "x", "."]),
    ("petlbench.commands.data.main.run", data.main, ["list"]),
    ("petlbench.config.options.names", support.main, []),
]


@pytest.mark.parametrize(("name", "main", "arguments"), MAINS)
def test_every_command_ends_in_one_line(
    name: str,
    main: Callable[[list[str]], int],
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    monkeypatch.setattr(name, stop)
    assert main(arguments) == 130
    told = capsys.readouterr().err
    assert (told.startswith("interrupted"), told.count("\n")) == (True, 1)


def test_a_program_that_imports_the_package_keeps_its_handlers() -> None:
    code = (
        "import signal, sys; hook = sys.excepthook; import petlbench; "
        "print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, sys.excepthook is hook)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert told == "True True\n"


PRINTING = (
    "petlbench --cfg job",
    "petlbench.data list vtab",
    "petlbench.report demo --records results/measured/demo/runs --out {out}",
)


@pytest.mark.parametrize("command", sampled(PRINTING, PRINTING[:2]))
def test_nothing_is_said_of_a_reader_that_ends_early(command: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        ended = subprocess.run(
            [sys.executable, "-m", *command.format(out=tmp_path).split()],
            cwd=ROOT,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert ended.stderr == ""
    assert ended.returncode in (0, 1)  # rich ends with 1 then


def test_a_deferred_interruption_is_raised_at_the_end_of_its_block() -> None:
    """In a process of its own: the handler stays."""
    code = (
        "import os, signal, weakref\n"
        "from petlbench import interrupts\n"
        # a job in the background of a shell ignores it
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "interrupts.hear()\n"
        "class Thing: pass\n"
        "try:\n"
        "    with interrupts.deferred():\n"
        "        thing = Thing()\n"
        "        weakref.finalize(thing, lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "        del thing\n"
        "        print('inside')\n"
        "    print('not reached')\n"
        "except KeyboardInterrupt: print('raised')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("inside\nraised\n", "")
