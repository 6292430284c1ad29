"""Baselines on frozen features: their own algorithms written out once more, and their passes."""

import contextlib
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor, nn

from petlbench import delta, registry
from petlbench.cost.memory import TrainingStep
from petlbench.cost.section import Conditions, memory_taken
from petlbench.data.task import Split, fingerprint, held_out
from petlbench.errors import UserError
from petlbench.method import Method, head_inputs
from petlbench.methods.knn import KNN
from petlbench.methods.logistic import ABSENT, Logistic, refined
from petlbench.testing import images, method_on, tiny
from petlbench.testing.networks import FAMILIES
from petlbench.train import evaluation
from petlbench.train.precision import Precision
from tests.loops import CPU, bright, feed, trainer
from tests.settings import train
from tests.shallow import shallow_method

Array = NDArray[Any]
WITHOUT_STEPS = [name for name in registry.names() if not registry.kind(name).takes_steps]


def method(name: str, classes: int = 2, **values: Any) -> Any:
    return shallow_method(name, classes=classes, **values)


def features(network: Method, split: Split) -> tuple[Array, Array]:
    """What the head reads, in float64, and labels."""
    batches = feed().in_order(split, len(split))
    with torch.no_grad():
        [(inputs, labels)] = [(head_inputs(network.eval(), x), y) for x, y in batches]
    return inputs.double().numpy(), labels.numpy()


def votes(
    memory: tuple[Array, Array], x: Array, k: int, temperature: float, classes: int
) -> Array:
    """(N, K): sums of exp(cosine / temperature) over the k nearest images."""
    known, labels = memory
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in known] for a in x])
    counts = np.zeros((len(x), classes))
    for row, own in enumerate(cosine):
        for place in np.argsort(-own)[:k]:
            counts[row, labels[place]] += np.exp(own[place] / temperature)
    return counts


def noisy(count: int, seed: int, classes: int) -> Split:
    """Images whose neighbours float32 can tell apart, with arbitrary labels.

    A patch of 8 x 8 pixels has one colour. The number of neighbours matters, as labels are noise.
    """
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 256, (count, 3, 6, 6), generator=generator, dtype=torch.uint8)
    pixels = colours.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return Split(pixels, labels, fingerprint(pixels, labels, "noise"))


@pytest.mark.parametrize("k", [1, 7, 100])
def test_knn_votes_as_a_brute_force_search(k: int) -> None:
    fit, test = noisy(60, 1, classes=3), noisy(20, 2, classes=3)
    made: KNN = method("knn", classes=3, neighbours=[k], temperature=0.1)
    made.fit(trainer(fit=fit, classes=3))
    expected = votes(features(made, fit), features(made, test)[0], k, 0.1, 3)
    logits = made.eval()(next(feed().in_order(test, 20))[0]).detach().numpy()
    shares = expected / expected.sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(logits), shares, atol=1e-4)


def test_k_is_the_best_one_on_val_and_every_training_image_is_stored() -> None:
    fit, classes = noisy(100, 3, classes=4), 4
    made: KNN = method("knn", classes=classes, neighbours=[1, 3, 9, 27], temperature=0.07)
    result = made.fit(trainer(fit=fit, classes=classes, halves=lambda: held_out(fit)))
    part, val = (features(made, half) for half in held_out(fit))
    correct, likelihood = {}, {}
    for k in (1, 3, 9, 27):
        shares = votes(part, val[0], k, 0.07, classes)
        shares /= shares.sum(1, keepdims=True)
        correct[k] = (shares.argmax(1) == val[1]).mean() * 100
        right = np.maximum(shares[range(len(shares)), val[1]], np.finfo(np.float32).tiny)
        likelihood[k] = np.log(right).mean()
    assert result.notes["val_top1"] == pytest.approx(correct)
    assert made.memory.k == max(correct, key=lambda k: (correct[k], likelihood[k]))
    assert made.memory.counts.tolist() == fit.labels.bincount().tolist()


def test_a_delta_of_knn_builds_its_memory(tmp_path: Path) -> None:
    """The values of the delta, not those of the yaml, say how many images there are."""
    made: KNN = method("knn", neighbours=[2, 5])
    result = made.fit(trainer())
    assert result.made_by is not None
    name, values = result.made_by
    assert name is None  # whatever the configured one is called
    file = tmp_path / "delta.safetensors"
    size = delta.save(file, made, {"method": "knn"})
    width = made.backbone.widths[-1]
    assert size - 36 * 4 * width < 1000  # the rest: counts, names and metadata
    again = method("knn", **values)
    delta.load(file, again)
    with torch.no_grad():
        x = next(feed().in_order(bright(9, 4), 9))[0]
        assert torch.equal(again.eval()(x), made.eval()(x))


