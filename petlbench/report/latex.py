"""A table as LaTeX: booktabs, rotated task names, group heads; best bold, second underlined."""

import itertools

import pandas as pd

from petlbench.report.table import Column, Table

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
}
FORMS = {1: r"\textbf{%s}", 2: r"\underline{%s}", None: "%s"}


def escaped(text: str) -> str:
    """Text in which no character means anything to LaTeX."""
    return "".join(SPECIAL.get(character, character) for character in text)


def render(table: Table, name: str) -> str:
    """A `table*` that needs \\usepackage{booktabs,graphicx}."""
    lines = [
        rf"% {name}: made by petlbench.report; needs \usepackage{{booktabs,graphicx}}",
        r"\begin{table*}[t]",
        r"\centering",
        r"\setlength{\tabcolsep}{3pt}",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}",
        r"\toprule",
        *_heads(table.columns),
        r"\midrule",
        *(_row(table, row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\caption{{{escaped(' '.join(table.notes))}}}",
        rf"\label{{tab:{name}}}",
        r"\end{table*}",
    ]
    if table.spread.notna().any(axis=None):
        lines += ["", *_spread(table, name)]
    return "\n".join(lines) + "\n"


def _heads(columns: list[Column]) -> list[str]:
    heads, rules, first = [""], [], 2
    for group, members in itertools.groupby(columns, key=lambda column: column.group):
        count = len(list(members))
        heads.append(rf"\multicolumn{{{count}}}{{c}}{{{escaped(group.capitalize())}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    names = [rf"\rotatebox{{90}}{{{escaped(column.title)}}}" for column in columns]
    return [" & ".join(heads) + r" \\", " ".join(rules), " & ".join(["", *names]) + r" \\"]


def _row(table: Table, row: str) -> str:
    cells = [
        FORMS[table.rank(row, column)] % escaped(table.text(row, column))
        for column in table.columns
    ]
    return " & ".join([escaped(row), *cells]) + r" \\"


def _spread(table: Table, name: str) -> list[str]:
    """The appendix: standard deviation over seeds of each task's score."""
    tasks = [column for column in table.columns if column.key in table.spread]
    body = [
        " & ".join([escaped(row), *(_deviation(table, row, task) for task in tasks)]) + r" \\"
        for row in table.rows
    ]
    return [
        r"\begin{table*}[t]",
        r"\centering",
        rf"\begin{{tabular}}{{l{'c' * len(tasks)}}}",
        r"\toprule",
        *_heads(tasks),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\caption{Standard deviation over seeds (percentage points, $n - 1$).}",
        rf"\label{{tab:{name}-spread}}",
        r"\end{table*}",
    ]


def _deviation(table: Table, row: str, task: Column) -> str:
    value = float(table.spread.loc[row, task.key])
    return "--" if pd.isna(value) else f"{value:.1f}"
