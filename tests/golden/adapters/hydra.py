"""Hydra: branches of a projection are named `parallel` and `sequential` there and here."""

import re

from tests.golden.case import Case, Plan, Tied, usual_pool

BRANCH = re.compile(r"(?P<layer>.+)\.(?P<branch>parallel|sequential)\.(?P<rest>.+)")
BRANCHES = ("parallel", "sequential")
SITES = {"attn.proj": "attn", "mlp.fc2": "mlp"}


def hydra(case: Case) -> Plan:
    config = case.config
    values = {"rank": config["rank"], "scale": config["scale"], "dropout": 0.0}
    values |= {"sites": [SITES[site] for site in config.get("sites", SITES)]}
    values |= {"branches": config.get("branches", BRANCHES)}
    tensors = {name: Tied(_parameter(name)) for name in case.method_tensors}
    return Plan("hydra", values, usual_pool(case), tensors)


def _parameter(name: str) -> str:
    found = BRANCH.fullmatch(name)
    if found is None:
        raise ValueError(f"no tensor of Hydra: {name}")
    return f"backbone.net.{found['layer']}.branches.{found['branch']}.{found['rest']}"


ADAPTERS = {"hydra": hydra}
