"""Published values: a run gets what the files say, and is refused if they say nothing."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from petlbench import registry
from petlbench.config import compose, nodes, options, recipes
from petlbench.config.construct import build as node
from petlbench.config.construct import flat
from petlbench.config.schema import Config
from petlbench.errors import Unsupported
from petlbench.run import build
from petlbench.run.identity import identity
from petlbench.run.lifecycle import blank
from petlbench.run.record import Store
from petlbench.sweep import plan
from petlbench.sweep.launchers.basic import Basic
from petlbench.sweep.perform import perform
from tests.helpers import sampled
from tests.records import record
from tools.recipes_page import page

FILES = recipes.covered()
Values = dict[str, Any]


def composed(method: str, backbone: str, task: str, *more: str) -> Config:
    pair = (f"method={method}", f"backbone={backbone}", f"dataset={task}")
    return compose.single([*pair, *more])


@cache
def base(method: str, backbone: str, suite: str) -> DictConfig:
    """The configuration of a file's last task without published values."""
    task = recipes.tasks(method, backbone, suite)[-1]
    config = OmegaConf.create(composed(method, backbone, task).plain())
    OmegaConf.set_struct(config, True)  # a merge refuses unknown keys
    return config


def with_row(method: str, backbone: str, task: str) -> Values:
    """`base` with the published values of a task."""
    published = recipes.row(method, backbone, task)
    assert published is not None
    del published["recipe"]
    config = OmegaConf.merge(base(method, backbone, task.partition("/")[0]), published)
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def as_recorded(values: Values) -> Any:
    """Values as JSON holds them, where tuples are lists."""
    return json.loads(json.dumps(values | {"recipe": None}))


ROWS = [(*file, task) for file in FILES for task in recipes.tasks(*file)]
LAST = [(*file, recipes.tasks(*file)[-1]) for file in FILES]


@pytest.mark.parametrize(("method", "backbone", "suite"), FILES)
def test_rows_name_existing_tasks(method: str, backbone: str, suite: str) -> None:
    assert method in registry.names()
    assert set(recipes.tasks(method, backbone, suite)) <= set(options.names("dataset"))


@pytest.mark.parametrize(("method", "backbone", "suite", "task"), sampled(ROWS, LAST))
def test_a_row_has_known_keys_and_values_to_train_with(
    method: str, backbone: str, suite: str, task: str
) -> None:
    values = with_row(method, backbone, task)
    train = node(nodes.Train, values["train"], "train")
    assert train.head_lr == train.lr > 0
    node(nodes.Input, values["input"], "input")
    node(nodes.BackboneConfig, values["backbone"], "backbone")


@pytest.mark.parametrize(("method", "backbone", "suite"), FILES)
def test_hydra_composes_the_row(method: str, backbone: str, suite: str) -> None:
    task = recipes.tasks(method, backbone, suite)[-1]
    config = composed(method, backbone, task, "recipe=paper").plain()
    provenance: Values = recipes.provenance(method, backbone, suite)
    stated = json.loads(json.dumps(config["recipe"]))
    assert stated == {"name": "paper", "changed": []} | provenance
    assert provenance["source"].startswith("github.com/")
    assert as_recorded(config) == as_recorded(with_row(method, backbone, task))


