"""Properties of every registered method, and some of single methods, on tiny networks.

A method with a yaml in conf/method is tested; its `facts` say what to expect.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.eva import Eva
from torch import nn
from torch.nn import functional as F

from petlbench import registry
from petlbench.config import compose
from petlbench.delta import trained
from petlbench.errors import Unsupported, UserError
from petlbench.layers import DepthwiseConv
from petlbench.method import Method, frozen_prefix
from petlbench.methods.dora import Decomposed
from petlbench.methods.dtl import DTL
from petlbench.methods.peft_tuner import PEFTTuner
from petlbench.model.drop_path import DropPath
from petlbench.run import build
from petlbench.swap import swap
from petlbench.testing import (
    FAMILIES,
    METHOD_PROPERTIES,
    NETWORK_PROPERTIES,
    Case,
    Skipped,
    Undeclared,
    images,
    method_on,
    plain_logits,
    randomised,
    support_is_as_declared,
    supported,
    tiny,
    tiny_method,
)
from petlbench.testing.once import (
    parameters_are_as_declared,
    saved_bytes_on_shapes_are_those_of_a_step,
    starts_are_as_declared,
    wrong_values_are_refused_in_one_line,
)
from petlbench.testing.passes import no_tensor_stays_on_the_cpu
from petlbench.testing.properties import (
    copies_are_exact_and_independent,
    every_trained_tensor_gets_a_gradient,
    merged_is_equal_or_refused,
    pickles_are_exact_and_independent,
    starts_as_pretrained_if_declared,
)
from tests.helpers import one_of_each_class, sampled

NAMES = registry.names()
Property = Callable[[Case], None]


def check(holds: Property, case: Case) -> None:
    try:
        holds(case)
    except Undeclared as missing:
        pytest.fail(str(missing))
    except Skipped as reason:
        pytest.skip(str(reason))


# It traces every operation, which takes seconds; see below.
PLAIN_PROPERTIES = [holds for holds in NETWORK_PROPERTIES if holds != no_tensor_stays_on_the_cpu]
SUPPORTED = [(name, family) for name in NAMES for family in FAMILIES if supported(name, family)]


# In the fast run each class on a ViT; what differs on other networks, there.
CLASSES = one_of_each_class()
WALKS = [
    name
    for name in CLASSES
    if registry.kind(name).features is not Method.features
    or registry.kind(name).forward is not Method.forward
]
# Those with a walk of their own, and single modules in each place.
EVERYWHERE = [*WALKS, "lora", "ssf"]
# On a Swin modules have other shapes, which the rest of the properties does not see.
OF_SHAPES = (
    starts_as_pretrained_if_declared,
    every_trained_tensor_gets_a_gradient,
    merged_is_equal_or_refused,
)
# Templates are pickled, so all properties are of pickled methods; a deep copy works alike.
COPIES = (copies_are_exact_and_independent, pickles_are_exact_and_independent)
TRIED = [(*pair, holds) for pair in SUPPORTED for holds in PLAIN_PROPERTIES]


def is_fast_on_a_network(name: str, family: str, holds: Property) -> bool:
    if family == "vit":
        return name in CLASSES and (holds not in COPIES or name in EVERYWHERE)
    if holds in COPIES:
        return False
    if family == "swin":
        return name in EVERYWHERE or (name in CLASSES and holds in OF_SHAPES)
    return name in ("dtl_plus", "ssf")


TRIED_FAST = [one for one in TRIED if is_fast_on_a_network(*one)]


@pytest.mark.parametrize(
    ("name", "family", "holds"),
    sampled(TRIED, TRIED_FAST),
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_property_on_a_network(name: str, family: str, holds: Property) -> None:
    case = Case(name, family)
    check(support_is_as_declared, case)
    check(holds, case)


@pytest.mark.parametrize(
    ("name", "family"),
    sampled(SUPPORTED, [(name, "vit") for name in ("dtl_plus", "lora", "vpt_deep")]),
)
def test_no_tensor_stays_on_the_cpu(name: str, family: str) -> None:
    check(no_tensor_stays_on_the_cpu, Case(name, family))


# What a yaml declares is tested for each; what its class does, for each class.
DECLARED = [(name, holds) for name in NAMES for holds in METHOD_PROPERTIES]
# Tuners of PEFT share a class, and building one at full size takes up to five seconds.
TUNERS = [name for name in NAMES if registry.kind(name).__module__ == PEFTTuner.__module__]
SAMPLED = [name for name in NAMES if name not in TUNERS or name in (*CLASSES, "ia3", "vera")]
COUNTED_ON_SHAPES = ("adalora", "dtl_plus", "lora", "lst", "noah", "ssf", "vpt_deep")


def is_fast(name: str, holds: Property) -> bool:
    if holds == parameters_are_as_declared:  # decompositions of large weights take a minute
        return name in SAMPLED and not registry.kind(name).needs_weights
    if holds == starts_are_as_declared:
        return name in SAMPLED
    if holds == saved_bytes_on_shapes_are_those_of_a_step:
        return name in COUNTED_ON_SHAPES
    return name in CLASSES or holds != wrong_values_are_refused_in_one_line


@pytest.mark.parametrize(
    ("name", "holds"),
    sampled(DECLARED, [one for one in DECLARED if is_fast(*one)]),
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_property_of_a_method(name: str, holds: Property) -> None:
    check(holds, Case(name, "vit"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_declared_families_are_refused(family: str) -> None:
    for name in NAMES:
        if not supported(name, family):
            support_is_as_declared(Case(name, family))


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize(
    ("name", "prefix"),
    [("linear", 12), ("dtl", 7), ("dtl_plus", 7), ("dtl_plus_star", 1), ("lora", 0), ("full", 0)],
)
def test_frozen_prefix(name: str, prefix: int, family: str) -> None:
    assert frozen_prefix(tiny_method(name, family)) == prefix


@pytest.mark.parametrize("inject_from", range(1, 13))
def test_inputs_up_to_the_first_injection_are_constant(inject_from: int) -> None:
    assert frozen_prefix(tiny_method("dtl", "vit", inject_from=inject_from)) == inject_from


def test_frozen_prefix_leaves_the_mode_alone() -> None:
    method = tiny_method("dtl", "vit").eval()
    frozen_prefix(method)
    assert not method.training


# Particular to one method


@pytest.mark.parametrize("name", ["lora", "lora_noah"])
def test_only_noahs_lora_updates_the_key(name: str) -> None:
    method = randomised(tiny_method(name, "vit", dropout=0.0)).eval()
    qkv = method.backbone.net.blocks[3].attn.qkv
    x = torch.randn(2, 17, 32)
    plain = qkv.qkv if name == "lora" else qkv.op
    q, k, v = (qkv(x) - plain(x)).chunk(3, dim=-1)
    assert q.any()
    assert v.any()
    assert bool(k.any()) == (name == "lora_noah")


def test_lora_with_noahs_start_differs_from_the_pretrained_network() -> None:
    method = tiny_method("lora_noah", "vit").eval()
    assert not method.starts_as_pretrained
    assert not torch.equal(method(images()), plain_logits(tiny("vit")))


def test_lora_scales_its_update() -> None:
    x = torch.randn(1, 17, 32)
    updates = []
    for scale in (1.0, 2.5):
        qkv = (
            randomised(tiny_method("lora", "vit", scale=scale))
            .eval()
            .backbone.net.blocks[0]
            .attn.qkv
        )
        updates.append(qkv(x) - qkv.qkv(x))
    torch.testing.assert_close(updates[1], 2.5 * updates[0], rtol=1e-3, atol=1e-6)


def test_lora_update_is_dropped_with_its_branch() -> None:
    backbone = tiny("vit", drop_path=0.5)
    method = randomised(registry.create("lora", backbone, dropout=0.0)).train()
    for path in backbone.modules():
        if isinstance(path, DropPath):
            path.keep = torch.zeros(3)
    block = backbone.net.blocks[5]
    z = torch.randn(3, 17, 32)
    assert torch.equal(block(z), z)
    assert method.training


def test_dtl_without_beta_has_no_activation() -> None:
    method = randomised(tiny_method("dtl", "vit", beta=None))
    h = torch.randn(2, 17, 32)
    assert torch.equal(method.theta(h, method.backbone.stages[0]), h)  # type: ignore[operator]


def test_dtl_theta_is_swish() -> None:
    method = tiny_method("dtl", "vit", beta=3.0)
    assert isinstance(method, DTL)
    h = torch.randn(2, 17, 32)
    expected = h / (1 + torch.exp(-3.0 * h))
    torch.testing.assert_close(method.theta(h, method.backbone.stages[0]), expected)


def test_dtl_follows_its_equations() -> None:
    """Written out once more, block by block, on the pre-trained blocks."""
    method = randomised(tiny_method("dtl", "vit", extract_from=3, inject_from=6)).eval()
    backbone, h = method.backbone, torch.zeros(1)
    sides = dict(method.named_parameters())
    z = backbone.embed(images())
    for number, block in enumerate(backbone.net.blocks, 1):
        if number >= 3:
            a, c = (sides[f"side.{number}.{end}.weight"].T for end in ("down", "up"))
            h = h + (z @ a) @ c
        z = block(z)
        if number >= 6:
            z = z + h * torch.sigmoid(100.0 * h)
    torch.testing.assert_close(backbone.head(backbone.pooled(z)), method(images()))


def test_dtl_has_no_side_path_where_nothing_is_injected() -> None:
    method = tiny_method("dtl_plus", "swin", extract_from=1, inject_from=8)
    names = {n for n in trained(method) if not n.startswith("backbone.")}
    sides = {f"side.{n}.{end}.weight" for n in range(5, 13) for end in ("down", "up")}
    assert names == sides | {"mix.5.weight", "mix.11.weight"}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_depthwise_convolution_keeps_the_size_and_pads_as_torch_does(kernel: int) -> None:
    conv = DepthwiseConv(6, kernel)
    same = nn.Conv2d(6, 6, kernel, padding="same", groups=6, bias=False)
    same.load_state_dict(conv.state_dict())
    z = torch.randn(2, 6, 5, 7)
    assert torch.equal(conv(z), same(z))


def test_convolution_leaves_the_class_token_alone() -> None:
    method = randomised(tiny_method("dtl_plus", "vit", beta=None))
    assert isinstance(method, DTL)
    h = torch.randn(2, 17, 32)
    theta = method.theta(h, method.backbone.stages[0])
    assert torch.equal(theta[:, 0], h[:, 0])
    assert not torch.equal(theta[:, 1:], h[:, 1:])


def test_bitfit_can_leave_the_relative_positions_frozen() -> None:
    tables = [n for n in trained(tiny_method("bitfit", "swin")) if n.endswith("table")]
    assert len(tables) == 12
    assert not [
        n for n in trained(tiny_method("bitfit", "swin", include_relpos=False)) if "table" in n
    ]


# The registry, and wrong values


BAD_VALUES = [
    ("lora", {"rank": 0}, "rank is 0; it must be a whole number from 1 to 32"),
    ("lora", {"rank": 33}, "rank is 33"),
    ("lora", {"rank": 1.5}, "rank is 1.5"),
    ("lora", {"rank": "eight"}, "rank is 'eight'"),
    ("lora", {"scale": -1.0}, "scale is -1.0; it must be a number above 0"),
    ("lora", {"scale": float("nan")}, "scale is nan"),
    ("lora", {"dropout": 1.0}, "dropout is 1.0"),
    ("lora_noah", {"dropout": 1.0}, "dropout is 1.0"),
    ("adapter", {"init": "zero"}, "unknown method.init 'zero'; did you mean 'zero_up'.*Known: "),
    ("lora", {"rnak": 4}, "unknown value of method lora 'rnak'; did you mean 'rank'"),
    ("dtl", {"rank": 0}, "rank is 0"),
    ("dtl", {"inject_from": 13}, "inject_from 13 is outside the network's 12 blocks"),
    ("dtl", {"inject_from": 0}, "inject_from 0 is outside the network's 12 blocks"),
    ("dtl", {"extract_from": 13}, "extract_from 13 is outside"),
    ("dtl", {"beta": -1.0}, "beta is -1.0"),
    ("dtl_plus", {"kernel": 0}, "kernel is 0; it must be a whole number of at least 1"),
    # torch cannot count the elements
    ("dtl_plus", {"kernel": 10**13}, "kernel is 10000000000000; it must be .* from 1 to 1000000"),
    ("convpass", {"hidden": 10**13}, "hidden is 10000000000000; it must be"),
    ("hst", {"widths": [8, 8, 8, 10**20]}, "method.widths is .* from 1 to 1000000"),
    ("noah", {"dims": [1, 10**20]}, "a size of method.dims is 100000000000000000000; it must be"),
    *(
        (name, {key: 10**20}, f"{key} is 100000000000000000000; it must be .* from 1 to 1000000")
        for name, key in (
            *(("adapter", "rank"), ("arc", "rank"), ("fpet_bi_adaptformer", "rank")),
            *(("fpet_lora", "refine_rank"), ("hst", "meta_tokens"), ("hydra", "rank")),
            *(("mona", "hidden"), ("repadapter", "hidden"), ("vpt_deep", "prompts")),
            ("vqt", "queries"),
        )
    ),
    ("hydra", {"sites": [1]}, r"method.sites is \[1\]; it must be a list of texts"),
    ("hst", {"heads": [2, 4, 4, 5.0]}, "method.heads is .*; it must be a list of whole numbers"),
    ("mlp_3", {"layers": 10**9}, "layers is 1000000000; it must be a whole number from 2 to 100"),
    ("gps", {"selection_batch": 1}, "selection_batch is 1; .* of at least 2"),
    ("adapter_plus", {"adapter_drop_path": 1}, "method.adapter_drop_path is 1"),
]


def test_values_beside_those_of_the_yaml_are_set_where_a_class_has_more() -> None:
    """As on the command line; what PEFT's config lacks is refused."""
    made: Any = registry.create("peft_lora", tiny("vit"), use_rslora=True)
    assert made.tuner.peft_config["default"].use_rslora is True
    with pytest.raises(UserError, match="unknown key of method 'use_rs'"):
        registry.create("peft_lora", tiny("vit"), use_rs=True)


