"""One reference vector against this project, in float64: logits, head input, loss, gradients."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench import registry
from petlbench.backbone import Backbone
from petlbench.interface import Method
from petlbench.weights import Origin
from tests.golden.adapters import adapters
from tests.golden.case import Case, Plan

TOLERANCE = 1e-9


@dataclass
class Result:
    """Largest absolute difference of each kind, and what is wrong besides."""

    name: str
    differences: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        # Written so that NaN fails.
        close = all(value <= TOLERANCE for value in self.differences.values())
        return close and bool(self.differences) and not self.problems

    def __str__(self) -> str:
        numbers = "  ".join(f"{kind} {value:.1e}" for kind, value in self.differences.items())
        verdict = "PASS" if self.passed else "FAIL"
        return "  ".join(part for part in (f"{self.name:<20}", numbers, verdict, *self.problems[:1]) if part)


class UnknownMethod(LookupError):
    """The project has no such method, or no adapter for its vectors."""


def check(case: Case) -> Result:
    """Run one vector. Raises UnknownMethod where there is no method to run."""
    plan = _plan(case)
    net = case.network()
    timm_names = dict(net.named_parameters())
    origin = Origin(name=case.path.stem, checkpoint=None, pretrained=False)
    backbone = Backbone(net, pool=plan.pool, mean=[0.5] * 3, std=[0.5] * 3, origin=origin)
    method = registry.create(plan.method, backbone, **plan.values).double().train()
    result = Result(case.path.stem)
    _fill(method, case, plan, result)
    if not result.problems:
        _compare(method, timm_names, case, plan, result)
    return result


def _plan(case: Case) -> Plan:
    adapter = adapters().get(case.about["method"])
    if adapter is None:
        raise UnknownMethod(case.about["method"])
    plan = adapter(case)
    if plan.method not in registry.names():
        raise UnknownMethod(plan.method)
    return plan


def _fill(method: Method, case: Case, plan: Plan, result: Result) -> None:
    """Copy the vector's method tensors in; each tensor of the method must be accounted for."""
    parameters = dict(method.named_parameters())
    with torch.no_grad():
        for name, value in case.below("method/").items():
            tie = plan.tensors[name]
            if tie.parameter is not None:
                own = tie.laid_out(parameters[tie.parameter])
                if own.shape != value.shape:
                    result.problems.append(f"{name} is {tuple(own.shape)} here, not {tuple(value.shape)}")
                    return
                own.copy_(value)
        for name in plan.zeros:
            parameters[name].zero_()


def _compare(
    method: Method, timm_names: dict[str, nn.Parameter], case: Case, plan: Plan, result: Result
) -> None:
    images = case.arrays["x"]
    logits = method(images)
    head_input = method.backbone.pooled(method.features(method.backbone.embed(images)))
    loss = F.cross_entropy(logits, case.arrays["y"])
    loss.backward()
    for kind, value in (("logits", logits), ("head_input", head_input), ("loss", loss)):
        result.differences[kind] = _apart(value, case.arrays[kind])
    result.differences["grads"] = _compare_gradients(method, timm_names, case, plan, result)


def _compare_gradients(
    method: Method, timm_names: dict[str, nn.Parameter], case: Case, plan: Plan, result: Result
) -> float:
    """Largest difference; a tensor that is trained on one side alone is a problem."""
    parameters = dict(method.named_parameters())
    expected = case.below("grad/")
    worst = 0.0
    compared = {id(parameters[name]) for name in plan.zeros}
    for name, gradient in expected.items():
        kind, _, rest = name.partition("/")
        tie = plan.tensors[rest] if kind == "method" else None
        if tie is not None and tie.parameter is None:
            worst = _larger(worst, _apart(torch.zeros_like(gradient), gradient))
            continue
        parameter = timm_names[rest] if tie is None else parameters[str(tie.parameter)]
        compared.add(id(parameter))
        if not parameter.requires_grad:
            result.problems.append(f"{name} is frozen here")
            continue
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        worst = _larger(worst, _apart(own if tie is None else tie.laid_out(own), gradient))
    for name, parameter in parameters.items():
        silent = parameter.grad is None or not parameter.grad.any()
        own_tensor = all(parameter is not other for other in timm_names.values())
        if parameter.requires_grad and id(parameter) not in compared and not (own_tensor and silent):
            result.problems.append(f"{name} is trained here and not in the reference")
    return worst


def _apart(value: Tensor, reference: Tensor) -> float:
    if value.shape != reference.shape:
        return float("inf")
    return float((value.detach() - reference).abs().max())


def _larger(first: float, second: float) -> float:
    """The larger one; NaN wins, which max() does not promise."""
    return second if second != second or second > first else first
