"""The command `petlbench`: what it starts, its lists, and what it says of a key."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from petlbench import console, interrupts
from petlbench.arguments import Parser
from petlbench.commands import listing, show
from petlbench.config import options
from petlbench.errors import UserError
from tests.command import OWN_HELP, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The modules that are started, each with its arguments, and the signals left alone."""
    found: list[Any] = []

    def run_module(module: str, **_: Any) -> None:
        found.append((module, sys.argv[1:]))

    monkeypatch.setattr(runpy, "run_module", run_module)
    monkeypatch.setattr(interrupts, "hear", lambda: None)
    return found


@pytest.mark.parametrize(
    ("typed", "module", "arguments"),
    [
        ("run method=lora", "petlbench", ["method=lora"]),
        ("sweep method=lora", "petlbench", ["-m", "method=lora"]),
        ("report leaderboard --out x", "petlbench.report", ["leaderboard", "--out", "x"]),
        ("methods --json", "petlbench.commands.listing", ["methods", "--json"]),
    ],
)
def test_a_command_is_its_module(
    typed: str,
    module: str,
    arguments: list[str],
    started: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["petlbench", *typed.split()])
    console.main()
    assert started == [(module, arguments)]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("swep method=lora", "unknown command 'swep'; did you mean 'sweep'? Known: backbones, "),
        ("method=lora", "'method=lora' is no command; did you mean 'petlbench run method=lora'?"),
        ("method=lora -m seed=0,1", "did you mean 'petlbench sweep method=lora seed=0,1'?"),
    ],
)
def test_an_unknown_command_is_one_line(
    typed: str, line: str, started: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(sys, "argv", ["petlbench", *typed.split()])
    with pytest.raises(SystemExit) as leaving:
        console.main()
    assert leaving.value.code == 2
    assert not started
    message = capsys.readouterr().err
    assert line in message
    assert message.count("\n") == 1


def test_help_and_lists_import_no_torch() -> None:
    typed = [[], ["methods"], ["show", "train.lr"], *([name, "--help"] for name in OWN_HELP)]
    code = (
        "import sys; from petlbench import console\n"
        f"for typed in {typed}:\n"
        "    sys.argv = ['petlbench', *typed]\n"
        "    try: console.main()\n"
        "    except SystemExit as leaving: assert not leaving.code\n"
        "assert 'torch' not in sys.modules"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert all(f"\n  {name} " in output for name in console.COMMANDS)
    assert all(f"\nusage: petlbench {name} [-h]" in output for name in OWN_HELP)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ([], "the following arguments are required: KEY"),
        (["pick", "a", "--al=3", "--jsn"], "argument --all: ignored explicit argument '3'; "),
        (["pick", "a", "--jsn"], "unknown option '--jsn'; Known: --all, --help; test --help"),
        (["pikc"], "unknown key 'pikc'; did you mean 'pick'? Known: pick, put; test --help shows"),
        (["pick", "a", "b"], "'b' is one argument too many; test --help shows"),
        (["put", "--all"], "'--all' is no option here; it is one of test pick; test --help shows"),
    ],
)
def test_a_mistyped_argument_is_one_line(typed: list[str], line: str, capsys: Capture) -> None:
    parser = Parser(prog="test")
    commands = parser.add_subparsers(required=True, metavar="KEY")
    commands.add_parser("put")
    below = commands.add_parser("pick")
    below.add_argument("one")
    below.add_argument("--all", action="store_true")
    with pytest.raises(SystemExit) as leaving:
        parser.parse_args(typed)
    assert leaving.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {line}")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("--bogus", "unrecognized arguments: --bogus; values are given as KEY=VALUE"),
        ("lora", "'lora' is no KEY=VALUE; values are given as method=lora"),
        (
            "report",
            "'report' is a command of petlbench and no KEY=VALUE; use 'petlbench report' or "
            "'python -m petlbench.report'",
        ),
        ("=3", "'=3' has no key"),
        ("lr=3", "no key 'lr' to set; did you mean 'train.lr'?"),
        (
            "method=lora method=dtl",
            "'method' is given twice (lora and dtl); give it once",
        ),
        ("-m seed=0 seed=1", "'seed' is given twice (0 and 1); give it once"),
        (
            "method=[lora,dtl]",
            "'method=[lora,dtl]' is a list; a sweep with -m names options as",
        ),
        ("+train.lr=5", "'train.lr' has a value; write train.lr=VALUE, without +"),
        (
            "results.root=a_${sed}",
            "results.root refers to ${sed}, and no key has this name; ",
        ),
        ("-m hydra/launcher=locall", "unknown hydra/launcher 'locall'; did you mean 'local'?"),
    ],
)
def test_what_a_run_does_not_take_is_one_line(typed: str, line: str, tmp_path: Path) -> None:
    code, message = run(tmp_path, *typed.split())
    assert code == 2
    assert message.startswith(f"error: {line}")
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_command_after_the_module_is_named_in_both_spellings() -> None:
    console.check_is_no_command(["-m", "method=lora,sweep"])
    with pytest.raises(
        UserError, match=r"use 'petlbench sweep a=1' or 'python -m petlbench -m a=1'"
    ):
        console.check_is_no_command(["-m", "sweep", "a=1"])