@pytest.mark.parametrize(("name", "values", "message"), BAD_VALUES)
def test_bad_values_are_refused_in_one_line(
    name: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        tiny_method(name, "vit", **values)
    assert "\n" not in str(error.value)


def test_unknown_method_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="unknown method 'lorra'; did you mean 'lora'"):
        tiny_method("lorra", "vit")
    with pytest.raises(UserError, match="unknown method 'paper'"):
        registry.values("paper")


def test_a_head_of_zeros_cannot_be_rounded() -> None:
    """All its entries would get the same gradient."""
    message = "method.head_bits rounds a head .* set backbone.head_start=small_normal"
    for name in ("bi_lora", "bi_adaptformer"):
        with pytest.raises(UserError, match=message):
            method_on(tiny("vit", head_start="zeros"), name, head_bits=1)
        method_on(tiny("vit", head_start="zeros"), name)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("adapter", "eva_giant_patch14_224.clip_ft_in1k"),  # no rotary positions
        ("fact_tk", "vit_wee_patch16_reg1_gap_256.sbb_in1k"),  # an MLP five times as wide
    ],
)
def test_relatives_of_the_usual_networks_run(name: str, network: str) -> None:
    given = [f"method={name}", f"backbone.name={network}", "backbone.pool=norm_then_mean"]
    size = 256 if "256" in network else 224
    build.check(compose.single([*given, f"input.size={size}"]))