@pytest.mark.parametrize("classes", [2, 5])
def test_logits_of_logistic_are_the_decision_function_of_scikit_learn(classes: int) -> None:
    """Up to a term that all classes of an image share, which softmax does not see."""
    fit = noisy(60, 1, classes=classes)
    made: Logistic = method("logistic", classes=classes, powers=[-1])
    made.fit(trainer(fit=fit, classes=classes))
    x, y = features(made, fit)
    expected = LogisticRegression(C=0.1, max_iter=1000).fit(x, y).decision_function(x)
    logits = made.backbone.head.double()(torch.from_numpy(x)).detach().numpy()
    if classes == 2:
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, atol=1e-5)
    else:
        shift = (logits - expected).mean(1, keepdims=True)
        np.testing.assert_allclose(logits - shift, expected, atol=1e-5)


def test_c_is_the_best_one_on_val_and_the_head_is_fitted_to_all_images() -> None:
    fit = noisy(80, 5, classes=3)
    made: Logistic = method("logistic", classes=3, powers=[-4, -2, 0], halvings=1)
    notes = made.fit(trainer(fit=fit, classes=3, halves=lambda: held_out(fit))).notes
    (x, y), (val, val_y) = (features(made, half) for half in held_out(fit))
    scores = {}
    for power in map(float, notes["val_top1"]):
        model = LogisticRegression(C=10**power, max_iter=1000).fit(x, y)
        likelihood = -log_loss(val_y, model.predict_proba(val), labels=model.classes_)
        scores[power] = (model.score(val, val_y) * 100, likelihood)
    assert {float(power): top1 for power, top1 in notes["val_top1"].items()} == {
        power: top1 for power, (top1, _) in scores.items()
    }
    assert notes["C"] == 10 ** max(scores, key=lambda power: scores[power])
    final = LogisticRegression(C=notes["C"], max_iter=1000).fit(*features(made, fit))
    weight = cast(nn.Linear, made.backbone.head).weight.detach().numpy()
    np.testing.assert_allclose(weight, final.coef_, atol=1e-4)


def test_of_equal_accuracies_the_better_likelihood_is_chosen() -> None:
    """All powers are right on two classes that differ in a channel; the first is sure of none."""
    fit = bright(60, seed=1)
    made = method("logistic", powers=[-6, 0, 2], halvings=0)
    notes = made.fit(trainer(fit=fit, halves=lambda: held_out(fit))).notes
    assert set(notes["val_top1"].values()) == {100.0}
    assert notes["C"] == 100


def test_a_class_that_val_alone_has_does_not_decide_between_powers() -> None:
    fit, val = bright(60, seed=1), bright(20, seed=2)
    labels = val.labels.clone()
    labels[:5] = 2
    other = Split(val.images, labels, val.fingerprint)
    made = method("logistic", classes=3, powers=[-6, 0, 2], halvings=0)
    notes = made.fit(trainer(fit=fit, classes=3, halves=lambda: (fit, other))).notes
    assert notes["C"] == 100


@pytest.mark.parametrize("name", [*WITHOUT_STEPS, "lp_ft", "linear"])
def test_a_method_says_that_it_searches(name: str) -> None:
    asked = []

    def none() -> tuple[Split, Split]:
        asked.append(name)
        raise UserError("too few")

    made = method(name)
    with contextlib.suppress(UserError):
        made.fit(trainer(halves=none))
    assert bool(asked) is made.searches


def test_a_class_without_images_never_wins_and_one_class_is_refused() -> None:
    fit = noisy(40, 1, classes=2)
    made: Logistic = method("logistic", classes=4, powers=[0])
    made.fit(trainer(fit=fit, classes=4))
    head = cast(nn.Linear, made.backbone.head)
    assert head.bias[2:].tolist() == [ABSENT] * 2
    assert not head.weight[2:].any()
    single = Split(fit.images, torch.zeros_like(fit.labels), fit.fingerprint)
    with pytest.raises(UserError, match="two classes or more; choose method=knn"):
        method("logistic", powers=[0]).fit(trainer(fit=single))


def test_the_search_halves_its_steps_around_the_best_power() -> None:
    tried: list[float] = []

    def score(power: float) -> tuple[float, float]:
        tried.append(power)
        return -abs(power - 1.3), 0.0

    scores = refined(score, [-2, 0, 2], 3)
    assert tried == [-2, 0, 2, 1, 0.5, 1.5, 1.25, 1.75]  # 3 is outside
    assert max(scores, key=scores.__getitem__) == 1.25


@pytest.mark.parametrize("name", WITHOUT_STEPS)
def test_a_method_without_steps_makes_none_and_takes_few_images(name: str) -> None:
    loop = trainer(train=train(batch_size=64))
    method(name).fit(loop)
    assert loop.history == []


