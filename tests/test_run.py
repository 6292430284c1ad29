"""One run from configuration to record: what it leaves, in which order, and how it ends."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from petlbench import registry
from petlbench.config import compose, mistakes
from petlbench.config.schema import Config
from petlbench.data import configured
from petlbench.delta import load
from petlbench.errors import Unsupported, UserError
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.run import build, splits
from petlbench.run.lifecycle import Run, attempted, blank, recorded
from petlbench.run.record import Record, Store
from petlbench.run.training import run
from petlbench.sweep import perform
from petlbench.sweep.plan import TO_RUN, Planned
from petlbench.testing import declared
from petlbench.train.trainer import TrainingLoop
from tests import fake
from tests.helpers import sampled, unsaved
from tests.settings import config, with_values
from tests.shallow import shallow


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Record]:
    """A configuration, and the record of its run."""
    settings = config(tmp_path_factory.mktemp("ran"))
    return settings, run(settings)


def test_a_run_leaves_a_whole_record_and_its_delta(ran: tuple[Config, Record]) -> None:
    settings, record = ran
    store = Store(settings.results.root)
    [stored] = store.records()
    assert stored == record
    assert record["status"] == "finished"
    assert record["reason"] is None
    score = record["scores"]["test"]
    assert score["top1"] == pytest.approx(100 * score["correct"] / 16)
    assert record["cost"]["parameters"] == {"method": 4 * 8 * 96 * 12, "head": 97 * 3}
    assert record["cost"]["peak_mib"] is None
    assert record["cost"]["saved_mb"] > 0
    assert len(record["curve"]["loss"]) == settings.train.epochs
    provenance = record["provenance"]
    assert set(provenance["splits"]) == {"trainval", "test"}
    assert provenance["splits"]["test"]["images"] == 16
    assert len(provenance["checkpoint"]["sha256"]) == 64
    assert provenance["versions"]["torch"] == torch.__version__
    path = store.path(record, ".safetensors")
    assert path.stat().st_size == record["cost"]["delta_bytes"]


def test_the_delta_gives_the_tested_network_back(
    ran: tuple[Config, Record], tmp_path: Path
) -> None:
    settings, record = ran
    fresh = build.method(settings)
    load(Store(settings.results.root).path(record, ".safetensors"), fresh)
    task = configured.task(settings)
    loop = build.trainer(settings, task, lambda epoch: None, unsaved(tmp_path))
    again = loop.evaluate(fresh, splits.tests(settings, task)["test"])
    assert again.correct == record["scores"]["test"]["correct"]


def without_measurements(record: Record) -> Record:
    times = {"train_s", "scored_s", "test_s", "train_images_per_s", "test_images_per_s"}
    cost = {key: value for key, value in record["cost"].items() if key not in times}
    return record | {"cost": cost, "provenance": None, "config": None}


def test_a_repeat_is_identical(ran: tuple[Config, Record], tmp_path: Path) -> None:
    _, first = ran
    again = run(config(tmp_path))
    assert without_measurements(first) == without_measurements(again)


@pytest.mark.parametrize(
    ("protocol", "before", "after"),
    [
        ("final", ["trainval"], ["test"]),
        ("trial", ["train"], ["val"]),
        ("best_on_val", ["train", "val"], ["test"]),
        ("audit", ["trainval", "test"], ["test"]),
    ],
)
def test_tests_open_after_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
    before: list[str],
    after: list[str],
) -> None:
    fake.opened.clear()
    train = TrainingLoop.train

    def noted(self: TrainingLoop, method: Method) -> None:
        train(self, method)
        fake.opened.append("trained")

    monkeypatch.setattr(TrainingLoop, "train", noted)
    record = run(shallow(config(tmp_path, "linear", protocol)))
    assert fake.opened == [*before, "trained", *after]
    assert record["selection"]["honest"] == (protocol != "audit")
    assert ("test@best" in record["scores"]) == (protocol == "audit")


def test_a_loss_that_is_not_finite_is_recorded_as_diverged(tmp_path: Path) -> None:
    record = run(shallow(config(tmp_path, "full", lr=1e12, head_lr=1e30)))
    assert record["status"] == "diverged"
    assert "epoch 1" in record["reason"]
    assert record["scores"] == {}
    assert [stored["status"] for stored in Store(tmp_path).records()] == ["diverged"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (Unsupported("no token sequence"), "unsupported"),
        (ZeroDivisionError("a bug"), "failed"),
    ],
)
def test_what_goes_wrong_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    def broken(self: TrainingLoop, method: Method) -> None:
        raise error

    monkeypatch.setattr(TrainingLoop, "train", broken)
    record = run(config(tmp_path))
    assert record["status"] == status
    assert record["reason"]
    assert "\n" not in record["reason"]


def test_a_users_mistake_leaves_no_record(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="larger than the 32 training images"):
        run(shallow(config(tmp_path, "linear", batch_size=64)))
    assert list(Store(tmp_path).records()) == []


def test_checking_builds_no_weights_and_refuses_wrong_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(self: Backbone) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(Backbone, "load_weights", forbidden)
    settings = config(tmp_path)
    build.check(settings)
    with pytest.raises(UserError, match="rank is 0"):
        build.check(with_values(settings, rank=0))


def test_a_pair_that_cannot_run_is_refused_by_the_check(tmp_path: Path) -> None:
    settings = config(tmp_path)  # LoRA on a SwinV2, which reads the weight of qkv itself
    swin = replace(settings.backbone, name="swinv2_tiny_window8_256", pretrained=False)
    settings = replace(settings, backbone=swin, input=replace(settings.input, size=256))
    with pytest.raises(
        Unsupported, match="uses the weight of its qkv projection without calling it"
    ):
        build.check(settings)


MISTAKES = [
    ("train.precision=16", "unknown train.precision '16'; did you mean 'fp16'"),
    ("backbone.pool=null", "backbone.pool is null; set backbone.pool to a value"),
    ("backbone.mean=0.5", "backbone.mean is a single value; it must be a list"),
    ("backbone.checkpoint=3", "checkpoint '3' has no known format"),
    ("train.betas=0.9", "train.betas is a single value; it must be a list"),
    ("train.no_decay=3", "unknown train.no_decay '3'"),
    ("train.schedule.warmup_epochs=abc", "train.schedule.warmup_epochs is abc; it must be a whol"),
    ("train.schedule.cosine_epochs=null", "train.schedule.cosine_epochs is null"),
    ("train.schedule.min_lr=-1", "train.schedule.min_lr is -1"),
    ("train=3", "train is a single value; set its keys, train.KEY=VALUE"),
    ("results.root=null", "results.root is null; set results.root to a value"),
    ("input.size=abc", "input.size is abc; it must be a whole number"),
    ("protocol.fit_on=test", "unknown protocol.fit_on 'test'; Known: train, trainval"),
    ("protocol.select_on=test", "unknown protocol.select_on 'test'"),
    ("protocol.every_epochs=0", "protocol.every_epochs is 0"),
    ("protocol.tests=[train]", "unknown split in protocol.tests 'train'; Known: test, val"),
    ("protocol.tests=5", "protocol.tests is 5; it must be all or a list"),
    ("dataset.images=abc", "dataset.images is 'abc'; it must be a whole number"),
    ("+method.foo=4", "unknown key of method 'foo'"),
    ("~method", "no method is chosen; set method=NAME"),
    ("method._target_=pathlib.Path", "method._target_ is pathlib.Path and that of method=linear"),
]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("petlbench.nothing", "method._target_ names 'petlbench.nothing'"),
        ("pathlib.Path", "method._target_ pathlib.Path is not a subclass"),
    ],
)
def test_the_class_of_a_method_is_one(path: str, message: str) -> None:
    settings = compose.single(["method=linear"])
    with pytest.raises(UserError, match=message):
        build.check(replace(settings, method=replace(settings.method, path=path)))


@pytest.mark.parametrize(("override", "message"), MISTAKES)
def test_a_mistake_is_one_line_before_the_run(override: str, message: str) -> None:
    def prepare() -> None:
        try:
            composed = compose.single(["method=linear", override])
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(mistakes.explain(error, list)) from error
        build.check(composed)
        build.weights(composed)
        splits.data(composed)

    with pytest.raises(UserError) as caught:
        prepare()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("epochs", "apart"), [(1, 1), (10, 1), (50, 5), (100, 10), (110, 10)])
def test_a_protocol_that_chooses_has_epochs_to_choose_from(epochs: int, apart: int) -> None:
    found = compose.single(["method=linear", "protocol=audit", f"train.epochs={epochs}"])
    assert found.protocol.every_epochs == apart


def test_another_network_has_its_own_name_in_records() -> None:
    name = "vit_tiny_patch16_224.augreg_in21k"
    assert compose.single([f"backbone.name={name}"]).factors.backbone == name
    assert compose.single(["backbone=vit_b16"]).factors.backbone == "vit_b16"


def test_what_no_reader_accepts_is_not_written_as_finished(tmp_path: Path) -> None:
    settings = config(tmp_path)

    def fill(run: Run) -> None:
        run.record["scores"] = {"test": {"top1": 101.0, "correct": 1, "total": 1}}

    written = recorded(settings, fill)
    assert written["status"] == "failed"
    assert "scores.test" in written["reason"]
    [stored] = Store(settings.results.root).records()
    assert (stored["status"], stored["scores"]) == ("failed", {})


def test_a_cpu_without_memory_is_no_failure(tmp_path: Path) -> None:
    def fill() -> None:
        torch.empty(10**15)

    record = attempted(blank(config(tmp_path)), fill)
    assert record["status"] == "out_of_memory"


def test_a_missing_checkpoint_is_refused_before_a_sweep_runs(tmp_path: Path) -> None:
    settings = config(tmp_path)
    absent = replace(settings.backbone, checkpoint="none.safetensors")
    planned = Planned(replace(settings, backbone=absent), "id", TO_RUN)
    with pytest.raises(UserError, match=r"checkpoint .none\.safetensors. does not exist"):
        perform.check([planned], dry_run=False)


def test_ctrl_c_is_not_hidden_by_an_error_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: Any) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise AttributeError("the tidying up failed")

    monkeypatch.setattr(configured, "task", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config(tmp_path))
    assert list(Store(tmp_path).records()) == []


# Data before training, wider heads and trained weights take other ways through a run. A search
# runs in tests/test_noah.py, a full fine-tuning in tests/test_sweep.py.
FAST = ("lst_fisher", "vqt", "bi_lora")


@pytest.mark.parametrize("name", sampled(registry.names(), FAST))
def test_every_method_runs(name: str, tmp_path: Path) -> None:
    settings = config(tmp_path, name, epochs=1)
    settings = shallow(settings) if name in FAST else settings  # too few blocks for others
    record = run(with_values(settings, **declared(name).get("tiny", {})))
    assert record["status"] == "finished", record["reason"]
