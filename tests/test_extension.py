"""A method in a package of its own, as docs/your_own_method.md says, found by its entry point."""

import re
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
from tests.processes import finished
from tests.test_methods import loss, plain_logits, randomised
from tests.tiny import images, tiny

ROOT = Path(__file__).parent.parent
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
    page = (ROOT / "docs" / "your_own_method.md").read_text()
    files = dict(re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```$", page, flags=re.M | re.S))
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


def test_it_runs_from_the_command_line_in_a_sweep(site: Path) -> None:
    small = ("train.epochs=1", "train.batch_size=8", "device=cpu", "results.root=runs")
    status, said = finished(site, "-m", "method=gain,linear", "dataset=bright", *small)
    assert status == 0, said
    records = {record["factors"]["method"]: record for record in Store(site / "runs").records()}
    assert records.keys() == {"gain", "linear"}
    assert records["gain"]["cost"]["parameters"]["method"] == 6 * 96
    assert records["gain"]["title"] == "Gain"


@pytest.mark.parametrize("value", ["gone", "mine.gain", "broken"])
def test_a_package_that_cannot_be_imported_is_named(site: Path, value: str) -> None:
    (site / "broken").mkdir()
    (site / "broken" / "__init__.py").write_text("1 / 0\n")
    (site / "mine-1.0.dist-info" / "entry_points.txt").write_text(
        f"[petlbench.conf]\nx = {value}\n"
    )
    with pytest.raises(UserError, match=f"names '{value}' as its configuration"):
        registry.names()


@pytest.mark.parametrize(("text", "message"), [("a: [", "is no yaml"), ("- a", "holds a list")])
def test_a_broken_yaml_is_named(site: Path, text: str, message: str) -> None:
    (site / "mine" / "conf" / "method" / "gain.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"gain\.yaml' {message}"):
        registry.names()


def test_without_it_the_method_is_unknown() -> None:
    with pytest.raises(UserError, match="unknown method 'gain'"):
        registry.create("gain", tiny("vit"))
