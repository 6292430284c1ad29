"""Every key of the configuration with values of every wrong kind.

Each input ends in one of two ways: exit code 2 with one line that names the key, and no file
written; or a record that the report accepts.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from petlbench.__main__ import main as petlbench_main
from petlbench.__main__ import run_preset
from petlbench.config import compositions
from petlbench.report.read.records import read
from tests import command

VALUES = ("null", "true", "x", "[]", "{}", "-1", "nan", "1e14")
SMALL = (
    *("method=linear", "dataset.images=1010", "dataset.sha256=null", "train.epochs=1"),
    *("train.batch_size=500", "device=cpu", "train.schedule.warmup_epochs=0"),
)
PROBE = ("method=linear", "probe.warmup=1", "probe.steps=1", "device=cpu")
AUGMENTED = (
    "input.augment={scale:[0.5,1.0],ratio:[0.75,1.33],interpolation:bicubic,hflip:0.5,"
    "color_jitter:0.0,auto_augment:null,erase:0.0}"
)
# Their effect lies outside one run: what a sweep does, and Hydra's own folders.
OUTSIDE = ("hydra", "report", "facts", "family")


def leaves(*overrides: str) -> list[str]:
    """Dotted keys that `--cfg job` shows, nodes included."""
    composed = compositions.without_hydra(compositions.by_hydra(overrides))
    plain = OmegaConf.to_container(composed)
    assert isinstance(plain, dict)
    return [key for key in compositions.keys(composed) if key.split(".")[0] not in OUTSIDE]


@dataclass(frozen=True)
class Input:
    """One override, tried by a single run, a sweep or a probe."""

    mode: str
    override: str

    @property
    def key(self) -> str:
        return self.override.lstrip("~+").partition("=")[0]

    def arguments(self) -> list[str]:
        own = [text for text in self.base() if text.partition("=")[0] != self.key]
        return [*(["-m"] if self.mode == "sweep" else []), *own, self.override]

    def base(self) -> tuple[str, ...]:
        if self.key.startswith("method"):
            return ("method=dtl", *(PROBE if self.mode == "probe" else SMALL)[1:])
        if self.mode == "probe":
            return PROBE
        return (AUGMENTED, *SMALL) if self.key.startswith("input.augment.") else SMALL


def inputs() -> Iterator[list[Input]]:
    """Groups of inputs; those of a group set one value and share a folder."""
    keys = {"run": leaves("method=dtl", *SMALL[1:]), "sweep": leaves("method=dtl", *SMALL[1:])}
    keys["probe"] = leaves("protocol=probe", "method=dtl")
    keys["run"] += [key for key in leaves(AUGMENTED) if key.startswith("input.augment.")]
    for mode, names in keys.items():
        for key in names:
            yield [Input(mode, f"~{key}")]
            for value in VALUES:
                yield [Input(mode, f"{sign}{key}={value}") for sign in ("", "+", "++")]


def verdict(tried: Input, folder: Path) -> str:
    """`refused` or `recorded`, or what is wrong with the end of a command."""
    folder.mkdir(parents=True, exist_ok=True)
    before = _files(folder)
    main = petlbench_main
    if tried.mode == "probe":
        main = partial(run_preset, "protocol=probe")
    try:
        code, output = command.run(folder, *tried.arguments(), main=main)
    except BaseException as error:  # a traceback of the command
        return f"traceback: {type(error).__name__}: {error}"
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    files = _files(folder)
    if "Traceback" in output:
        return f"traceback: {output}"
    if code == 2:
        if len(lines) != 1 or len(output.splitlines()) != 1:
            return f"not one line: {output}"
        if tried.key.split(".")[-1] not in lines[0] and tried.key.split(".")[0] not in lines[0]:
            return f"the key is not named: {lines[0]}"
        left = sorted(files - before)
        return f"files left: {left}" if left else "refused"
    records = [path for path in files if path.suffix == ".json" and "wandb" not in path.parts]
    if not records:
        return f"wrongly accepted, exit code {code}: {output}"
    read([folder])  # raises UserError for a record that the report does not accept
    return "recorded"


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def tried_all(groups: list[list[Input]], folder: Path) -> tuple[Counter[str], list[str]]:
    """Verdicts by their first word, and a line for each wrong one."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    tried = [(number, one) for number, group in enumerate(groups) for one in group]
    for number, one in tried:
        found = verdict(one, folder / str(number))
        counts[found.partition(":")[0]] += 1
        if found not in ("refused", "recorded"):
            wrong.append(f"{' '.join(one.arguments())}\n    {found}")
    return counts, wrong


@pytest.fixture
def shared_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETLBENCH_CACHE", os.environ.get("PETLBENCH_CACHE", str(tmp_path / "c")))
    monkeypatch.delenv("PETLBENCH_DATA", raising=False)


@pytest.mark.usefixtures("shared_cache")
def test_a_sample_of_bad_inputs_is_refused_or_recorded(tmp_path: Path) -> None:
    sample = [group[:1] for group in list(inputs())[::400]]
    counts, wrong = tried_all(sample, tmp_path / "runs")
    assert not wrong, "\n".join(wrong)
    assert counts["refused"] > counts["recorded"]


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize("part", range(8))
def test_every_bad_input_is_refused_or_recorded(part: int, tmp_path: Path) -> None:
    """Prints its figures: pytest -m slow -s."""
    counts, wrong = tried_all(list(inputs())[part::8], tmp_path / "runs")
    print(f"part {part}: {counts.total()} inputs, {dict(counts)}")
    assert not wrong, "\n".join(wrong)