CELLS: list[tuple[str, str, str, Values]] = [  # copied by hand from the sources
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
    ("fpet_bi_lora", "vit_b16", "vtab/patch_camelyon", {"method.scale": 10.0, "method.bits": 1}),
    ("fpet_adaptformer", "vit_b16", "vtab/dtd", {"method.scale": 1.0, "backbone.std": [1.0] * 3}),
    ("gps", "vit_b16_augreg", "vtab/patch_camelyon", {"method.per_neuron": 2, "train.lr": 0.004}),
    ("gps", "vit_b16_augreg", "vtab/sun397", {"method.selection_batch": 16, "train.lr": 0.0025}),
    ("hst", "vit_b16_augreg", "vtab/kitti", {"train.weight_decay": 0.05, "train.accumulate": 2}),
    ("hst", "vit_b16_augreg", "vtab/svhn", {"train.weight_decay": 5e-5, "train.lr": 0.01}),
    ("repadapter", "vit_b16", "vtab/caltech101", {"method.scale": 5.0, "method.groups": 2}),
    ("hydra", "vit_b16", "vtab/diabetic_retinopathy", {"method.scale": 4.5, "train.lr": 5e-4}),
    (
        "hydra",
        "vit_b16",
        "vtab/smallnorb_azi",
        {"train.weight_decay": 1e-5, "train.batch_size": 64},
    ),
    ("arc", "swin_b_in1k", "vtab/smallnorb_azi", {"train.lr": 0.01, "train.weight_decay": 0.005}),
    ("arc", "swin_b_in1k", "vtab/dtd", {"method.dropout": 0.5, "train.clip_grad": 1.0}),
    ("rlrr", "vit_b16", "vtab/kitti", {"method.dropout": 0.3, "input.augment.hflip": 0.5}),
    ("rlrr", "vit_b16", "vtab/svhn", {"train.lr": 0.005, "backbone.head_start": "zeros"}),
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
    values = dict(flat(with_row(method, backbone, task)))
    assert {key: values[key] for key in expected} == expected


def test_the_command_line_wins_and_the_record_says_so() -> None:
    changes = ("train.lr=0.5", "backbone.drop_path=0.0")
    config = composed("dtl", "vit_b16", "vtab/svhn", "recipe=paper", *changes)
    assert config.train.lr == config.train.head_lr == 0.5
    assert config.train.weight_decay == 0.05
    recipe = blank(config)["config"]["recipe"]
    assert list(recipe["changed"]) == ["backbone.drop_path", "train.head_lr", "train.lr"]
    config = composed("dtl", "vit_b16", "vtab/svhn", "recipe=paper", "train.head_lr=0.5")
    assert list(config.recipe.changed) == ["train.head_lr"]
    assert recipe["name"] == "paper"
    other = ("backbone.name=vit_base_patch16_224.augreg_in21k", "input.resize=256", "seed=3")
    config = composed("dtl", "vit_b16", "vtab/svhn", "recipe=paper", *other)
    assert list(config.recipe.changed) == ["backbone.name", "input.resize"]
    free = ("backbone.checkpoint=ViT-B_16.npz", "dataset.draw=2", "data.root=/data")
    config = composed("dtl", "vit_b16", "fewshot/pets_1", "recipe=paper", *free)
    assert list(config.recipe.changed) == []
    assert "heekhero/DTL @ bf6c51e679" in recipe["source"]


def test_a_refusal_names_the_pairs_with_published_values() -> None:
    config = composed("ssf", "vit_b16", "vtab/svhn", "recipe=paper")
    with pytest.raises(Unsupported, match="for ssf on vit_b16 and vtab/svhn") as error:
        build.check(config)
    assert str(error.value).endswith("it has some for ssf on vit_b16_augreg with vtab")
    with pytest.raises(Unsupported) as error:
        recipes.check(composed("lst", "vit_mini", "mini/land", "recipe=paper"))
    assert "dtl, dtl_plus on swin_b with vtab" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_plan_reports_refused_runs_and_keeps_the_others(tmp_path: Path) -> None:
    root = f"results.root={tmp_path}"
    runs = plan.build(
        [
            (composed(method, "vit_b16", "vtab/svhn", "recipe=paper", root), (), ())
            for method in ("fact_tt", "lst")
        ],
        lambda root: (),
        build.check,
    )
    assert [run.state for run in runs] == [plan.TO_RUN, plan.UNSUPPORTED]
    assert plan.refusals(runs)[0].startswith("unsupported: lst on vit_b16: recipe=paper has no")


def test_a_finished_run_of_another_recipe_does_not_hide_a_refusal(tmp_path: Path) -> None:
    """`recipe` is not part of the identity."""
    root = f"results.root={tmp_path}"
    refused = composed("lst", "vit_b16", "vtab/svhn", "recipe=paper", root)
    [run] = plan.build([(refused, (), ())], lambda root: [identity(refused.plain())], build.check)
    assert run.state == plan.UNSUPPORTED


def test_a_refused_recipe_leaves_the_record_of_another_one(tmp_path: Path) -> None:
    """Without published values a run has those of the default recipe, and so its identity."""
    default = composed("linear", "vit_mini", "mini/land", f"results.root={tmp_path}")
    refused = composed(
        "linear", "vit_mini", "mini/land", "recipe=paper", f"results.root={tmp_path}"
    )
    assert identity(default.plain()) == identity(refused.plain())
    store, elsewhere = Store(tmp_path), Store(tmp_path / "other")
    store.write(record("linear", "land", 50.0, id=identity(default.plain())))
    runs = [plan.Planned(refused, identity(refused.plain()), plan.UNSUPPORTED, reason="no values")]
    assert perform(runs, lambda root: store, Basic()) == []
    assert [run["status"] for run in store.records()] == ["finished"]
    assert perform(runs, lambda root: elsewhere, Basic()) == []
    assert [run["status"] for run in elsewhere.records()] == ["unsupported"]


def test_the_page_is_made_from_the_files() -> None:
    text = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text()
    assert text == page(), "docs/recipes.md is old; run make docs"
