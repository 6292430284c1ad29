"""How trained tensors start: declared distributions against the tensors of a new method.

`facts.start` maps patterns of tensor names to one of

    zeros, ones, 1.0e-6         a constant
    kaiming_uniform             within 1 / sqrt(fan_in), torch's start of weights and biases
    he_uniform                  within sqrt(6 / fan_in)
    xavier_uniform              within sqrt(6 / (fan_in + fan_out))
    xavier_uniform(patch)       the same with a fan_in: a number, or the values of an image patch
    xavier_uniform_set(100)     the same for a tensor (1, 100, width), of which it may be a slice
    normal(0.02), normal(0.02, 1)       standard deviation, mean
    truncated_normal(0.02)      a normal that is cut at two standard deviations
    identity                    a convolution that passes each channel on
    pretrained                  the value that the backbone's tensor of that name has
    any                         not checked here

The first pattern that matches a name counts. `start: pretrained` stands for all tensors.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from petlbench.delta import trained
from petlbench.errors import UserError, unknown
from petlbench.method import Method
from petlbench.testing.networks import PATCH, WIDE

UNIFORM = stats.uniform(-1, 2)  # within -1 and 1
NORMAL = stats.norm()
TRUNCATED = stats.truncnorm(-2, 2)
# Of head_start=small_normal, which the tiny networks have.
HEAD = {"backbone.net.head.weight": "normal(0.02)", "backbone.net.head.bias": "zeros"}

# A tensor and the shape of its layer's weight -> a distribution (or a constant), and the draws
Start = Callable[[Tensor, torch.Size], tuple[Any, Tensor]]


def constant(value: float) -> Start:
    """All values are equal."""
    return lambda tensor, shape: (value, tensor)


def kaiming_uniform(tensor: Tensor, shape: torch.Size) -> tuple[Any, Tensor]:
    """Torch's start of a layer."""
    return UNIFORM, tensor * math.sqrt(math.prod(shape[1:]))


def he_uniform(tensor: Tensor, shape: torch.Size) -> tuple[Any, Tensor]:
    """He's uniform start, https://arxiv.org/abs/1502.01852."""
    return UNIFORM, tensor * math.sqrt(math.prod(shape[1:]) / 6)


def xavier_uniform(fan_in: float | None = None) -> Start:
    """Xavier's uniform start; the fans are those of the weight, or fan_in and the last axis."""

    def start(tensor: Tensor, shape: torch.Size) -> tuple[Any, Tensor]:
        both = (shape[0] + shape[1]) * math.prod(shape[2:]) if fan_in is None else fan_in + WIDE
        return UNIFORM, tensor * math.sqrt(both / 6)

    return start


def xavier_uniform_set(count: float) -> Start:
    """Xavier's uniform start of (1, count, width), whose fans are count width and width."""
    return lambda tensor, shape: (UNIFORM, tensor * math.sqrt((count + 1) * shape[-1] / 6))


def normal(std: float, mean: float = 0.0) -> Start:
    """N(mean, std^2)."""
    return lambda tensor, shape: (NORMAL, (tensor - mean) / std)


def truncated_normal(std: float) -> Start:
    """N(0, std^2) within two standard deviations."""
    return lambda tensor, shape: (TRUNCATED, tensor / std)


def identity(tensor: Tensor, shape: torch.Size) -> tuple[Any, Tensor]:
    """Zero once the identity is subtracted."""
    passes_on = torch.zeros(shape)
    passes_on[:, :, shape[2] // 2, shape[3] // 2] = torch.eye(shape[0])
    return 0.0, tensor - passes_on


STARTS: dict[str, Callable[..., Start]] = {
    "zeros": lambda: constant(0.0),
    "ones": lambda: constant(1.0),
    "identity": lambda: identity,
    "kaiming_uniform": lambda: kaiming_uniform,
    "he_uniform": lambda: he_uniform,
    "xavier_uniform": xavier_uniform,
    "xavier_uniform_set": xavier_uniform_set,
    "normal": normal,
    "truncated_normal": truncated_normal,
}


def parse(text: str | float) -> Start:
    """The start that a fact names. Raises UserError for an unknown one."""
    if isinstance(text, int | float):
        return constant(float(text))
    match = re.fullmatch(r"(\w+)(?:\(([\w., ]+)\))?", text)
    if match is None or match[1] not in STARTS:
        raise unknown("start", text, [*STARTS, "pretrained", "any"])
    values = [value.strip() for value in match[2].split(",")] if match[2] else []
    try:
        return STARTS[match[1]](*(3 * PATCH**2 if v == "patch" else float(v) for v in values))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"start '{text}' has wrong arguments; see petlbench/testing/starts.py"
        ) from error


