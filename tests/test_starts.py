"""How every trained tensor starts: its distribution, on a network wide enough to see it."""

import math
from collections import defaultdict
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from scipy import stats
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from petlbench import registry
from petlbench.delta import trained
from tests.tiny import tiny

WIDTH = 128


@register_model
def petlbench_wide(
    *, num_classes: int, img_size: int, drop_path_rate: float, **_: Any
) -> VisionTransformer:
    """12 blocks of width 128."""
    return VisionTransformer(
        img_size=img_size,
        patch_size=4,
        embed_dim=WIDTH,
        depth=12,
        num_heads=4,
        num_classes=num_classes,
        drop_path_rate=drop_path_rate,
    )


# A tensor and the shape of the weight that it belongs to -> (what is drawn from, the draws)
Start = Callable[[Tensor, torch.Size], tuple[Any, Tensor]]
UNIFORM = stats.uniform(-1, 2)  # within -1 and 1
NORMAL = stats.norm()
CUT = stats.truncnorm(-2, 2)  # a normal cut at two deviations


def kaiming(tensor: Tensor, shape: torch.Size) -> tuple[Any, Tensor]:
    """Within 1 / sqrt(fan_in), as torch starts its layers and their biases."""
    return UNIFORM, tensor * math.sqrt(math.prod(shape[1:]))


def xavier(tensor: Tensor, shape: torch.Size) -> tuple[Any, Tensor]:
    """Within sqrt(6 / (fan_in + fan_out))."""
    return UNIFORM, tensor * math.sqrt((shape[0] + shape[1]) * math.prod(shape[2:]) / 6)


def uniform(bound: float) -> Start:
    return lambda tensor, shape: (UNIFORM, tensor / bound)


def normal(std: float, mean: float = 0.0) -> Start:
    return lambda tensor, shape: (NORMAL, (tensor - mean) / std)


def cut(std: float) -> Start:
    return lambda tensor, shape: (CUT, tensor / std)


def constant(value: float) -> Start:
    return lambda tensor, shape: (value, tensor)


def centre(tensor: Tensor, shape: torch.Size) -> tuple[Any, Tensor]:
    """A convolution that passes each channel on: zero once that is taken off."""
    identity = torch.zeros(shape)
    identity[:, :, 1, 1] = torch.eye(shape[0])
    return 0.0, tensor - identity


ZEROS, ONES, SMALL = constant(0.0), constant(1.0), normal(0.02)
PROMPTS = uniform(math.sqrt(6 / (3 * 4 * 4 + WIDTH)))
LOW_RANK = {"*.down.weight": kaiming, "*.up.weight": ZEROS}
SIDE = {**LOW_RANK, "mix.*": kaiming}
BINARY = {"*.down.weight": kaiming, "*.up.weight": cut(0.001)}
BYPASS = {"*.down.weight": xavier, "*.conv.weight": centre, "*.up.weight": ZEROS, "*.bias": ZEROS}
LADDER = {
    "gates": ZEROS,
    "*norm*.weight": ONES,
    "*norm*.bias": ZEROS,
    "down.*": kaiming,
    "up.*": kaiming,
    "side.*": kaiming,
}
SEARCHED = {
    "*_bias": ZEROS,
    "*.down": SMALL,
    "*.up": SMALL,
    "prompts.*": uniform(math.sqrt(6 / (100 + WIDTH))),
}
NORM_AND_LINEAR = {
    "*.norm.weight": ONES,
    "*.norm.bias": ZEROS,
    "*.of_norm": constant(1e-6),
    "*.of_input": ONES,
    "*.convolutions.*": kaiming,
    "*.weight": SMALL,
    "*.bias": ZEROS,
}
PRETRAINED: dict[str, Start] = {}  # tensors of the network, which start as they are there

# What starts how: the first pattern that a tensor's name matches. The head comes with each.
STARTS: dict[str, dict[str, Start]] = {
    "full": PRETRAINED,
    "linear": PRETRAINED,
    "bitfit": PRETRAINED,
    "ln_tune": PRETRAINED,
    "adapter": {"*.weight": SMALL, "*.bias": ZEROS},
    "adapter_houlsby": {"*.weight": cut(0.01), "*.bias": ZEROS},
    "adapter_plus": {"*.gamma": ONES, "*.weight": cut(0.01), "*.bias": ZEROS},
    "adaptformer": LOW_RANK | {"*.bias": ZEROS},
    "bi_adaptformer": BINARY,
    "bi_lora": BINARY,
    "convpass": BYPASS,
    "convpass_attn": BYPASS,
    "dora": LOW_RANK,  # and the magnitudes, below
    "dtl": LOW_RANK,
    "dtl_plus": SIDE,
    "dtl_plus_star": SIDE,
    "fact_tt": {"*.u.weight": kaiming, "*.v.weight": ZEROS, "*.core.weight": kaiming},
    "fact_tk": {"*.u.weight": kaiming, "*.v.weight": ZEROS, "*.tucker.*": xavier},
    "lora": LOW_RANK,
    "lora_noah": {"*.weight": SMALL},
    "lst": LADDER,
    "lst_fisher": LADDER,
    "mona": NORM_AND_LINEAR,
    "noah": SEARCHED,
    "noah_subnet": SEARCHED,
    "repadapter": {"*.down.weight": xavier, "*.up.*": ZEROS, "*.bias": ZEROS},
    "sct": {"*.weight": SMALL, "*.bias": ZEROS},
    "ssf": {"*.scale": normal(0.02, mean=1.0), "*.shift": SMALL},
    "vpt_deep": {"prompts.*": PROMPTS},
    "vpt_shallow": {"prompts.*": PROMPTS},
    "vqt": {"queries": PROMPTS},
}
HEAD = {"backbone.net.head.weight": SMALL, "backbone.net.head.bias": ZEROS}
# What the values of the yamls do not show.
CHOICES: list[tuple[str, dict[str, Any], dict[str, Start]]] = [
    ("adapter", {"init": "zero_up"}, LOW_RANK | {"*.bias": ZEROS}),
    ("adapter", {"init": "houlsby"}, {"*.weight": cut(0.01), "*.bias": ZEROS}),
    ("convpass", {"conv_init": "xavier"}, BYPASS | {"*.conv.weight": xavier}),
]


