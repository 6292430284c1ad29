"""Properties of every method on tiny networks; a new yaml is tested by being there."""

import copy
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from timm.models.eva import Eva
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from petlbench import registry
from petlbench.cost import shapes
from petlbench.errors import Unsupported, UserError
from petlbench.layers import DepthwiseConv
from petlbench.method import Method, frozen_prefix
from petlbench.methods.dtl import DTL
from petlbench.model.backbone import Backbone
from petlbench.model.drop_path import DropPath, keep_masks
from petlbench.swap import swap
from tests.tiny import SMALLER, images, tiny

NAMES = registry.names()
FAMILIES = ("vit", "swin")
# Defined for plain ViTs by their papers, or (VPT) not for networks with rotary positions.
PLAIN_VIT_ONLY = {"lst", "lst_fisher", "vqt", "noah", "noah_subnet"}
TOKENS = {"vpt_shallow", "vpt_deep"}
SUPPORTED = {
    "vit": set(NAMES),
    "swin": set(NAMES) - PLAIN_VIT_ONLY,
    "dinov3": set(NAMES) - PLAIN_VIT_ONLY - TOKENS,
    "convnext": {"full", "linear", "bitfit", "ln_tune", "ssf"}  # what needs no attention
    | {"dtl", "dtl_plus", "dtl_plus_star", "adapter_plus"},
}
PAIRS = [(name, family) for name in NAMES for family in FAMILIES]
every_pair = pytest.mark.parametrize(("name", "family"), PAIRS)
OTHERS = [(name, family) for name in NAMES for family in ("dinov3", "convnext")]
on_all = pytest.mark.parametrize(("name", "family"), PAIRS + OTHERS)
# refusals are for on_all
THAT_CAN_BE = [(name, family) for name, family in PAIRS + OTHERS if name in SUPPORTED[family]]
where_supported = pytest.mark.parametrize(("name", "family"), THAT_CAN_BE)


def made(name: str, family: str, **changed: Any) -> Method:
    """A method by name on a tiny network; pytest skips a pair that the method refuses."""
    return on(tiny(family), name, **changed)


def on(backbone: Backbone, name: str, **changed: Any) -> Method:
    try:
        return registry.create(name, backbone, **SMALLER.get(name, {}) | changed)
    except Unsupported as error:
        assert name not in SUPPORTED[backbone.tag.removeprefix("petlbench_")]
        pytest.skip(str(error))


