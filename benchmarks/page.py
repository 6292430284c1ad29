"""results/measured/speed/README.md from the records there.

python -m benchmarks.page
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import gpu as gpu_record
from benchmarks import last_block as block_record
from benchmarks import trainings as training_record
from benchmarks.__main__ import DEVICES, FOLDER

Record = Mapping[str, Any]
INTRODUCTION = (
    "# Speed and memory beside textbook forms",
    "petlbench and a textbook form of the same method in one process, taking turns: `python -m "
    "benchmarks` measures, `python -m benchmarks.page` writes this page. Ratios are petlbench "
    "divided by the textbook form, below 1 where petlbench takes less: the median of the pairs of "
    "steps, with the least and the greatest in brackets.",
    "A textbook form ([benchmarks/textbook.py](../../../benchmarks/textbook.py)) is the papers' "
    "equations in plain autograd on timm's network: every block in every step with autograd "
    "enabled, attention with its weights as a tensor as in the authors' code, torch's default "
    "AdamW, the loss read after each step. Its images are ready as tensors, so its steps contain "
    "no input; petlbench's contain theirs.",
    "Both have equal weights. Before timing, logits and all gradients are compared, in fp32 and "
    "without dropout, and must agree to 1e-5 of their norms. Kept: bytes of the tensors that "
    "autograd keeps for backward, each storage once, without parameters (MB: 1e6 bytes).",
)
COUNTED = (
    ("kept", "MB kept for backward in fp32, counted on shapes", 1),
    ("forecasts", "Predicted peak of a step on a GPU in 16 bits, GiB", 2),
)
TRAINED = {
    "alone": "Each method alone in a process, seed 0",
    "swept": "All of these methods in one process, in this order, as a sweep with the seeds 0, 1 "
    "and 2 (means over the seeds)",
}


def page(records: Iterable[Record]) -> str:
    """The page of the records of all devices."""
    head = [f"{paragraph}\n" for paragraph in INTRODUCTION]
    return "\n".join([*head, *(line for record in records for line in _device(record))])


def _device(record: Record) -> Iterator[str]:
    versions = record["versions"]
    yield f"## {record['device']}\n"
    yield (
        f"{', '.join(record['network'])}, batch {record['batch']}, {record['precision']}, "
        f"{record['repeats']} steps of each form; torch {versions['torch']}, timm "
        f"{versions['timm']}, commit {versions['commit']}, {record['date']}.\n"
    )
    yield from _cases(record["cases"])
    yield from _modes(record["modes"])
    yield from (f"Not run: {line}\n" for line in record["not_run"])
    for key, title, digits in COUNTED:
        yield from _counts(title, record[key], digits)
    yield from _decoding(record["decoding"])


def _cases(cases: Sequence[Record]) -> Iterator[str]:
    peaks = any(case["peak"]["petlbench"] is not None for case in cases)
    heads = ["case", "petlbench", "s a step", "textbook, s", "ratio", "kept, MB"]
    heads += ["textbook, MB", "ratio", *(["peak, GiB", "textbook, GiB"] if peaks else []), "bars"]
    yield _row(heads)
    yield _row(["---", "---", *["--:"] * (len(heads) - 3), "---"])
    for case in cases:
        yield _row(_case(case, with_peaks=peaks))
    yield ""


def _case(case: Record, *, with_peaks: bool) -> Iterator[str]:
    own, other = (case["seconds"][form] for form in ("petlbench", "textbook"))
    ratios = {"seconds": seconds_ratios(case), "kept": [kept_ratio(case)]}
    yield case["name"]
    yield f"`{' '.join(case['overrides'])}`"
    yield f"{statistics.median(own):.3g}"
    yield f"{statistics.median(other):.3g}"
    yield spread(ratios["seconds"])
    yield f"{case['kept']['petlbench']:.1f}"
    yield f"{case['kept']['textbook']:.1f}"
    yield f"{ratios['kept'][0]:.2f}"
    if with_peaks:
        yield from (f"{case['peak'][form]:.2f}" for form in ("petlbench", "textbook"))
    yield ", ".join(
        f"{figure} {verdict(statistics.median(ratios[figure]), bar)}"
        for figure, bar in case["bars"].items()
    )


def _modes(rows: Sequence[Record]) -> Iterator[str]:
    if not rows:
        return
    yield "A step in `train.memory=min` beside one in `fast`, both of petlbench:\n"
    yield _row(["method", "petlbench", "min, s", "fast, s", "ratio", "bar"])
    yield _row(["---", "---", "--:", "--:", "--:", "---"])
    for row in rows:
        slow, fast = row["seconds"]["min"], row["seconds"]["fast"]
        ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        seconds = (f"{statistics.median(values):.3g}" for values in (slow, fast))
        cells = (row["name"], f"`method={row['method']}`", *seconds, spread(ratios))
        yield _row([*cells, verdict(statistics.median(ratios), row["bar"])])
    yield ""


def _counts(title: str, rows: Sequence[Record], digits: int) -> Iterator[str]:
    yield f"{title}:\n"
    yield _row(["method", "petlbench", "batch", "figure", "bar"])
    yield _row(["---", "---", "--:", "--:", "---"])
    for row in rows:
        cells = (row["name"], f"`{' '.join(row['overrides'])}`", str(row["batch"]))
        yield _row([*cells, f"{row['value']:.{digits}f}", verdict(row["value"], row["bar"])])
    yield ""


def _decoding(record: Record) -> Iterator[str]:
    ratios = [a / b for a, b in zip(record["petlbench"], record["textbook"], strict=True)]
    own, other = (
        statistics.median(record[form]) / record["images"] * 1e3
        for form in ("petlbench", "textbook")
    )
    yield (
        f"Input, CPU ms an image of {record['file']}: {own:.2f} from the pixel cache, {other:.2f} "
        f"decoded by PIL in each epoch, ratio {spread(ratios)}; the first epoch of petlbench "
        f"decodes, {record['first'] / record['images'] * 1e3:.2f} ms an image.\n"
    )


def seconds_ratios(case: Record) -> list[float]:
    """Ratios of petlbench to the textbook form, of each pair of steps."""
    seconds = case["seconds"]
    return [a / b for a, b in zip(seconds["petlbench"], seconds["textbook"], strict=True)]


def kept_ratio(case: Record) -> float:
    """Ratio of petlbench to the textbook form, of the bytes kept for backward."""
    return float(case["kept"]["petlbench"] / case["kept"]["textbook"])


def spread(ratios: Sequence[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"


def verdict(value: float, bar: float) -> str:
    """Whether a figure is at most its bar."""
    return f"≤ {bar:g}: {'met' if value <= bar else 'not met'}"


def trainings(record: Record) -> Iterator[str]:
    """The part on whole trainings."""
    yield "## Whole trainings beside an earlier petlbench\n"
    yield (
        "`python -m benchmarks.trainings BEFORE` (BEFORE: a clone at the earlier commit): CPU "
        "seconds of the training; both trees take turns.\n"
    )
    for name, part in record.items():
        yield from _trainings(TRAINED[name], part)


def _trainings(title: str, part: Record) -> Iterator[str]:
    commits = {form: versions["commit"] for form, versions in part["versions"].items()}
    yield (
        f"{title}: {' '.join(part['settings'])}, {part['epochs']} epochs. Now: commit "
        f"{commits['now']}; before: {commits['before']}. {part['device']}, {part['cores']} cores, "
        f"{part['date']}.\n"
    )
    heads = ["method", "now, s", "before, s", "ratio", "bar", "top-1 now", "top-1 before"]
    yield _row(heads)
    yield _row(["---", *["--:"] * 3, "---", "--:", "--:"])
    yield from (_row(_training(row)) for row in part["rows"])
    yield ""


def _training(row: Record) -> Iterator[str]:
    now, before = row["seconds"]["now"], row["seconds"]["before"]
    ratios = [a / b for a, b in zip(now, before, strict=True)]
    yield f"`method={row['method']}`"
    yield from (f"{statistics.median(values):.1f}" for values in (now, before))
    yield spread(ratios)
    yield verdict(statistics.median(ratios), row["bar"])
    yield from (f"{row['top1'][form]:.1f}" for form in ("now", "before"))


def switches(record: Record) -> Iterator[str]:
    """The part on the switches of a GPU."""
    yield f"## Switches on {record['device']}\n"
    yield (
        f"`python -m benchmarks.gpu`: {', '.join(record['network'])}, batch {record['batch']}, "
        f"{record['precision']}, median of {record['repeats']}; torch "
        f"{record['versions']['torch']}, commit {record['versions']['commit']}, "
        f"{record['date']}.\n"
    )
    for title, rows in record["tables"].items():
        measured = [row for row in rows if "not_run" not in row]
        keys = list(dict.fromkeys(key for row in measured for key in row))
        if measured:
            yield f"{title}:\n"
            yield _row(keys)
            yield _row(["---"] * len(keys))
            yield from (_row(_switch(key, row.get(key)) for key in keys) for row in measured)
            yield ""
        yield from (
            f"{title}, {row['name']}, not run: {row['not_run']}\n"
            for row in rows
            if "not_run" in row
        )


def _switch(key: str, value: Any) -> str:
    """A cell: times by their median, losses to the digits that number formats differ in."""
    if key == "seconds":
        return f"{statistics.median(value):.3g}"
    if key == "losses":
        return ", ".join(f"{loss:.6f}" for loss in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    if isinstance(value, list):
        return "; ".join(value)
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def last_block(record: Record) -> Iterator[str]:
    """The part on the last block with `backbone.pool=cls`."""
    versions = record["versions"]
    yield "## The last block with a class token\n"
    yield (
        "`python -m benchmarks.last_block`: CPU seconds of a step that computes the last block "
        "for the class token alone, beside one that computes all of it, of one network and taking "
        "turns, and of the trial before a training that chooses between them. "
        f"{', '.join(record['settings'])}, fp32, {record['repeats']} steps of each; torch "
        f"{versions['torch']}, commit {versions['commit']}. {record['device']}, "
        f"{record['cores']} cores, {record['date']}.\n"
    )
    yield _row(["method", "class token, s", "whole, s", "ratio", "trial, s", "kept, MB"])
    yield _row(["---", *["--:"] * 5])
    for row in record["rows"]:
        short, whole = row["seconds"]["short"], row["seconds"]["whole"]
        ratios = [a / b for a, b in zip(short, whole, strict=True)]
        first, second, trial = (
            f"{statistics.median(values):.3g}"
            for values in (short, whole, row["seconds"]["trial"])
        )
        yield _row(
            [
                *(f"`method={row['method']}`", first, second),
                *(spread(ratios), trial, f"{row['kept']:.1f}"),
            ]
        )
    yield ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write the page beside the records."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--records", type=Path, default=FOLDER, help="folder of the records")
    folder: Path = parser.parse_args().records
    devices = (folder / f"{device}.json" for device in DEVICES)
    text = page(json.loads(path.read_text()) for path in devices if path.exists())
    parts = (
        (block_record.FILE, last_block),
        (training_record.FILE, trainings),
        (gpu_record.FILE, switches),
    )
    for file, part in parts:
        if (path := folder / file).exists():
            text = "\n".join([text, *part(json.loads(path.read_text()))])
    (folder / "README.md").write_text(text)
    print(f"wrote {folder / 'README.md'}")


if __name__ == "__main__":
    main()
