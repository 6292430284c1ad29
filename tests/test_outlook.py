"""What a plan says of weights, pixels, epochs, data and hours."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from petlbench.commands.status import lines as status_lines
from petlbench.commands.status import status
from petlbench.config import compose
from petlbench.cost import shapes
from petlbench.run import build, provenance
from petlbench.run.record import Record, Store
from petlbench.sweep import plans
from petlbench.sweep.estimate import Eta, Pace, Work
from petlbench.sweep.outlook import lines
from petlbench.sweep.plan import FINISHED, TO_RUN, Planned
from tests.records import record

HERE = provenance.device_name(torch.device("cpu"))


def planned(root: Path, *settings: str, state: str = TO_RUN) -> Planned:
    config = compose.single([f"results.root={root}", "device=cpu", *settings])
    return Planned(config, "0", state)


def timed(method: str, gflops: float | None, seconds: float, device: str = HERE) -> Record:
    """A finished run of 10 epochs with 1000 images each on the default backbone."""
    run = record(method, "land", 70.0)
    costs: dict[str, Any] = {"images_seen": 10_000, "train_s": seconds}
    costs |= {"gflops": {"forward": gflops / 3, "step": gflops}} if gflops else {}
    run["factors"] |= {"backbone": "vit_mini"}
    run["config"]["train"] |= {"epochs": 10}
    run["selection"] |= {"fit_on": "trainval"}
    run["provenance"] |= {"device": device, "seconds": seconds}
    run["provenance"]["splits"] |= {"trainval": {"sha256": "data", "images": 1000}}
    return run | {"cost": run["cost"] | costs, "suite": "mini"}


def test_time_from_a_stated_speed(tmp_path: Path) -> None:
    """Operations of all training images, where no record of this machine tells."""
    run = planned(tmp_path, "method=linear", "dataset=mini/digits", "train.epochs=4")
    gflop = shapes.gflops(build.on_meta(run.config), batch=32, size=48)["step"]
    # 1000 images of trainval; a millionth of a TFLOP/s
    [line] = lines([run], Store, 1e-6)
    hours = gflop * 1000 * 4 / 1e-3 / 3600
    assert line.endswith(f"; about {hours:.1f} h of runs at 1e-06 TFLOP/s, as stated")
    Store(tmp_path).write(timed("linear", None, 60.0))
    other = planned(tmp_path, "method=dtl", "dataset=vtab/cifar", f"data.root={tmp_path}")
    [first, second] = lines([run, other], Store, 1e-6)
    assert first.endswith("; about 24 s of runs, from the records of this machine")
    assert "; time unknown: no count of images or operations; no data" in second


def test_what_records_may_lack_costs_no_estimate() -> None:
    """A record of own making without splits, and one whose seconds are of its last start."""
    whole, resumed = timed("lora", 0.1, 60.0), timed("dtl", 0.1, 5.0)
    del whole["provenance"]["splits"]
    resumed["notes"] = {"resumed": "epoch 9 of 10"}
    pace = Pace([whole, resumed])
    assert pace.seconds(Work("lora", "vit_mini", "mini", 5), HERE) == 30.0
    # 0.1 GFLOP times 10 000 images, twice, in 65 s; an epoch has 1000 images
    found = pace.seconds(Work("dtl", "vit_mini", "mini", 10), HERE)
    assert found == pytest.approx(10 * 0.1 * 1000 * 65 / 2000)


def test_a_method_without_steps_reads_its_images_once(tmp_path: Path) -> None:
    once, steps = timed("knn", 0.1, 20.0), timed("lora", 0.2, 400.0)
    once["cost"] |= {"saved_mb": 0.0, "images_seen": 1000}
    pace = Pace([once, steps])
    # of its own records, and by its operations: those of 1000 and 10 000 images in 420 s
    assert pace.seconds(Work("knn", "vit_mini", "mini", 50), HERE) == 20.0
    once["provenance"]["seconds"] = None
    found = Pace([once, steps]).seconds(Work("knn", "vit_mini", "mini", 50), HERE)
    assert found == pytest.approx(0.1 * 1000 * 420 / 2100)
    run = planned(tmp_path, "method=knn", "dataset=mini/digits", "train.epochs=400")
    gflop = shapes.gflops(build.on_meta(run.config), batch=32, size=48)["forward"]
    [line] = lines([run], Store, 1e-6)
    assert line.endswith(
        f"; about {gflop * 1000 / 1e-3 / 3600:.1f} h of runs at 1e-06 TFLOP/s, as stated"
    )


def test_seconds_of_scores_are_not_of_training() -> None:
    run = timed("lora", 0.1, 60.0)
    run["cost"] |= {"scored_s": 20.0}
    found = Pace([run]).seconds(Work("dtl", "vit_mini", "mini", 1), HERE)
    assert found is None  # its operations are unknown
    other = timed("dtl", 0.2, 60.0)
    del other["provenance"]["seconds"], other["cost"]["train_s"]
    found = Pace([run, other]).seconds(Work("dtl", "vit_mini", "mini", 1), HERE)
    assert found == pytest.approx(0.2 * 1000 * 40 / 1000)


def test_each_backbone_has_a_line(tmp_path: Path) -> None:
    vtab = ("backbone=vit_b16", "dataset=vtab/cifar", f"data.root={tmp_path}")
    runs = [
        planned(tmp_path, "method=lora", "dataset=mini/digits"),
        planned(tmp_path, "method=lora", "dataset=mini/land", "train.epochs=3"),
        planned(tmp_path, "method=lora", *vtab),
        planned(tmp_path, "method=dtl", *vtab),
        planned(tmp_path, "method=full", *vtab, state=FINISHED),
    ]
    first, second, third = lines(runs, Store, None)
    assert first.startswith("  vit_mini (weights vit_mini), 48 px, 10 epochs, recipe default: 1 ")
    assert " 3 epochs" in second
    assert "vit_b16 (weights vit_base_patch16_224" in third
    assert "224 px, 100 epochs, recipe default: 2 runs; time unknown" in third
    assert "; no data for vtab/cifar (" in third  # and what is wrong with them


def test_weights_are_named(tmp_path: Path) -> None:
    run = planned(tmp_path, "dataset=mini/digits")
    own = run.config.backbone
    for backbone, said in (
        (replace(own, checkpoint="/nowhere/a.pth"), "weights a.pth (missing)"),
        (replace(own, pretrained=False), "random weights"),
    ):
        [line] = lines([replace(run, config=replace(run.config, backbone=backbone))], Store, None)
        assert f"vit_mini ({said})" in line


def test_time_comes_from_equal_pairs_then_from_flops(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for run in (
        timed("lora", 2.0, 600.0),
        timed("dtl", 1.0, 999.0, device="another machine"),
    ):
        store.write(run)
    settings = ("dataset=mini/digits", "train.epochs=5")
    one = planned(tmp_path, "method=lora", *settings)
    [line] = lines([one], Store, None)
    assert line.endswith("; about 5 min of runs, from the records of this machine")
    # 1 GFLOP an image, 5 epochs of 1000 images, 2 * 10000 GFLOP in 600 s
    [line] = lines([planned(tmp_path, "method=dtl", *settings)], Store, None)
    assert "; about 2 min of runs" in line
    [line] = lines([one, planned(tmp_path, "method=bitfit", *settings)], Store, None)
    assert "; about 5 min of runs, from the records of this machine; time of 1 of them unk" in line


def test_plan_status_and_eta_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs by their own time, 120 s each, and one by its FLOPs, 60 s, on one store."""
    done, other = timed("lora", 2.0, 240.0), timed("dtl", 1.0, 999.0, device="another machine")
    for one in (done, done | {"id": "again"}, other):  # most of them on this machine
        Store(tmp_path).write(one)
    names = (("lora", 1), ("lora", 2), ("dtl", 1), ("bitfit", 1))
    settings = ("dataset=mini/digits", "train.epochs=5")
    runs = [
        replace(planned(tmp_path, f"method={name}", f"seed={seed}", *settings), id=f"{name}{seed}")
        for name, seed in names
    ]
    [line] = lines(runs, Store, None)
    assert line.endswith(
        "about 5 min of runs, from the records of this machine; time of 1 of them unknown: no "
        "record of this machine; hydra.sweeper.tflops=N states its speed"
    )
    plans.keep(runs)
    found = status(str(tmp_path))
    assert found.hours_left == pytest.approx(300 / 3600)
    assert found.unknown == 1
    assert "about 5 min of runs; time of 1 unknown" in status_lines(found)[-1]
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    first, *known, unknown = (run.config for run in (runs[0], *runs))
    eta, with_unknown = (Eta(own, [done, other]) for own in ((first, *known), (unknown, first)))
    ended = timed("lora", 2.0, 120.0)
    ended["config"]["train"]["epochs"], ended["cost"]["images_seen"] = 5, 5000
    for each in (eta, with_unknown):
        assert each.seconds() == 0.0  # nothing has ended
        each.ended(first, ended)
    # a run of 120 s has taken 120 s, or 60 s with two workers
    for now, share in ((120.0, 1.0), (60.0, 0.5)):
        monkeypatch.setattr("time.monotonic", lambda now=now: now)
        assert eta.seconds() == pytest.approx(300 * share)
        assert with_unknown.seconds() == pytest.approx(120 * share)  # as the mean


