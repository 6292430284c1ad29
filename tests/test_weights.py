"""Checkpoints: what loads, exactly, and what is refused with a line that names file and key."""

import argparse
import hashlib
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from petlbench import create
from petlbench.errors import Unsupported, UserError
from petlbench.method import Method
from petlbench.model import weights
from petlbench.model.backbone import Backbone
from petlbench.model.checkpoint import load_checkpoint
from petlbench.model.pooling import set_pooling
from petlbench.system import sha256_of
from petlbench.testing import images, tiny
from petlbench.testing.networks import CLASSES
from tests.helpers import sampled

State = dict[str, Tensor]
FAMILIES = ("vit", "swin")


def other(family: str, **changed: Any) -> Backbone:
    """The same architecture with other weights."""
    backbone = tiny(family, **changed)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return backbone


def written(state: State, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def loaded(family: str, path: Path, **changed: Any) -> Backbone:
    backbone = tiny(family, checkpoint="of a test", **changed)
    # a network for each path would be built anew
    backbone.weights = replace(backbone.weights, checkpoint=str(path))
    backbone.load_weights()
    return backbone


def logits(backbone: Backbone) -> Tensor:
    with torch.no_grad():
        return Method(backbone).eval()(images())  # type: ignore[no-any-return]


def in_jax_layout(state: State) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of the original JAX code: kernels are (in, out), heads an axis of their own."""
    heads, depth = 4, 12
    width = state["cls_token"].shape[-1]
    split = width // heads
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
        "pre_logits/kernel": torch.eye(width),
        "pre_logits/bias": torch.zeros(width),
    }
    for i in range(depth):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        for norm, number in (("norm1", 0), ("norm2", 2)):
            arrays[f"{theirs}LayerNorm_{number}/scale"] = state[f"{ours}{norm}.weight"]
            arrays[f"{theirs}LayerNorm_{number}/bias"] = state[f"{ours}{norm}.bias"]
        parts = zip(
            ("query", "key", "value"),
            state[f"{ours}attn.qkv.weight"].chunk(3),
            state[f"{ours}attn.qkv.bias"].chunk(3),
            strict=True,
        )
        for name, weight, bias in parts:
            arrays[f"{attention}{name}/kernel"] = weight.T.reshape(width, heads, split)
            arrays[f"{attention}{name}/bias"] = bias.reshape(heads, split)
        out = state[f"{ours}attn.proj.weight"]
        arrays[f"{attention}out/kernel"] = out.T.reshape(heads, split, width)
        arrays[f"{attention}out/bias"] = state[f"{ours}attn.proj.bias"]
        for layer in (0, 1):
            dense = f"{theirs}MlpBlock_3/Dense_{layer}/"
            arrays[f"{dense}kernel"] = state[f"{ours}mlp.fc{layer + 1}.weight"].T
            arrays[f"{dense}bias"] = state[f"{ours}mlp.fc{layer + 1}.bias"]
    return {name: tensor.detach().numpy() for name, tensor in arrays.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_loads_exactly(family: str, suffix: str, tmp_path: Path) -> None:
    source = other(family)
    path = written(source.net.state_dict(), tmp_path / f"net{suffix}")
    backbone = loaded(family, path, head_start="stored")
    assert torch.equal(logits(backbone), logits(source))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert backbone.checkpoint == {"tag": backbone.tag, "file": path.name, "sha256": digest}


def test_jax_arrays_load_exactly(tmp_path: Path) -> None:
    source = other("vit")
    path = tmp_path / "ViT.npz"
    np.savez(path, **in_jax_layout(source.net.state_dict()))  # type: ignore[arg-type]
    assert torch.equal(logits(loaded("vit", path, head_start="stored")), logits(source))


def test_the_original_layout_of_swin_loads_exactly(tmp_path: Path) -> None:
    """Merging ends a stage, the head is named otherwise, buffers are stored, all in `model`."""
    source = other("swin")
    state = {}
    for name, tensor in source.net.state_dict().items():
        stage = name.split(".")[1]
        if ".downsample." in name:
            name = name.replace(f"layers.{stage}.", f"layers.{int(stage) - 1}.", 1)
        state[name.replace("head.fc.", "head.")] = tensor
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    path = tmp_path / "swin.pth"
    torch.save({"model": state}, path)
    assert torch.equal(logits(loaded("swin", path, head_start="stored")), logits(source))


def has_fresh_head(backbone: Backbone, family: str) -> bool:
    fresh = tiny(family).head.state_dict()
    return all(torch.equal(t, fresh[name]) for name, t in backbone.head.state_dict().items())


@pytest.mark.parametrize("family", ["vit", "swin", "dinov3", "convnext"])
@pytest.mark.parametrize("classes", [CLASSES, CLASSES + 2])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_classifier_of_a_file_is_left_out(
    family: str, classes: int, suffix: str, tmp_path: Path
) -> None:
    source = other(family, classes=classes)
    path = written(source.net.state_dict(), tmp_path / f"net{suffix}")
    backbone = loaded(family, path)
    assert has_fresh_head(backbone, family)
    batch = images()
    assert torch.equal(
        Method(backbone).features(backbone.embed(batch)),
        Method(source).features(source.embed(batch)),
    )


def with_classifier(name: str, state: State) -> State:
    """A state whose classifier has another name."""
    return {key.replace("head.", f"{name}.", 1): value for key, value in state.items()}


@pytest.mark.parametrize("name", ["fc", "classifier", "head.fc", "heads.head", "head_dist"])
def test_a_classifier_of_another_name_is_left_out_or_used(name: str, tmp_path: Path) -> None:
    source = other("vit")
    path = written(with_classifier(name, source.net.state_dict()), tmp_path / "net.pth")
    assert has_fresh_head(loaded("vit", path), "vit")
    assert torch.equal(logits(loaded("vit", path, head_start="stored")), logits(source))


def test_jax_arrays_leave_the_head_as_it_started(tmp_path: Path) -> None:
    path = tmp_path / "ViT.npz"
    np.savez(path, **in_jax_layout(other("vit").net.state_dict()))  # type: ignore[arg-type]
    assert has_fresh_head(loaded("vit", path), "vit")


def test_the_classifier_of_the_hub_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1000 classes on ImageNet: the file's classifier has seen the labels."""
    name = "vit_tiny_patch16_224.augreg_in21k"
    source = tiny("vit", name=name, image_size=32, classes=1000)
    with torch.no_grad():
        source.net.head.weight.fill_(1.0)
    path = written(source.net.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda repo, file: str(path))
    backbone = tiny("vit", name=name, image_size=32, pretrained=True, classes=1000)
    backbone.load_weights()
    assert float(backbone.net.head.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_stored_classifier_that_does_not_fit_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    for classes in (None, CLASSES + 2):
        state = other("vit", classes=classes or CLASSES).net.state_dict()
        if suffix == ".npz":
            arrays = in_jax_layout(state)
            kept = {n: a for n, a in arrays.items() if classes or not n.startswith("head/")}
            np.savez(path, **kept)  # type: ignore[arg-type]
        else:
            kept_state = {n: t for n, t in state.items() if classes or not n.startswith("head.")}
            written(kept_state, path)
        with pytest.raises(UserError, match="head_start=stored needs a classifier with bias") as e:
            loaded("vit", path, head_start="stored")
        assert "\n" not in str(e.value)


def test_random_weights_have_no_stored_classifier() -> None:
    with pytest.raises(UserError, match=r"head_start=stored .* backbone\.pretrained is false"):
        tiny("vit", head_start="stored")


def test_a_method_with_a_head_of_its_own_cannot_use_the_stored_one(tmp_path: Path) -> None:
    path = written(other("vit").net.state_dict(), tmp_path / "net.pth")
    with pytest.raises(Unsupported, match="starts a head of its own"):
        create("vqt", loaded("vit", path, head_start="stored"))


def test_a_checkpoint_may_lack_the_classifier(tmp_path: Path) -> None:
    state = {n: t for n, t in other("vit").net.state_dict().items() if not n.startswith("head.")}
    backbone = loaded("vit", written(state, tmp_path / "net.pth"))
    own = backbone.net.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())
    assert torch.equal(own["head.weight"], tiny("vit").net.state_dict()["head.weight"])


def below(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


Make = Callable[[State, State], dict[str, Any]]
# From the state that must be loaded and another one -> what the file has, and where it stood.
NESTED: dict[str, tuple[Make, str]] = {
    "parallel": (lambda state, _: below("module.", state), "module"),
    "lightning": (
        lambda state, _: {"epoch": 3, "state_dict": below("model.", state), "callbacks": {}},
        "state_dict.model",
    ),
    "detector": (
        lambda state, _: {"state_dict": below("backbone.", state) | {"neck.w": torch.ones(2)}},
        "state_dict.backbone",
    ),
    "compiled": (lambda state, _: below("_orig_mod.module.", state), "_orig_mod.module"),
    "flat teacher": (
        lambda state, o: below("teacher.backbone.", state) | below("student.backbone.", o),
        "teacher.backbone",
    ),
    "dino": (
        lambda state, o: {
            "student": below("module.backbone.", o),
            "teacher": below("backbone.", state) | {"head.mlp.0.weight": torch.ones(2, 2)},
            "args": argparse.Namespace(lr=0.1, arch="vit"),
        },
        "teacher.backbone",
    ),
    "timm training": (
        lambda state, o: {"arch": "x", "state_dict": o, "state_dict_ema": state, "metric": 1.0},
        "state_dict_ema",
    ),
    "deit training": (
        lambda state, o: {"model": o, "model_ema": state, "optimizer": {"state": {0: {}}}},
        "model_ema",
    ),
    "averaged module": (
        lambda state, _: below("module.", state) | {"n_averaged": torch.tensor(5)},
        "module",
    ),
    "another size beside it": (
        lambda state, _: (
            below("big.", tiny("vit", name="petlbench_wide").net.state_dict())
            | below("small.", state)
        ),
        "small",
    ),
}


SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
PLACES = [(name, suffix) for name in NESTED for suffix in SUFFIXES]


@pytest.mark.parametrize(
    ("name", "suffix"),
    sampled(PLACES, [pair for pair in PLACES if pair[0] == "dino" or pair[1] == ".pth"]),
)
def test_a_network_inside_a_file_is_found(name: str, suffix: str, tmp_path: Path) -> None:
    source, (make, place) = other("vit"), NESTED[name]
    path = tmp_path / f"net{suffix}"
    torch.save(make(source.net.state_dict(), other("vit").net.state_dict()), path)
    backbone = loaded("vit", path)
    expected = source.net.state_dict()
    for key, tensor in backbone.net.state_dict().items():
        assert torch.equal(tensor, expected[key]) or key.startswith("head.")
    assert backbone.checkpoint["mapped"] == f"from {place}"


@pytest.mark.parametrize("name", ["parallel", "detector", "compiled"])
def test_a_prefix_in_a_safetensors_file_and_on_a_swin(name: str, tmp_path: Path) -> None:
    source = other("swin")
    state = NESTED[name][0](source.net.state_dict(), {})
    path = written(state.get("state_dict", state), tmp_path / "net.safetensors")
    backbone = loaded("swin", path)
    assert torch.equal(backbone.net.norm.weight, source.net.norm.weight)


def test_a_classifier_beside_a_prefix_can_be_asked_for(tmp_path: Path) -> None:
    source = other("vit")
    state = source.net.state_dict()
    body = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    head = {"classifier.weight": state["head.weight"], "classifier.bias": state["head.bias"]}
    path = written(below("vit.", body) | head, tmp_path / "net.bin")
    assert torch.equal(logits(loaded("vit", path, head_start="stored")), logits(source))


@pytest.mark.parametrize(
    ("first", "second"), [("encoder_q.", "encoder_k."), ("a.ema.", "b.ema."), ("", "copy.")]
)
def test_a_file_with_two_networks_is_refused(first: str, second: str, tmp_path: Path) -> None:
    state = other("vit").net.state_dict()
    path = written(below(first, state) | below(second, state), tmp_path / "net.pth")
    names = f"{first or 'the top'}, {second}"
    refused("vit", path, f"holds 2 networks \\({re.escape(names)}\\) and does not say which one")


def test_a_prefix_does_not_make_another_network_fit(tmp_path: Path) -> None:
    path = written(
        below("model.", tiny("vit", name="petlbench_wide").net.state_dict()), tmp_path / "net.pth"
    )
    refused("vit", path, r"has shape \(.*128.*\), the network needs")
    state = without("blocks.3.norm1.bias")(other("vit").net.state_dict())
    refused(
        "vit", written(below("model.", state), tmp_path / "net.pt"), "it has no blocks.3.norm1"
    )


@pytest.mark.parametrize(("theirs", "ours"), [("fc_norm", "norm"), ("norm", "fc_norm")])
def test_the_norm_behind_the_mean_is_the_final_norm(
    theirs: str, ours: str, tmp_path: Path
) -> None:
    """Networks that average their patches keep it under another name."""
    source = other("vit", pool="patch_mean_then_norm")
    state = source.net.state_dict()
    renamed_state = {
        name.replace("norm.", f"{theirs}.") if name.startswith("norm.") else name: t
        for name, t in state.items()
    }
    backbone = tiny("vit", pool="patch_mean_then_norm")
    if ours == "fc_norm":
        set_pooling(backbone.net, "patch_mean_then_norm")
    path = written(renamed_state, tmp_path / "net.safetensors")
    mapped = load_checkpoint(backbone.net, "head", path, with_head=True)
    assert len(mapped) == 1
    assert mapped[0].startswith(f"{theirs} as {ours}")
    batch = images()
    expected = Method(source).eval()(batch)
    assert torch.equal(Method(backbone).eval()(batch), expected)


def test_two_final_norms_are_refused(tmp_path: Path) -> None:
    state = other("vit").net.state_dict()
    both = state | {"fc_norm.weight": torch.ones(32), "fc_norm.bias": torch.ones(32)}
    refused("vit", written(both, tmp_path / "net.pth"), r"the network has no fc_norm\.weight")


def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    state = {n: t.half() for n, t in other("vit").net.state_dict().items()}
    backbone = loaded("vit", written(state, tmp_path / "net.safetensors"))
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert torch.equal(backbone.net.norm.bias, state["norm.bias"].float())


def test_random_weights_say_so() -> None:
    backbone = tiny("vit")
    before = logits(backbone)
    backbone.load_weights()
    assert torch.equal(logits(backbone), before)
    assert backbone.checkpoint == {"tag": "petlbench_vit", "file": None, "sha256": None}


def test_packaged_weights_are_found_by_name() -> None:
    backbone = tiny("vit", name="vit_mini", image_size=48, pretrained=True)
    backbone.load_weights()
    assert backbone.checkpoint["file"] == "vit_mini.safetensors"
    assert len(backbone.checkpoint["sha256"] or "") == 64


def renamed(state: State, old: str, new: str) -> State:
    return {new if name == old else name: tensor for name, tensor in state.items()}


def without(name: str) -> Callable[[State], State]:
    return lambda state: {n: t for n, t in state.items() if n != name}


UNFIT: list[tuple[Callable[[State], Any], str]] = [
    (without("blocks.3.norm1.bias"), r"it has no blocks\.3\.norm1\.bias;"),
    (
        lambda state: renamed(state, "norm.weight", "norm.gain"),
        r"it has no norm\.weight;",
    ),
    (
        lambda state: state | {"blocks.12.norm1.bias": torch.zeros(32)},
        r"the network has no blocks\.12\.norm1",
    ),
    (
        lambda state: state | {"norm.weight": torch.ones(48)},
        r"norm\.weight has shape \(48,\), the network needs \(32,\)",
    ),
    (lambda state: {}, r"it has no cls_token \(and \d+ more\)"),
]


@pytest.mark.parametrize(("change", "message"), UNFIT)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_that_does_not_fit_is_refused(
    change: Callable[[State], State], message: str, suffix: str, tmp_path: Path
) -> None:
    path = written(change(other("vit").net.state_dict()), tmp_path / f"net{suffix}")
    refused("vit", path, f"net{suffix}' does not fit the network: {message}")


def refused(family: str, path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        loaded(family, path)
    assert "\n" not in str(caught.value)


def test_a_network_of_another_width_is_refused(tmp_path: Path) -> None:
    state = tiny("vit", name="vit_mini", image_size=48).net.state_dict()
    path = written(state, tmp_path / "mini.safetensors")
    refused("vit", path, "does not fit the network: .* has shape .*, the network needs")


def test_jax_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    arrays = in_jax_layout(other("vit").net.state_dict())
    key = "Transformer/encoderblock_5/LayerNorm_0/bias"
    path = tmp_path / "ViT.npz"

    def refuse(changed: dict[str, Any], message: str) -> None:
        np.savez(path, **changed)
        refused("vit", path, message)

    refuse({n: a for n, a in arrays.items() if n != key}, f"it has no {key}")
    refuse({n: a for n, a in arrays.items() if n != "embedding/kernel"}, "no embedding/kernel")
    extra = {"Transformer/encoderblock_12/LayerNorm_0/bias": np.zeros(32)}
    refuse(arrays | extra, "it has 13 encoderblocks, the network 12")
    narrow = {"embedding/kernel": np.zeros((4, 4, 3, 24), np.float32)}
    refuse(arrays | narrow, "embedding/kernel has width 24, the network needs 32")
    refuse(arrays | {key: np.zeros(31, np.float32)}, "does not fit the network")
    refused("swin", path, "npz is the JAX layout of ViT")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 0.99])
def test_a_file_that_is_cut_short_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    state = other("vit").net.state_dict()
    path = tmp_path / f"net{suffix}"
    if suffix == ".npz":
        np.savez(path, **in_jax_layout(state))  # type: ignore[arg-type]
    else:
        written(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused("vit", path, f"net{suffix}' cannot be read, is it cut short")


class Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code ran",)


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))]
)
def test_a_pickle_that_runs_code_is_refused(
    save: Callable[[Any, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.pth"
    save({"norm.weight": Boom()}, path)
    refused(
        "vit",
        path,
        "holds Python objects, which could run code, and is not read; save the state_dict",
    )
    assert "code ran" not in capsys.readouterr().out


def test_other_files_are_refused(tmp_path: Path) -> None:
    refused("vit", tmp_path / "none.safetensors", "none.safetensors' does not exist")
    refused(
        "vit",
        tmp_path / "net.h5",
        "has no known format; convert it to one of .safetensors, .pth, .pt, .bin, ",
    )
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    refused("vit", tmp_path / "list.pth", "it holds a list")


def test_unavailable_weights_name_the_file_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda repo, file: None)
    name = "vit_tiny_patch16_224.augreg_in21k"
    backbone = tiny("vit", name=name, image_size=32, pretrained=True)
    with pytest.raises(UserError, match="does not answer") as caught:
        backbone.load_weights()
    assert f"http://127.0.0.1:9/timm/{name}/resolve/main/model.safetensors" in str(caught.value)
    assert "backbone.checkpoint=FILE" in str(caught.value)
    assert "backbone.pretrained=false" in str(caught.value)


def test_weights_in_the_cache_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k"
    source = tiny("vit", name=name, image_size=32)
    path = written(source.net.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda repo, file: str(path))
    backbone = tiny("vit", name=name, image_size=32, pretrained=True)
    backbone.load_weights()
    assert backbone.checkpoint["tag"] == name
    assert backbone.checkpoint["sha256"] == sha256_of(path)


def test_a_name_without_a_tag_does_not_say_which_weights() -> None:
    backbone = tiny("vit", name="vit_tiny_patch16_224", image_size=32, pretrained=True)
    with pytest.raises(UserError, match=r"use one of: vit_tiny_patch16_224\.augreg_in21k, "):
        backbone.load_weights()


def test_the_meta_device_reads_no_weights() -> None:
    with torch.device("meta"):
        backbone = tiny("vit", checkpoint="/no/such/file.pth")
    assert backbone.checkpoint["file"] is None
    assert {p.device.type for p in backbone.parameters()} == {"meta"}
