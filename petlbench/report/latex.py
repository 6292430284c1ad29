"""A table as LaTeX: booktabs, rotated task names, group heads; best bold, second underlined."""

import itertools
from collections.abc import Callable, Sequence

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
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # \textquotedbl needs another font encoding than the default
    "–": "--",
    "’": "'",
    "‘": "`",
}
LAST = 0xFF  # LaTeX knows the letters of Latin-1; reasons of failures may hold anything
FORMS = {1: r"\textbf{%s}", 2: r"\underline{%s}", None: "%s"}


def escaped(text: str) -> str:
    """Text in which no character means anything to LaTeX."""
    return "".join(SPECIAL.get(c, c if ord(c) <= LAST else "?") for c in text)


def render(table: Table, name: str, made_by: str = "petlbench.report") -> str:
    """A `table*`, and one of the spread if there is any; needs booktabs and graphicx."""
    said = [rf"\noindent {escaped(line)}\par" for line in table.lines()]
    return "\n".join(
        [
            f"% made by {' '.join(made_by.split())}",
            r"% needs \usepackage{booktabs,graphicx}; do not edit: run the command again",
            *_float(
                table,
                table.columns,
                lambda row, column: _cell(table, row, column),
                caption="Top-1 accuracy and cost. Best in bold, second underlined.",
                label=name,
                below=said,
            ),
            *(_appendix(table, name) if table.has_spread else []),
            "",
        ]
    )


def _appendix(table: Table, name: str) -> list[str]:
    return [
        "",
        *_float(
            table,
            table.tasks,
            lambda row, column: escaped(table.deviation(row, column)),
            caption="Sample standard deviation over runs, in percentage points.",
            label=f"{name}-spread",
            below=[],
        ),
    ]


def _float(
    table: Table,
    columns: Sequence[Column],
    cell: Callable[[str, Column], str],
    *,
    caption: str,
    label: str,
    below: Sequence[str],
) -> list[str]:
    body: list[str] = []
    for family, rows in table.sections():
        if family:
            body += [r"\midrule"] if body else []
            shown = rf"\emph{{{escaped(family[0].upper() + family[1:])} methods}}"
            body.append(rf"\multicolumn{{{len(columns) + 1}}}{{l}}{{{shown}}} \\")
        body += [
            " & ".join([_first(table, row), *(cell(row, c) for c in columns)]) + r" \\"
            for row in rows
        ]
    return [
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{label}}}",
        r"\smallskip",
        r"\setlength{\tabcolsep}{3pt}",
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'c' * len(columns)}}}",
        r"\toprule",
        *_heads(table, columns),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        *([r"\par\smallskip\begin{minipage}{\textwidth}\footnotesize"] if below else []),
        *below,
        *([r"\end{minipage}"] if below else []),
        r"\end{table*}",
    ]


def _heads(table: Table, columns: Sequence[Column]) -> list[str]:
    heads, rules, first = [""], [], 2
    for group, members in itertools.groupby(columns, key=lambda column: column.group):
        count = len(list(members))
        heads.append(rf"\multicolumn{{{count}}}{{c}}{{{escaped(group.capitalize())}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    names = [rf"\rotatebox{{90}}{{{_marked(table, c.title, c.key)}}}" for c in columns]
    return [" & ".join(heads) + r" \\", "".join(rules), " & ".join(["", *names]) + r" \\"]


def _marked(table: Table, title: str, of: str) -> str:
    letters = table.letters(of)
    return escaped(title) + (rf"\textsuperscript{{{letters}}}" if letters else "")


def _first(table: Table, row: str) -> str:
    # After the line before it, \\ would take a bracket or a star as its argument.
    return ("{}" if row[:1] in "[*" else "") + _marked(table, row, row)


def _cell(table: Table, row: str, column: Column) -> str:
    return FORMS[table.rank(row, column)] % escaped(table.text(row, column))
