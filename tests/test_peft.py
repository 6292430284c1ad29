"""The bridge to Hugging Face PEFT: refusals, AdaLoRA's schedule, and PEFT's LoRA beside ours."""

import copy
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from petlbench import registry
from petlbench.config import compose
from petlbench.config.schema import Target
from petlbench.cost import forecast
from petlbench.delta import trained
from petlbench.errors import Unsupported, UserError
from petlbench.method import Method, Step
from petlbench.methods import peft_checks, peft_config, peft_tuner
from petlbench.model.backbone import create
from petlbench.report.read import rows
from petlbench.run import build
from petlbench.testing import images, loss, method_on, randomised, tiny, tiny_method
from petlbench.testing.networks import SIZE
from petlbench.train import recompute
from tests.records import record
from tests.settings import train

ADAPTER = "default"
QKV = ["*.attn.qkv"]


def adapted(name: str, **changed: Any) -> Method:
    """A method of a yaml with other values, also ones that the yaml does not have."""
    kind = registry.kind(name)
    values = registry.values(name) | changed
    return registry.adapt(tiny("vit"), Target(f"{kind.__module__}.{kind.__qualname__}", values))


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("vera", {"rr": 8}, "unknown key of method 'rr'; did you mean 'r'?"),
        ("vera", {"tuner": "vra"}, r"PEFT [\d.]+: unknown tuner 'vra'; did you mean 'vera'?"),
        (
            "vera",
            {"tuner": "prompt_tuning"},
            "prompt_tuning is not for vision networks: it is",
        ),
        (
            "vera",
            {"tuner": "poly"},
            "poly is not .*: it takes the number of a task .*; set",
        ),
        ("vera", {"targets": ["*.attn.qvk"]}, r"method.targets has '\*.attn.qvk': no module of V"),
        ("vera", {"targets": []}, r"method.targets is \[\]; it must match layers"),
        (
            "vera",
            {"targets": ["*.head"]},
            "which matches the head or modules without weights",
        ),
        (
            "vera",
            {"targets": ["*.attn_drop"]},
            "matches the head or modules without weights",
        ),
        ("adalora", {"use_rslora": True}, "method.use_rslora has no effect on AdaLoRA in PEFT; l"),
        (
            "adalora",
            {"init_lora_weights": "pissa"},
            "init_lora_weights has no effect on",
        ),
        ("adamss", {"mask_interval": 3}, "unknown key of method 'mask_interval'"),
        ("peft_lora", {"use_qalora": True}, "unknown key of method 'use_qalora'"),
        ("vera", {"save_projection": False}, "unknown key of method 'save_projection'"),
        ("vera", {"r": -1}, "method.r is -1; it must be a whole number of at least 1"),
        ("vera", {"target_modules": ["qkv"]}, "unknown key of method 'target_modules'"),
        ("peft_lora", {"megatron_config": {}}, "unknown key of method 'megatron_config'"),
        ("peft_lora", {"init_lora_weights": "svd"}, "'svd'; it must be true or false or gaussian"),
        ("c3a", {"block_size": 7}, "PEFT's tuner c3a does not fit petlbench_vit: "),
        ("road", {"group_size": 7}, "PEFT refuses the values of method: The group_size must be"),
        ("vera", {"r": 0}, "method.r is 0; it must be a whole number of at least 1"),
        ("adalora", {"beta1": -1}, "method.beta1 is -1; it must be a number of at least 0"),
        (
            "adamss",
            {"subspace_rank": 0},
            "method.subspace_rank is 0; it must be a whole number of at",
        ),
        ("osf", {"effective_rank": 1.5}, "method.effective_rank is 1.5, of which a layer can use"),
        ("osf", {"effective_rank": 1.0}, "method.effective_rank is 1.0, of which a layer can use"),
        ("delora", {"delora_lambda": 0}, "method.delora_lambda is 0; it must be a number above 0"),
        (
            "adalora",
            {"beta1": 2},
            "method.beta1 is 2; it must be a number of at least 0 and below 1",
        ),
        ("peft_lora", {"init_lora_weights": "corda"}, "corda, a start that needs more than weigh"),
        ("peft_lora", {"megatron_core": "foo"}, "unknown key of method 'megatron_core'"),
        ("olora", {"init_lora_weights": 7}, "method.init_lora_weights is 7; .* gaussian or"),
        ("lokr", {"init_weights": "x"}, "'x'; it must be true or false or lycoris"),
        ("lokr", {"init_weights": 3}, "init_weights is 3; it must be true"),
        ("miss", {"init_weights": "x"}, "'x'; it must be true or false or bat or mini"),
        ("loha", {"alpha": 0}, "method.alpha is 0; it must be a number above 0"),
        ("peft_lora", {"alora_invocation_tokens": [1]}, "unknown key of method 'alora_"),
        ("loha", {"rank_dropout": 1.5}, "rank_dropout is 1.5; it must .* below 1"),  # NaN
        ("boft", {"boft_dropout": 1.5}, "boft_dropout is 1.5; it must .* below 1"),
        ("oft", {"module_dropout": 1}, "module_dropout is 1; it must .* below 1"),
        (
            "vera",
            {"bias": "x"},
            "method.bias is x; it must be none, all or TUNER_only",
        ),
        (
            "vblora",
            {"topk": 9, "num_vectors": 8, "vector_length": 16},
            "method.topk is 9; it must be at most method.num_vectors, 8",
        ),
        ("vblora", {"vector_length": 0}, r"of method \(ZeroDivisionError"),
        ("fourierft", {"random_loc_seed": None}, "method.random_loc_seed is null; it must be a"),
        ("oft", {"oft_block_size": 5}, "oft_block_size is 5, which PEFT would set to 4 here"),
        ("peft_lora", {"fan_in_fan_out": True}, "unknown key of method 'fan_in_fan_out'"),
        ("ia3", {"feedforward_modules": ["mlp.fc3"]}, "each must match a layer of method.targets"),
        ("ia3", {"feedforward_modules": ".*fc1"}, r"modules is \.\*fc1; each must match a layer"),
        ("ia3", {"feedforward_modules": "("}, "feedforward_modules is"),
        ("peft_lora", {"init_lora_weights": "eva"}, "a start that needs more than weights"),
        ("oft", {"num_cayley_neumann_terms": 1}, "must be a whole number of at least 2"),
        (
            "hra",
            {"apply_GS": True, "r": 16},
            "PEFT's tuner hra starts with outputs that are not finite",
        ),
        ("psoft", {"psoft_svd_lowrank_niter": 3}, "PEFT would ignore a value .*psoft_svd_low"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(
    name: str, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        adapted(name, **changed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["vera", "pissa", "frod", "shira", "pvera", "adalora"])
def test_a_missing_tuner_and_targets_of_a_wrong_type_are_named(name: str) -> None:
    kind = registry.kind(name)
    path = f"{kind.__module__}.{kind.__qualname__}"
    for key in ("tuner", "targets"):
        values = {k: value for k, value in registry.values(name).items() if k != key}
        with pytest.raises(UserError, match=f"method.{key} is missing; set method.{key}=VALUE"):
            registry.check(tiny("vit"), Target(path, values))
        with pytest.raises(UserError, match=f"method.{key} is None; it must be"):
            registry.adapt(tiny("vit"), Target(path, values | {key: None}))
    with pytest.raises(UserError, match=r"method\.targets is 'qkv'; it must be a list"):
        registry.adapt(tiny("vit"), Target(path, registry.values(name) | {"targets": "qkv"}))


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("pissa", {"r": 33}, "method.r is 33, of which a layer"),
        ("olora", {"r": 33}, "method.r is 33, of which a layer"),
        ("tinylora", {"r": 33}, "method.r is 33, of which a layer can use 32"),
        ("adamss", {"num_subspaces": 1000}, "method.num_subspaces is 1000, of which a layer can"),
        ("psoft", {"r": 33}, "does not fit"),
    ],
)
def test_a_rank_that_a_layer_cannot_have_is_refused(
    name: str, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(Unsupported, match=message):
        adapted(name, **changed)


def test_a_plan_refuses_such_a_rank_on_shapes() -> None:
    for name in ("pissa", "olora"):
        values = registry.values(name) | {"r": 33}
        with pytest.raises(Unsupported, match=r"of which a layer of .* can use 32"):
            peft_tuner.PEFTWeightTuner.check(tiny("vit"), **values)


def test_what_pefts_warnings_say_is_refused_if_it_changes_a_value_and_else_kept_back() -> None:
    with warnings.catch_warnings(action="error"):
        assert adapted("beft").unmergeable == ""
    heard = [
        warnings.WarningMessage(UserWarning(f"Setting {key} to 1 to go on"), UserWarning, "", 1)
        for key in "ab"
    ]
    with pytest.raises(ValueError, match="b is 2, which PEFT would set to 1"):
        peft_checks.check_kept(SimpleNamespace(a=1, b=2), heard)


def test_a_start_from_a_random_approximation_is_refused() -> None:
    """It changes the frozen weights by numbers that no delta holds."""
    message = "a start by random numbers that a delta does not hold; set method.init_lora_weights"
    with pytest.raises(UserError, match=f"{message}=pissa$"):
        adapted("peft_lora", init_lora_weights="pissa_niter_2")


def test_an_attention_pooling_is_no_target_unless_it_is_named() -> None:
    with torch.device("meta"):
        network = create(
            compose.single(["method=peft_lora", "backbone=siglip_b16"]).backbone,
            classes=5,
            image_size=224,
        )
    usual = peft_config.target_names(network, registry.values("peft_lora")["targets"])
    assert len(usual) == 4 * network.depth
    assert not [name for name in usual if "attn_pool" in name]
    named = peft_config.target_names(network, ["attn_pool.mlp.fc*"])
    assert named == ["attn_pool.mlp.fc1", "attn_pool.mlp.fc2"]
    with pytest.raises(Unsupported, match=r"'\*.kv', which matches the attention pooling alone"):
        peft_config.target_names(network, [*QKV, "*.kv"])


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("lokr", {"r": 3, "alpha": 5, "decompose_both": True, "decompose_factor": 4}),
        ("loha", {"rank_dropout": 0.3, "use_effective_conv2d": True}),
        ("boft", {"boft_block_size": 0, "boft_block_num": 2, "bias": "boft_only"}),
        ("oft", {"r": 4, "oft_block_size": 0, "coft": True, "block_share": True}),
        ("fourierft", {"n_frequency": 7, "random_loc_seed": 5}),
        ("ia3", {"feedforward_modules": ".*attn.qkv", "init_ia3_weights": False}),
        ("road", {"variant": "road_4", "group_size": 8}),
        ("miss", {"init_weights": "mini", "mini_r": 4}),
    ],
)
def test_values_reach_pefts_config(name: str, changed: dict[str, Any]) -> None:
    method = adapted(name, **changed)
    assert isinstance(method, peft_tuner.PEFTTuner)
    config = method.tuner.peft_config[ADAPTER]
    assert {key: getattr(config, key) for key in changed} == changed