def check(
    method: Method, pretrained: Mapping[str, Tensor], facts: Mapping[str, Any] | str
) -> None:
    """Assert that each trained tensor starts as the first pattern that matches it declares.

    pretrained: the tensors of the plain backbone by the names that they have in a method.
    """
    rows = HEAD | ({"*": facts} if isinstance(facts, str) else dict(facts))
    tensors = {name: tensor.detach() for name, tensor in trained(method).items()}
    by_pattern: dict[str, list[str]] = defaultdict(list)
    for name in tensors:
        pattern = next((row for row in rows if fnmatchcase(name, row)), None)
        assert pattern is not None, f"facts.start has no pattern that matches {name}"
        by_pattern[pattern].append(name)
    # `pretrained` may match nothing: a linear probe trains the head alone; some have another head.
    known = {*by_pattern, *HEAD}
    unused = [row for row in rows if row not in known and rows[row] != "pretrained"]
    assert not unused, f"facts.start has patterns that match no trained tensor: {unused}"
    for pattern, names in by_pattern.items():
        if rows[pattern] == "pretrained":
            _check_pretrained(names, tensors, pretrained)
        else:
            own = [name for name in names if name in pretrained and name not in HEAD]
            assert not own, f"{own[0]} of the backbone is trained; declare its start: pretrained"
            _check_drawn(pattern, rows[pattern], names, tensors)


def _check_pretrained(
    names: list[str], tensors: Mapping[str, Tensor], pretrained: Mapping[str, Tensor]
) -> None:
    for name in names:
        assert name in pretrained, f"{name} is no tensor of the backbone"
        assert torch.equal(tensors[name], pretrained[name]), f"{name} is not as pre-trained"


def _check_drawn(
    pattern: str, text: str | float, names: list[str], tensors: Mapping[str, Tensor]
) -> None:
    """All tensors of a pattern together: more draws tell distributions apart better."""
    draws: dict[Any, list[Tensor]] = defaultdict(list)
    for name in names if text != "any" else []:
        # The bound of a bias follows from the fan-in of its layer's weight.
        weight = tensors.get(f"{name.removesuffix('.bias')}.weight", tensors[name])
        distribution, values = parse(text)(tensors[name], weight.shape)
        draws[distribution].append(values.flatten().double())
    for distribution, parts in draws.items():
        reason = mismatch(torch.cat(parts), distribution)
        assert not reason, f"{pattern} is not {text}: {reason}"


def mismatch(values: Tensor, distribution: Any) -> str:
    """Why values (n,) are not drawn from a distribution, or ""; four standard errors pass.

    A number instead of a distribution stands for all values.
    """
    if isinstance(distribution, float):
        equal = (values == torch.tensor(distribution).double()).all()
        return "" if equal else "a value differs"
    count, std = len(values), distribution.std()
    kurtosis = 3 + float(distribution.stats(moments="k"))
    low, high = distribution.support()
    if values.min() < low - 1e-6 or values.max() > high + 1e-6:  # rounding of float32
        return "out of bounds"
    # Of a uniform start, all draws stay below this bound with probability e^-24.
    if distribution is UNIFORM and values.abs().max() < high - 12 / count * (high - low):
        return "far from its bounds"
    if abs(values.mean()) > 4 * std / math.sqrt(count):
        return "another mean"
    # The relative standard error of a standard deviation.
    if abs(values.std() / std - 1) > 4 * math.sqrt((kurtosis - 1) / (4 * count)):
        return "another standard deviation"
    return "another form" if stats.kstest(values, distribution.cdf).pvalue < 1e-4 else ""
