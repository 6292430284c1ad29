"""What a person looks at: `make look`. LaTeX compiled to pictures, pages as a browser shows them.

    python -m tools.look FOLDER            every named report, of committed or made-up records
    python -m tools.look FOLDER table2     some of them

The reports are written to FOLDER, the pictures to FOLDER/look.

Needs pdflatex with booktabs and graphicx, pdftoppm, and chromium (Debian: texlive-latex-extra,
poppler-utils, chromium).
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from petlbench.config import options
from petlbench.report.__main__ import write
from petlbench.report.view import find, module
from tests.sweeps import SWEEPS

TOOLS = ("pdflatex", "pdftoppm", "chromium")
DOCUMENT = r"""\documentclass[10pt,twocolumn]{article}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{booktabs,graphicx}
\graphicspath{{..}}
\begin{document}
Text of a paper around the table.
\input{../%s.tex}
\end{document}
"""
SIZES = {"desktop": (1280, 1500), "phone": (390, 2600)}
# What a reader does: sort by the third column, then again, and look for some rows.
USED = """<script>
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


def main(folder: Path, chosen: Sequence[str]) -> None:
    """Reports and their pictures."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        sys.exit(f"error: {', '.join(missing)} not found; see the head of tests/look.py")
    out = folder / "look"
    out.mkdir(parents=True, exist_ok=True)
    for name in chosen or [*options.names("experiment"), "leaderboard", "audit"]:
        if name not in SWEEPS:
            continue  # a sweep without a report
        report(name, folder)
        paper(name, out)
        photograph(folder / f"{name}.html", name, out)
        used = out / f"{name}_used.html"
        used.write_text((folder / f"{name}.html").read_text().replace("</body>", USED + "</body>"))
        photograph(used, used.stem, out)
        print(f"{out}/{name}*.png")


def report(name: str, folder: Path) -> None:
    """All files of a report of the records that its sweep leaves."""
    view = find(name)
    made = module(view.kind).build(SWEEPS[name](), view, **view.options)
    write(made, name, folder, "python -m tools.look")


def paper(name: str, out: Path) -> None:
    """The LaTeX of a report in a paper of two columns, a picture a page."""
    (out / f"{name}.tex").write_text(DOCUMENT % name)
    run("pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex", cwd=out)
    run("pdftoppm", "-r", "110", "-png", f"{name}.pdf", f"{name}_page", cwd=out)


def photograph(page: Path, name: str, out: Path) -> None:
    """A page at the width of a desk and of a phone, in light and in dark."""
    for device, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            run(
                "chromium",
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
                f"--window-size={width},{height}",
                f"--screenshot={(out / f'{name}_{device}_{scheme}.png').resolve()}",
                page.resolve().as_uri(),
                cwd=out,
            )


def run(*command: str, cwd: Path) -> None:
    """A tool; what it said stands in the error if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
