"""Probes: a record of costs without data, the peak that is predicted, and what fits in a GPU."""

import copy
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import HydraException
from torch.utils.checkpoint import checkpoint

from petlbench import registry
from petlbench.__main__ import ordered, run_preset
from petlbench.config import compose, mistakes, options
from petlbench.config.schema import Config
from petlbench.cost import forecast, memory, speed
from petlbench.cost.autocast import CudaRules
from petlbench.cost.section import Conditions, section
from petlbench.data import configured
from petlbench.data.task import Task
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.run import budget, build, job, probing
from petlbench.run.identity import identity
from petlbench.run.record import Record, Store
from petlbench.testing import declared, tiny
from petlbench.train.live_bytes import LiveBytes
from petlbench.train.precision import Precision
from tests.command import run as in_process
from tests.helpers import sampled
from tests.records import probe
from tests.shallow import OVERRIDES as SHALLOW

CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)
# GiB on ViT-B/16 at batch 32, 16 bits, fused attention; none may come to need more.
BARS = {"dtl": 1.0, "dtl_plus": 1.0, "lora": 1.8, "full": 2.9}
# GiB at batch 32 under CUDA's autocast, counted apart from this code with softmax and LayerNorm
# forced to fp32 (a tracker of its own on ViT-B/16; computed from parts on Swin-B): with torch's
# layers and fp32 weights (but DTL's side state kept as codes), and as petlbench trains
TEXTBOOK = {
    ("lora", "vit_b16", False): 2.97,
    ("full", "vit_b16", False): 4.16,
    ("bitfit", "vit_b16", False): 2.78,
    ("dtl", "vit_b16", True): 1.14,
    ("full", "swin_b", True): 5.5,
}
SHALLOW_DTL = [*SHALLOW, "method.inject_from=2"]
LEAN = {"bitfit": 1.58, "dtl": 0.92, "dtl_plus": 0.92}
SHORT = [
    *["probe.speed=true", "probe.batches=[1,2]", "probe.repeats=2", "probe.repeat_s=0.01"],
    *["probe.warmup=1", "probe.steps=1", "probe.compile=false"],
]


def composed(root: Path, *overrides: str) -> Config:
    try:
        return compose.single(["protocol=probe", f"results.root={root}", *overrides])
    except HydraException as error:
        raise UserError(mistakes.explain(error, list)) from error


def probed(root: Path, *overrides: str) -> Record:
    config = composed(root, *overrides)
    work = job.of(config)
    work.check(config)
    return work.execute(config)


def made(name: str, *overrides: str) -> Method:
    return build.on_meta(compose.single([f"method={name}", "protocol=probe", *overrides]))


def predicted(method: Method, batch: int, precision: str = "bf16") -> dict[str, float]:
    train = compose.single(["method=lora"]).train
    size = method.backbone.image_size
    return forecast.peak_mib(method, precision=precision, train=train, batch=batch, size=size)


def identity_of(config: Config) -> str:
    return identity(config.plain())


@pytest.fixture(autouse=True, scope="module")
def one_mode() -> Iterator[None]:
    """Forecasts of other modes take most of a probe; tests/test_memory_modes.py has all modes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "MEMORY_MODES", ("fast",))
        yield


@pytest.fixture(scope="module")
def lora_probe(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The record of a probe, which tests copy before they change it."""
    return probed(tmp_path_factory.mktemp("lora"), "method=lora", *SHALLOW)


@pytest.mark.parametrize("name", sampled(registry.names(), ["logistic"]))
def test_every_method_can_be_probed(name: str, tmp_path: Path) -> None:
    assert_probed(probed(tmp_path, f"method={name}"), name)


