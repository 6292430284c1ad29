"""Multi-task inference is exact against each method alone, and shares what is constant."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from runpy import run_module
from typing import Any

import pytest
import torch
from torch import Tensor

from petlbench import delta, registry
from petlbench.config import compose, options
from petlbench.config.schema import Config
from petlbench.delta import trained
from petlbench.errors import Unsupported, UserError
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.multitask.network import MultiTask, on_shared
from petlbench.run import job
from petlbench.run import multitasking as multitask
from petlbench.run.record import Store
from petlbench.testing import declared, images, randomised, tiny
from petlbench.train.frozen import in_16_bit
from petlbench.train.precision import Precision
from tests import command
from tests.helpers import sampled
from tests.shallow import OVERRIDES

CLASSES = {"birds": 3, "cars": 5, "flowers": 3}
IN_FLOAT32 = ("olora", "pissa", "psoft")  # PEFT decomposes no weights in float64


def methods(name: str, network: str, tasks: Sequence[str] = tuple(CLASSES)) -> dict[str, Method]:
    """A method for each task on one backbone, its learned tensors filled."""
    backbone = tiny(network) if name in IN_FLOAT32 else tiny(network).double()
    made = {}
    for number, task in enumerate(tasks):
        torch.manual_seed(number)
        made[task] = learned(name, backbone, task)
    return {task: method.double() for task, method in made.items()}


def learned(name: str, backbone: Backbone, task: str) -> Method:
    values = registry.values(name) | declared(name).get("tiny", {})
    own = {key: value for key, value in values.items() if key[0] != "_"}
    try:
        made = on_shared(backbone, name, own, classes=CLASSES[task])
    except Unsupported as error:
        is_ours = options.content("method", name).get("family") != "PEFT library"
        assert not is_ours or backbone.tag != "petlbench_vit"  # where every method can be
        pytest.skip(str(error))
    return randomised(made).eval()


def assert_exact(together: MultiTask, apart: Mapping[str, Method]) -> None:
    seen = images().double()
    with torch.no_grad():
        for task, logits in together(seen).items():
            assert logits.shape == (len(seen), CLASSES[task])
            assert torch.allclose(logits, apart[task](seen), rtol=1e-9, atol=1e-10), task


PAIRS = [(name, network) for name in registry.names() for network in ("vit", "swin")]
# A walk of its own, tokens, a swapped projection and whole blocks.
FAST = [pair for pair in PAIRS if pair[0] in ("dtl_plus", "vpt_deep")]
FAST += [(name, "vit") for name in ("adalora", "bi_lora", "lora", "lst", "pissa", "ssf", "vqt")]
# Tuners of PEFT with operations that torch cannot run for several tasks at once; docs/peft.md.
REFUSED = (
    *("adalora", "c3a", "delora", "fourierft", "frod", "gralora", "loha", "oft"),
    *("randlora", "shira", "waveft"),
)


@pytest.mark.parametrize(("name", "network"), sampled(PAIRS, FAST))
def test_each_task_gets_what_its_method_says(name: str, network: str) -> None:
    apart = methods(name, network, tasks=("birds", "cars"))  # of 3 and 5 classes
    if name in REFUSED:
        with pytest.raises(Unsupported, match="cannot run as one batch of tasks"):
            MultiTask(apart)
    else:
        assert_exact(MultiTask(apart), apart)


def test_the_page_names_the_tuners_that_are_refused() -> None:
    lines = (Path(__file__).parent.parent / "docs" / "peft.md").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("- **Many tasks in one network**")]
    titles = [str(options.content("method", name)["title"]) for name in REFUSED]
    assert f": {', '.join(titles[:-1])} and {titles[-1]} use" in line


class Doubled(Method):
    """Changes the output of its head."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


def test_a_readout_after_the_head_is_refused() -> None:
    with pytest.raises(Unsupported, match="Doubled changes the output of its head"):
        MultiTask({"birds": Doubled(tiny("vit"))})


def test_different_methods_share_what_all_leave_alone() -> None:
    backbone = tiny("vit").double()
    names = dict(zip(CLASSES, ("dtl", "dtl_plus", "linear"), strict=True))
    apart = {task: learned(name, backbone, task) for task, name in names.items()}
    together = MultiTask(apart)
    assert_exact(together, apart)
    assert together.shared_blocks > 0
    mixed = apart | {"cars": learned("lora", backbone, "cars")}
    assert_exact(MultiTask(mixed), mixed)
    assert MultiTask(mixed).shared_blocks == 0


def test_frozen_tensors_are_kept_once() -> None:
    apart = methods("lora", "vit")
    together = MultiTask(apart)
    learned = sum(t.numel() for m in apart.values() for t in trained(m).values())
    frozen = {t.data_ptr(): t.numel() for t in apart["birds"].parameters() if not t.requires_grad}
    kept = {t.untyped_storage().data_ptr(): t.numel() for t in together.parameters()}
    assert sum(kept.values()) <= sum(frozen.values()) + learned


@pytest.mark.slow  # counts of three tasks: test_it_is_a_job_that_leaves_a_record
@pytest.mark.parametrize(("name", "saved"), [("dtl", 55), ("dtl_plus", 54), ("linear", 94)])
def test_what_is_saved_at_full_size(name: str, saved: float) -> None:
    config = compose.single([f"method={name}", "backbone=vit_b16", "dataset=vtab/cifar"])
    found = multitask.counted(config, tasks=19)
    assert (found["shared_blocks"], found["blocks"]) == (12 if name == "linear" else 7, 12)
    assert saved <= found["saved_percent"] < 100 * 18 / 19


