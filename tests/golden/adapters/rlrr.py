"""RLRR: a (n), g (m) and f (m) of a linear map, and pairs of scale and shift as in SSF."""

import re

from torch import Tensor

from tests.golden.case import Case, Plan, Tied, as_it_is, usual_pool

TENSOR = re.compile(r"(?P<layer>.+)\.(?P<kind>scale_in|scale_out|scale|shift)")
PARTS = {"q": 0, "k": 1, "v": 2}  # thirds of the fused projection


def rlrr(case: Case) -> Plan:
    config = case.config
    values = {"sites": config.get("sites"), "pairs": config.get("norm_scale_shift")}
    values |= {"dropout": 0.0}
    tensors = {name: _tied(name) for name in case.method_tensors}
    return Plan("rlrr", values, usual_pool(case), tensors)


def _tied(name: str) -> Tied:
    found = TENSOR.fullmatch(name)
    if found is None:
        raise ValueError(f"no tensor of RLRR: {name}")
    layer, kind = found["layer"], found["kind"]
    if "norm" in layer or layer.startswith("patch_embed"):
        return Tied(f"backbone.net.{layer}.1.{kind}")
    block, _, last = layer.rpartition(".")
    place = f"{block}.qkv" if last in PARTS else layer
    view = {"scale_in": row, "scale_out": column}.get(kind, as_it_is)
    return Tied(f"backbone.net.{place}.parts.{PARTS.get(last, 0)}.{kind}", view)


def row(scale: Tensor) -> Tensor:
    """(1, n) -> (n)"""
    return scale[0]


def column(scale: Tensor) -> Tensor:
    """(m, 1) -> (m)"""
    return scale[:, 0]


ADAPTERS = {"rlrr": rlrr}
