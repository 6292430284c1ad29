"""Notes below a table: how its runs were made, which records it excludes, why cells are empty."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from petlbench.report.model.table import CellKey
from petlbench.report.read import fields
from petlbench.report.read.fields import Labelled, joined
from petlbench.report.read.scores import Scores
from petlbench.run.record import Record

MARKS = {  # status -> text of the cell
    "failed": "fail",
    "diverged": "div.",
    "out_of_memory": "oom",
    "unsupported": "n/a",
}
PACKAGES = ("petlbench", "torch", "timm")  # whose versions can change a result


def scoring(labelled: Sequence[Labelled], tests: Sequence[str]) -> str:
    """Test sets (default: the first of each run), number of seeds, protocol and epochs."""
    finished = [record for _, record in fields.finished(labelled)]
    # all records have one protocol, and there is at least one (read/select.py)
    on = joined(tests or map(fields.main_test, finished)) or "no test set"
    return (
        f"Top-1 accuracy in percent on {on}; "
        f"{_runs(labelled)}; protocol {labelled[0][1]['protocol']}; "
        f"{_epochs(finished)}."
    )


def _epochs(finished: Sequence[Record]) -> str:
    found = joined(map(fields.epochs, finished)) or "no"
    return f"{found} epoch{'s' * (found != '1')}"


def conditions(labelled: Sequence[Labelled], excluded: Sequence[Record]) -> list[str]:
    """Device and versions, settings that change between tasks, and excluded records."""
    finished = [record for _, record in fields.finished(labelled)]
    return [
        *_hardware(finished),
        *_missing_folds(labelled),
        *_untested_folds(labelled),
        *_changing_settings(labelled),
        *_excluded(labelled[0][1], excluded),
    ]


def failures(labelled: Iterable[Labelled]) -> list[str]:
    """`div.: LoRA on Digits, Land: reason`, one line a row and reason."""
    seeds: dict[tuple[str, str, str], dict[str, list[str]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row, record in labelled:
        if record["status"] in MARKS:
            key = (MARKS[record["status"]], row, record.get("reason") or "no reason recorded")
            seeds[key][record["task_title"]].append(str(record["factors"]["seed"]))
    return [
        f"{mark}: {row} on "
        + ", ".join(f"{task} (seed {' '.join(numbers)})" for task, numbers in tasks.items())
        + f": {reason}"
        for (mark, row, reason), tasks in seeds.items()
    ]


def cell_marks(scores: Scores) -> dict[CellKey, str]:
    """The mark of each cell whose runs all failed."""
    return {
        (row, record["factors"]["task"]): MARKS[record["status"]]
        for row, record in scores.labelled
        if record["status"] in MARKS
        # a table of test sets has no column of the task
        and record["factors"]["task"] in scores.means
        and scores.means[record["factors"]["task"]].isna()[row]
    }


def row_marks(scores: Scores) -> dict[str, str]:
    """The mark of each row without a finished run."""
    finished = set(scores.finished["row"])
    # of several failures of a row, the last one is its mark
    return {row: MARKS[record["status"]] for row, record in scores.labelled if row not in finished}


def _runs(labelled: Iterable[Labelled]) -> str:
    """`one seed`, `mean over 3 seeds`, and the runs of a cell if they are not all of these."""
    finished = fields.finished(labelled)
    cells = Counter((row, record["factors"]["task"]) for row, record in finished)
    if not cells:
        return "no finished run"
    seeds = {record["factors"]["seed"] for _, record in finished}
    draws = {record["factors"]["draw"] for _, record in finished}
    text = "one seed" if len(seeds) == 1 else f"mean over {len(seeds)} seeds"
    what = "folds" if any(fields.folds(record) for _, record in finished) else "draws"
    text += f" and {len(draws)} {what}" if len(draws) > 1 else ""
    # e.g. of a sweep that has not ended, or rows of different seeds: their number would mislead
    least, most = min(cells.values()), max(cells.values())
    if least == most == len(seeds) * len(draws):
        return text
    return f"{text}, {least}{f' to {most}' * (most > least)} run{'s' * (most > 1)} in a cell"


def _missing_folds(labelled: Sequence[Labelled]) -> list[str]:
    return [
        f"{row} has no figure on {task}: fold{'s' * (len(folds) > 1)} {joined(folds)} of others "
        f"{'are' if len(folds) > 1 else 'is'} missing, so its images are not theirs."
        for (row, task), folds in fields.missing_folds(labelled).items()
    ]


def _untested_folds(labelled: Sequence[Labelled]) -> list[str]:
    return [
        f"No row was tested on fold{'s' * (len(folds) > 1)} {joined(folds)} of {task}: its "
        "figures are of the other images."
        for task, folds in fields.untested_folds(labelled).items()
    ]


def _hardware(finished: Sequence[Record]) -> list[str]:
    if not finished:
        return []
    provenances = [record["provenance"] for record in finished]
    versions = [
        f"{package} {numbers}"
        for package in PACKAGES
        if (numbers := joined(p["versions"].get(package) for p in provenances))
    ]
    weights = joined(map(fields.weights, finished))
    parts = [
        f"Device {joined((p['device'] for p in provenances), ' and ')}",
        joined(p.get("precision") for p in provenances),
        _training_setup(finished),
        ", ".join(versions),
        f"weights {weights}" if weights else "",
    ]
    return ["; ".join(part for part in parts if part) + "."]


def _training_setup(finished: Sequence[Record]) -> str:
    """What memory and speed depend on: batch size, image size, attention, optimiser."""
    batch, size, attention = (
        joined(map(field, finished), " and ")
        for field in (fields.batch_size, fields.image_size, fields.attention)
    )
    parts = [
        batch and f"training batch {batch}",
        size and f"{size} px",
        attention and f"{attention} attention",
        joined(map(fields.optimiser, finished), " and "),
    ]
    return ", ".join(part for part in parts if part)


def _changing_settings(labelled: Iterable[Labelled]) -> list[str]:
    """Settings of a method that change between tasks, which a mean over tasks hides."""
    first: dict[str, Record] = {}
    changing: dict[str, dict[str, None]] = defaultdict(dict)
    for row, record in fields.finished(labelled):
        other = first.setdefault(row, record)
        changing[row] |= dict.fromkeys(fields.differences(other, record, ("method", "train")))
    return [
        f"{row}: {', '.join(keys)} differ{'' if len(keys) > 1 else 's'} between tasks."
        for row, keys in changing.items()
        if keys
    ]


def _excluded(shown: Record, excluded: Sequence[Record]) -> list[str]:
    """Numbers of excluded records, by the first difference: suite, protocol or backbone."""
    others: dict[str, list[str]] = {"suites": [], "protocols": [], "backbones": []}
    for record in excluded:
        if record["suite"] != shown["suite"]:
            others["suites"].append(record["suite"])
        elif record["protocol"] != shown["protocol"]:
            others["protocols"].append(record["protocol"])
        else:
            others["backbones"].append(record["factors"]["backbone"])
    return [
        f"Excluded: {len(values)} record{'s' * (len(values) > 1)} of other {kind} "
        f"({joined(values)})."
        for kind, values in others.items()
        if values
    ]