@pytest.mark.parametrize("name", ["loha", "lokr"])
def test_a_layer_that_never_drops_draws_nothing(name: str) -> None:
    """PEFT compares a draw with the rate, which shapes and torch.compile cannot."""
    method = adapted(name).train()
    assert method.training
    before = torch.get_rng_state()
    method(images())
    assert torch.equal(torch.get_rng_state(), before)
    dropping: Any = adapted(name, module_dropout=0.5).train()
    assert all(layer.training for layer in dropping.layers())


@pytest.mark.parametrize("pattern", ["blocks.0.attn.qkv", "*.blocks.0.attn.qkv"])
def test_a_target_may_be_a_whole_name(pattern: str) -> None:
    method: Any = adapted("vera", targets=[pattern])
    assert len(method.layers()) == 1


def test_a_number_below_zero_that_is_pefts_default_is_a_choice() -> None:
    method: Any = adapted("lokr", decompose_factor=-1)
    assert method.tuner.peft_config[ADAPTER].decompose_factor == -1


@pytest.mark.parametrize("name", ["vera", "pissa"])
def test_a_plan_without_peft_says_how_to_install_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    config = compose.single([f"method={name}", "backbone=vit_mini"])
    with pytest.raises(Unsupported, match=r'package peft, .*; pip install "petlbench\[peft\]"'):
        build.check(config)


