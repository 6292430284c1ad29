"""DTL and DTL+ on ViT and Swin; the vectors count blocks from 0, the methods from 1."""

from itertools import accumulate

from tests.golden.case import Case, Plan, Tied

ENDS = {"a": "down.weight", "c": "up.weight"}


def dtl(case: Case) -> Plan:
    config = case.config
    extract_from = config["side_blocks"][0] + 1
    inject_from = config["feedback_after_blocks"][0] + 1
    kernel = config.get("kernel", 0)
    values = {
        "rank": config["rank"],
        "extract_from": extract_from,
        "inject_from": inject_from,
        "beta": config["beta"],
    }
    live = _live(case.depths, max(extract_from, inject_from))
    made = {f"side.{n}.{end}" for n in live if n >= extract_from for end in ENDS.values()}
    if kernel:
        values["kernel"] = kernel
        made |= {f"mix.{first}.weight" for first in _firsts(case.depths) if first in live}
    tied = {name: _tied(name, case.depths, made) for name in case.method_tensors}
    used = {tie.parameter for tie in tied.values()}
    zeros = frozenset(name for name in made if name.startswith("side.") and name not in used)
    pool = "norm_then_mean" if case.is_swin else "patch_mean_then_norm"
    return Plan("dtl_plus" if kernel else "dtl", values, pool, tied, zeros)


def _tied(name: str, depths: list[int], made: set[str]) -> Tied:
    """blocks.{i}.a (d, r) and .c (r, d) are transposed weights; dwconv is as torch has it."""
    kind, *rest = name.split(".")
    if kind == "dwconv":
        parameter = f"mix.{_firsts(depths)[int(rest[0]) if rest else 0]}.weight"
        return Tied(parameter if parameter in made else None)
    number, end = rest
    parameter = f"side.{int(number) + 1}.{ENDS[end]}"
    return Tied(parameter if parameter in made else None, lambda weight: weight.mT)


def _firsts(depths: list[int]) -> list[int]:
    """Number of each stage's first block, from 1."""
    return [1 + done for done in accumulate(depths[:-1], initial=0)]


def _live(depths: list[int], start: int) -> set[int]:
    """Blocks of the stages in which block `start` or a later one lies."""
    stages = zip(_firsts(depths), depths, strict=True)
    return {
        n for first, size in stages if first + size > start for n in range(first, first + size)
    }


ADAPTERS = {"dtl": dtl, "dtl+": dtl}
