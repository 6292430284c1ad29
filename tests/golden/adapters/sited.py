"""Methods whose tensors sit at a module of each block and are laid out alike."""

import re
from collections.abc import Mapping

from tests.golden.case import Case, Plan, Tied, usual_pool

BLOCK = re.compile(r"(?P<block>(?:layers\.\d+\.)?blocks\.\d+)\.(?P<site>\w+)\.(?P<rest>.+)")


def sited(case: Case, places: Mapping[str, str]) -> dict[str, Tied]:
    """`blocks.{i}.<site>.<rest>` there is `blocks.{i}.<place of the site>.<rest>` here."""
    tensors = {}
    for name in case.method_tensors:
        found = BLOCK.fullmatch(name)
        if found is None or found["site"] not in places:
            raise ValueError(f"no tensor of {case.about['method']}: {name}")
        place = f"backbone.net.{found['block']}.{places[found['site']]}.{found['rest']}"
        tensors[name] = Tied(place)
    return tensors


def adapter(case: Case) -> Plan:
    values = {"rank": case.config["bottleneck"], "dropout": 0.0, "sites": ["mlp"], "init": "noah"}
    return Plan("adapter", values, usual_pool(case), sited(case, {"adapter": "after_mlp.op"}))


def adaptformer(case: Case) -> Plan:
    config = case.config
    if config.get("bit", 32) != 32:
        return bi_adaptformer(case)
    rank = config["bottleneck"] if "bottleneck" in config else config["bottleneck_or_rank"]
    bias = any(name.endswith(".bias") for name in case.method_tensors)
    values = {"rank": rank, "scale": config["scale"], "dropout": 0.0, "bias": bias}
    return Plan("adaptformer", values, usual_pool(case), sited(case, {"adaptmlp": "branch.op"}))


def bi_adaptformer(case: Case) -> Plan:
    config = case.config
    values = {"rank": config["bottleneck_or_rank"], "bits": config["bit"]}
    values |= {"scale": config["scale"], "dropout": 0.0}
    tensors = sited(case, {"adaptmlp": "branch.op"})
    return Plan("bi_adaptformer", values, usual_pool(case), tensors)


def convpass(case: Case) -> Plan:
    config = case.config
    places = {f"convpass_{site}": f"beside.{site}.0.op" for site in ("attn", "mlp")}
    tensors = sited(case, places)
    sites = [site for site in ("attn", "mlp") if any(f"convpass_{site}." in n for n in tensors)]
    values = {"hidden": config["dim"], "scale": config["scale"], "dropout": 0.0, "sites": sites}
    return Plan("convpass", values, usual_pool(case), tensors)


ADAPTERS = {
    "adapter": adapter,
    "adaptformer": adaptformer,
    "bi_adaptformer": bi_adaptformer,
    "convpass": convpass,
    "convpass_attn": convpass,
}
