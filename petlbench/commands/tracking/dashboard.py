"""Makes a workspace of a project in W&B: accuracy, Pareto, cost and failures.

The command makes the same workspace again, with what was changed in it by hand overwritten.
"""

import argparse
import hashlib
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

from petlbench.errors import UserError, unknown
from petlbench.run import wandb_run
from petlbench.run.outbox import PAGE, TABLE
from petlbench.run.wandb_client import FINISH_S, connected, explained, within

INSTALL = "pip install 'petlbench[dashboard]'"
METHOD, TASK = "factors.method", "factors.task"  # keys of a run's configuration
USUAL = "test/top1"  # accuracy of most runs
BARS = 100


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    command.add_argument("--project", required=True, help="wandb.project of the runs")
    command.add_argument("--entity", help="default: the user's")
    command.add_argument("--group", help="show the runs of one group, a sweep")


def run(options: argparse.Namespace) -> None:
    """Save the workspace and print its address.

    Raises UserError without wandb-workspaces, without such runs, or if W&B refuses it.
    """
    workspaces, panels = _package()
    with explained():
        api, own = connected()
        entity = options.entity or own
        keys = within(
            FINISH_S, lambda: accuracies(api, f"{entity}/{options.project}", options.group)
        )
        made = workspaces.Workspace(
            name=f"petlbench {options.group or ''}".strip(),
            entity=entity,
            project=options.project,
            sections=[
                workspaces.Section(name=name, panels=shown, is_open=True)
                for name, shown in sections(panels, keys).items()
            ],
            runset_settings=_runs(workspaces, options.group),
        )
        print(within(FINISH_S, lambda: _saved(workspaces.Workspace, made, options.group or "")))


def accuracies(api: Any, place: str, group: str | None) -> list[str]:
    """The keys of accuracies that the runs of a group have, such as test/top1.

    place: ENTITY/PROJECT. Raises UserError if there is no run.
    """
    runs = [run for run in api.runs(place, per_page=PAGE) if run.jobType == wandb_run.JOB_TYPE]
    if not runs:
        raise UserError(f"{place} has no runs; python -m petlbench.tracking push sends records")
    shown = [run for run in runs if group in (None, run.group)]
    if not shown:
        raise unknown(f"group of {place}", str(group), {str(run.group) for run in runs})
    finished = next((run for run in shown if run.state == "finished"), None)
    keys = finished.summary.keys() if finished is not None else ()
    return sorted(key for key in keys if key.endswith("/top1")) or [USUAL]


def sections(panels: ModuleType, keys: Sequence[str]) -> dict[str, list[Any]]:
    """The panels of each section, for accuracies of these keys."""
    bars = partial(_bars, panels)
    return {
        "Accuracy by method and task": [
            panels.WeavePanelSummaryTable(table_name=TABLE),
            *(bars(key, by) for key in keys for by in (METHOD, TASK)),
        ],
        "Pareto": [
            panels.ScatterPlot(title=f"{key} against {cost}", x=cost, y=key, log_x=True)
            for key in keys
            for cost in ("parameters_method", "peak_mib", "saved_mb")
        ],
        "Cost": [
            bars(cost, METHOD) for cost in ("parameters_method", "peak_mib", *wandb_run.COSTS)
        ],
        "Failures": [bars("failed", by, "sum") for by in (METHOD, TASK)],
    }


def _bars(panels: ModuleType, key: str, by: str, aggregate: str = "mean") -> Any:
    return panels.BarPlot(
        title=f"{key} by {by.rpartition('.')[2]}",
        metrics=[key],
        groupby=panels.Config(by),
        groupby_aggfunc=aggregate,
        groupby_rangefunc="stddev" if aggregate == "mean" else "none",
        max_bars_to_show=BARS,
    )


def _runs(workspaces: ModuleType, group: str | None) -> Any:
    """The runs of a group, the failed ones with their reason in the list."""
    return workspaces.RunsetSettings(
        filters=workspaces.And(workspaces.Metric("Group") == group) if group else "",
        pinned_columns=["summary:status", "summary:reason", f"summary:{USUAL}"],
    )


def _saved(kind: Any, made: Any, group: str) -> str:
    """The address of a workspace, which replaces the one of an earlier call."""
    # hexadecimal: wandb-workspaces cuts "-v" out of a name
    made._internal_name = f"nw-petlbench{hashlib.sha256(group.encode()).hexdigest()[:8]}-v"
    try:
        earlier = kind.from_url(made.url)
    except ValueError:
        earlier = made  # the first call
    earlier.sections, earlier.runset_settings = made.sections, made.runset_settings
    return str(earlier.save().url)


def _package() -> tuple[ModuleType, ModuleType]:
    """The modules of workspaces and of their panels. Raises UserError if they are missing."""
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as error:
        raise UserError(f"the dashboard needs wandb-workspaces; {INSTALL}") from error
    return workspaces, panels