def randomised(method: Method) -> Method:
    """All trained tensors filled, also those that start at zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return method


def trained(method: Method) -> dict[str, nn.Parameter]:
    return {name: tensor for name, tensor in method.named_parameters() if tensor.requires_grad}


def loss(method: Method) -> Tensor:
    with keep_masks(method, len(images()), torch.Generator().manual_seed(0)):
        return method(images()).square().mean()  # type: ignore[no-any-return]


def plain_logits(backbone: Backbone) -> Tensor:
    with torch.no_grad():
        return Method(backbone).eval()(images())  # type: ignore[no-any-return]


@on_all
def test_starts_as_the_pretrained_network_where_declared(name: str, family: str) -> None:
    expected = plain_logits(tiny(family))
    method = made(name, family).eval()
    assert torch.equal(method(images()), expected) == method.starts_as_pretrained


@on_all
def test_every_trained_tensor_learns(name: str, family: str) -> None:
    # Under pool=cls, what the last block does to its patches alone reaches no logit.
    method = randomised(on(tiny(family, pool="norm_then_mean"), name)).eval()
    loss(method).backward()
    idle = [n for n, p in trained(method).items() if p.grad is None or not p.grad.any()]
    assert idle == []


@on_all
def test_no_frozen_tensor_moves_and_all_trained_ones_do(name: str, family: str) -> None:
    method = randomised(made(name, family)).train()
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    optimiser = torch.optim.AdamW(method.parameters(), lr=0.01, weight_decay=0.1)
    loss(method).backward()
    optimiser.step()
    moved = {n for n, p in method.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(trained(method))


@where_supported
def test_head_is_trained(name: str, family: str) -> None:
    method = made(name, family)
    head = {id(p) for p in method.backbone.head.parameters()}
    assert head <= {id(p) for p in trained(method).values()}


@where_supported
def test_copies_are_exact_and_independent(name: str, family: str) -> None:
    method = randomised(made(name, family)).eval()
    expected = method(images())
    for twin in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert torch.equal(twin(images()), expected)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1.0)
        assert not torch.equal(twin(images()), expected)
        assert torch.equal(method(images()), expected)


@where_supported
def test_forward_is_pure(name: str, family: str) -> None:
    method = randomised(made(name, family)).eval()
    before = {n: tensor.clone() for n, tensor in method.state_dict().items()}
    attributes = {n: dict(vars(module)) for n, module in method.named_modules()}
    batch = images()
    z = method.backbone.embed(batch)
    kept = z.clone()
    with torch.no_grad():
        method.features(z)
        assert torch.equal(z, kept)
        assert torch.equal(method(batch), method(batch))
    assert torch.equal(batch, images())
    assert all(torch.equal(tensor, before[n]) for n, tensor in method.state_dict().items())
    for n, module in method.named_modules():
        assert vars(module).keys() == attributes[n].keys()
        assert all(vars(module)[key] is value for key, value in attributes[n].items())


@where_supported
def test_blocks_do_not_write_into_their_input(name: str, family: str) -> None:
    method = randomised(made(name, family)).eval()
    versions: list[tuple[Tensor, int]] = []

    def watched(block: Any) -> Any:
        def call(z: Tensor) -> Tensor:
            versions.append((z, z._version))
            return block(z)  # type: ignore[no-any-return]

        return call

    for stage in method.backbone.stages:
        stage.blocks[:] = map(watched, stage.blocks)
    method(images())
    assert len(versions) >= method.backbone.depth
    assert all(z._version == version for z, version in versions)


@where_supported
def test_drop_path_follows_its_seeded_mask(name: str, family: str) -> None:
    method = randomised(on(tiny(family, drop_path=0.5), name)).train()
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = images(8)

    def draw(seed: int) -> Tensor:
        with keep_masks(method, len(batch), torch.Generator().manual_seed(seed)):
            first = method(batch).detach()
            assert torch.equal(method(batch), first), "a mask is not drawn at each forward pass"
        return first  # type: ignore[no-any-return]

    paths = [path for path in method.modules() if isinstance(path, DropPath)]
    drops = any(path.training for path in paths)  # VPT and VQT keep the backbone in eval mode
    first = draw(3)
    assert paths
    assert torch.equal(draw(3), first)
    assert torch.equal(draw(4), first) != drops
    assert torch.equal(method.eval()(batch), first) != drops


@where_supported
def test_blocks_before_the_frozen_prefix_save_nothing(name: str, family: str) -> None:
    method = randomised(made(name, family)).train()
    prefix, saved = frozen_prefix(method), []
    assert method.training
    count = 0

    def keep(kept: list[Tensor], tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    def watched(block: Any) -> Any:
        def call(z: Tensor) -> Tensor:
            nonlocal count
            count += 1
            kept: list[Tensor] = []
            with torch.autograd.graph.saved_tensors_hooks(partial(keep, kept), lambda t: t):
                out = block(z)
            if count <= prefix:
                saved.extend(kept)
                assert not z.requires_grad
                assert not out.requires_grad
            elif count == prefix + 1:
                assert out.requires_grad
            return out  # type: ignore[no-any-return]

        return call

    for stage in method.backbone.stages:
        stage.blocks[:] = map(watched, stage.blocks)
    with keep_masks(method, len(images())):
        method(images())
    assert saved == []
    assert count == method.backbone.depth


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "prefix"),
    [("linear", 12), ("dtl", 7), ("dtl_plus", 7), ("dtl_plus_star", 1), ("lora", 0), ("full", 0)],
)
def test_frozen_prefix(name: str, prefix: int, family: str) -> None:
    assert frozen_prefix(made(name, family)) == prefix


@pytest.mark.parametrize("inject_from", range(1, 13))
def test_inputs_up_to_the_first_injection_are_constant(inject_from: int) -> None:
    assert frozen_prefix(made("dtl", "vit", inject_from=inject_from)) == inject_from


def test_frozen_prefix_leaves_the_mode_alone() -> None:
    method = made("dtl", "vit").eval()
    frozen_prefix(method)
    assert not method.training


# Particular to one method


@pytest.mark.parametrize("name", ["lora", "lora_noah"])
def test_only_noahs_lora_updates_the_key(name: str) -> None:
    method = randomised(made(name, "vit", dropout=0.0)).eval()
    qkv = method.backbone.net.blocks[3].attn.qkv
    x = torch.randn(2, 17, 32)
    plain = qkv.qkv if name == "lora" else qkv.op
    q, k, v = (qkv(x) - plain(x)).chunk(3, dim=-1)
    assert q.any()
    assert v.any()
    assert bool(k.any()) == (name == "lora_noah")


def test_lora_with_noahs_start_differs_from_the_pretrained_network() -> None:
    method = made("lora_noah", "vit").eval()
    assert not method.starts_as_pretrained
    assert not torch.equal(method(images()), plain_logits(tiny("vit")))


def test_lora_scales_its_update() -> None:
    x = torch.randn(1, 17, 32)
    updates = []
    for scale in (1.0, 2.5):
        qkv = randomised(made("lora", "vit", scale=scale)).eval().backbone.net.blocks[0].attn.qkv
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
    method = randomised(made("dtl", "vit", beta=None))
    h = torch.randn(2, 17, 32)
    assert torch.equal(method.theta(h, method.backbone.stages[0]), h)  # type: ignore[operator]


def test_dtl_theta_is_swish() -> None:
    method = made("dtl", "vit", beta=3.0)
    assert isinstance(method, DTL)
    h = torch.randn(2, 17, 32)
    expected = h / (1 + torch.exp(-3.0 * h))
    torch.testing.assert_close(method.theta(h, method.backbone.stages[0]), expected)


def test_dtl_follows_its_equations() -> None:
    """Written out once more, block by block, on the pre-trained blocks."""
    method = randomised(made("dtl", "vit", extract_from=3, inject_from=6)).eval()
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
    method = made("dtl_plus", "swin", extract_from=1, inject_from=8)
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
    method = randomised(made("dtl_plus", "vit", beta=None))
    assert isinstance(method, DTL)
    h = torch.randn(2, 17, 32)
    theta = method.theta(h, method.backbone.stages[0])
    assert torch.equal(theta[:, 0], h[:, 0])
    assert not torch.equal(theta[:, 1:], h[:, 1:])


def test_bitfit_tables_of_relative_positions_are_a_choice() -> None:
    tables = [n for n in trained(made("bitfit", "swin")) if n.endswith("table")]
    assert len(tables) == 12
    assert not [n for n in trained(made("bitfit", "swin", include_relpos=False)) if "table" in n]


# The registry, and values that cannot be


BAD_VALUES = [
    ("lora", {"rank": 0}, "rank is 0; it must be a whole number from 1 to 32"),
    ("lora", {"rank": 33}, "rank is 33"),
    ("lora", {"rank": 1.5}, "rank is 1.5"),
    ("lora", {"rank": "eight"}, "rank is eight"),
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
    ("dtl_plus", {"kernel": 0}, "kernel is 0; it must be a whole number from 1"),
]


@pytest.mark.parametrize(("name", "values", "message"), BAD_VALUES)
def test_bad_values_are_refused_in_one_line(
    name: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        made(name, "vit", **values)
    assert "\n" not in str(caught.value)


def test_unknown_method_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="unknown method 'lorra'; did you mean 'lora'"):
        made("lorra", "vit")
    with pytest.raises(UserError, match="unknown method 'paper'"):
        registry.values("paper")


def test_swap_says_what_there_is() -> None:
    with pytest.raises(
        Unsupported, match=r"no module of VisionTransformer matches '\*\.attn\.qvk'"
    ) as caught:
        swap(tiny("vit"), "*.attn.qvk", nn.Sequential)
    assert "fc1, fc2, " in str(caught.value)
    assert "qkv" in str(caught.value)


def test_a_projection_that_timm_never_calls_is_not_swapped() -> None:
    """An EVA with a fused projection reads its weight alone and adds biases of its own."""
    eva = Eva(img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4)
    with pytest.raises(Unsupported, match="EvaAttention takes the weight of its qkv projection"):
        swap(eva, "*.attn.qkv", nn.Sequential)
    with pytest.raises(Unsupported, match="without calling it"):
        swap(eva.blocks[0], "*.attn.qkv", nn.Sequential)


def test_suites_name_methods() -> None:
    for members in registry.suites().values():
        assert set(members) <= set(registry.names()) | set(registry.suites())


CONF = Path(__file__).parent.parent / "conf"


def yamls() -> Iterator[Path]:
    yield from (CONF / "method").glob("*.yaml")


@pytest.mark.parametrize("path", sorted(yamls()), ids=lambda path: path.stem)
def test_method_yamls_have_a_title_and_the_package_line(path: Path) -> None:
    assert path.read_text().startswith("# @package _global_\n")
    content = OmegaConf.load(path)
    assert "title" in content
    assert "suite" in content or ("lr" in content.train and content.method._partial_)


@pytest.mark.parametrize("name", ["repadapter", "convpass", "adapter_houlsby"])
def test_the_order_of_sites_changes_no_draw(name: str) -> None:
    sites = registry.values(name)["sites"]
    first, second = made(name, "vit"), made(name, "vit", sites=sites[::-1])
    assert all(
        torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True)
    )


@on_all
def test_nothing_stays_on_the_cpu_when_the_network_is_on_a_gpu(name: str, family: str) -> None:
    """On shapes: torch refuses an operation between two devices, even where there is no GPU."""
    gpu, fake = torch.device("cuda", 0), FakeTensorMode()
    method = shapes.restated(made(name, family), gpu, fake)
    with fake:
        batch = torch.empty(images().shape, device=gpu)
        for training in (True, False):
            method.train(training)
            with shapes.masks(method, len(batch)):
                assert method(batch).device == gpu
