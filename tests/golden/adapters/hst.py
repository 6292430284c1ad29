"""HST: the side network, the meta tokens and the head; statistics are buffers."""

import re
from collections.abc import Mapping

from petlbench.method import Method
from tests.golden.case import Case, Plan, Tied, apart, usual_pool

PLACES = {
    r"meta_tokens\.(\d+)": r"meta.\1",
    r"bridge\.(\d+)\.(\w+)": r"side.\1.bridge.\2",
    r"stem\.(.+)": r"side.0.enter.\1",
    r"down\.(\d+)\.(.+)": r"side.\1.enter.\2",
    r"side\.(\d+)\.(\d+)\.(.+)": r"side.\1.blocks.\2.\3",
    r"side_norm\.(\d+)\.(\w+)": r"side.\1.norm.\2",
    r"head_bn\.(\w+)": r"head_norm.\1",
    r"head\.(\w+)": r"backbone.net.head.\1",
}
META_NORM = re.compile(r"meta_norm\.(\d+)\.(\w+)")


def hst(case: Case) -> Plan:
    config = case.config
    values = {
        "widths": config["side_widths"],
        "heads": config["side_heads"],
        "depths": config["side_depths"],
        "last_blocks": [block + 1 for block in config["last_block_of_stage"]],
        "meta_tokens": config["meta_tokens"],
    }
    tensors = {name: Tied(_parameter(name, values)) for name in case.method_tensors}

    def train_logits(method: Method) -> Mapping[str, float]:
        """In training mode, with the statistics of the batch; those of the vector stay."""
        before = {name: buffer.clone() for name, buffer in method.named_buffers()}
        logits = method.train()(case.arrays["x"])
        for name, buffer in method.named_buffers():
            buffer.copy_(before[name])
        return {"train_logits": apart(logits, case.arrays["train/logits"])}

    pool = usual_pool(case)
    return Plan("hst", values, pool, tensors, further=train_logits, training=False)


def _parameter(name: str, values: Mapping[str, list[int]]) -> str | None:
    if found := META_NORM.fullmatch(name):
        # Of a ViT block; None if no side block reads it.
        block = int(found[1])
        starts = [0, *values["last_blocks"]]
        stage = max(s for s, start in enumerate(starts[:-1]) if start <= block)
        index = block - starts[stage]
        inside = f"side.{stage}.meta_norms.{index}.{found[2]}"
        return inside if index < values["depths"][stage] else None
    for pattern, place in PLACES.items():
        if found := re.fullmatch(pattern, name):
            return found.expand(place)
    raise ValueError(f"no tensor of HST: {name}")


ADAPTERS = {"hst": hst}