def test_images_of_an_epoch_are_those_of_the_split(tmp_path: Path) -> None:
    """k-NN sees each image once in no epoch, so its images seen do not tell."""
    store, once = Store(tmp_path), timed("knn", 1.0, 10.0)
    once["cost"]["images_seen"] = 1000
    for run in (once, timed("lora", 2.0, 600.0), timed("dtl", 1.0, 999.0, device="another")):
        store.write(run)
    [line] = lines([planned(tmp_path, "method=dtl", "dataset=mini/digits")], Store, None)
    # 10 epochs of 1000 images, 1 GFLOP each, at (20000 + 1000) GFLOP in 610 s
    assert "; about 5 min of runs, from the records of this machine" in line


def test_flops_that_were_not_computed_say_nothing_of_the_speed(tmp_path: Path) -> None:
    store, replayed = Store(tmp_path), timed("linear", 1.0, 60.0)
    replayed["notes"] = {"prefix_cache": {"blocks": 12}}
    store.write(replayed)
    store.write(timed("dtl", 1.0, 999.0, device="another machine"))
    runs = [
        planned(tmp_path, f"method={name}", "dataset=mini/digits") for name in ("linear", "dtl")
    ]
    [line] = lines(runs, Store, None)
    assert "; about 60 s of runs, from the records of this machine; time of 1 of" in line


def test_a_record_without_epochs_tells_nothing(tmp_path: Path) -> None:
    old = timed("lora", 2.0, 600.0)
    del old["config"]["train"]["epochs"]
    Store(tmp_path).write(old)
    [line] = lines([planned(tmp_path, "method=lora", "dataset=mini/digits")], Store, None)
    assert "; time unknown: no record of this machine; hydra.sweeper.tflops=N" in line


def test_a_probe_trains_nothing(tmp_path: Path) -> None:
    [line] = lines([planned(tmp_path, "method=lora", "protocol=probe")], Store, None)
    assert "epochs" not in line
    assert "time" not in line
