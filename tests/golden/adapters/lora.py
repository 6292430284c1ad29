"""LoRA and Bi-LoRA: q and v apart (PETL-ViT), or q, k and v through one pair (NOAH)."""

import re

from tests.golden.case import Case, Plan, Tied, usual_pool

SITE = re.compile(r"(?P<block>.+)\.attn\.(?P<part>q|v|qkv)\.lora_(?P<side>[ab])")
INSIDE = {"q": "query.op", "v": "value.op", "qkv": "branch.op.1"}
ENDS = {"a": "down.weight", "b": "up.weight"}


def lora(case: Case) -> Plan:
    config = case.config
    if config.get("bit", 32) != 32:
        return bi_lora(case)
    fused = any(".attn.qkv." in name for name in case.method_tensors)
    rank = config["bottleneck_or_rank"] if "bottleneck_or_rank" in config else config["rank"]
    values = {"rank": rank, "scale": config.get("scale", 1.0), "dropout": 0.0}
    tensors = {name: Tied(_parameter(name)) for name in case.method_tensors}
    return Plan("lora_noah" if fused else "lora", values, usual_pool(case), tensors)


def _parameter(name: str) -> str:
    site = SITE.fullmatch(name)
    if site is None:
        raise ValueError(f"no LoRA tensor: {name}")
    inside = f"{INSIDE[site['part']]}.{ENDS[site['side']]}"
    return f"backbone.net.{site['block']}.attn.qkv.{inside}"


def bi_lora(case: Case) -> Plan:
    config = case.config
    values = {"rank": config["bottleneck_or_rank"], "bits": config["bit"]}
    values |= {"scale": config["scale"], "dropout": 0.0}
    tensors = {name: Tied(_parameter(name)) for name in case.method_tensors}
    return Plan("bi_lora", values, usual_pool(case), tensors)


ADAPTERS = {"lora": lora, "bi_lora": bi_lora}
