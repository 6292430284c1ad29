"""The report of `petlbench try`."""

import os
from collections.abc import Collection
from pathlib import Path

from petlbench.data.readers.tree import Tree
from petlbench.report import registry
from petlbench.report.read.records import read
from petlbench.report.render import terminal
from petlbench.report.render.files import write

REPORT = "folder"


def report(
    runs: Path, identities: Collection[str], images: Tree, out: Path, command: str
) -> list[str]:
    """Write and print the report on runs with some identities; returns the lines that follow it.

    The folder may hold runs of other settings, which no table averages. images: what was run
    on. Raises UserError if no run has a result.
    """
    records = [record for record in read([runs]) if record["id"] in identities]
    # a report shows images of one folder alone
    is_one = not any(os.pardir in Path(image.path).parts for image in images.images)
    options = {"images": str(images.folder)} if is_one else {}
    report = registry.changed(REPORT, registry.find(REPORT), options)
    found = registry.build(records, report)
    paths = write(found, REPORT, out, command)
    terminal.show(found)
    return [f"wrote {path}" for path in paths]
