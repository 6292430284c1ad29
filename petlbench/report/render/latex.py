"""A report as LaTeX: booktabs, rotated task names, group heads; best bold, second underlined."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence

from anyascii import anyascii

from petlbench.report.model.report import Report
from petlbench.report.model.table import Column, Table, headed

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
    "`": r"\`{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # \textquotedbl needs another font encoding than the default
    "–": "--",  # outside Latin-1, but part of our own texts
    "−": r"\ensuremath{-}",
    "≠": r"\ensuremath{\neq}",
    "↓": r"\ensuremath{\downarrow}",
    "†": r"\textdagger{}",
    "·": r"\textperiodcentered{}",
    "±": r"\ensuremath{\pm}",
    "’": "'",
    "‘": "`",
}
# what no LaTeX prints of itself: characters beyond Latin-1, and those that the default encoding
# of pdfLaTeX lacks; blanks join words of one script
_BEYOND = rf"(?:[^\x00-\xff{''.join(c for c in SPECIAL if ord(c) > 0xFF)}]|[«»ÐðÞþ])+"
OTHER = re.compile(rf"({_BEYOND}(?: +{_BEYOND})*)")
# XeLaTeX and LuaLaTeX print the first argument if the font has all of its characters, since a
# missing one would leave a gap and a line in the log. Else, and in pdfLaTeX, it is the second
OTHER_SCRIPT = (
    r"\makeatletter\ifdefined\otherscript\else\DeclareRobustCommand{\otherscript}[2]{\begingroup",
    r"  \ifnum0\ifdefined\XeTeXversion1\fi\ifdefined\directlua1\fi>0",
    r"    \def\other@text{#1}\@tfor\other@sign:=#1\do{%",
    r"      \expandafter\iffontchar\expandafter\font\expandafter`\other@sign",
    r"      \else\def\other@text{#2}\fi}\other@text",
    r"  \else#2\fi\endgroup}\fi\makeatother",
)
# shrinks a table to the text width, but does not enlarge a narrow one
FITTING = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}"
# shrinks a high figure, such as the ranks of many methods, so that its caption fits below it
LOW = r"\resizebox*{!}{\ifdim\totalheight>.8\textheight .8\textheight\else\totalheight\fi}"
FORMS = {1: r"\textbf{%s}", 2: r"\underline{%s}", None: "%s"}
Cell = Callable[[str, Column], str]  # row, column -> LaTeX
Parts = list[tuple[str, list[str]]]  # titles of sections, and their rows
MOST_ROWS = 34  # of a float: with its caption and rotated heads no more fit on a page in 10 pt


def escaped(text: str) -> str:
    """Text without special characters of LaTeX, and without control characters.

    Other scripts than Latin become `\\otherscript{text}{transliteration}`, see `OTHER_SCRIPT`.
    """
    # composed: macOS names files with letters and accents apart
    whole = unicodedata.normalize("NFC", text)
    printable = "".join(" " if c.isspace() else c for c in whole if c.isspace() or c.isprintable())
    parts = OTHER.split(printable)
    return "".join(
        rf"\otherscript{{{part}}}{{{_plain(anyascii(part) or '?')}}}"
        if place % 2
        else _plain(part)
        for place, part in enumerate(parts)
    )


def _plain(text: str) -> str:
    # pdfLaTeX makes a dash of two hyphens
    apart = re.sub("-(?=-)", "-\0", text)
    return "".join(SPECIAL.get(c, c) for c in apart).replace("\0", "{}")


def render(report: Report, name: str, command: str = "petlbench.report") -> str:
    """Each table as a `table*`, followed by its spreads; charts as figures of their PDF files.

    name: of the files and labels.
    """
    tables = [_table(table, part_name(name, table.name)) for table in report.tables]
    drawn = (*report.charts, *report.pictures)
    figures = [_figure(each.caption, part_name(name, each.name)) for each in drawn]
    answer = [rf"\noindent {escaped(report.answer)}\par"] if report.answer else []
    lines = [*answer, *itertools.chain(*tables, *figures), ""]
    return "\n".join([*_head(command, lines), *lines])


def _head(command: str, lines: Sequence[str]) -> list[str]:
    head = [
        # a line break in an argument would end the comment
        f"% made by {' '.join(command.split())}",
        r"% needs \usepackage{booktabs,graphicx}; do not edit: run the command again",
    ]
    if not any(r"\otherscript{" in line for line in lines):
        return head
    return [
        *head,
        r"% names in other scripts: XeLaTeX and LuaLaTeX print them with a font that has them,",
        r"% e.g. \setmainfont{Noto Serif CJK SC} of fontspec; else they are transliterated",
        *OTHER_SCRIPT,
    ]


def part_name(report: str, part: str) -> str:
    """The name of a report's table or chart, for files and labels."""
    return f"{report}_{part}" if part else report