def test_a_plan_tries_what_it_can_of_methods_that_read_weights() -> None:
    build.check(compose.single(["method=pissa", "backbone=vit_mini"]))
    with pytest.raises(Unsupported, match="no module of ConvNeXt matches"):
        build.check(compose.single(["method=pissa", "backbone=convnext_b"]))
    with pytest.raises(UserError, match=r"method\.r is 0\.5"):
        build.check(compose.single(["method=pissa", "backbone=vit_mini", "method.r=0.5"]))


# PEFT's LoRA, DoRA and LN tuning beside those of this project


def beside(ours: str, theirs: str) -> tuple[Method, Method]:
    """Our method with random weights and PEFT's with those in one pair a layer, in float64."""
    own = randomised(method_on(tiny("vit"), ours, rank=4, dropout=0.0)).double().eval()
    other = method_on(tiny("vit"), theirs, targets=QKV, r=8, lora_alpha=8).double().eval()
    with torch.no_grad():
        for mine, its in zip(qkvs(own), qkvs(other), strict=True):
            update = mine.low_rank_update()
            its.lora_A[ADAPTER].weight.copy_(update.down)
            its.lora_B[ADAPTER].weight.copy_(update.up)
            if update.magnitude is not None:
                its.lora_magnitude_vector[ADAPTER].weight.copy_(update.magnitude)
        for tensor, source in zip(head(other), head(own), strict=True):
            tensor.copy_(source)
    return own, other


