"""One reference vector against this project, in float64: logits, head input, loss, gradients."""

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench import registry
from petlbench.model.backbone import Backbone
from petlbench.testing.networks import config
from tests.golden.adapters import adapters
from tests.golden.case import Case, Plan, Tied, apart

TOLERANCE = 1e-9


class UnknownMethod(LookupError):
    """The project has no such method, or no adapter for the vector."""


@dataclass
class Result:
    """Largest absolute difference of each kind, and other problems."""

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
        parts = (f"{self.name:<20}", numbers, "PASS" if self.passed else "FAIL")
        return "  ".join(part for part in (*parts, *self.problems[:1]) if part)


def check(case: Case) -> Result:
    """Compare one vector. Raises UnknownMethod if the project has no method for it."""
    adapter = adapters().get(case.about["method"])
    if adapter is None:
        raise UnknownMethod(case.about["method"])
    plan = adapter(case)
    if plan.method not in registry.names():
        raise UnknownMethod(plan.method)
    comparison = Comparison(case, plan)
    comparison.fill()
    comparison.result.differences |= plan.further(comparison.method)
    comparison.outputs()
    comparison.gradients()
    comparison.freezing()
    return comparison.result


class Comparison:
    """A method of this project, built as a vector describes, and the numbers of that vector."""

    def __init__(self, case: Case, plan: Plan) -> None:
        self.case, self.plan = case, plan
        self.result = Result(case.path.stem)
        net = case.network()
        self.of_backbone = dict(net.named_parameters())  # timm's names, before any swap
        size = cast(Any, net.patch_embed).img_size[0]
        values = config("vit", name=case.path.stem, pool=plan.pool)
        backbone = Backbone(net, values, image_size=size)
        self.method = registry.create(plan.method, backbone, **plan.values).double()
        self.parameters = dict(self.method.named_parameters())
        self.tensors = {**self.parameters, **dict(self.method.named_buffers())}

    def fill(self) -> None:
        """Copy the vector's method tensors into the method."""
        with torch.no_grad():
            for name, value in self.case.below("method/").items():
                tied = self.plan.tensors[name]
                if tied.parameter is not None:
                    own = tied.view(self.tensors[tied.parameter])
                    if own.shape != value.shape:
                        shapes = f"{tuple(own.shape)} here, {tuple(value.shape)} there"
                        raise ValueError(f"{name} is {shapes}")
                    own.copy_(value)
            for name in self.plan.zeros:
                self.parameters[name].zero_()

    def outputs(self) -> None:
        """Compare a forward pass; the backward pass leaves its gradients."""
        self.method.train(self.plan.training).zero_grad()
        inputs: list[Tensor] = []  # of the head
        self.method.backbone.head.register_forward_pre_hook(lambda _, given: inputs.extend(given))
        logits = self.method(self.case.arrays["x"])
        loss = F.cross_entropy(logits, self.case.arrays["y"])
        loss.backward()
        [head_input] = inputs
        for kind, value in (("logits", logits), ("head_input", head_input), ("loss", loss)):
            self.result.differences[kind] = apart(value, self.case.arrays[kind])

    def gradients(self) -> None:
        """Compare every gradient of the vector; without a parameter here it must be zero."""
        differences = [0.0]
        for name, expected in self.case.below("grad/").items():
            parameter, tied = self._own(name)
            if parameter is None:
                differences.append(apart(torch.zeros_like(expected), expected))
            elif not parameter.requires_grad:
                self.result.problems.append(f"{name} is frozen here")
            else:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                differences.append(apart(tied.view(own), expected))
        self.result.differences["grads"] = float(torch.tensor(differences).max())  # NaN stays NaN

    def freezing(self) -> None:
        """Report parameters that only this project trains, except unused ones of the method."""
        known = {id(self._own(name)[0]) for name in self.case.below("grad/")}
        known |= {id(self.parameters[name]) for name in self.plan.zeros}
        frozen_there = {id(parameter) for parameter in self.of_backbone.values()}
        for name, parameter in self.parameters.items():
            idle = parameter.grad is None or not parameter.grad.any()
            excused = id(parameter) in known or (idle and id(parameter) not in frozen_there)
            if parameter.requires_grad and not excused:
                self.result.problems.append(f"{name} is trained here and not there")

    def _own(self, name: str) -> tuple[nn.Parameter | None, Tied]:
        """The parameter for `backbone/<timm's name>` or `method/<the vector's name>`."""
        kind, _, rest = name.partition("/")
        if kind == "backbone" and rest not in self.plan.of_backbone:
            return self.of_backbone[rest], Tied(rest)
        tied = (self.plan.tensors if kind == "method" else self.plan.of_backbone)[rest]
        return None if tied.parameter is None else self.parameters[tied.parameter], tied
