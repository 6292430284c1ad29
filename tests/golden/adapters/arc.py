"""ARC: D is (d, r) there and the transposed weight of a shared layer here."""

import re

from torch import Tensor

from tests.golden.case import Case, Plan, Tied, as_it_is, usual_pool

SITES = ("attn", "mlp")
SHARED = re.compile(r"(?P<stage>layers\.\d+\.)?(?P<site>attn|mlp)\.down")
OWN = re.compile(r"(?P<block>.+)\.arc_(?P<site>attn|mlp)\.(?P<kind>scale|shift)")


def arc(case: Case) -> Plan:
    config = case.config
    if "residual" not in (config.get("mlp_site_on_swin") or "residual"):
        raise ValueError(f"no such site here: {config['mlp_site_on_swin']}")
    usual = SITES[:1] if case.about["method"] == "arc_att" else SITES
    values = {"rank": config["rank"], "dropout": 0.0, "sites": config.get("sites", usual)}
    tensors = {name: _tied(name) for name in case.method_tensors}
    return Plan("arc", values, usual_pool(case), tensors)


def _tied(name: str) -> Tied:
    if shared := SHARED.fullmatch(name):
        first = f"backbone.net.{shared['stage'] or ''}blocks.0"
        return Tied(f"{first}.adapters.{shared['site']}.projection.weight", lambda w: w.mT)
    own = OWN.fullmatch(name)
    if own is None:
        raise ValueError(f"no tensor of ARC: {name}")
    parameter = f"backbone.net.{own['block']}.adapters.{own['site']}.{own['kind']}"
    return Tied(parameter, row if own["kind"] == "scale" else as_it_is)


def row(scale: Tensor) -> Tensor:
    """(1, r) -> (r)"""
    return scale[0]


ADAPTERS = {"arc": arc, "arc_att": arc}
