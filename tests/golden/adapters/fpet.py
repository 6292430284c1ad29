"""FPET on LoRA and on AdaptFormer: the tensors of the base, and the refinement in one block."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from petlbench.method import Method
from tests.golden.case import Case, Plan, Tied, apart, usual_pool

NAME = re.compile(r"blocks\.(?P<block>\d+)\.(?P<rest>.+)")
PLACES = {  # from the block; one from `merge_block` on is wrapped, and holds the branch itself
    r"attn\.q\.lora_a": "{inner}attn.qkv.query.op.down.weight",
    r"attn\.q\.lora_b": "{inner}attn.qkv.query.op.up.weight",
    r"attn\.v\.lora_a": "{inner}attn.qkv.value.op.down.weight",
    r"attn\.v\.lora_b": "{inner}attn.qkv.value.op.up.weight",
    r"adaptmlp\.(down|up)\.weight": r"branch.op.\1.weight",
    r"refinement\.(down|up)\.weight": r"merging.refinement.op.\1.weight",
}


def fpet(case: Case) -> Plan:
    config = case.config
    values = {
        "base": config["base"],
        "rank": config["rank"],
        "bits": None if config["bit"] == 32 else config["bit"],
        "scale": config["scale"],
        "dropout": 0.0,
        "merge_block": config["merge_block_0based"] + 1,
        "refine_rank": config["refine_rank"],
        "refine_bits": config["refine_bit"],
    }
    merge = config["merge_block_0based"]
    tensors = {name: Tied(_parameter(name, merge)) for name in case.method_tensors}

    def sizes(method: Method) -> Mapping[str, float]:
        """The number of patches in each token that is left."""
        seen: list[Tensor] = []

        def keep(_: nn.Module, __: object, outputs: tuple[Tensor, Tensor]) -> None:
            seen.append(outputs[1])

        merging = method.get_submodule(f"backbone.net.blocks.{merge}.merging")
        hook = merging.register_forward_hook(keep)
        method.eval()(case.arrays["x"])
        hook.remove()
        return {"sizes": apart(seen[0], case.arrays["check/token_sizes"])}

    bits = "bi_" if values["bits"] is not None else ""
    return Plan(f"fpet_{bits}{values['base']}", values, usual_pool(case), tensors, further=sizes)


def _parameter(name: str, merge: int) -> str:
    found = NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"no tensor of FPET: {name}")
    for pattern, place in PLACES.items():
        if site := re.fullmatch(pattern, found["rest"]):
            inner = "block." if int(found["block"]) >= merge else ""
            return f"backbone.net.blocks.{found['block']}.{site.expand(place).format(inner=inner)}"
    raise ValueError(f"no tensor of FPET: {name}")


ADAPTERS = {"fpet": fpet}