def assert_probed(record: Record, name: str) -> None:
    """That it has finished, with all counts, whose parts agree."""
    assert record["status"] == "finished", record["reason"]
    cost = record["cost"]
    learned = cost["parameters"]["method"] + cost["parameters"]["head"]
    assert cost["delta_bytes"] > 4 * learned
    parts, takes_steps = cost["predicted_mib"], made(name).takes_steps
    if declared(name).get("data_dependent") or not takes_steps:
        assert parts is None
        assert takes_steps or cost["saved_mb"] == 0
        assert "predicted_mib" in record["notes"]
    else:
        assert parts["allocated"] == pytest.approx(
            sum(value for key, value in parts.items() if key != "allocated")
        )
        assert parts["gradients"] <= 4 * learned / 2**20 + 1e-6
        assert cost["image_mib"] > 0
    assert record["scores"] == {}
    assert "inference" not in cost  # auto: on a GPU only


def test_a_probe_counts_as_a_run_does(tmp_path: Path) -> None:
    record = probed(tmp_path, "method=dtl_plus", *SHALLOW_DTL)
    assert_probed(record, "dtl_plus")
    train = composed(tmp_path, "method=dtl_plus", *SHALLOW_DTL).train
    counts = section(made("dtl_plus", *SHALLOW_DTL), Conditions(CPU, FP32, train, 48), {})
    assert {key: record["cost"][key] for key in counts} == counts


def test_a_probe_is_recorded_once_and_told_apart_by_what_changes_it(
    tmp_path: Path, lora_probe: Record
) -> None:
    record = lora_probe
    Store(tmp_path).write(record)
    assert Store(tmp_path).find(record["id"]) is not None
    assert record["suite"] == record["protocol"] == record["factors"]["task"] == "probe"
    probed_again = ["method=lora", *SHALLOW]
    same = identity_of(composed(tmp_path / "elsewhere", *probed_again, "probe.budget_gib=8"))
    assert same == record["id"]
    for other in ("backbone.fused_attention=false", "probe.steps=3", "train.batch_size=8"):
        assert identity_of(composed(tmp_path, *probed_again, other)) != record["id"]


def test_a_probe_is_measured_on_the_device_of_its_identity(tmp_path: Path) -> None:
    """A worker of a sweep may have another GPU or number of threads than its plan."""
    config = composed(tmp_path, "method=lora", "device=cpu", *SHALLOW)
    other = replace(config, probe=replace(probing.values(config), device="A100"))
    message = r"probe.device is 'A100', but this process measures on 'cpu'; start the probe on"
    with pytest.raises(UserError, match=message):
        probing.probe(other)
    assert not list(tmp_path.glob("**/*.json"))


def test_fused_attention_is_what_runs_had_before_it_could_be_said(tmp_path: Path) -> None:
    config = compose.single(["method=lora", f"results.root={tmp_path}"])
    before = config.plain()
    del before["backbone"]["fused_attention"]
    assert identity_of(config) == identity(before)


@pytest.mark.parametrize("backbone", sampled(["shallow", "eva02_b14"], ["shallow"]))
def test_unfused_attention_computes_the_same_and_keeps_more(backbone: str) -> None:
    network = SHALLOW if backbone == "shallow" else [f"backbone={backbone}"]
    fused = made("bitfit", *network)
    unfused = made("bitfit", *network, "backbone.fused_attention=false")
    assert fused.backbone.attention == "fused"
    assert unfused.backbone.attention == "unfused"
    kept = predicted(fused, 2)["activations"]
    assert predicted(unfused, 2)["activations"] > kept


def test_unfused_attention_gives_the_same_outputs() -> None:
    fused = build.method(compose.single(["method=bitfit"])).eval()
    unfused = copy.deepcopy(fused)
    unfused.backbone.unfuse_attention()
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(unfused(images), fused(images), rtol=1e-4, atol=1e-5)


def test_networks_say_how_they_attend() -> None:
    assert tiny("swin").attention == "unfused"  # timm's default
    assert tiny("convnext").attention is None


