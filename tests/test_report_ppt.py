"""The column PPT against the scores that V-PETL Bench prints beside its own tables.

Scores (%), parameters (millions) and PPT are those of README.md of
https://github.com/synbol/Parameter-Efficient-Transfer-Learning-Benchmark (read 2026-11-30), all
rows of its tables except those of full fine-tuning, which it gives none.
"""

import math
from pathlib import Path

import pandas as pd
import pytest

from petlbench.errors import UserError
from petlbench.report.__main__ import run
from petlbench.report.model.table import COST, Column, Table
from petlbench.report.read.means import TASK_MEAN
from petlbench.report.table.derived import add_ppt
from tests.records import keep, record

PRINTED = {
    "FGVC": """
        79.32 0 .79, 85.66 .41 .84, 88.48 .46 .87, 86.38 .36 .85, 90.00 .36 .89, 88.02 .10 .88,
        84.66 .25 .84, 89.10 .85 .86, 90.72 .39 .89, 84.78 .77 .82, 91.78 .66 .90, 90.46 .78 .88,
        89.50 .66 .87, 90.74 .25 .90""",
    "VTAB": """
        52.94 0 .53, 71.44 .16 .71, 64.85 .08 .65, 69.43 .56 .68, 62.05 .10 .61, 72.25 .29 .71,
        72.32 .16 .72, 73.10 .21 .72, 73.25 .43 .72, 73.59 .11 .73, 73.23 .07 .73, 73.84 .22 .72,
        74.21 .28 .73, 71.70 2.38 .65, 74.58 .04 .75, 75.99 .78 .74, 75.18 .22 .74, 74.15 .66 .72,
        74.10 .25 .73""",
    "video": """
        29.23 0 .29, 49.84 0 .50, 59.02 1.19 .56, 55.69 1.19 .53, 57.78 2.06 .53, 57.18 2.06 .53,
        24.13 0 .24, 71.28 0 .71, 38.34 .75 .37, 62.12 .75 .60, 45.94 1.09 .44, 68.26 1.09 .65,
        40.80 1.56 .38, 68.66 1.56 .64, 39.46 6.37 .32, 56.13 6.37 .45, 53.36 6.18 .43,
        71.93 6.18 .58""",
    "COCO": """
        43.5 0 .44, 38.6 0 .39, 47.9 .20 .47, 41.9 .20 .42, 48.0 .06 .48, 41.4 .06 .41,
        49.2 12.60 .35, 42.8 12.60 .30, 50.9 3.11 .45, 43.8 3.11 .39, 51.2 3.03 .46,
        44.3 3.03 .40, 51.4 3.11 .46, 44.5 3.11 .40, 51.0 1.20 .49, 43.9 1.20 .42, 50.5 1.20 .48,
        43.8 1.20 .42, 53.4 4.16 .46, 46.0 4.16 .40""",
    "VOC and ADE20K": """
        83.6 0 .84, 46.84 0 .47, 85.7 .30 .85, 48.37 .30 .48, 85.8 .09 .86, 47.98 .09 .48,
        85.4 28.34 .48, 47.44 28.34 .27, 87.1 4.66 .74, 50.78 4.66 .43, 87.5 4.57 .74,
        50.34 4.57 .43, 87.3 4.66 .74, 50.83 4.66 .43, 86.8 1.31 .82, 50.76 1.31 .48,
        86.5 1.79 .81, 49.64 1.79 .46, 87.3 5.08 .73, 51.36 5.08 .43""",
}
# GPS on FGVC, BitFit and RepAdapter on VTAB: printed .90, .61, .72; the formula gives these.
NOT_AS_PRINTED = {(91.78, 0.66): 0.893, (62.05, 0.10): 0.618, (73.84, 0.22): 0.732}


def ppt(score: float | None, parameters_m: float | None) -> float:
    values = pd.DataFrame({TASK_MEAN: [score], "parameters_m": [parameters_m]}, index=["a"])
    table = Table(["a"], [Column("first", "first", COST)], values, pd.DataFrame(), "")
    add_ppt(table)
    assert [column.key for column in table.columns] == ["first", "ppt"]
    assert table.notes[-1].startswith("PPT: ")
    return float(table.values.at["a", "ppt"])


@pytest.mark.parametrize("name", PRINTED)
def test_scores_are_as_printed(name: str) -> None:
    for row in PRINTED[name].split(","):
        score, parameters_m, printed = map(float, row.split())
        own = ppt(score, parameters_m)
        if (score, parameters_m) in NOT_AS_PRINTED:
            assert own == pytest.approx(NOT_AS_PRINTED[score, parameters_m], abs=1e-3)
        else:
            assert own == pytest.approx(printed, abs=0.0055)  # printed with two digits


def test_a_row_without_a_mean_or_a_count_has_none() -> None:
    assert math.isnan(ppt(None, 1.0))
    assert math.isnan(ppt(80.0, None))


@pytest.mark.parametrize("kind", ["table", "leaderboard"])
def test_it_is_a_column_on_request(kind: str, tmp_path: Path) -> None:
    tasks = ("digits", "land")
    records = keep([record(m, t, 90.0) for m in ("lora", "linear") for t in tasks], tmp_path)
    for flags in ([], ["--ppt"]):
        run([kind, "--records", str(records), "--out", str(tmp_path / "out"), *flags])
        text = (tmp_path / "out" / f"{kind}.md").read_text()
        assert ("PPT" in text) == bool(flags)
    assert "0.899" in text  # 0.9 exp(-log10(1 + 0.036864 / 10))


def test_a_report_without_accuracies_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"option of report 'efficiency' .* 'ppt'"):
        run(["efficiency", "--records", str(tmp_path), "--out", str(tmp_path / "out"), "--ppt"])