def starts(tensors: dict[str, Tensor], rows: dict[str, Start]) -> None:
    """Each tensor is drawn as the first row that names it says; those of a row go together."""
    draws: dict[tuple[str, Any], list[Tensor]] = defaultdict(list)
    for name, tensor in tensors.items():
        pattern = next((row for row in rows if fnmatchcase(name, row)), None)
        assert pattern is not None, f"no row says how {name} starts"
        weight = tensors.get(f"{name.removesuffix('.bias')}.weight", tensor)
        drawn_from, values = rows[pattern](tensor, weight.shape)
        draws[pattern, drawn_from].append(values.flatten().double())
    assert {pattern for pattern, _ in draws} == set(rows)
    for (pattern, drawn_from), drawn in draws.items():
        if isinstance(drawn_from, float):
            assert (torch.cat(drawn) == torch.tensor(drawn_from).double()).all(), pattern
        else:
            assert not badly_drawn(torch.cat(drawn), drawn_from), pattern


def badly_drawn(values: Tensor, drawn_from: Any) -> str:
    """Why these are no draws, or nothing: within four standard errors, and by the whole curve."""
    count, std = len(values), drawn_from.std()
    kurtosis = 3 + float(drawn_from.stats(moments="k"))
    low, high = drawn_from.support()
    near = 12 / count * (high - low) if math.isfinite(high) else math.inf
    if values.min() < low - 1e-6 or values.max() > high + 1e-6:
        return "out of bounds"
    if math.isfinite(high) and drawn_from is UNIFORM and values.abs().max() < high - near:
        return "far from its bounds"
    if abs(values.mean()) > 4 * std / math.sqrt(count):
        return "off centre"
    if abs(values.std() / std - 1) > 4 * math.sqrt((kurtosis - 1) / (4 * count)):
        return "of another spread"
    return "of another form" if stats.kstest(values, drawn_from.cdf).pvalue < 1e-4 else ""


def drawn(name: str, **values: Any) -> tuple[dict[str, Tensor], Any]:
    """Trained tensors of a method on the wide network, with its yaml's own sizes."""
    method = registry.create(name, tiny("vit", name="petlbench_wide", classes=40), **values)
    found: dict[str, Tensor] = {key: tensor.detach() for key, tensor in trained(method).items()}
    return found, method


@pytest.fixture(scope="module")
def pretrained() -> dict[str, Tensor]:
    backbone = tiny("vit", name="petlbench_wide", classes=40)
    own = {f"backbone.net.{name}": tensor for name, tensor in backbone.net.named_parameters()}
    return {name: tensor for name, tensor in own.items() if name not in HEAD}


@pytest.mark.parametrize("name", registry.names())
def test_every_trained_tensor_starts_as_specified(
    name: str, pretrained: dict[str, Tensor]
) -> None:
    tensors, method = drawn(name)
    for key in tensors.keys() & pretrained.keys():
        assert STARTS[name] is PRETRAINED, f"{key} of the network is trained"
        assert torch.equal(tensors.pop(key), pretrained[key]), key
    for key in [key for key in tensors if key.endswith(".magnitude")]:
        layer, part = key.removesuffix(".magnitude").rsplit(".", 1)
        rows = method.get_submodule(layer).qkv.weight.unflatten(0, (3, -1))
        expected = rows[{"query": 0, "value": 2}[part]].norm(dim=1)
        torch.testing.assert_close(tensors.pop(key), expected.detach())
    starts(tensors, HEAD | STARTS[name])


@pytest.mark.parametrize(("name", "values", "rows"), CHOICES)
def test_choices_of_a_start(name: str, values: dict[str, Any], rows: dict[str, Start]) -> None:
    starts(drawn(name, **values)[0], HEAD | rows)


def test_the_check_tells_distributions_apart() -> None:
    """Else the table above would hold for anything."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(6000, generator=generator).double() * 2 - 1
    bell = torch.randn(6000, generator=generator).double()
    assert badly_drawn(flat, UNIFORM) == badly_drawn(bell, NORMAL) == ""
    assert badly_drawn(bell / 3**0.5 / 3, UNIFORM)
    assert badly_drawn(flat * 0.9, UNIFORM)
    assert badly_drawn(flat * 1.1, UNIFORM)
    assert badly_drawn(flat * 3**0.5, NORMAL)
    assert badly_drawn(bell * 1.1, NORMAL)
    assert badly_drawn(bell, CUT)
    assert badly_drawn(flat * 0.7737**0.5 * 3**0.5, CUT)
