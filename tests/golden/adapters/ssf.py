"""SSF: `<timm's module>.scale` and `.shift` follow that module's output."""

from tests.golden.case import Case, Plan, Tied, usual_pool


def ssf(case: Case) -> Plan:
    tensors = {}
    for name in case.method_tensors:
        module, _, end = name.rpartition(".")
        tensors[name] = Tied(f"backbone.net.{module}.1.{end}")
    merge_norm = any("downsample.norm" in name for name in case.method_tensors)
    return Plan("ssf", {"merge_norm": merge_norm}, usual_pool(case), tensors)


ADAPTERS = {"ssf": ssf}
