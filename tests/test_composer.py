"""The composer gives what Hydra gives, or says that it does not cover a combination."""

import copy
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from petlbench.config import compose, compositions, options
from petlbench.config.composer import merge
from petlbench.config.interpolation import NotCovered
from tests.trees import paint

METHODS = [name for name in options.names("method") if not options.listed("method", name)]


def by_hydra(overrides: Sequence[str]) -> dict[str, Any]:
    composed = compositions.by_hydra(overrides)
    choices = dict(composed.hydra.runtime.choices)
    return compose.finish(compositions.without_hydra(composed), choices).plain()


# select is no protocol of a run
PROTOCOLS = [name for name in options.names("protocol") if name != "select"]


def tasks() -> list[str]:
    """A task of each suite."""
    names = [name for name in options.names("dataset") if not options.listed("dataset", name)]
    suites = {name.partition("/")[0]: name for name in names if "/" in name}
    return sorted(suites.values())


def combinations() -> list[tuple[str, ...]]:
    """Each method, backbone, suite and protocol, published values, and kinds of overrides."""
    suites = itertools.cycle(tasks())
    paper = ("recipe=paper", "backbone=vit_b16", "dataset=vtab/dtd")
    return [
        *((f"method={name}", f"dataset={next(suites)}") for name in METHODS),
        *((f"backbone={name}", "method=lora") for name in options.names("backbone")),
        *((f"dataset={name}", "method=dtl") for name in tasks()),
        *((f"protocol={name}", "method=dtl") for name in PROTOCOLS),
        *((*paper, f"method={name}") for name in ("lora", "dtl", "ssf", "linear")),
        ("method=lora", "method.rank=4", "seed=7", "train.lr=1", "train.epochs=3"),
        ("train.betas=[0.8,0.99]", "title='a b'", "train.schedule.warmup_epochs=0"),
        (*paper, "method=lora", "train.lr=0.5"),
        ("method=full", "device=cpu", "wandb.group=a", "results.root=a", "backbone.checkpoint=x"),
        ("experiment=mini_random",),
        ("input.size=96", "dataset=fewshot/pets_4"),
        ("protocol=audit", "train.epochs=30"),
    ]


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 6])
def test_combinations_equal_those_of_hydra(every: int) -> None:
    """Values, their types and their order, and the cell of a table."""
    for overrides in combinations()[::every]:
        fast = compose.typed(*compositions.by_composer(overrides)).plain()
        slow = by_hydra(overrides)
        assert json.dumps(fast) == json.dumps(slow), overrides


def test_a_folder_with_an_augmentation_equals_that_of_hydra(tmp_path: Path) -> None:
    root = tmp_path / "it's a b"
    for number in range(8):
        paint(root / "cd"[number % 2] / f"{number}.png", number)
    augment = "{scale:[0.6,1],ratio:[0.75,1.33],interpolation:bicubic,hflip:0.0,color_jitter:0.0,"
    overrides = [
        *("dataset=folder", f'dataset.root="{root}"', "protocol=audit"),
        f"input.augment={augment}auto_augment:null,erase:0.0}}",
    ]
    fast = compose.typed(*compositions.by_composer(overrides)).plain()
    assert json.dumps(fast) == json.dumps(by_hydra(overrides))
    assert (fast["dataset"]["classes"], fast["dataset"]["title"]) == (2, "it_s_a_b")
    assert fast["input"]["augment"]["scale"] == [0.6, 1.0]


@pytest.mark.parametrize(
    "override",
    [
        *("+train.foo=1", "~train.lr", "train.foo=1", "train={lr: 1}", "method.foo=1"),
        *(
            "train.lr=x",
            "seed=null",
            "train=3",
            "dataset=mini",
            "dataset=folder",
            "method=nonsense",
        ),
        *("title=???", "a b", "+experiment=demo", "train.lr=${nonsense}", "train.lr=${train.lr}"),
    ],
)
def test_what_is_not_plain_is_left_to_hydra(override: str) -> None:
    with pytest.raises(NotCovered):
        compositions.by_composer([override])


def test_an_option_that_chooses_for_another_group_is_left_to_hydra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", copy.deepcopy(store.repo))
    node = {"defaults": [{"override /dataset": "vtab/kitti"}], "title": "Chooser"}
    store.store(group="method", name="chooser", node=node, package="_global_")
    compositions._composer.cache_clear()  # a composer keeps its options
    with pytest.raises(NotCovered, match="changes other groups"):
        compositions.by_composer(["method=chooser"])
    compositions._composer.cache_clear()


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1}, {"a": "???"}, {"a": 1}),
        ({"a": "???"}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({}, {"a": "???"}, {"a": "???"}),
    ],
)
def test_values_are_merged_as_omegaconf_merges(
    below: dict[str, Any], above: dict[str, Any], merged: dict[str, Any]
) -> None:
    assert OmegaConf.to_container(OmegaConf.merge(below, above)) == merged
    merge(below, above)
    assert below == merged


def test_configurations_do_not_share_values() -> None:
    first, second = (compositions.by_composer(["method=lora"])[0] for _ in range(2))
    first["train"]["betas"].append(1)
    third, _ = compositions.by_composer(["method=lora"])
    assert second["train"]["betas"] == third["train"]["betas"]


def test_a_changed_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("here", "there"):
        monkeypatch.setenv("PETLBENCH_DATA", place)
        assert (
            compose.single(["dataset=vtab/dtd"]).dataset.target.values["root"] == f"{place}/vtab"
        )
