"""A method in a package of its own, built and used as docs/your_own_method.md describes."""

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from petlbench import registry
from petlbench.commands.support import reason
from petlbench.config import options, search_path
from petlbench.errors import UserError
from petlbench.run.record import Store
from petlbench.testing import images, loss, plain_logits, randomised, tiny
from tests.command import run
from tests.processes import finished

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "your_own_method.md").read_text()
BLOCK = r"```\w+\n(.*?)^```$"
TASK = """\
_target_: tests.fake.load
name: bright
title: Bright
suite: mine
group: natural
classes: 3
"""


def forget() -> None:
    search_path.packages.cache_clear()
    options._files.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as pip would leave it: the page's files, and the metadata of its pyproject."""
    files = dict(re.findall(rf"^`([\w./]+)`\n\n{BLOCK}", PAGE, flags=re.M | re.S))
    assert set(files) == {"mine/gain.py", "mine/conf/method/gain.yaml", "pyproject.toml"}
    files |= {"mine/__init__.py": "", "mine/conf/__init__.py": ""}
    files["mine/conf/dataset/bright.yaml"] = TASK
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    entries = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in group_entries.items())
        for group, group_entries in project["entry-points"].items()
    )
    files["mine-1.0.dist-info/entry_points.txt"] = entries
    files["mine-1.0.dist-info/METADATA"] = "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n"
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    forget()
    yield tmp_path
    forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def block(language: str) -> str:
    """The code of this language under "Use"."""
    [code] = re.findall(
        BLOCK.replace(r"\w+", language), PAGE.partition("## Use")[2], flags=re.M | re.S
    )
    return str(code)


def test_the_page_has_no_other_code() -> None:
    """Three files and two blocks of use, each executed below."""
    assert len(re.findall(BLOCK, PAGE, flags=re.M | re.S)) == 5
    assert "\n    " not in re.sub(BLOCK, "", PAGE, flags=re.M | re.S)


def test_its_python_runs(site: Path) -> None:
    names = {"backbone": tiny("vit"), "images": images()}
    exec(block("python"), names)
    assert names["logits"].shape == (3, 5)  # type: ignore[attr-defined]
    assert len(names["method"].gains) == 12 - 3  # type: ignore[attr-defined]


def test_its_commands_run(site: Path) -> None:  # in a process of its own: tests/test_outside.py
    sweep, table = (shlex.split(line) for line in block("sh").splitlines())
    assert sweep[:3] == ["python", "-m", "petlbench"]
    status, output = run(site, *sweep[3:], "hydra.sweeper.dry_run=true")
    assert status == 0, output
    assert "plan: 6 runs" in output
    assert table[:3] == ["python", "-m", "petlbench.support"]
    assert [reason("gain", backbone) for backbone in table[3:]] == [None, None]


def test_it_is_a_method_like_any_other(site: Path) -> None:
    assert "gain" in registry.names()
    assert registry.values("gain") == {"start": 7}
    method = registry.create("gain", tiny("swin")).eval()
    assert torch.equal(method(images()), plain_logits(tiny("swin")))
    loss(randomised(method)).backward()
    assert all(gain.grad.any() for gain in method.gains.values())  # type: ignore[operator]
    assert reason("gain", "swin_b") is None
    with pytest.raises(UserError, match="start 13 is outside"):
        registry.create("gain", tiny("vit"), start=13)


@pytest.mark.slow  # tests/test_outside.py sweeps over another package too
def test_it_runs_from_the_command_line_in_a_sweep(site: Path) -> None:
    small = ("train.epochs=1", "train.batch_size=8", "device=cpu", "results.root=runs")
    status, output = finished(site, "-m", "method=gain,linear", "dataset=bright", *small)
    assert status == 0, output
    records = {record["factors"]["method"]: record for record in Store(site / "runs").records()}
    assert records.keys() == {"gain", "linear"}
    assert records["gain"]["cost"]["parameters"]["method"] == 6 * 96
    assert records["gain"]["title"] == "Gain"


@pytest.mark.parametrize("value", ["gone", "mine.gain", "broken"])
def test_a_package_that_cannot_be_imported_is_named_and_left_out(
    site: Path, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    (site / "broken").mkdir()
    (site / "broken" / "__init__.py").write_text("1 / 0\n")
    (site / "mine-1.0.dist-info" / "entry_points.txt").write_text(
        f"[petlbench.conf]\nx = {value}\n"
    )
    assert "gain" not in registry.names()
    assert "lora" in registry.names()
    [warning] = {record.getMessage() for record in caplog.records}
    assert f"'{value}'" in warning
    assert "\n" not in warning


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not yaml"), ("- a", "holds a list")])
def test_a_broken_yaml_is_named_and_left_out(
    site: Path, text: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    (site / "mine" / "conf" / "method" / "gain.yaml").write_text(text)
    assert "gain" not in registry.names()
    assert "lora" in registry.names()
    warnings = {record.getMessage() for record in caplog.records}
    assert any(f"gain.yaml' {message}" in warning for warning in warnings)
    assert not any("\n" in warning for warning in warnings)


def test_without_it_the_method_is_unknown() -> None:
    with pytest.raises(UserError, match="unknown method 'gain'"):
        registry.create("gain", tiny("vit"))
