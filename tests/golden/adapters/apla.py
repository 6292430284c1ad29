"""APLA: the gradients of whole projections there are those of some of their rows here."""

from functools import partial

import torch
from torch import Tensor

from tests.golden.case import Case, Plan, Tied, usual_pool

PREFIX = "grad/backbone/"


def apla(case: Case) -> Plan:
    names = [name for name in case.below(PREFIX) if ".attn.proj." in name]
    weights, biases = _ordered(names, ".weight"), _ordered(names, ".bias")
    rows = _rows(case, [len(case.arrays[PREFIX + name]) for name in weights])
    of_backbone = {
        name: _tied(name, index, case.arrays[PREFIX + name])
        for ordered in (weights, biases)
        for name, index in zip(ordered, rows, strict=True)
    }
    values = {"rows_per_block": None if len(set(map(len, rows))) > 1 else len(rows[0])}
    return Plan("apla", values | {"rows": rows}, usual_pool(case), of_backbone=of_backbone)


def _rows(case: Case, widths: list[int]) -> list[list[int]]:
    """The row numbers of each block; a vector without them trains all rows."""
    rows = case.config.get("rows")
    if rows is None:
        return [list(range(width)) for width in widths]
    return [rows[key] for key in sorted(rows, key=int)] if isinstance(rows, dict) else rows


def _ordered(names: list[str], end: str) -> list[str]:
    """The names with an end, in the order of their blocks."""
    chosen = [name for name in names if name.endswith(end)]
    return sorted(chosen, key=lambda name: [int(p) for p in name.split(".") if p.isdigit()])


def _tied(name: str, index: list[int], like: Tensor) -> Tied:
    layer, _, end = name.rpartition(".")
    placed = partial(_placed, index=torch.tensor(index), like=like)
    return Tied(f"backbone.net.{layer}.rows.{end}", placed)


def _placed(rows: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """(R, ...) -> a tensor as large as `like`, zero outside the rows"""
    return torch.zeros_like(like).index_copy(0, index, rows)


ADAPTERS = {"apla": apla}
