"""Properties that are tested once per method: hyper-parameters, facts, and the stated memory."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from petlbench import registry
from petlbench.config import options
from petlbench.cost import section, shapes
from petlbench.method import Method
from petlbench.model.drop_path import keep_masks
from petlbench.testing import starts
from petlbench.testing.case import Case, error_of, loss, method_on
from petlbench.testing.facts import VIT, Skipped, Undeclared, declared, fact, overlay
from petlbench.testing.networks import SIZE, full_size, images, tiny
from petlbench.train.precision import Precision


def support_is_as_declared(case: Case) -> None:
    """The method refuses the families of `facts.unsupported`, in one line, and no others."""
    refusal, refused = case.refusal(), declared(case.method).get("unsupported", ())
    if refusal is None:
        assert case.family not in refused, (
            f"it works on {case.family}; facts.unsupported denies it"
        )
        return
    if "unsupported" not in declared(case.method):
        raise Undeclared(case.method, "unsupported", refusal)
    assert case.family in refused, f"{refusal}; declare it in facts.unsupported"


def wrong_values_are_refused_in_one_line(case: Case) -> None:
    """A wrong value of a number or a choice, and an unknown name, raise UserError."""
    for changed in _wrong(registry.values(case.method)):
        build = partial(method_on, tiny(case.family), case.method, **changed)
        assert error_of(build) is not None, f"{changed} is accepted"


def _wrong(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"no_such_value": 1}
    for key, value in values.items():
        if isinstance(value, str):
            yield {key: "no such choice"}
        # Another type, a value below every range, and one that is not finite.
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield from ({key: wrong} for wrong in ("x", -1, float("nan")))


def parameters_are_as_declared(case: Case) -> None:
    """Trained parameters at full size, without the head: `facts.parameters`."""
    for backbone, expected in fact(case.method, "parameters").items():
        counts = section.parameters(full_size_method(case.method, backbone))
        assert counts["method"] == expected, (
            f"{counts['method']} parameters on {backbone}; facts.parameters says {expected}"
        )
        heads = declared(case.method).get("head", {})
        plain = section.parameters(Method(full_size(backbone)))["head"]
        assert counts["head"] == heads.get(backbone, plain), (
            f"the head has {counts['head']} parameters on {backbone}; facts.head says "
            f"{heads.get(backbone, f'nothing, and the plain one has {plain}')}"
        )


def units_are_as_declared(case: Case) -> None:
    """Structural units on ViT-B/16: `facts.units`."""
    if "units" not in declared(case.method):
        raise Skipped("facts.units is not declared")
    units = section.units(full_size_method(case.method, VIT))
    assert units == fact(case.method, "units"), f"{units} units on {VIT}"


def starts_are_as_declared(case: Case) -> None:
    """Every trained tensor is drawn from its declared distribution: `facts.start`."""
    # Wide enough for a test of distributions; the head too.
    wide: dict[str, Any] = {"name": "petlbench_wide", "classes": 40}
    facts = fact(case.method, "start")
    assert isinstance(facts, str | dict), "facts.start is neither a word nor a mapping"
    method = registry.create(case.method, tiny("vit", **wide))
    plain = Method(tiny("vit", **wide))
    starts.check(method, dict(plain.named_parameters()), facts)


def dropouts_are_as_declared(case: Case) -> None:
    """Where dropout acts in a training step, by the shape of one image: `facts.dropout`."""
    if "dropout" not in registry.values(case.method):
        raise Skipped("the method has no value `dropout`")
    method = method_on(tiny("vit"), case.method).train()
    with Dropouts() as dropouts:
        loss(method)
    expected = fact(case.method, "dropout")
    assert dict(dropouts.shapes) == expected, f"dropouts are {dict(dropouts.shapes)}"


def saved_bytes_on_shapes_are_those_of_a_step(case: Case) -> None:
    """The memory that a record states without a GPU: counted on shapes as in a real step."""
    if declared(case.method).get("data_dependent"):
        raise Skipped("facts.data_dependent: its record states no memory without a GPU")
    # With drop path, whose factors autograd keeps too.
    method = method_on(tiny(case.family, drop_path=0.1), case.method).train()
    precision, batch = Precision("fp32", torch.device("cpu")), images(4)
    with keep_masks(method, len(batch)):
        real = shapes.saved_bytes(method, precision, batch)
    counted = shapes.saved_bytes_on_cpu(method, precision, batch=len(batch), size=SIZE)
    assert counted == real, f"{counted} bytes on shapes, {real} in a step"


class Dropouts(TorchFunctionMode):
    """Counts active dropouts by the shape of their input without the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's hook, called for each function of torch."""
        if func is F.dropout and _active(*args, **(kwargs or {})):  # nn.Dropout calls it
            self.shapes[" x ".join(map(str, args[0].shape[1:]))] += 1
        return func(*args, **(kwargs or {}))


def _active(_: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> bool:
    return training and p > 0


def the_yaml_is_complete(case: Case) -> None:
    """Package line, title and learning rate are there; `facts` is the last key."""
    text, content = options.text("method", case.method), options.content("method", case.method)
    # Hydra reads the package of a file from a comment at its top.
    assert text.startswith("# @package _global_\n"), "line 1 must be '# @package _global_'"
    assert content.get("title"), "the yaml has no title"
    assert "lr" in content.get("train", {}), "the yaml has no train.lr"
    assert content["method"].get("_partial_"), "method._partial_ must be true"
    # The page of a method shows its yaml up to this key.
    assert "facts" not in content or list(content)[-1] == "facts", "facts must be the last key"
    names, tiny_values = registry.values(case.method), declared(case.method).get("tiny", {})
    assert tiny_values.keys() <= names.keys(), "facts.tiny names an unknown value"


def full_size_method(name: str, backbone: str, **changed: Any) -> Method:
    """A method on an option of conf/backbone, with the values that conf/method_on has for it."""
    values = overlay(name, backbone) | changed
    if registry.kind(name).needs_weights:
        return registry.create(name, full_size(backbone, device="cpu"), **values)
    network = full_size(backbone)
    with torch.device("meta"):
        return registry.create(name, network, **values)


METHOD_PROPERTIES: tuple[Callable[[Case], None], ...] = (
    the_yaml_is_complete,
    wrong_values_are_refused_in_one_line,
    parameters_are_as_declared,
    units_are_as_declared,
    starts_are_as_declared,
    dropouts_are_as_declared,
    saved_bytes_on_shapes_are_those_of_a_step,
)