def _table(table: Table, label: str) -> list[str]:
    def cell(row: str, column: Column) -> str:
        return FORMS[table.rank(row, column)] % escaped(table.text(row, column)) + _flag(
            table.flags.get((row, column.key), "")
        )

    notes = [rf"\noindent {escaped(line)}\par" for line in table.lines()]
    lines = _floats(table, table.rows, table.columns, cell, (table.caption, label), notes)
    return [*lines, "", *_spread(table, label)] if table.spread_columns else lines


def _spread(table: Table, label: str) -> list[str]:
    def cell(row: str, column: Column) -> str:
        return escaped(table.deviation(row, column))

    head = (table.spread_meaning, f"{label}-spread")
    return _floats(table, table.spread_rows, table.spread_columns, cell, head, notes=[])


def _floats(
    table: Table,
    rows: list[str],
    columns: Sequence[Column],
    cell: Cell,
    head: tuple[str, str],
    notes: Sequence[str],
) -> list[str]:
    """One float with its notes, or several of MOST_ROWS rows, with the notes as text after them.

    head: caption and label.
    """
    first, *others = _pages(table, rows)
    if not others:
        return _float(table, first, columns, cell, head, below=notes)
    lines = _float(table, first, columns, cell, head, below=[])
    for number, page in enumerate(others, 2):
        further = (f"{head[0]} (continued)", f"{head[1]}-{number}")
        lines += ["", *_float(table, page, columns, cell, further, below=[])]
    return [*lines, "", r"{\footnotesize", *notes, "}"] if notes else lines


def _pages(table: Table, rows: list[str]) -> list[Parts]:
    """The rows by section, cut after MOST_ROWS."""
    lines = [(section, row) for section, members in table.parts(rows) for row in members]
    pages = [lines[n : n + MOST_ROWS] for n in range(0, len(lines), MOST_ROWS)]
    return [
        [
            (section, [row for _, row in members])
            for section, members in itertools.groupby(page, key=lambda line: line[0])
        ]
        for page in pages
    ]


def _figure(caption: str, file: str) -> list[str]:
    return [
        "",
        r"\begin{figure*}[t]",
        r"\centering",
        rf"{LOW}{{{FITTING}{{\includegraphics{{{file}.pdf}}}}}}",
        rf"\caption{{{escaped(caption)}}}",
        rf"\label{{fig:{file}}}",
        r"\end{figure*}",
    ]


def _flag(flag: str) -> str:
    return rf"\textsuperscript{{{escaped(flag)}}}" if flag else ""


def _float(
    table: Table,
    parts: Parts,
    columns: Sequence[Column],
    cell: Cell,
    head: tuple[str, str],
    *,
    below: Sequence[str],
) -> list[str]:
    """A `table*` environment. head: caption and label; below: lines in a smaller font."""
    caption, label = head
    return [
        r"\begin{table*}[t]",  # starred: as wide as both columns of a paper
        r"\centering",
        rf"\caption{{{escaped(caption)}}}",
        rf"\label{{tab:{label}}}",
        r"\smallskip",
        r"\setlength{\tabcolsep}{3pt}",
        FITTING + "{%",
        rf"\begin{{tabular}}{{l{'c' * len(columns)}}}",
        r"\toprule",
        *_heads(table, columns),
        r"\midrule",
        *_body(table, parts, columns, cell),
        r"\bottomrule",
        r"\end{tabular}}",
        *([r"\par\smallskip\begin{minipage}{\textwidth}\footnotesize"] if below else []),
        *below,
        *([r"\end{minipage}"] if below else []),
        r"\end{table*}",
    ]


def _body(table: Table, parts: Parts, columns: Sequence[Column], cell: Cell) -> list[str]:
    body: list[str] = []
    for section, members in parts:
        if section:
            body += [r"\midrule"] if body else []
            title = rf"\emph{{{escaped(headed(section))}}}"
            body.append(rf"\multicolumn{{{len(columns) + 1}}}{{l}}{{{title}}} \\")
        body += [
            " & ".join([_first(table, row), *(cell(row, c) for c in columns)]) + r" \\"
            for row in members
        ]
    return body


def _heads(table: Table, columns: Sequence[Column]) -> list[str]:
    heads, rules, first = [""], [], 2  # column 1 has the labels
    for group, members in itertools.groupby(columns, key=lambda column: column.group):
        count = len(list(members))
        heads.append(rf"\multicolumn{{{count}}}{{c}}{{{escaped(headed(group))}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    names = [_name(table, column) for column in columns]
    return [" & ".join(heads) + r" \\", "".join(rules), " & ".join(["", *names]) + r" \\"]


def _name(table: Table, column: Column) -> str:
    """The head of a column, rotated unless it is a number."""
    title = _with_letters(table, column.title, column.key)
    return title if column.title.isdigit() else rf"\rotatebox{{90}}{{{title}}}"


def _with_letters(table: Table, title: str, of: str) -> str:
    letters = table.letters(of)
    return escaped(title) + (rf"\textsuperscript{{{letters}}}" if letters else "")


def _first(table: Table, row: str) -> str:
    label = table.printed_label(row)
    # the \\ of the line before takes a following bracket or star as its argument
    return ("{}" if label[:1] in "[*" else "") + _with_letters(table, label, row)