@pytest.mark.parametrize("name", sampled(BARS, []))
def test_predicted_peaks_at_full_size(name: str) -> None:
    found = predicted(made(name, "backbone=vit_b16"), 32)
    assert found["allocated"] <= BARS[name] * 1024


@pytest.mark.parametrize(
    ("name", "backbone", "fused"), sampled(TEXTBOOK, [("lora", "vit_b16", False)])
)
def test_predicted_peaks_follow_cudas_autocast(
    name: str, backbone: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "lean", lambda method: None)
    monkeypatch.setattr(forecast, "frozen_in_16_bit", lambda *arguments: nullcontext())
    attention = f"backbone.fused_attention={str(fused).lower()}"
    found = predicted(made(name, f"backbone={backbone}", attention), 32)
    expected = 1024 * TEXTBOOK[name, backbone, fused]
    assert found["allocated"] == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("name", sampled(LEAN, ["dtl"]))
def test_predicted_peaks_with_lean_layers_and_weights_in_16_bits(name: str) -> None:
    found = predicted(made(name, "backbone=vit_b16"), 32)
    assert found["allocated"] == pytest.approx(1024 * LEAN[name], rel=0.05)
    assert found["allocated"] <= 1024 * BARS.get(name, torch.inf)


def test_what_a_gpu_computes_in_fp32_is_fp32() -> None:
    z = torch.randn(2, 4, 4)
    norm = torch.nn.LayerNorm(4)
    with CudaRules(), torch.autocast("cpu", torch.bfloat16):
        narrow = z @ z
        assert narrow.dtype == torch.bfloat16
        for wide in (norm(narrow), narrow.softmax(-1), narrow.sum(0)):
            assert wide.dtype == torch.float32
        assert (narrow.softmax(-1) @ z).dtype == torch.bfloat16
        assert torch.ones(2, dtype=torch.long).sum().dtype == torch.long
    with CudaRules():
        assert z.bfloat16().softmax(-1).dtype == torch.bfloat16


def test_what_backward_computes_again_is_fp32_too() -> None:
    seen: list[torch.dtype] = []

    def part(z: torch.Tensor) -> torch.Tensor:
        out = (z @ z).softmax(-1)
        seen.append(out.dtype)
        return out.exp()  # it keeps its result, so backward computes the softmax again

    z = torch.randn(4, 4, requires_grad=True)
    with CudaRules(), torch.autocast("cpu", torch.bfloat16):
        checkpoint(part, z, use_reentrant=False).sum().backward()
    assert seen == [torch.float32] * 2
    assert z.grad is not None


@pytest.mark.slow
def test_memory_modes_of_a_swin_have_predicted_peaks() -> None:
    """The stream of its later stages is in 16 bits, which the norms of its blocks widen."""
    method, train = made("lora", "backbone=swin_b"), compose.single(["method=lora"]).train
    peaks = forecast.peaks_mib(
        method, precision="bf16", train=train, batches=[2], size=224, modes=["fast", "lean", "min"]
    )
    fast, lean, least = (peaks[mode][0]["allocated"] for mode in ("fast", "lean", "min"))
    assert fast > lean > least


def test_live_bytes_are_those_of_tensors_that_live() -> None:
    with LiveBytes() as live:
        first = torch.zeros(1024)  # 4096 bytes
        second = first + 1
        view = second[:10]
        assert live.live == 8192
        del first
        assert live.live == 4096
        del second
        assert live.live == 4096  # the view holds it
        del view
        assert live.live == 0
        torch.zeros(1)  # a grain, at once freed
    assert live.peak == 8192


