"""python -m petlbench.testing: one line per property, for methods of the tree and of others."""

import pytest
import torch
from torch import Tensor, nn

from petlbench import registry
from petlbench.commands.testing import main
from petlbench.config import options
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.testing import PROPERTIES, Case, Undeclared, case, facts, support_is_as_declared
from petlbench.testing.passes import images_are_independent

Captured = pytest.CaptureFixture[str]


def test_it_prints_every_property_and_a_summary(capsys: Captured) -> None:
    assert main(["lora", "--backbone", "vit,convnext"]) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    names = [check.__name__.replace("_", " ") for check in PROPERTIES]
    assert [line[len("ok      lora  vit       ") :] for line in lines[:-1]] == names
    assert lines[-1] == "ok      lora  convnext  support is as declared"
    assert summary == f"{len(names) + 1} ok, 0 FAILED, 0 skipped"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lorra"], "unknown method 'lorra'; did you mean 'lora'? Known: adalora, "),
        (["paper"], "unknown method 'paper'; "),
        (["lora", "--backbone", "vit,swim"], "unknown tiny network 'swim'; did you mean 'swin'"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line(
    arguments: list[str], message: str, capsys: Captured
) -> None:
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert error.startswith(f"error: {message}")
    assert (out, error.count("\n")) == ("", 1)


class Careless(Method):
    """Breaks what a method promises."""

    def __init__(self, backbone: Backbone, *, rank: int) -> None:
        super().__init__(backbone)
        self.shift = nn.Parameter(torch.ones(backbone.widths[0]))
        self.idle = nn.Parameter(torch.ones(1))
        self.calls = 0

    def features(self, z: Tensor) -> Tensor:
        self.calls += 1
        z = super().features(z.add_(self.shift.detach()))
        return z + z.mean(0)


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "title": "Careless",
        "method": {"_target_": f"{__name__}.Careless", "_partial_": True, "rank": 1},
        "train": {"lr": 0.1},
    }
    real, text = options.content, options.text
    own = {("method", "careless"): content}
    monkeypatch.setattr(options, "content", lambda *key: own.get(key) or real(*key))
    monkeypatch.setattr(
        options,
        "text",
        lambda *key: "# @package _global_\n" if key in own else text(*key),
    )
    monkeypatch.setattr(registry, "names", lambda: ["careless"])
    case._template.cache_clear()


def test_broken_properties_fail_with_a_reason(careless: None, capsys: Captured) -> None:
    assert main(["careless", "--backbone", "vit"]) == 1
    lines = capsys.readouterr().out.splitlines()
    failures = [line for line in lines if line.startswith("FAILED")]
    for reason in (
        "wrong values are refused in one line: {'rank': -1} is accepted",
        "starts as pretrained if declared: starts_as_pretrained is True, but",
        "gets a gradient: no gradient reaches shift, idle",
        "forward is pure: features writes into z",
        "images are independent: the logits of an image depend on its batch",
    ):
        assert any(reason in line for line in failures), reason
    for key in ("parameters", "start"):
        assert any(f"declare facts.{key} in the yaml of method careless" in line for line in lines)
    assert lines[-1].endswith(" skipped")


def test_an_undeclared_refusal_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = {key: value for key, value in facts.declared("vqt").items() if key != "unsupported"}
    monkeypatch.setattr("petlbench.testing.once.declared", lambda name: declared)
    with pytest.raises(Undeclared, match=r"plain ViTs.*; declare facts\.unsupported in the yaml"):
        support_is_as_declared(Case("vqt", "swin"))


@pytest.mark.parametrize(("method", "mixed"), [("lily", True), ("lora", False)])
def test_a_method_that_mixes_images_is_declared(
    monkeypatch: pytest.MonkeyPatch, method: str, mixed: bool
) -> None:
    images_are_independent(Case(method, "vit"))
    monkeypatch.setattr("petlbench.testing.passes.declared", lambda _: {"mixes_images": not mixed})
    with pytest.raises(AssertionError, match=r"facts\.mixes_images"):
        images_are_independent(Case(method, "vit"))


def test_an_unknown_fact_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "content", lambda *_: {"facts": {"unit": 3}})
    with pytest.raises(ValueError, match="unknown fact of method lora 'unit'; did you mean 'un"):
        facts.declared("lora")
