"""Methods without tensors of their own."""

from tests.golden.case import Case, Plan, usual_pool


def linear(case: Case) -> Plan:
    return Plan("linear", {}, usual_pool(case))


def full(case: Case) -> Plan:
    return Plan("full", {}, usual_pool(case))


def bitfit(case: Case) -> Plan:
    return Plan("bitfit", {"include_relpos": False}, usual_pool(case))  # proper biases only


ADAPTERS = {"linear": linear, "full": full, "bitfit": bitfit}
