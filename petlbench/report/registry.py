"""The registry of reports: experiments with a `report` node, and kinds of reports.

A kind is a module of petlbench.report.kinds with `DEFAULTS` (values of its specification) and
`build(records, spec, **options)`; a new file in kinds/ is found without being listed.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from petlbench.config import options
from petlbench.config.job_nodes import FINAL
from petlbench.errors import UserError, unknown
from petlbench.report import kinds
from petlbench.report.model.spec import ReportSpec
from petlbench.report.read.select import of_methods
from petlbench.run.record import Record

if TYPE_CHECKING:
    from petlbench.report.model.report import Report  # imports pandas

# defaults of every kind; its DEFAULTS and the node override them
COMMON: dict[str, Any] = {
    "suite": None,
    "protocol": FINAL,
    "backbone": None,
    "methods": [],
    "vary": {},
    "published": [],
    "intervals": False,
}


def names() -> dict[str, str]:
    """Name -> title of every report."""
    nodes = {name: _node(name) for name in options.names("experiment")}
    # an experiment takes precedence over a kind of its name, e.g. efficiency
    titles = {n: str(node.get("title", n)) for n, node in nodes.items() if node is not None}
    return titles | {
        kind: _module(kind).DEFAULTS["title"] for kind in _kinds() if kind not in titles
    }


def find(name: str) -> ReportSpec:
    """The specification of an experiment, or of a kind with its defaults.

    Raises UserError for an unknown name, kind or option.
    """
    node = _node(name)
    if node is None and name not in _kinds():
        raise unknown("report", name, names())
    node = node or {"kind": name}
    if node.get("kind") not in _kinds():
        raise unknown(f"kind of report '{name}'", str(node.get("kind")), _kinds())
    values = COMMON | dict(_module(node["kind"]).DEFAULTS) | node
    own = {field.name for field in fields(ReportSpec)}
    # what the specification lacks must be a keyword of the kind's `build`
    kind_options = {key: value for key, value in values.items() if key not in own}
    spec = ReportSpec(**{key: values[key] for key in own - {"options"}}, options=kind_options)
    return _checked(name, spec)


def build(records: Sequence[Record], spec: ReportSpec) -> "Report":
    """The report of a specification. Raises UserError if the records do not fit it."""
    records = of_methods(records, spec)
    report: Report = _module(spec.kind).build(records, spec, **spec.options)
    _check_shown(report, spec)
    return _with_intervals(report, records, spec) if spec.intervals else report


def _check_shown(report: "Report", spec: ReportSpec) -> None:
    """Refuse methods that have records, but none of those that the report is about."""
    if not spec.methods or "suite" not in report.tidy:
        return
    missing = [name for name in spec.methods if name not in set(report.tidy["method"])]
    if missing:
        about = report.tidy[["protocol", "suite", "backbone"]].iloc[0]
        raise UserError(
            f"--methods names {', '.join(missing)}, with no {about['protocol']} record of "
            f"{about['suite']} on {about['backbone']}, which this report is about; choose with "
            "--protocol, --suite and --backbone"
        )


def changed(name: str, spec: ReportSpec, options: Mapping[str, Any]) -> ReportSpec:
    """The specification with other options. Raises UserError if its kind has none of a name."""
    return _checked(name, replace(spec, options={**spec.options, **options}))


def _with_intervals(report: "Report", records: Sequence[Record], spec: ReportSpec) -> "Report":
    # scipy takes a second
    from petlbench.report.read.scores import gather
    from petlbench.report.table.intervals import interval_table

    table = interval_table(gather(records, spec, spec.options.get("tests")))
    if main := report.tables[:1]:  # its order, which may be that of ranks, without families
        first = [row for row in main[0].rows if row in table.rows]
        table.rows = [*first, *(row for row in table.rows if row not in first)]
        table.sections = {row: name for row, name in main[0].sections.items() if row in first}
    return replace(report, tables=[*report.tables, table])


def _module(kind: str) -> ModuleType:
    return importlib.import_module(f"{kinds.__name__}.{kind}")


def _checked(name: str, spec: ReportSpec) -> ReportSpec:
    # checked here, since a TypeError of `build` would suggest no name
    parameters = inspect.signature(_module(spec.kind).build).parameters
    choices = [key for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    for key in spec.options:
        if key not in choices:
            raise unknown(f"option of report '{name}' ({spec.kind})", key, choices)
    if not _are_names(spec.methods):
        raise UserError(f"report '{name}': methods is {spec.methods}; it must be a list of names")
    if not isinstance(spec.vary, Mapping):
        raise UserError(f"report '{name}': vary is {spec.vary}; it must map keys to titles")
    return spec


def _are_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _node(experiment: str) -> dict[str, Any] | None:
    node = options.content("experiment", experiment).get("report")
    if node is not None and not isinstance(node, dict):
        raise UserError(f"conf/experiment/{experiment}.yaml: report is {node}; it must be a node")
    return node


def _kinds() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(kinds.__path__)]
