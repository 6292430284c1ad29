"""FacT: U and V are shared; the cores of query, key and value are rows of one tensor here."""

import re
from functools import partial

from torch import Tensor

from tests.golden.case import Case, Plan, Tied, usual_pool

CORE = re.compile(r"(?P<block>.+)\.sigma_(?P<part>\w+)")
FIRST = "backbone.net.blocks.0.attn.qkv.branch.op"
SHARED = {"fact_u": "u.weight", "fact_v": "v.weight"}
TUCKER = {"fact_c": "core.tucker.c", "fact_p": "core.tucker.p"}
LAYERS = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def rows(first: int, count: int, tensor: Tensor) -> Tensor:
    return tensor[first : first + count]


def fact_tt(case: Case) -> Plan:
    rank = case.config["rank"]
    tensors = {}
    for name in case.method_tensors:
        if name in SHARED:
            tensors[name] = Tied(f"{FIRST}.{SHARED[name]}")
            continue
        core = CORE.fullmatch(name)
        if core is None:
            raise ValueError(f"no tensor of FacT-TT: {name}")
        layer = LAYERS.get(core["part"], "attn.qkv")
        parameter = f"backbone.net.{core['block']}.{layer}.branch.op.core.weight"
        if core["part"] in LAYERS:
            tensors[name] = Tied(parameter)
        else:
            tensors[name] = Tied(parameter, partial(rows, "qkv".index(core["part"]) * rank, rank))
    values = {"rank": rank, "scale": case.config["scale"], "dropout": 0.0}
    return Plan("fact_tt", values, usual_pool(case), tensors)


def fact_tk(case: Case) -> Plan:
    places = SHARED | TUCKER
    tensors = {name: Tied(f"{FIRST}.{places[name]}") for name in case.method_tensors}
    values = {"rank": case.config["rank"], "scale": case.config["scale"], "dropout": 0.0}
    return Plan("fact_tk", values, usual_pool(case), tensors)


ADAPTERS = {"fact_tt": fact_tt, "fact_tk": fact_tk}
