"""Pictures of the reports, for visual inspection: `make look`.

    python -m tests.look FOLDER            every named report, from committed or artificial records
    python -m tests.look FOLDER table2     some of them

The LaTeX is compiled and the pages are rendered by a browser. The reports are written to FOLDER,
the pictures to FOLDER/look.

Needs pdflatex with booktabs and graphicx, pdftoppm, and chromium (Debian: texlive-latex-extra,
poppler-utils, chromium).
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from petlbench.config import options
from petlbench.report.render.files import write
from tests.sweeps import SWEEPS, report

TOOLS = ("pdflatex", "pdftoppm", "chromium")
DOCUMENT = r"""\documentclass[10pt,twocolumn]{article}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{booktabs,graphicx}
\graphicspath{{../}}
\begin{document}
Text of a paper around the table.
\input{../%s.tex}
\end{document}
"""
SIZES = {"desktop": (1280, 1500), "phone": (390, 2600)}
# What a reader does: sort by the third column, filter the rows, point at the chart.
INTERACTION = """<script>
for (const table of document.querySelectorAll("table")) {
  const heads = table.querySelectorAll("th[aria-sort] button");
  heads[Math.min(3, heads.length - 1)].click();
}
const search = document.getElementById("query");
search.value = "l";
search.dispatchEvent(new Event("input"));
const over = new PointerEvent("pointerover", {bubbles: true});
document.querySelector("svg .point")?.dispatchEvent(over);
</script>"""


def main(folder: Path, names: Sequence[str]) -> None:
    """Write reports and their pictures. names: default all."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        sys.exit(f"error: {', '.join(missing)} not found; see the docstring of tests/look.py")
    out = folder / "look"
    out.mkdir(parents=True, exist_ok=True)
    for name in names or [*options.names("experiment"), "leaderboard", "audit", "folder"]:
        if name in SWEEPS:  # else the experiment has no report
            write(report(name), name, folder, "python -m tests.look")
            compile_latex(name, out)
            pages(folder / f"{name}.html", name, out)
            print(f"{out}/{name}*.png")


def compile_latex(name: str, out: Path) -> None:
    """The LaTeX of a report within a paper of two columns, a picture a page."""
    (out / f"{name}.tex").write_text(DOCUMENT % name)
    run("pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex", cwd=out)
    run("pdftoppm", "-r", "110", "-png", f"{name}.pdf", f"{name}_page", cwd=out)


def pages(page: Path, name: str, out: Path) -> None:
    """Pictures of a page as it opens, and after some interaction."""
    photograph(page, name, out)
    used = out / f"{name}_used.html"
    used.write_text(page.read_text().replace("</body>", INTERACTION + "</body>"))
    photograph(used, used.stem, out)


def photograph(page: Path, name: str, out: Path) -> None:
    """A page at the widths of a desktop and a phone, in the light and the dark scheme."""
    for device, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            run(
                "chromium",
                "--headless=new",
                # as root, for example in a container, chromium starts only without its sandbox
                "--no-sandbox",
                "--disable-crash-reporter",
                "--disable-gpu",
                "--hide-scrollbars",
                # blink counts dark as 0 and light as 1
                f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
                f"--window-size={width},{height}",
                f"--screenshot={(out / f'{name}_{device}_{scheme}.png').resolve()}",
                page.resolve().as_uri(),
                cwd=out,
            )


def run(*command: str, cwd: Path) -> None:
    """Run a tool; exit with the end of its output if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