@pytest.mark.parametrize("name", WITHOUT_STEPS)
def test_each_image_passes_the_network_once(name: str) -> None:
    """Also those of the parts for the search."""
    fit, passed = noisy(50, 1, classes=2), 0
    loop = trainer(fit=fit, halves=lambda: held_out(fit))
    made = method(name)

    def count(_module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        nonlocal passed
        passed += len(inputs[0])

    made.backbone.net.blocks[0].register_forward_hook(count)
    made.fit(loop)
    assert passed == loop.spent.images_seen == 50


def test_outputs_are_in_the_order_of_the_split_whatever_the_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, split = method("logistic"), noisy(50, 1, classes=2)
    images = torch.cat([split.images, split.images[:7]])  # seven images twice
    labels = torch.arange(57) % 2
    split = Split(images, labels, fingerprint(images, labels, "twice"))
    whole = trainer().outputs(made, partial(head_inputs, made))(split)
    monkeypatch.setattr(evaluation, "USUAL", 16)
    loop = trainer()
    parts = loop.outputs(made, partial(head_inputs, made))(split)
    assert loop.spent.images_seen == 50
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(parts[0][50:], parts[0][:7])


def test_a_method_that_trains_no_tensor_has_to_say_so() -> None:
    class Idle(type(method("linear"))):  # type: ignore[misc]
        pass

    idle = Idle(tiny("vit")).requires_grad_(False)
    with pytest.raises(UserError, match="Idle has no tensor to train; set takes_steps = False in"):
        TrainingStep(idle, Precision("fp32", CPU), train(), images())


@pytest.mark.parametrize("name", WITHOUT_STEPS)
def test_no_memory_of_a_step_is_measured_without_one(name: str) -> None:
    notes: dict[str, Any] = {}
    for device in ("cpu", "cuda"):  # where nothing is tried either
        conditions = Conditions(torch.device(device), Precision("fp32", CPU), train(), 48)
        assert memory_taken(method(name), conditions, notes) == {"saved_mb": 0.0, "peak_mib": None}
    assert notes == {"peak_mib": "the method makes no training step"}


@pytest.mark.parametrize(("name", "blocks"), [("linear", 3), ("mlp_3", 3), ("partial_1", 2)])
def test_the_frozen_blocks_of_trained_baselines_are_replayed(name: str, blocks: int) -> None:
    loop = trainer()
    method(name).fit(loop)
    assert loop.prefix_cache is not None
    assert loop.prefix_cache["blocks"] == blocks


def test_lp_ft_begins_with_the_head_of_logistic() -> None:
    loop = trainer(train=train(lr=0.0, head_lr=0.0, weight_decay=0.0))
    tuned, probe = method("lp_ft", powers=[0]), method("logistic", powers=[0])
    tuned.fit(loop)
    probe.fit(trainer())
    assert torch.equal(tuned.backbone.head.weight, probe.backbone.head.weight)
    assert len(loop.history) == 2
    before = [p.clone() for p in tuned.parameters()]
    tuned.fit(trainer(train=train(lr=1e-3)))
    assert not any(torch.equal(a, b) for a, b in zip(before, tuned.parameters(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("blocks", [1, 4])
def test_partial_trains_the_end_of_the_walk(family: str, blocks: int) -> None:
    made = method_on(tiny(family, pool="norm_then_mean"), "partial_1", blocks=blocks)
    backbone = made.backbone
    parts: list[Any] = []
    for stage in backbone.stages:
        parts += [("entry", stage.entry.own()), *(("block", s.own()) for s in stage.blocks.slots)]
    made(images()).square().sum().backward()
    first = [index for index, (kind, _) in enumerate(parts) if kind == "block"][-blocks]
    trained = {id(p) for _, part in parts[first:] for p in part.parameters()}
    trained |= {id(p) for part in (backbone.norm, backbone.head) for p in part.parameters()}
    for name, parameter in made.named_parameters():
        assert parameter.requires_grad == (id(parameter) in trained), name
        assert (parameter.grad is not None) == (id(parameter) in trained), name


def test_mlp_3_written_out() -> None:
    made = method_on(tiny("vit"), "mlp_3").double().eval()
    net, x = tiny("vit").double().eval(), images().double()
    z = net.pooled(Method(net).features(net.embed(x)))
    head: Any = made.backbone.head
    for layer in head.hidden:
        linear, _, norm, _ = layer
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        h = (z @ linear.weight.T + linear.bias).clamp_min(0)
        h = (h - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        z = h * norm.weight + norm.bias
    torch.testing.assert_close(made(x), z @ head.weight.T + head.bias)


@pytest.mark.parametrize(("name", "hint"), [("knn", "neighbours=[5]"), ("lp_ft", "powers=[0]")])
def test_too_few_images_for_a_search_are_refused_with_a_way_out(name: str, hint: str) -> None:
    def none() -> tuple[Split, Split]:
        raise UserError("too few; protocol=best_on_val scores on val")

    with pytest.raises(UserError) as caught:
        method(name).fit(trainer(halves=none))
    reason = "too few; protocol=best_on_val scores on val, and with method."
    assert str(caught.value) == f"{reason}{hint} there is nothing to choose"