def test_fact_refuses_an_mlp_of_convolutions() -> None:
    given = ["method=fact_tk", "backbone=convnext_b", "backbone.name=convnext_atto.d2_in1k"]
    with pytest.raises(Unsupported, match=r"matches '\*\.attn\.qkv'"):
        build.check(compose.single(given))


def test_vqt_refuses_attention_that_it_does_not_compute() -> None:
    network = "vit_dwee_patch16_reg1_gap_256.sbb_in1k"
    given = ["method=vqt", f"backbone.name={network}", "backbone.pool=norm_then_mean"]
    with pytest.raises(
        Unsupported, match=f"VQT supports plain attention only, not that of {network}"
    ):
        build.check(compose.single([*given, "input.size=256"]))


def test_a_small_change_of_doras_magnitude_counts_in_16_bit() -> None:
    """bf16 has no number between 1 and 1.0078, and training has the products in bf16."""
    weight, x = torch.randn(8, 6), torch.randn(4, 6)
    change = Decomposed(weight, 2, 1.0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        product = F.linear(x, weight)
        assert not change(x, product, weight).any()
        change.magnitude.mul_(1.001)
        moved = change(x, product, weight)
    assert moved.dtype == torch.bfloat16
    torch.testing.assert_close(moved.float(), 0.001 * product.float(), rtol=2e-2, atol=1e-5)


def test_swap_names_the_existing_modules() -> None:
    with pytest.raises(
        Unsupported, match=r"no module of VisionTransformer matches '\*\.attn\.qvk'"
    ) as error:
        swap(tiny("vit"), "*.attn.qvk", nn.Sequential)
    assert "fc1, fc2, " in str(error.value)
    assert "qkv" in str(error.value)


def test_a_projection_that_timm_never_calls_is_not_swapped() -> None:
    """An EVA with a fused projection reads its weight alone and adds biases of its own."""
    eva = Eva(img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4)
    with pytest.raises(Unsupported, match="EvaAttention uses the weight of its qkv projection"):
        swap(eva, "*.attn.qkv", nn.Sequential)
    with pytest.raises(Unsupported, match="without calling it"):
        swap(eva.blocks[0], "*.attn.qkv", nn.Sequential)


def test_suites_name_methods() -> None:
    for members in registry.suites().values():
        assert set(members) <= set(registry.names()) | set(registry.suites())


@pytest.mark.parametrize("name", ["repadapter", "convpass", "adapter_houlsby"])
def test_the_order_of_sites_changes_no_draw(name: str) -> None:
    sites = registry.values(name)["sites"]
    first, second = tiny_method(name, "vit"), tiny_method(name, "vit", sites=sites[::-1])
    assert all(
        torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True)
    )