def test_deltas_are_loaded_on_their_backbone(tmp_path: Path) -> None:
    apart = methods("dtl", "vit")
    deltas = {}
    for task, method in apart.items():
        deltas[task] = tmp_path / f"{task}.safetensors"
        network = {"method": registry.values("dtl"), "classes": list(range(CLASSES[task]))}
        delta.save(deltas[task], method, {"method": "dtl", "network": network})
    together = MultiTask.load(tiny("vit").double(), deltas)
    assert_exact(together, apart)
    with pytest.raises(UserError, match="does not fit this method and backbone"):
        MultiTask.load(tiny("swin").double(), deltas)
    with pytest.raises(UserError, match="needs at least one task"):
        MultiTask({})


def configured(root: Path, *overrides: str) -> Config:
    small = ["probe.tasks=3", "probe.repeats=2", "probe.repeat_s=0.01", "device=cpu"]
    preset = ["experiment=multitask", "protocol=probe", "method=dtl", f"results.root={root}"]
    return compose.single([*preset, *small, *overrides])


def test_it_is_a_job_that_leaves_a_record(tmp_path: Path) -> None:
    config = configured(tmp_path, *OVERRIDES, "input.size=48", "method.inject_from=2")
    multitask_job = job.of(config)
    multitask_job.check(config)
    record = multitask_job.execute(config)
    assert record["status"] == "finished", record["reason"]
    found = record["cost"]["multitask"]
    assert (record["protocol"], record["suite"]) == ("probe", "probe")
    assert (found["tasks"], found["shared_blocks"]) == (3, 2)
    embedding, block = 36 * 192 * 96, 37 * 12 * 96**2 + 2 * 37**2 * 96  # products in a pass
    shared = (embedding + 2 * block) / (embedding + 3 * block)
    assert 45 <= found["saved_percent"] < 100 * 2 / 3 * shared
    assert set(found["seconds"]) == set(found["spread_s"]) == {"shared", "batch", "sequential"}
    assert all(value > 0 for value in found["seconds"].values())
    for way, saved in found["saved_time_percent"].items():
        kept = found["seconds"]["shared"] / found["seconds"][way]
        assert saved == pytest.approx(100 * (1 - kept))
    lines = multitask_job.summary(config, Store(tmp_path), [record["id"]])
    assert "2 of 3 blocks run once" in lines[0]
    assert "% saved" in lines[1]


def test_each_pass_has_an_autocast_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One around them all would cast learned weights once, which no single answer can."""
    depths: list[int] = []
    entered = Precision.autocast

    @contextmanager
    def counting(precision: Precision) -> Iterator[None]:
        with entered(precision):
            depths.append(1)
            yield
            depths.append(-1)

    monkeypatch.setattr(Precision, "autocast", counting)
    calls: list[Any] = [lambda: None] * 3
    multitask._all(calls, Precision("bf16", torch.device("cpu")))
    assert depths == [1, -1] * 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("probe.tasks=0", "probe.tasks is 0; it must be a whole number"),
        ("probe.images=no", "probe.images is no; it must be a whole number"),
        ("probe.repeats=0", "probe.repeats is 0"),
    ],
)
def test_a_mistake_is_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        configured(tmp_path, override)


def test_another_protocol_is_refused(tmp_path: Path) -> None:
    config = configured(tmp_path)
    protocol = replace(config.protocol, name="final", fit_on="train", tests="all")
    final = replace(config, protocol=protocol)
    with pytest.raises(UserError, match="set protocol=probe"):
        job.of(config).check(final)


def test_the_command_sweeps_probes(tmp_path: Path) -> None:
    def main() -> None:
        run_module("petlbench.multitask", run_name="__main__")

    code, output = command.run(tmp_path, "-m", "hydra.sweeper.dry_run=true", main=main)
    assert code == 0, output
    assert "dtl probe seed 0" in output
    assert "dtl_plus probe seed 0" in output


@pytest.mark.parametrize("name", ["lora", "dtl"])
def test_all_ways_are_timed_on_weights_in_16_bit(name: str, tmp_path: Path) -> None:
    """Else one task after another would cast the backbone's weights once for each task."""
    own = ["method.inject_from=2"] if name == "dtl" else []
    config = configured(tmp_path, *OVERRIDES, "input.size=48", f"method={name}", *own)
    networks, ways = multitask._ways(config, torch.device("cpu"))
    precision = Precision("bf16", torch.device("cpu"))

    def answers() -> list[Tensor]:
        with torch.no_grad(), precision.autocast():
            found: list[Any] = [call() for calls in ways.values() for call in calls]
        return [
            logits
            for answer in found
            for logits in (answer.values() if isinstance(answer, dict) else [answer])
        ]

    expected = answers()
    one: Any = networks[-1]
    blocks = one.backbone.net.blocks
    with in_16_bit(networks, precision, answers):
        assert blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
        assert len(places(networks[1:])) == 1
        assert all(map(torch.equal, answers(), expected))
    assert blocks[0].mlp.fc1.weight.dtype == torch.float32
    assert len(places(networks[1:])) == 1


def places(methods: Sequence[Any]) -> set[int]:
    """Where in memory the methods have a weight of the backbone."""
    return {method.backbone.net.blocks[0].mlp.fc1.weight.data_ptr() for method in methods}
