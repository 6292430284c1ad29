"""Bad input of every command of `python -m petlbench.data`: one line, exit 1 or 2, no file."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from petlbench.commands.data.main import main
from tests import trees

Capture = pytest.CaptureFixture[str]
Mistake = tuple[list[str], str | None]  # arguments, start of the message if there is one
LONG = "x" * 300
COMMANDS = {
    "list": ["vtab/kitti"],
    "verify": ["vtab/kitti"],
    "prepare": ["vtab/kitti", "a.zip"],
    "cache": ["vtab/kitti"],
}
FETCH = ["fetch", "http://127.0.0.1:1/a.zip", "--sha256", "0" * 64]
SIZES = {
    "0": "--size is 0; it must be a whole number from 1 to 65536",
    "-3": "--size is -3; it must be a whole number from 1 to 65536",
    "100000000000000": "--size is 100000000000000; it must be a whole number from 1 to 65536",
    "nan": "argument --size: invalid int value: 'nan'",
    "1.5": "argument --size: invalid int value: '1.5'",
    "": "argument --size: invalid int value: ''",
}
ROOTS = {
    "": "--root is ''; it must be the path of a file or folder",
    " ": "--root is ' '; it must be the path",
    "a\nb": "--root is 'a\\nb'; it must be the path",
    LONG: f"--root is '{LONG}': File name too long; give another path",
    "~nobody-has-this-name/x": "--root is '~nobody-has-this-name/x': ",
}
SUITES = {
    "vtb": "unknown task or suite 'vtb'; did you mean 'vtab'? Known: ",
    "": "unknown task or suite ''; ",
    "nan": "unknown task or suite 'nan'",
    LONG: f"unknown task or suite '{LONG}'",
}
OF_EVERY_COMMAND: list[Mistake] = [
    *(
        ([command, *rest, "--root", root], message)
        for root, message in ROOTS.items()
        for command, rest in COMMANDS.items()
    ),
    *(
        ([command, suite, *rest[1:]], message)
        for suite, message in SUITES.items()
        for command, rest in COMMANDS.items()
    ),
]
WRONG_SIZES: list[Mistake] = [
    ([command, "vtab/kitti", "--size", size], message)
    for size, message in SIZES.items()
    for command in ("list", "cache")
]
MISTAKES: list[Mistake] = [
    (["verify"], "the following arguments are required: suite"),
    (["verify", "vtab", "--roof", "x"], "unknown option '--roof'; Known: --allow-duplicates"),
    (["look"], "unknown command 'look'; Known: cache, fetch"),
    ([], "the following arguments are required: COMMAND"),
    (["verify", "folder"], "folder reads a folder of your own; set --root FOLDER"),
    (["verify", "folder", "--root", "/nowhere/'x"], None),
    (["list", "probe"], "probe has no images; choose a task such as mini/digits"),
    (["verify", "probe"], "probe has no images"),
    (["cache", "probe"], "probe has no images"),
    (["cache", "vtab/kitti", "--root", "/nowhere"], None),
    (["prepare", "vtab"], "prepare takes archives, or --lists DIR and --images DIR"),
    (["prepare", "vtab", "a.zip", "--lists", "b"], "prepare takes archives, or --lists DIR and"),
    (["prepare", "vtab", ""], "an archive is ''; it must be the path"),
    (["prepare", "vtab", "no.zip"], "no archive 'no.zip'"),
    (["prepare", "vtab", LONG], f"an archive is '{LONG}': File name too long"),
    (["prepare", "vtab", "--lists", "", "--images", "b"], "--lists is ''; it must be the path"),
    (["prepare", "vtab", "--lists", "no", "--images", "no"], "--lists: no folder 'no'"),
    (["prepare", "mini", "a.zip"], "mini needs no lists and folders of its own"),
    (["prepare", "probe", "a.zip"], "probe needs no lists and folders of its own"),
    (["prepare", "vtab/kitti", "a.zip", "--root", "file"], "cannot write the data: 'file/vtab': "),
    ([*FETCH, "--to", ""], "--to is ''; it must be the path of a file or folder"),
    ([*FETCH, "--to", LONG], f"--to is '{LONG}': File name too long; give another path"),
    ([*FETCH, "--to", "file/a.zip"], "--to: 'file/a.zip.part' cannot be written: "),
    (["fetch", "", "--sha256", "0" * 64], "'' is not an address to fetch from; use http(s)://"),
    (["fetch", "http://host/a", "--sha256", "nan"], "--sha256 is 'nan'; it must be 64 hexadec"),
    (["fetch", f"http://127.0.0.1:1/{LONG}", "--sha256", "0" * 64], "--to is '"),
]


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder with a file, and an archive with a task of VTAB-1K."""
    trees.shrink(monkeypatch, tmp_path / "cache")
    (tmp_path / "file").write_text("not a folder")
    source = trees.vtab_task(tmp_path / "source")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for path in sorted(source.rglob("*.*")):
            file.write(path, path.relative_to(source.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:  # how argparse ends
        return int(stop.code or 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    OF_EVERY_COMMAND + WRONG_SIZES + MISTAKES,
    ids=lambda value: str(value)[:60],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    arguments: list[str], message: str | None, folder: Path, capsys: Capture
) -> None:
    before = snapshot(folder)
    status = run(arguments)
    out, err = capsys.readouterr()
    assert status in (1, 2)
    assert "Traceback" not in out + err
    assert snapshot(folder) == before
    if message is not None:
        assert err.startswith(f"error: {message}")
        assert err.count("\n") == 1
        assert out == ""


@pytest.mark.parametrize("cache", ["file", LONG, "~nobody-has-this-name/x", ""])
def test_a_cache_that_cannot_be_written_is_named(
    cache: str, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.vtab_task(folder / "vtab")
    monkeypatch.setenv("PETLBENCH_CACHE", cache)
    before = snapshot(folder)
    status = run(["cache", "vtab/kitti", "--root", ".", "--size", "4"])
    out, err = capsys.readouterr()
    assert status == 1
    assert "PETLBENCH_CACHE" in out + err
    assert "Traceback" not in out + err
    assert snapshot(folder) == before


def test_a_process_ends_with_the_status(folder: Path) -> None:
    code = (
        "import atexit, runpy, sys; sys.argv[1:] = ['verify', 'vtb']\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "runpy.run_module('petlbench.data', run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == "False\n"  # torch takes seconds
    assert ended.stderr.startswith("error: unknown task or suite 'vtb'")
    assert ended.stderr.count("\n") == 1


def test_a_reader_that_ends_early_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return 1

    monkeypatch.setattr("os.dup2", lambda *_: None)
    monkeypatch.setattr("sys.stdout", Closed())
    assert main(["list", "vtab/kitti", "--json"]) == 0
