"""The Python interface: the examples of docs/python.md, runs and exports."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import petlbench
from petlbench import exported, registry
from petlbench.errors import Unsupported, UserError
from petlbench.exported import export
from petlbench.mini import suite
from petlbench.model.backbone import Backbone
from petlbench.testing import images, networks, randomised, tiny, tiny_method
from tests.shallow import NAME, packaged
from tests.trees import paint

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
run = cast(Callable[[list[str]], list[dict[str, Any]]], petlbench.run)


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("as_it_stands", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_examples_run(
    as_it_stands: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On three blocks, or as they stand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(suite.SPLITS, "test", slice(50, 100))
    names: dict[str, Any] = {}
    arguments = list(sys.argv)
    text = PAGE.read_text()
    if not as_it_stands:
        lists = re.compile(r"\[(?=\"(?:method|backbone)=)")
        assert len(lists.findall(text)) == 2
        text = lists.sub(f'["backbone.name={NAME}", ', text)
    with packaged(tmp_path):
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(block, names)
    assert [record["title"] for record in names["records"]] == ["LoRA", "Linear"]
    assert not GlobalHydra.instance().is_initialized()
    assert sys.argv == arguments
    assert set(names["logits_by_task"]) == {"digits", "again"}


def test_a_pair_that_is_not_supported_has_a_record(tmp_path: Path) -> None:
    [record] = run(["method=adapter", "backbone=convnext_b", f"results.root={tmp_path}"])
    assert (record["status"], bool(record["reason"])) == ("unsupported", True)


def test_a_later_call_sees_the_images_that_have_come(tmp_path: Path) -> None:
    def once() -> dict[str, Any]:
        [record] = run(
            [
                *("method=knn", "dataset=folder", "device=cpu"),
                *(f"backbone.name={NAME}", "backbone.pretrained=false"),
                "train.batch_size=4",
                *(f"dataset.root={tmp_path / 'pets'}", f"dataset.cache={tmp_path / 'cache'}"),
                f"results.root={tmp_path / 'runs'}",
            ]
        )
        return record

    for n in range(20):
        paint(tmp_path / "pets" / ["cat", "dog"][n % 2] / f"{n}.png", n)
    before = once()
    assert before["status"] == "finished", before["reason"]
    assert once() == before
    for n in range(20):
        paint(tmp_path / "pets" / "owl" / f"{n}.png", n)
    after = once()
    assert after["id"] != before["id"]
    assert after["config"]["dataset"]["classes"] == 3


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["method=lorra"], "unknown method 'lorra'; did you mean 'lora'"),
        (["train.lrr=3"], "no key 'train.lrr' to set; did you mean 'train.lr'"),
        (["method=lora", "train.lr=[1"], "train.lr"),
        (["select.trials=2"], "select.trials belongs to protocol=select"),
        ("method=lora", "the overrides are 'method=lora'; they must be a list"),
        ([1], "the overrides are [1]; they must be a list"),
    ],
)
def test_mistakes_are_user_errors(overrides: Any, line: str) -> None:
    with pytest.raises(UserError) as caught:
        run(overrides)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_vpt_is_exported_for_any_number_of_images(tmp_path: Path) -> None:
    net = tiny("vit").net
    net.blocks = net.blocks[:3]  # tracing takes as long as the network is deep
    backbone = Backbone(net, networks.config("vit"), image_size=networks.SIZE)
    method = randomised(registry.create("vpt_deep", backbone)).eval()
    export(method, tmp_path / "new" / "x.pt2")
    network = torch.export.load(tmp_path / "new" / "x.pt2").module()
    with torch.no_grad():
        torch.testing.assert_close(network(images()[:1]), method(images()[:1]))


def test_onnx_has_the_outputs_of_the_method(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="ONNX is not installed")
    pytest.importorskip("onnxscript", reason="ONNX Script is not installed")
    reference = pytest.importorskip("onnx.reference")
    method = randomised(tiny_method("lora", "vit")).eval()
    export(method, tmp_path / "x.onnx")
    network = reference.ReferenceEvaluator(onnx.load(tmp_path / "x.onnx"))
    with torch.no_grad():
        expected = method(images())
    found = torch.from_numpy(network.run(None, {"images": images().numpy()})[0])
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = tiny_method("linear", "vit")
    with pytest.raises(UserError, match=r"unknown suffix .* '.pt'.*Known: .onnx, .pt2"):
        export(method, tmp_path / "x.pt")
    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnx, onnxscript; install petlbench\[onnx\]"):
        export(method, tmp_path / "x.onnx")

    def refuse(*given: Any, **named: Any) -> None:
        raise RuntimeError("data-dependent\nbranch")

    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(Unsupported, match=r"cannot be written as .pt2: RuntimeError: data"):
        export(method, tmp_path / "x.pt2")
    assert not list(tmp_path.iterdir())
