"""Records as the sweep of each named report writes them, with scores computed by a formula."""

import copy
import itertools
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from petlbench.config import options
from petlbench.report import registry
from petlbench.report.model.report import Report
from petlbench.report.read.records import read
from petlbench.report.read.rows import members
from petlbench.run.record import Record
from tests.records import LABELS, probe, record, score, with_predictions

TEMPORARY = tempfile.TemporaryDirectory()  # of records with predictions; removed at the end
ROOT = Path(__file__).parent.parent / "results" / "measured"
TESTS = ("imagenet", "imagenetv2", "sketch", "a", "r")
SETS = ("aircraft", "pets", "food101", "cars", "flowers102")
SIX = ("adapter", "vpt_deep", "lora", "noah", "dtl", "dtl_plus")
SEVEN = (*SIX[:4], "fact_tk", *SIX[4:])


def titled(run: Record) -> Record:
    """The record with the title of its method's yaml."""
    return run | {"title": options.content("method", run["factors"]["method"])["title"]}


def vtab(method: str, top1: float, backbone: str = "vit_b16", **values: Any) -> list[Record]:
    """One seed on the 19 tasks, top1 higher by one for each task."""
    runs = []
    for place, task in enumerate(members("dataset", "vtab")):
        content = options.content("dataset", task)
        run = titled(record(method, task, top1 + place, group=content["group"]))
        run["task_title"] = content["title"]
        run["id"] += "".join(map(str, values.values()))
        run["factors"]["backbone"] = backbone
        run["config"] = copy.deepcopy(run["config"]) | {"method": values}
        runs.append(run)
    return runs


def table_2() -> list[Record]:
    """The 13 methods of the paper; parameters and memory grow with their place."""
    runs = []
    for n, method in enumerate(members("method", "paper")):
        for run in vtab(method, 55.0 + (5 * n) % 13 / 2):
            parameters = {"method": int(30_000 * 1.5**n) * (method != "linear"), "head": 970}
            run["cost"] |= {"parameters": parameters, "peak_mib": {"allocated": 900.0 + 137 * n}}
            runs.append(run)
    return runs


def few_shot() -> list[Record]:
    """Seven methods, five sets, 1 to 16 shots, two draws that differ by two points."""
    runs = []
    cells = itertools.product(enumerate(SEVEN), enumerate(SETS), (1, 2, 4, 8, 16), (0, 1))
    for (n, method), (place, name), shots, draw in cells:
        top1 = 30.0 + n + 2 * place + 10 * shots**0.5 + 2 * draw
        run = titled(record(method, f"fewshot/{name}_{shots}", top1))
        run["factors"] |= {"backbone": "vit_b16", "draw": draw}
        run["id"] += str(draw)
        runs.append(run)
    return runs


def generalisation() -> list[Record]:
    """Two methods and draws on five test sets, five points apart."""
    runs = []
    for method, draw in itertools.product(("lora", "dtl"), (0, 1)):
        scores = {test: score(70.0 - 5 * n + draw) for n, test in enumerate(TESTS)}
        run = titled(record(method, "dg/imagenet", 1.0, scores=scores, id=f"{method}{draw}"))
        run["factors"] |= {"backbone": "vit_b16", "draw": draw}
        runs.append(run)
    return runs


def per_target() -> list[Record]:
    """DTL and DTL+, a task for each test set, five points apart."""
    runs = []
    for n, method in enumerate(("dtl", "dtl_plus")):
        for place, task in enumerate(members("dataset", "dg_per_target")):
            run = titled(record(method, task, 70.0 + n - 5 * place))
            run["task_title"] = options.content("dataset", task)["title"]
            run["factors"]["backbone"] = "vit_b16"
            runs.append(run)
    return runs


def ablation() -> list[Record]:
    """Four settings of DTL."""
    points = [("dtl", 2, None), ("dtl", 2, 100), ("dtl_plus", 1, 100), ("dtl_plus", 2, 100)]
    return [r for m, rank, beta in points for r in vtab(m, 60.0 + rank, rank=rank, beta=beta)]


def depth() -> list[Record]:
    """DTL+ at twelve values of M: accuracy and memory fall."""
    runs = [r for m in range(1, 13) for r in vtab("dtl_plus", 70.0 - m**1.5 / 20, inject_from=m)]
    for run in runs:
        run["cost"]["saved_mb"] = 1000.0 - 70 * run["config"]["method"]["inject_from"]
    return runs


def probes() -> list[Record]:
    """Six methods; LoRA also merged."""
    return [titled(probe(method, 100.0 - 7 * n)) for n, method in enumerate(SIX)]


def measured(folder: str) -> Callable[[], list[Record]]:
    """Committed records."""
    return lambda: read([ROOT / folder / "runs"])


def own_images() -> list[Record]:
    """Two methods on twelve own images, of which one gets one and the other four wrong."""
    folder = Path(TEMPORARY.name)
    wrong = {"lora": [5], "linear": [0, 3, 5, 8]}
    return [
        titled(
            with_predictions(name, [(k + (n in places)) % 3 for n, k in enumerate(LABELS)], folder)
        )
        for name, places in wrong.items()
    ]


SWEEPS: dict[str, Callable[[], list[Record]]] = {
    "table1": probes,
    "table2": table_2,
    "table3": lambda: [*vtab("dtl", 60.0, "swin_b"), *vtab("linear", 61.0, "swin_b")],
    "table4": generalisation,
    "dg_per_target": per_target,
    "table5": ablation,
    "table6": probes,
    "fig1": table_2,
    "fig3": few_shot,
    "fig4": depth,
    "efficiency": probes,
    "multitask": probes,
    "claims": measured("probe"),
    "audit": lambda: [*vtab("lora", 60.0), *vtab("linear", 61.0)],
    "leaderboard": measured("mini"),
    "mini": measured("mini"),
    "mini_all": measured("mini"),
    "demo": measured("demo"),
    "table": measured("demo"),
    "scatter": measured("mini"),
    "values": depth,
    "costs": probes,
    "throughput": probes,
    "shots": few_shot,
    "folder": own_images,
    "trials": lambda: read([ROOT / "mini" / "trials" / "mini" / "land"]),
}


@cache
def report(name: str) -> Report:
    """The report of the records of its sweep. Shared by tests: change nothing in it."""
    return registry.build(SWEEPS[name](), registry.find(name))
