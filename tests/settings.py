"""Typed configurations for tests of the engine, as the command line would compose them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from petlbench import registry
from petlbench.config import compose
from petlbench.config.construct import build
from petlbench.config.job_nodes import DataConfig, RecipeConfig, ResultsConfig, WandbConfig
from petlbench.config.nodes import Augment, BackboneConfig, Input, Schedule, Train
from petlbench.config.options import content
from petlbench.config.schema import Config, DatasetConfig, Factors, Target

TRAIN: dict[str, Any] = {
    "lr": 1e-2,
    "head_lr": 1e-2,
    "weight_decay": 1e-4,
    "no_decay": "biases",
    "betas": [0.9, 0.999],
    "epochs": 2,
    "batch_size": 8,
    "accumulate": 1,
    "clip_grad": None,
    "checkpoint_every": None,
    "prefix_cache": "auto",
    "drop_last": True,
    "precision": "fp32",
    "memory": "fast",
    "compile": False,
    "optimizer": "adamw",
    "momentum": 0.9,
    "label_smoothing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}
SCHEDULE: dict[str, Any] = {
    "warmup_epochs": 0,
    "warmup_lr": 0.0,
    "min_lr": 0.0,
    "cosine_epochs": 5,
    "cosine_from": 0,
    "lag_epochs": 0,
    "update": "step",
}
AUGMENT: dict[str, Any] = {
    "scale": [0.08, 1.0],
    "ratio": [0.75, 4 / 3],
    "interpolation": "bicubic",
    "hflip": 0.5,
    "color_jitter": 0.0,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "erase": 0.0,
}


def schedule(**changes: Any) -> Schedule:
    """A schedule without warm-up that changes the rate at every step."""
    return Schedule(**SCHEDULE | changes)


def train(*, timing: dict[str, Any] | None = None, **changes: Any) -> Train:
    """Training values for a few steps; timing: of the schedule."""
    return Train(**TRAIN | changes, schedule=schedule(**timing or {}))


def augment(**changes: Any) -> Augment:
    """The augmentation of the few-shot scripts."""
    return Augment(**AUGMENT | changes)


def vit_mini(**changes: Any) -> BackboneConfig:
    """The embedded backbone, with its weights."""
    values = {
        "name": "vit_mini",
        "pool": "norm_then_mean",
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "drop_path": 0.0,
        "fused_attention": True,
        "head_start": "small_normal",
        "weights": "fp32",
        "checkpoint": None,
        "pretrained": True,
    }
    return build(BackboneConfig, values | changes)


def config(root: Path, method: str = "lora", protocol: str = "final", **changes: Any) -> Config:
    """A run on the task of tests/fake.py; changes: of the training values."""
    node = content("method", method)["method"]
    dataset = {
        "name": "bright",
        "title": "Bright",
        "suite": "fake",
        "group": "natural",
        "classes": 3,
    }
    return Config(
        factors=Factors(method=method, backbone="vit_mini", task="fake/bright", draw=0, seed=0),
        job="petlbench.run.training.JOB",
        title=str(content("method", method)["title"]),
        seed=0,
        device="cpu",
        train=train(**changes),
        input=Input(size=48, interpolation="bicubic", resize=None, aspect="squash", augment=None),
        backbone=vit_mini(),
        dataset=DatasetConfig(
            target=Target("tests.fake.load", dataset),
            task="fake/bright",
            names_task=False,
            title="Bright",
            suite="fake",
            group="natural",
            classes=3,
            draw=0,
        ),
        method=Target(node["_target_"], registry.values(method)),
        protocol=compose.single([f"protocol={protocol}", "train.epochs=10"]).protocol,
        recipe=RecipeConfig(name="default", source="petlbench"),
        data=DataConfig(root="data", workers=0),
        results=ResultsConfig(root=str(root), predictions="auto"),
        wandb=WandbConfig(
            mode="disabled", project="p", entity=None, group=None, tags=[], artifacts=False
        ),
        probe=None,
    )


def with_values(settings: Config, **values: Any) -> Config:
    """The configuration with some hyper-parameters of the method changed."""
    target = settings.method
    return replace(settings, method=Target(target.path, {**target.values, **values}))
