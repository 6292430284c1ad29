"""What the best row gets wrong: tables and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from petlbench.data.images import GREY_MAX
from petlbench.errors import UserError
from petlbench.report.model.picture import Matrix, Sheet
from petlbench.report.model.table import Table
from petlbench.report.read.fields import main_test
from petlbench.report.read.predictions import AGAIN, Outcomes
from petlbench.report.table import mistakes
from petlbench.report.table.classes import class_table, matrix_of
from petlbench.run.record import Record


@dataclass(frozen=True)
class Details:
    """Tables and pictures; none without predictions."""

    tables: Sequence[Table] = ()
    pictures: Sequence[Matrix | Sheet] = ()


def details(
    outcomes: Mapping[str, Outcomes], best: str | None, runs: Sequence[Record], images: str | None
) -> Details:
    """Classes, confusion matrix and mistakes of the best row. runs: its records.

    images: what dataset.root was, for a sheet of the mistakes. Raises UserError if it is given
    and the row has no predictions, or the images are no files or not there.
    """
    if best is None or best not in outcomes:
        if images is not None:
            raise UserError(f"--images needs predictions: the best run was {AGAIN}")
        return Details()
    own = outcomes[best]
    tables, pictures = [class_table(outcomes, best)], [matrix_of(own, best)]
    found = mistakes.mistakes(own)
    if len(found):
        tables.append(mistakes.mistake_table(found, own, best))
    if images is None or not len(found):
        return Details(tables, pictures)
    if not own.has_files:
        raise UserError("--images: the images of these records are no files; leave it out")
    return Details(tables, [*pictures, mistakes.sheet(found, images, _grey_max(runs[0]))])


def _grey_max(record: Record) -> int:
    """The value that becomes white in grey images of 16 bits."""
    splits = record["provenance"].get("splits") or {}
    return int(splits.get(main_test(record), {}).get("grey_max", GREY_MAX))