def qkvs(method: Method) -> list[Any]:
    return [block.attn.qkv for block in method.backbone.net.blocks]


def head(method: Method) -> Iterator[Tensor]:
    return method.backbone.head.parameters()


def assert_equal_passes(one: Method, other: Method) -> None:
    """Equal logits; leaves the gradients."""
    batch = images().double()
    first, second = one(batch), other(batch)
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-11)
    for logits in (first, second):
        logits.square().mean().backward()


def assert_equal(first: Tensor | None, second: Tensor) -> None:
    assert first is not None
    torch.testing.assert_close(first, second, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("ours", "theirs"), [("lora", "peft_lora"), ("dora", "peft_dora")])
def test_low_rank_updates_have_pefts_outputs_and_gradients(ours: str, theirs: str) -> None:
    own, other = beside(ours, theirs)
    assert_equal_passes(own, other)
    for mine, its in zip(qkvs(own), qkvs(other), strict=True):
        query, value = (
            part.op if ours == "lora" else part.update for part in (mine.query, mine.value)
        )
        down, up = its.lora_A[ADAPTER].weight.grad, its.lora_B[ADAPTER].weight.grad
        assert_equal(down, torch.cat([query.down.weight.grad, value.down.weight.grad]))
        assert_equal(up[:32, :4], query.up.weight.grad)
        assert_equal(up[64:, 4:], value.up.weight.grad)
        if ours == "dora":
            magnitude = its.lora_magnitude_vector[ADAPTER].weight.grad
            assert_equal(magnitude[:32], mine.query.magnitude.grad)
            assert_equal(magnitude[64:], mine.value.magnitude.grad)


def test_ln_tuning_has_pefts_gradients() -> None:
    own, other = (tiny_method(name, "vit").double().eval() for name in ("ln_tune", "peft_ln_tune"))
    assert_equal_passes(own, other)
    theirs = {
        name.replace(f".ln_tuning_layers.{ADAPTER}", ""): p for name, p in trained(other).items()
    }
    for name, tensor in trained(own).items():
        assert tensor.grad is not None
        assert_equal(theirs.pop(name).grad, tensor.grad)
    assert not theirs


# PVeRA


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_the_term_of_pvera_is_the_divergence_of_its_codes(family: str) -> None:
    """Against torch's own, from the inputs of each layer; blocks have four of them."""
    method: Any = randomised(tiny_method("pvera", family)).train()
    inputs: dict[Any, Tensor] = {}
    for layer in method.layers():
        layer.register_forward_pre_hook(lambda module, args: inputs.update({module: args[0]}))
    logits = method(images())
    term = method.extra_loss(images(), logits, torch.zeros(len(logits)))
    expected = torch.zeros(())
    for layer, x in inputs.items():
        codes = F.linear(x, layer.pvera_A[ADAPTER][:, : layer.in_features])
        mu, log = (layer.pvera_lambda_d[ADAPTER] * codes).chunk(2, dim=-1)
        drawn = Normal(mu, (log / 2).exp())
        expected = expected + kl_divergence(drawn, Normal(0.0, 1.0)).mean() / 4
    torch.testing.assert_close(term, 1e-6 * expected)
    gradients = torch.autograd.grad(term, [m.pvera_lambda_d[ADAPTER] for m in method.layers()])
    assert all(gradient.any() for gradient in gradients)


