"""What a method computes, trains and saves on a tiny network.

Each property raises AssertionError with a message if it does not hold.
"""

import copy
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from petlbench import delta, registry
from petlbench.delta import trained
from petlbench.merge import merged
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.testing.case import (
    Case,
    error_of,
    loss,
    method_on,
    plain_logits,
    randomised,
    tensors,
)
from petlbench.testing.facts import Skipped, declared
from petlbench.testing.networks import SIZE, config, images, timm_network, tiny

OTHER_SEED = 20_231_212


def starts_as_pretrained_if_declared(case: Case) -> None:
    """A new method computes what the plain backbone does, unless it declares that it does not."""
    method = case.start().eval()
    # To the bit: a term that starts at zero adds zeros.
    equal = torch.equal(method(images()), plain_logits(tiny(case.family)))
    text = "equals" if equal else "differs from"
    assert equal == method.starts_as_pretrained, (
        f"starts_as_pretrained is {method.starts_as_pretrained}, but the method {text} the "
        "backbone before training"
    )


def every_trained_tensor_gets_a_gradient(case: Case) -> None:
    """No trained tensor is idle."""
    _require_trained(case)
    # With pool=cls, the output of the last block at its patches reaches no logit.
    method = randomised(method_on(tiny(case.family, pool="norm_then_mean"), case.method)).eval()
    loss(method).backward()
    idle = [name for name, p in trained(method).items() if p.grad is None or not p.grad.any()]
    assert not idle, f"no gradient reaches {', '.join(idle)}"


def a_step_moves_the_trained_tensors_alone(case: Case) -> None:
    """A step of AdamW on a finite loss changes every trained tensor and no frozen one."""
    _require_trained(case)
    method = case.randomised().train()
    before = {name: tensor.detach().clone() for name, tensor in method.named_parameters()}
    # All parameters: torch skips those without a gradient, also for weight decay.
    optimiser = torch.optim.AdamW(method.parameters(), lr=0.01, weight_decay=0.1)
    value = loss(method)
    assert value.isfinite(), f"the loss is {value}"
    value.backward()
    optimiser.step()
    moved = {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}
    wrong = moved ^ trained(method).keys()
    assert not wrong, f"trained but unmoved, or moved but frozen: {', '.join(sorted(wrong))}"


def _require_trained(case: Case) -> None:
    method = case.start()
    if not trained(method):
        assert not method.takes_steps, "no tensor is trained; set takes_steps to False"
        raise Skipped("no tensor is trained by gradients")


def the_head_is_trained(case: Case) -> None:
    """All parameters of the classification head require gradients."""
    method = case.start()
    head = {id(p) for p in method.backbone.head.parameters()}
    assert head <= {id(p) for p in trained(method).values()}, "the head is frozen"


def copies_are_exact_and_independent(case: Case) -> None:
    """A deep copy computes the same, and shares no parameter with the method."""
    method = case.randomised().eval()
    _check_copy(method, copy.deepcopy(method))


def pickles_are_exact_and_independent(case: Case) -> None:
    """A pickled method computes the same, and shares no parameter with the method."""
    method = case.randomised().eval()
    _check_copy(method, pickle.loads(pickle.dumps(method)))


def _check_copy(method: Method, twin: Method) -> None:
    expected = method(images())
    assert torch.equal(twin(images()), expected), "the copy gives other logits"
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert not torch.equal(twin(images()), expected), "the copy computes with tensors of another"
    assert torch.equal(method(images()), expected), "the copy shares tensors with the method"


def a_delta_reloads_exactly(case: Case) -> None:
    """The saved delta restores the logits in a method built under another random state."""
    method = case.randomised().eval()
    values = registry.values(case.method)
    backbone = case.backbone()
    torch.manual_seed(OTHER_SEED)  # frozen random tensors must come from the file
    fresh = method_on(backbone, case.method).eval()
    expected = method(images())
    assert not torch.equal(fresh(images()), expected)  # else a load that does nothing would pass
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs" / "delta.safetensors"
        size = delta.save(path, method, {"method": case.method, "values": values})
        assert size == path.stat().st_size
        delta.load(path, fresh)
    assert torch.equal(fresh(images()), expected), "the delta gives other logits after a reload"


def merged_is_equal_or_refused(case: Case) -> None:
    """The merged network loads into timm's own and computes the same; a refusal has a reason."""
    method = case.randomised().eval()
    before = {name: tensor.clone() for name, tensor in tensors(method)}
    expected = method(images()).detach()
    nets: list[nn.Module] = []
    refusal = error_of(lambda: nets.append(merged(method)))
    _check_refusal(case, method, refusal)
    for net in nets:
        _check_logits(expected, net, Method(_timm_backbone(case.family, net)).eval())
    assert torch.equal(method(images()), expected), "merging changes the method"
    for name, tensor in tensors(method):
        assert torch.equal(tensor, before[name]), f"merging changes {name}"


def _check_refusal(case: Case, method: Method, refusal: str | None) -> None:
    denied = case.family in declared(case.method).get("unmergeable", ())
    if refusal is None:
        assert not method.unmergeable, "the method merges, but unmergeable has a reason"
        assert not denied, "the method merges, but facts.unmergeable denies it"
        return
    assert method.unmergeable in refusal, f"unmergeable is not the reason of: {refusal}"
    assert method.unmergeable or denied, (
        f"{refusal}; set unmergeable, or declare facts.unmergeable: [{case.family}]"
    )


@torch.no_grad()
def _check_logits(expected: Tensor, *nets: nn.Module) -> None:
    for net in nets:
        difference = (net(images()) - expected).abs().max() / expected.abs().max()
        # Relative to the largest logit: what float32 rounds off.
        assert difference <= 1e-4, f"merged logits differ by {difference:.1e}"


def _timm_backbone(family: str, net: nn.Module) -> Backbone:
    """A backbone around timm's own network with the state of `net`, loaded strictly."""
    own = timm_network(family)
    own.load_state_dict(net.state_dict(), strict=True)
    return Backbone(own, config(family), image_size=SIZE)


STATE_PROPERTIES: tuple[Callable[[Case], None], ...] = (
    starts_as_pretrained_if_declared,
    every_trained_tensor_gets_a_gradient,
    a_step_moves_the_trained_tensors_alone,
    the_head_is_trained,
    copies_are_exact_and_independent,
    pickles_are_exact_and_independent,
    a_delta_reloads_exactly,
    merged_is_equal_or_refused,
)
