"""Published values: what the files say is what a run gets, and what is not there is refused."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from petlbench import registry
from petlbench.config import compose, options, recipes
from petlbench.errors import Unsupported
from petlbench.run import build
from petlbench.run.lifecycle import blank, ended
from petlbench.run.record import Store, flat, identity
from petlbench.sweep import plan
from petlbench.sweep.conduct import perform
from petlbench.train.settings import check
from tools.recipes_page import page

FILES = recipes.covered()
Values = dict[str, Any]


def composed(method: str, backbone: str, task: str, *more: str) -> Values:
    pair = (f"method={method}", f"backbone={backbone}", f"dataset={task}")
    return compose.single([*pair, *more])


@cache
def dotted(method: str, backbone: str, task: str) -> Values:
    """All keys of the run's configuration with the published values."""
    return dict(flat(composed(method, backbone, task, "recipe=paper")))


@pytest.mark.parametrize(("method", "backbone", "suite"), FILES)
def test_rows_name_tasks_and_keys_that_there_are_and_values_to_train_with(
    method: str, backbone: str, suite: str
) -> None:
    tasks = recipes.tasks(method, backbone, suite)
    assert method in registry.names()
    assert set(tasks) <= set(options.names("dataset"))
    base = OmegaConf.create(composed(method, backbone, tasks[0]))
    OmegaConf.set_struct(base, True)
    for task in tasks:
        published = recipes.row(method, backbone, task)
        assert published is not None
        del published["recipe"]
        resolved = OmegaConf.to_container(OmegaConf.merge(base, published), resolve=True)
        assert isinstance(resolved, dict)
        check(resolved["train"])
        assert resolved["train"]["head_lr"] == resolved["train"]["lr"] > 0


@pytest.mark.parametrize(("method", "backbone", "suite"), FILES)
def test_hydra_composes_the_row(method: str, backbone: str, suite: str) -> None:
    task = recipes.tasks(method, backbone, suite)[-1]
    published = recipes.row(method, backbone, task)
    assert published is not None
    found = composed(method, backbone, task, "recipe=paper")
    told: Values = {"name": "paper", "changed": []} | recipes.provenance(method, backbone, suite)
    assert found["recipe"] == told
    assert told["source"].startswith("github.com/")
    assert OmegaConf.to_container(OmegaConf.merge(found, published), resolve=True) == found