@pytest.mark.parametrize("kind", listing.KINDS)
def test_every_option_has_a_line(kind: str, capsys: Capture) -> None:
    assert listing.main([kind]) == 0
    printed = capsys.readouterr().out
    listing.main([kind, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert all(row["name"] in printed for row in rows)
    assert len(rows) <= len(printed.splitlines()) <= len(rows) + 1
    assert all(row["about"] for row in rows if kind != "tasks")


def test_a_method_has_its_declared_parameters_and_a_sentence() -> None:
    [lora] = [row for row in listing.methods() if row["name"] == "lora"]
    assert lora["parameters"] == 294_912
    assert lora["about"].startswith("A low-rank update of the query and value projections")


def test_a_tuner_of_peft_is_described_by_its_yaml() -> None:
    head = "# @package _global_\n# 9 L\n# W + B A\n# with B = 0; https://x.org/1\ntitle: A\n# b\n"
    assert listing.update(head) == "W + B A with B = 0"
    assert listing.update("# @package _global_\n# 9 L\ntitle: A\n") == ""
    for row in listing.methods():
        said = listing.update(options.text("method", row["name"]))
        is_bridged = "peft_tuner." in options.text("method", row["name"])
        assert not (is_bridged and said) or row["about"] == said


@pytest.mark.parametrize(
    ("typed", "lines"),
    [
        (
            "train.memory",
            [
                "train.memory = fast",
                "  fast: keep all",
                "  takes: fast, lean, min",
                "set in: conf",
            ],
        ),
        ("method.rank method=lora", ["= 8", "takes: a whole number", "conf/method/lora.yaml:7"]),
        ("train.epochs train.epochs=3", ["= 3", "from 1 to 1000000", "set by this command"]),
        ("train.head_lr method=dtl backbone=vit_b16", ["= 0.001", "refers to: ${train.lr}"]),
        ("train.schedule", ["a node", "  warmup_epochs: "]),
    ],
)
def test_a_key_is_explained(typed: str, lines: list[str], capsys: Capture) -> None:
    assert show.main(typed.split()) == 0
    printed = capsys.readouterr().out
    assert [line for line in lines if line not in printed] == []


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("lr", "no key 'lr' to set; did you mean 'train.lr'?"),
        ("..", "no key '..' to set"),
        ("dtl", "'dtl' is an option and no key; petlbench show method method=dtl lists its keys"),
        ("method=dtl", "'method=dtl' is an option and no key; petlbench show method method=dtl"),
        (
            "mini/land",
            "'mini/land' is an option and no key; petlbench show dataset dataset=mini/l",
        ),
        (
            "method.kernel",
            "it depends on the method; choose method=NAME, one of dtl_plus, dtl_plus_star",
        ),
        ("method.rank", ", lora, "),
        ("probe.steps", "it depends on the protocol; choose protocol=NAME, one of probe"),
        ("dataset.root", "it depends on the dataset; choose dataset=NAME, one of folder"),
        ("method.rank method=lorra", "unknown method 'lorra'; did you mean 'lora'?"),
        ("train.lr train.lr=high", "train.lr is high; it must be a number"),
    ],
)
def test_an_unknown_key_is_one_line(typed: str, line: str, capsys: Capture) -> None:
    assert show.main(typed.split()) == 2
    message = capsys.readouterr().err
    assert line in message
    assert message.count("\n") == 1