def test_the_predicted_peak_of_a_linear_head_by_hand() -> None:
    """Frozen weights, head with gradient and two means, a batch: the rest passes through."""
    found = predicted(made("linear", *SHALLOW), 4, "fp32")
    method = made("linear", *SHALLOW)
    weights = sum(tensor.numel() for tensor in [*method.parameters(), *method.buffers()])
    head = sum(tensor.numel() for tensor in method.backbone.head.parameters())
    assert found["weights"] == pytest.approx(4 * weights / 2**20, rel=1e-9)
    assert found["gradients"] == pytest.approx(4 * head / 2**20, rel=1e-9)
    assert found["optimiser"] == pytest.approx((4 * 2 * head + 8) / 2**20, rel=1e-6)


@pytest.mark.parametrize("name", sampled(["lora", "full", "dtl"], ["lora"]))
def test_the_largest_batch_fits_and_not_much_more_does(
    name: str, tmp_path: Path, lora_probe: Record
) -> None:
    record = lora_probe if name == "lora" else probed(tmp_path, f"method={name}")
    network = SHALLOW if name == "lora" else []
    gib = 4 * record["cost"]["predicted_mib"]["allocated"] / 1024
    largest = budget.largest_batches(record, gib)["fast"]
    assert largest > 32
    method = made(name, *network)
    assert predicted(method, largest)["allocated"] <= 1.02 * 1024 * gib
    assert predicted(method, int(1.1 * largest))["allocated"] > 1024 * gib


def test_a_small_budget_takes_a_smaller_batch_or_none(lora_probe: Record) -> None:
    record = lora_probe
    parts = record["cost"]["predicted_mib"]
    gib = 0.7 * parts["allocated"] / 1024
    largest = budget.largest_batches(record, gib)["fast"]
    assert 0 < largest < 32
    assert predicted(made("lora", *SHALLOW), largest)["allocated"] <= 1024 * gib
    assert budget.largest_batches(record, parts["weights"] / 1024)["fast"] == 0


def test_a_measured_peak_goes_before_a_predicted_one(lora_probe: Record) -> None:
    record = copy.deepcopy(lora_probe)
    before = budget.largest_batches(record, 1.0)["fast"]
    peak = {key: 2 * value for key, value in record["cost"]["predicted_mib"].items()}
    record["cost"]["peak_mib"] = peak
    measured = budget.largest_batches(record, 1.0)["fast"]
    assert measured < before
    record["cost"]["peak_mib"] = peak | {"reserved": 1.5 * peak["allocated"]}
    # reserved memory is what the card has to give
    assert budget.largest_batches(record, 1.0)["fast"] < measured
    (line,) = budget.table([record], 1.0)[2:]
    assert f"{1.5 * peak['allocated'] / 1024:.2f} GiB at 32 (fp32, measured)" in line


@pytest.mark.slow
def test_a_method_that_ran_out_of_memory_is_in_the_budget_and_timed_in_inference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError("no room for a step")

    monkeypatch.setattr("petlbench.run.probing.training", fails)
    record = probed(tmp_path, "method=lora", *SHORT)
    assert (record["status"], record["reason"]) == ("out_of_memory", "no room for a step")
    assert len(record["cost"]["inference"]) == 4
    config = composed(tmp_path, "probe.budget_gib=8")
    (line,) = budget.summary(config, Store(tmp_path), [record["id"]])[2:]
    assert line.startswith("  LoRA")
    assert "(bf16, predicted, ran out of memory)" in line
    monkeypatch.setattr("petlbench.run.probing.memory_taken", fails)
    again = probed(tmp_path, "method=lora", *SHORT)
    assert again["status"] == "out_of_memory"
    assert again["cost"]["parameters"] == record["cost"]["parameters"]


@pytest.mark.parametrize("lost", ["predicted_mib", "image_mib", "peak"])
def test_a_probe_without_all_figures_is_left_out_of_the_budget(lost: str, tmp_path: Path) -> None:
    run = probe("lora", 10.0)
    cost = run["cost"] | {"predicted_mib": dict(run["cost"]["peak_mib"]), "image_mib": 3.0}
    run |= {"cost": cost, "config": {"train": {"batch_size": 4}}}
    config, store = composed(tmp_path, "probe.budget_gib=8"), Store(tmp_path)
    store.write(run)
    assert len(budget.summary(config, store, [run["id"]])) == 3
    cost |= {"peak_mib": {"allocated": 1.0}} if lost == "peak" else {lost: None, "peak_mib": None}
    store.write(run)
    assert budget.summary(config, store, [run["id"]]) == []