CELLS: list[tuple[str, str, str, Values]] = [  # typed from the sources
    ("dtl", "vit_b16", "vtab/svhn", {"train.lr": 0.008, "backbone.drop_path": 0.2}),
    ("dtl", "vit_b16", "vtab/cifar", {"train.epochs": 110, "train.precision": "fp16"}),
    ("dtl", "vit_b16", "fewshot/flowers102_4", {"train.lr": 0.008, "input.resize": 256}),
    ("dtl", "vit_b16", "dg_per_target/r", {"train.lr": 3e-5, "backbone.drop_path": 0.0}),
    ("dtl_plus", "vit_b16", "vtab/kitti", {"train.lr": 0.008, "method.kernel": 4}),
    ("dtl_plus", "swin_b", "vtab/svhn", {"method.rank": 4, "backbone.drop_path": 0.5}),
    ("dtl_plus", "swin_b", "vtab/sun397", {"train.lr": 0.003, "backbone.mean": [0.5] * 3}),
    ("ssf", "vit_b16_augreg", "vtab/clevr_dist", {"train.lr": 0.05, "train.weight_decay": 0.05}),
    ("ssf", "vit_b16_augreg", "vtab/svhn", {"train.lr": 0.01, "train.weight_decay": 5e-5}),
    ("fact_tk", "vit_b16", "vtab/dtd", {"method.rank": 16, "method.scale": 0.01}),
    ("fact_tt", "vit_b16", "vtab/clevr_dist", {"method.rank": 4, "method.scale": 10.0}),
    ("convpass", "vit_b16", "vtab/dtd", {"method.scale": 0.01, "method.conv_init": "xavier"}),
    ("convpass_attn", "vit_b16", "vtab/caltech101", {"method.scale": 100.0}),
    ("bi_lora", "vit_b16", "vtab/oxford_iiit_pet", {"method.scale": 0.1, "method.rank": 32}),
    ("bi_adaptformer", "vit_b16", "vtab/dtd", {"method.scale": 0.01, "backbone.std": [1.0] * 3}),
    ("repadapter", "vit_b16", "vtab/caltech101", {"method.scale": 5.0, "method.groups": 2}),
    ("adapter_plus", "vit_b16", "vtab/resisc45", {"method.rank": 32, "train.precision": "bf16"}),
    ("vpt_deep", "vit_b16", "vtab/clevr_dist", {"method.prompts": 200, "train.lr": 1e-3}),
    ("sct", "vit_b16", "vtab/clevr_count", {"method.scale": 0.52, "method.scale_on_x": True}),
    ("sct", "vit_b16", "vtab/cifar", {"train.lr": 0.013, "input.augment": None}),
    ("sct", "vit_b16", "vtab/dtd", {"input.augment.scale": None, "input.augment.hflip": 0.5}),
    ("lora", "vit_b16", "vtab/sun397", {"input.augment.interpolation": "bicubic"}),
    ("fact_tk", "vit_b16", "vtab/dtd", {"backbone.head_start": "torch"}),
    ("lora", "vit_b16", "vtab/cifar", {"train.lr": 0.005, "train.weight_decay": 0.005}),
    ("full", "vit_b16", "vtab/svhn", {"train.lr": 0.001, "train.head_lr": 0.001}),
    ("bitfit", "vit_b16", "vtab/cifar", {"train.lr": 0.003, "train.no_decay": "none"}),
    ("linear", "vit_b16", "vtab/dmlab", {"train.lr": 0.009, "train.label_smoothing": 0.0}),
    ("adapter", "vit_b16", "fewshot/cars_1", {"train.mixup": 0.8, "input.augment.erase": 0.25}),
    ("lora_noah", "vit_b16", "dg/imagenet", {"train.lr": 0.005, "train.cutmix": 1.0}),
    ("noah", "vit_b16", "fewshot/pets_16", {"method.dims": [5, 10, 50, 100]}),
    ("noah", "vit_b16", "vtab/eurosat", {"method.supernet_epochs": 500, "train.lr": 1e-3}),
    (
        "noah_subnet",
        "vit_b16",
        "dg/imagenet",
        {
            "method.prompts": [5, 10, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "method.adapter": [10, 10, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        },
    ),
    (
        "noah_subnet",
        "vit_b16",
        "vtab/cifar",
        {"method.lora": [10, 1, 5, 5, 1, 10, 1, 1, 1, 10, 1, 1], "train.schedule.lag_epochs": 1},
    ),
]


@pytest.mark.parametrize(("method", "backbone", "task", "expected"), CELLS)
def test_cells_are_those_of_the_source(
    method: str, backbone: str, task: str, expected: Values
) -> None:
    found = dotted(method, backbone, task)
    assert {key: found[key] for key in expected} == expected


def test_the_command_line_wins_and_the_record_says_so() -> None:
    changes = ("train.lr=0.5", "backbone.drop_path=0.0")
    found = composed("dtl", "vit_b16", "vtab/svhn", "recipe=paper", *changes)
    assert found["train"]["lr"] == found["train"]["head_lr"] == 0.5
    assert found["train"]["weight_decay"] == 0.05
    recipe = blank(found)["config"]["recipe"]
    assert recipe["changed"] == ["backbone.drop_path", "train.head_lr", "train.lr"]
    found = composed("dtl", "vit_b16", "vtab/svhn", "recipe=paper", "train.head_lr=0.5")
    assert found["recipe"]["changed"] == ["train.head_lr"]
    assert recipe["name"] == "paper"
    other = ("backbone.name=vit_base_patch16_224.augreg_in21k", "input.resize=256", "seed=3")
    found = composed("dtl", "vit_b16", "vtab/svhn", "recipe=paper", *other)
    assert found["recipe"]["changed"] == ["backbone.name", "input.resize"]
    free = ("backbone.checkpoint=ViT-B_16.npz", "dataset.draw=2", "data.root=/data")
    found = composed("dtl", "vit_b16", "fewshot/pets_1", "recipe=paper", *free)
    assert found["recipe"]["changed"] == []
    assert "heekhero/DTL @ bf6c51e679" in recipe["source"]


def test_without_a_published_row_the_pairs_that_have_one_are_named() -> None:
    found = composed("ssf", "vit_b16", "vtab/svhn", "recipe=paper")
    with pytest.raises(Unsupported, match="for ssf on vit_b16 and vtab/svhn") as told:
        build.check(found)
    assert str(told.value).endswith("it has some for ssf on vit_b16_augreg with vtab")
    with pytest.raises(Unsupported) as told:
        recipes.check(composed("lst", "vit_mini", "mini/land", "recipe=paper"))
    assert "dtl, dtl_plus on swin_b with vtab" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_plan_tells_such_runs_and_keeps_the_rest(tmp_path: Path) -> None:
    root = f"results.root={tmp_path}"
    runs = plan.build(
        [
            (composed(method, "vit_b16", "vtab/svhn", "recipe=paper", root), ())
            for method in ("fact_tt", "lst")
        ],
        set(),
        build.check,
    )
    assert [run.state for run in runs] == [plan.TO_RUN, plan.UNSUPPORTED]
    assert plan.refusals(runs)[0].startswith("unsupported: lst on vit_b16: recipe=paper has no")


def test_a_refused_recipe_leaves_the_record_of_another_one(tmp_path: Path) -> None:
    """Without published values a run has those of the default recipe, and so its identity."""
    default = composed("linear", "vit_mini", "mini/land", f"results.root={tmp_path}")
    refused = composed(
        "linear", "vit_mini", "mini/land", "recipe=paper", f"results.root={tmp_path}"
    )
    assert identity(default) == identity(refused)
    store = Store(tmp_path)
    store.write(ended(blank(default), "finished", None))
    runs = [plan.Planned(refused, identity(refused), plan.UNSUPPORTED, reason="no values")]
    assert perform(runs, store) == 0
    assert [record["status"] for record in store.records()] == ["finished"]
    (tmp_path / "other").mkdir()
    elsewhere = Store(tmp_path / "other")
    assert perform(runs, elsewhere) == 0
    assert [record["status"] for record in elsewhere.records()] == ["unsupported"]


def test_the_page_is_made_from_the_files() -> None:
    assert (Path(__file__).parent.parent / "docs" / "recipes.md").read_text() == page()


def test_the_readme_names_the_pairs_that_there_are() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    table = re.findall(r"^\| `(\w+)` \| `(\w+)` \| ((?:`\w+` ?)+)\|$", readme, flags=re.M)
    stated = {
        (method, backbone, suite)
        for suite, backbone, methods in table
        for method in re.findall(r"\w+", methods)
    }
    assert stated == set(FILES)