def test_a_copy_of_pvera_has_a_term_of_its_own() -> None:
    method: Any = randomised(tiny_method("pvera", "vit")).train()
    logits = method(images())
    twin = copy.deepcopy(method)
    terms = []
    for one in (method, twin):
        torch.manual_seed(0)
        logits = one(images() if one is method else 2 * images())
        terms.append(one.extra_loss(images(), logits, torch.zeros(len(logits))))
    assert terms[0] != terms[1]
    torch.manual_seed(0)
    logits = method(images())
    assert method.extra_loss(images(), logits, torch.zeros(len(logits))) == terms[0]


# AdaLoRA


def trained_adalora(method: Any, first: int = 0, last: int = 20) -> Any:
    """Steps `first` to `last` of a training of 20, as the training loop makes them."""
    optimiser = torch.optim.AdamW(trained(method).values(), lr=0.01)
    for number in range(first, last):
        step = Step(1, number, number, 20)
        method.before_step(step)
        optimiser.zero_grad()
        batch = images()
        logits = method(batch)
        term = method.extra_loss(batch, logits, torch.zeros(len(batch)))
        (logits.square().mean() + term).backward()
        optimiser.step()
        method.after_step(step)
    return method


def ranks(method: Any) -> list[int]:
    return [int(layer.lora_E[ADAPTER].count_nonzero()) for layer in method.layers()]


def test_the_schedule_of_adalora_ends_with_the_target_rank() -> None:
    method = trained_adalora(tiny_method("adalora", "vit"), last=2)
    assert set(ranks(method)) == {12}
    trained_adalora(method, first=2)
    assert sum(ranks(method)) == 8 * len(ranks(method))
    assert len(set(ranks(method))) > 1


@pytest.mark.parametrize(("tail", "interval"), [(0.0, 7), (0.04, 7), (0.05, 7), (0.0, 1)])
def test_adalora_reaches_the_target_rank_without_a_last_part(tail: float, interval: int) -> None:
    target = "petlbench.methods.peft_adalora.AdaLoRA"
    values = registry.values("adalora") | {"tail": tail, "deltaT": interval}
    method = trained_adalora(registry.adapt(tiny("vit"), Target(target, values)))
    assert sum(ranks(method)) == method.tuner.peft_config[ADAPTER].target_r * len(ranks(method))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"deltaT": 0}, "method.deltaT is 0; it must be a whole number of at least 1"),
        ({"r": 4}, "PEFT would ignore a value of method: .*`r` is not used"),
    ],
)
def test_a_wrong_value_of_adalora_is_refused(changed: dict[str, Any], message: str) -> None:
    target = "petlbench.methods.peft_adalora.AdaLoRA"
    with pytest.raises(UserError, match=message):
        registry.adapt(tiny("vit"), Target(target, registry.values("adalora") | changed))


def test_the_regulariser_of_adalora_is_pefts() -> None:
    method: Any = randomised(tiny_method("adalora", "vit"))
    method.before_step(Step(1, 0, 0, 20))
    mine = method.extra_loss(images(), torch.zeros(3, 5), torch.zeros(3))
    theirs = SimpleNamespace(loss=torch.zeros(()))
    method.tuner.model.forward = lambda: theirs
    method.tuner()
    torch.testing.assert_close(mine, theirs.loss)


def test_the_state_of_adalora_goes_on_in_another_one() -> None:
    whole = trained_adalora(tiny_method("adalora", "vit"), last=17)
    twin: Any = copy.deepcopy(whole)
    fresh: Any = tiny_method("adalora", "vit")
    fresh.load_state_dict(twin.state_dict())
    for method in (whole, fresh):
        trained_adalora(method, first=17)
    assert torch.equal(whole.eval()(images()), fresh.eval()(images()))