def test_a_step_that_fails_leaves_the_method_as_it_was() -> None:
    method = build.method(compose.single(["method=lora"])).eval()
    before = copy.deepcopy(method.state_dict())

    def step() -> None:
        for tensor in method.train().parameters():
            if tensor.requires_grad:
                tensor.data += 1
        method(torch.randn(2, 3, 48, 48)).sum().backward()
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError), memory.unchanged(method, CPU):
        step()
    after = method.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not method.training
    assert all(tensor.grad is None for tensor in method.parameters())


def test_measuring_leaves_the_statistics_of_a_batch_norm() -> None:
    """Buffers change in training mode, with no gradient and no optimiser."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with memory.unchanged(network, CPU):
        network.train()(torch.randn(5, 3, 8, 8))
        assert not torch.equal(network[1].running_mean, before["1.running_mean"])  # type: ignore[arg-type]
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_spread_is_the_distance_of_the_quartiles() -> None:
    assert speed.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 2.0
    assert speed.spread([3.0]) == 0.0


def test_speeds_are_measured_where_they_are_asked_for(tmp_path: Path) -> None:
    record = probed(tmp_path, "method=lora", *SHALLOW, *SHORT)
    assert record["status"] == "finished", record["reason"]
    found = record["cost"]["inference"]
    variants = [(timing["merged"], timing["compiled"], timing["batch"]) for timing in found]
    assert variants == [(False, False, 1), (False, False, 2), (True, False, 1), (True, False, 2)]
    assert all(timing["images_per_s"] > 0 and timing["repeats"] == 2 for timing in found)
    assert record["cost"]["train_images_per_s"] > 0
    assert record["cost"]["train_images_per_s_spread"] > 0


class Broken(torch.nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise self.error


def timing(error: Exception, failures: type[Exception]) -> dict[str, Any]:
    network = Broken(error)
    once = {"size": 8, "batch": 2, "repeats": 1, "repeat_s": 0.01}
    return speed.inference(network, precision=FP32, failures=failures, **once)  # type: ignore[arg-type]


def test_a_network_that_fails_has_a_reason_and_no_speed() -> None:
    found = timing(torch.OutOfMemoryError("no room\nfor it"), torch.OutOfMemoryError)
    assert found == {"batch": 2, "images_per_s": None, "reason": "OutOfMemoryError: no room"}
    compiled = timing(TypeError("of a compiler"), Exception)
    assert compiled["reason"] == "TypeError: of a compiler"
    with pytest.raises(RuntimeError, match="a bug"):
        timing(RuntimeError("a bug"), torch.OutOfMemoryError)


@pytest.mark.parametrize(
    ("chosen", "mode"),
    sampled([("true", "default"), ("reduce-overhead", "reduce-overhead")], [("true", "default")]),
)
def test_compilers_may_fail_in_any_way_and_networks_may_not(
    chosen: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(network: torch.nn.Module, **values: Any) -> torch.nn.Module:
        return Broken(KeyError(values["mode"]))

    monkeypatch.setattr(torch, "compile", broken)
    record = probed(tmp_path, "method=dtl", *SHALLOW_DTL, *SHORT, f"probe.compile={chosen}")
    assert record["status"] == "finished", record["reason"]
    modes = {
        timing["compile_mode"]: timing["images_per_s"] for timing in record["cost"]["inference"]
    }
    assert modes[None] > 0
    assert modes[mode] is None
    assert record["cost"]["inference"][-1]["reason"] == f"KeyError: '{mode}'"
    assert {timing["merged"] for timing in record["cost"]["inference"]} == {False}
    assert "cannot be merged" in record["notes"]["merged"]


def test_timing_training_leaves_the_method_as_it_was() -> None:
    method = build.method(compose.single(["method=lora"]))
    before = copy.deepcopy(method.state_dict())
    with memory.unchanged(method, CPU):
        step = memory.TrainingStep(
            method, FP32, compose.single(["method=lora"]).train, torch.randn(2, 3, 48, 48)
        )
        found = speed.training(step, warmup=1, steps=2, repeats=3)
    assert found["train_images_per_s"] > 0
    assert found["train_images_per_s_spread"] > 0
    after = method.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("probe.steps=0", "probe.steps is 0; it must be a whole number from 1 to"),
        ("probe.batches=4", r"probe.batches is a single value; it must be a list"),
        ("probe.budget_gib=abc", "probe.budget_gib is abc; it must be a number"),
        ("probe.batches=[0]", "a number of probe.batches is 0"),
        ("probe.repeat_s=0", "probe.repeat_s is 0.0; it must be a number above 0"),
        ("probe.warmup=0", "probe.warmup is 0; it must be a whole number from 1 to"),
        ("probe.budget_gib=true", "probe.budget_gib is True; it must be a number"),
        (
            "probe.compile=maybe",
            "unknown probe.compile 'maybe'; Known: false, reduce-overhead, true",
        ),
        ("probe.compile=3", "unknown probe.compile '3'; Known: false, reduce-overhead, true"),
        ("probe.compile=1", "unknown probe.compile '1'; Known: false, reduce-overhead, true"),
        ("probe.speed=maybe", "unknown probe.speed 'maybe'; Known: auto, false, true"),
        ("train.precision=fp16", "fp16 needs a GPU"),
    ],
)
def test_a_mistake_is_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        probed(tmp_path, override)
    assert not list(tmp_path.rglob("*.json"))


def test_its_task_has_no_images() -> None:
    opened: Task = configured.task(compose.single(["protocol=probe"]))
    assert opened.tests == ()
    with pytest.raises(UserError, match="dataset=probe has no images"):
        opened.open("train")


def test_overrides_stand_in_one_place_whatever_the_order() -> None:
    assert ordered(["p=1"], ["a=2", "-m", "b=3"]) == ["-m", "p=1", "a=2", "b=3"]
    assert ordered(["p=1"], ["--cfg", "job"]) == ["--cfg", "job", "p=1"]
    assert ordered([], ["-m", "--config-dir=x", "a=2"]) == ["-m", "--config-dir=x", "a=2"]


def test_the_command_answers_what_fits(tmp_path: Path) -> None:
    arguments = ["-m", "method=lora,full", *SHALLOW, "probe.budget_gib=0.1"]
    arguments += [f"results.root={tmp_path}"]
    command = partial(run_preset, "protocol=probe")
    for expected in ("2 to run", "2 finished (skipped), 0 to run"):
        code, output = in_process(tmp_path, *arguments, main=command)
        assert code == 0, output
        assert expected in output
        *_, first, second = output.splitlines()
        assert first.split()[:2] == ["LoRA", "petlbench_shallow"]
        assert int(first.split()[2]) > int(second.split()[2]) > 0
        assert "0.1 GiB" in output


@pytest.mark.parametrize("text", ["protocol=final", "+protocol=probe"])
def test_the_command_has_its_protocol(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["probe", "method=lora", text])
    with pytest.raises(SystemExit):
        run_preset("protocol=probe")
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: this command sets protocol=probe; leave out '{text}', or use petlbench"


@pytest.mark.parametrize("name", ["table1", "table6", "efficiency", "multitask"])
def test_the_sweeps_of_reports_on_cost_are_probes(name: str) -> None:
    content = options.content("experiment", name)
    assert content["hydra"]["sweeper"]["params"]["protocol"] == "probe"
