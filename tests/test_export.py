"""Export for PEFT: the written tensors have the outputs of the method, also in PEFT itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from petlbench.errors import Unsupported
from petlbench.merge import merged
from petlbench.method import Method
from petlbench.methods.lora import LowRankUpdate
from petlbench.peft import to_peft
from petlbench.testing import images, method_on, randomised, tiny, tiny_method
from petlbench.testing.networks import timm_network

PAIRS = [(name, family) for name in ("lora", "lora_noah", "dora") for family in ("vit", "swin")]


def written(method: Method, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    to_peft(method, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    return config, load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_the_tensors_are_the_methods_update(name: str, family: str, tmp_path: Path) -> None:
    method = randomised(tiny_method(name, family)).eval()
    frozen = dict(tiny_method("linear", family).backbone.net.named_parameters())
    config, tensors = written(method, tmp_path)
    folded = dict(merged(method).named_parameters())
    assert config["use_dora"] == (name == "dora")
    scale = config["lora_alpha"] / config["r"]
    for target in config["target_modules"]:
        key = f"base_model.model.{target}"
        up, down = tensors[f"{key}.lora_B.weight"], tensors[f"{key}.lora_A.weight"]
        assert len(down) == config["r"] == (8 if name == "lora_noah" else 16)
        weight = frozen[f"{target}.weight"] + scale * up @ down
        if name == "dora":
            magnitude = tensors[f"{key}.lora_magnitude_vector"]
            weight = (magnitude / weight.norm(dim=1))[:, None] * weight
        torch.testing.assert_close(weight, folded[f"{target}.weight"])
    head = config["modules_to_save"][0]
    assert torch.equal(tensors[f"base_model.model.{head}.bias"], folded[f"{head}.bias"])


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_peft_loads_it(name: str, family: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    method = randomised(tiny_method(name, family)).eval()
    to_peft(method, tmp_path)
    network = timm_network(family)
    state = tiny_method("linear", family).backbone.net.state_dict()
    network.load_state_dict(state)
    loaded = peft.PeftModel.from_pretrained(network, tmp_path).eval()
    with torch.no_grad():
        expected, found = method(images()), loaded(images())
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("pool", ["cls", "norm_then_mean"])
def test_the_network_for_peft_is_built_with_the_pooling_of_the_run(
    pool: str, tmp_path: Path
) -> None:
    """Built from the pre-trained weights by what timm.json says, it pools as the method does."""
    method = randomised(method_on(tiny("vit", pool=pool), "lora")).eval()
    to_peft(method, tmp_path)
    arguments = json.loads((tmp_path / "timm.json").read_text())
    assert arguments.pop("model_name") == "petlbench_vit"
    network = timm.create_model("petlbench_vit", drop_path_rate=0.0, **arguments).eval()
    network.load_state_dict(tiny_method("linear", "vit").backbone.net.state_dict(), strict=True)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    with torch.no_grad():
        for target in config["target_modules"]:
            key = f"base_model.model.{target}"
            up, down = tensors[f"{key}.lora_B.weight"], tensors[f"{key}.lora_A.weight"]
            scale = config["lora_alpha"] / config["r"]
            network.get_submodule(target).weight += scale * up @ down
        for name, parameter in network.get_submodule("head").named_parameters():
            parameter.copy_(tensors[f"base_model.model.head.{name}"])
        expected = method(images())
        assert (network(images()) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("family", "message"),
    [("vit", "final norm under another name than .*save_merged"), ("swin", "cannot pool as")],
)
def test_a_pooling_that_timm_lacks_is_not_exported(
    family: str, message: str, tmp_path: Path
) -> None:
    method = method_on(tiny(family, pool="patch_mean_then_norm"), "lora")
    with pytest.raises(Unsupported, match=message):
        to_peft(randomised(method), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", ["linear", "bitfit", "fact_tk", "adapter", "dtl", "bi_lora"])
def test_others_say_why_not(name: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="only equal low-rank updates of linear layers"):
        to_peft(tiny_method(name, "vit"), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_updates_of_several_scales_are_refused(tmp_path: Path) -> None:
    method = tiny_method("lora", "vit")
    updates = [module for module in method.modules() if isinstance(module, LowRankUpdate)]
    updates[0].scale = 2.0
    with pytest.raises(Unsupported, match="query and value have different scales"):
        to_peft(method, tmp_path)
    updates[1].scale = 2.0
    with pytest.raises(Unsupported, match="several scales or ranks"):
        to_peft(method, tmp_path)


def test_updates_beside_quantised_weights_are_refused(tmp_path: Path) -> None:
    """PEFT would add them to other weights than those that they were learned beside."""
    method = method_on(tiny("vit", weights="int8"), "lora")
    with pytest.raises(Unsupported, match=r"beside weights in int8 .*petlbench.merge.save_merged"):
        to_peft(method, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