@pytest.mark.parametrize(("total", "warm_up"), [(1, 0.1), (2, 0.5)])
def test_a_training_too_short_for_adaloras_schedule_is_refused(total: int, warm_up: float) -> None:
    method: Any = adapted("adalora", warm_up=warm_up)
    with pytest.raises(UserError, match=rf"^{total} training steps with .* set a larger train.ep"):
        method.before_step(Step(1, 0, 0, total))


@pytest.mark.parametrize("where", ["head", "layer"])
@pytest.mark.parametrize("at", [0, 1, 15])  # 15: where the ranks get their last values
def test_a_step_that_overflows_does_not_count_for_adalora(at: int, where: str) -> None:
    """Averages of importance and of its uncertainty; ranks fall by those of the other steps."""
    method: Any = randomised(tiny_method("adalora", "vit", warm_up=0.1, tail=0.25, deltaT=1))
    kept: dict[str, Any] = {}
    for number in range(at + 1):
        step = Step(number + 1, 0, number, 20)
        method.before_step(step)
        method.zero_grad()
        loss(method).backward()
        if number == at:
            kept = {k: dict(v) for k, v in method.get_extra_state().items() if k != "rank_pattern"}
            for tensor in trained(method).values():
                assert tensor.grad is not None
                tensor.grad.fill_(65536.0)  # finite, still multiplied by the scale of the loss
            layer = method.layers()[0].lora_A[ADAPTER]
            overflowing = method.backbone.head.weight if where == "head" else layer
            overflowing.grad.fill_(float("inf"))
        method.after_step(step)
    state = method.get_extra_state()
    for name, averages in kept.items():
        # PEFT forgets them when the ranks have their last values
        assert state[name].keys() == (averages.keys() if at < 15 else set())
        for key, average in state[name].items():
            assert torch.equal(average, averages[key])
    if at == 15:
        ranks = [sum(map(bool, rows)) for rows in state["rank_pattern"].values()]
        assert sum(ranks) == method._config.target_r * len(ranks)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target_r": 12}, "method.target_r is 12; it must be a whole number from 1 to 11"),
        ({"warm_up": 0.5, "tail": 0.5}, "their sum must be below 1"),
        ({"tinit": 5}, "unknown key of method 'tinit'"),
    ],
)
def test_a_schedule_without_a_middle_is_refused(changed: dict[str, Any], message: str) -> None:
    target = "petlbench.methods.peft_adalora.AdaLoRA"
    with pytest.raises(UserError, match=message):
        registry.adapt(tiny("vit"), Target(target, registry.values("adalora") | changed))


def test_tables_have_the_tuners_in_a_group_after_ours() -> None:
    records = [record(name, "digits", 80.0) for name in ("vera", "lora", "peft_dora", "linear")]
    labels = {one["id"]: one["factors"]["method"] for one in records}
    assert rows.ordered(records, labels, []) == ["linear", "lora", "peft_dora", "vera"]
    families = [rows.family(name) for name in ("linear", "lora", "vera")]
    assert families == ["traditional", "PETL", "PEFT library"]


def test_pvera_keeps_nothing_of_what_backward_computes_again() -> None:
    """Its loss term reads tensors inside of the blocks."""
    peaks = forecast.peaks_mib(
        adapted("pvera"),
        precision="fp32",
        train=train(),
        batches=[256],
        size=SIZE,
        modes=["fast", "min"],
    )
    assert peaks["min"][0]["allocated"] < 0.2 * peaks["fast"][0]["allocated"]


@pytest.mark.parametrize("mode", ["lean", "min"])
def test_the_loss_term_of_pvera_has_the_same_gradients_in_all_memory_modes(mode: str) -> None:
    gradients = []
    for each in ("fast", mode):
        method = randomised(adapted("pvera")).double().train()
        torch.manual_seed(0)
        with recompute.held(method, each)():
            logits = method(images().double())
        term = method.extra_loss(images(), logits, logits)
        assert term is not None
        term.backward()
        gradients.append({k: p.grad for k, p in trained(method).items() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() != set()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-12, atol=0, msg=name)
