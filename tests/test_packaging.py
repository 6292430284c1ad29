"""The package without an installation and without symbolic links, and what its archives hold."""

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUP: dict[str, Any] = PYPROJECT["tool"]["setuptools"]
ASKED = """
import petlbench, petlbench.conf, petlbench.published
from petlbench.methods.lora import LoRA
print(petlbench.Method.__name__, issubclass(LoRA, petlbench.Method), len(petlbench.names()))
"""


def folder(package: str) -> Path:
    """Where a package lies in the tree."""
    places: dict[str, str] = SETUP["package-dir"]
    return ROOT / places.get(package, package.replace(".", "/"))


def tracked() -> list[Path]:
    """Files of the repository, or of an unpacked archive of it."""
    answer = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if answer.returncode == 0:
        return [path for line in answer.stdout.splitlines() if (path := ROOT / line).exists()]
    return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]


def test_every_folder_of_code_is_a_package_of_the_archives() -> None:
    listed = {folder(package) for package in SETUP["packages"]}
    code = {path.parent for path in tracked() if path.suffix == ".py"}
    tops = {ROOT / "petlbench", ROOT / "methods", ROOT / "conf"}
    assert {place for place in code if tops & {place, *place.parents}} <= listed


def test_every_data_file_is_in_the_archives() -> None:
    globs = {folder(package): patterns for package, patterns in SETUP["package-data"].items()}

    def is_packed(path: Path) -> bool:
        return any(
            fnmatch(path.relative_to(place).as_posix(), pattern.replace("**/", "*"))
            for place, patterns in globs.items()
            if place in path.parents
            for pattern in patterns
        )

    tops = [folder(package) for package in ("petlbench", *SETUP["package-dir"])]
    files = [p for p in tracked() if p.suffix != ".py" and any(top in p.parents for top in tops)]
    assert [str(path.relative_to(ROOT)) for path in files if not is_packed(path)] == []


def test_the_tree_works_without_links_and_without_an_installation(tmp_path: Path) -> None:
    assert [path for path in tracked() if path.is_symlink()] == []
    for path in tracked():
        if path.relative_to(ROOT).parts[0] in ("petlbench", "methods", "conf", "pyproject.toml"):
            copied = tmp_path / "tree" / path.relative_to(ROOT)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(path.read_bytes())
    published = tmp_path / "tree" / "results" / "published"
    published.mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    answer = subprocess.run(
        [sys.executable, "-c", ASKED],
        cwd=tmp_path / "empty",
        env={"PYTHONPATH": str(tmp_path / "tree"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    texts = [path.read_text() for path in (ROOT / "conf" / "method").glob("*.yaml")]
    count = sum("\nsuite:" not in text for text in texts)
    assert answer.stdout == f"Method True {count}\n", answer.stderr


def test_the_lock_has_a_fitting_version_of_every_dependency() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    wanted = [Requirement(text) for text in PYPROJECT["project"]["dependencies"]]
    assert [str(each) for each in wanted if not each.specifier.contains(locked[each.name])] == []


def test_workflows_call_targets_of_the_makefile() -> None:
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    folder = ROOT / ".github" / "workflows"
    jobs = [
        job
        for file in folder.iterdir()
        for job in yaml.safe_load(file.read_text())["jobs"].values()
    ]
    runs = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    targets = {match[1] for run in runs if (match := re.match(r"make ([\w-]+)", run))}
    assert {"test", "lint", "wheel", "site", "torture"} <= targets <= set(rules)
