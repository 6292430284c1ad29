"""VPT: all prompts of a ViT are one tensor (L, P, d) here and there."""

from tests.golden.case import Case, Plan, Tied, usual_pool


def vpt(case: Case) -> Plan:
    config = case.config
    deep = bool(config["deep"])
    values = {"prompts": config["prompts"], "dropout": 0.0}
    name = "vpt_deep" if deep else "vpt_shallow"
    return Plan(name, values, usual_pool(case), {"prompts": Tied("prompts.1")})


ADAPTERS = {"vpt_shallow": vpt, "vpt_deep": vpt}
