"""The commands that use what a run has trained: predict, merge, export."""

import shlex
from pathlib import Path

from petlbench.report.model.report import Command
from petlbench.report.read import fields
from petlbench.report.read.fields import config_value
from petlbench.run.record import DELTA, Record, beside

EXPORT = ["petlbench", "export", "--delta"]


def commands(record: Record) -> list[Command]:
    """For the delta beside a record; none if the record or the delta is in no file."""
    file = record.get("file")
    if file is None or not (delta := beside(Path(file), DELTA)).is_file():
        return []
    # the record has the name of a local file of weights, not its folder
    checkpoint = config_value(record, "backbone.checkpoint")
    weights = ["--checkpoint", checkpoint] if checkpoint else []
    predict = ["petlbench", "predict", "--delta", str(delta), *weights, "NEW_IMAGES"]
    export = [*EXPORT, str(delta), *weights, "--out"]
    folds = fields.folds(record)
    part = f", by the network of one fold of {folds}: the others are beside its file" * bool(folds)
    return [
        Command(f"Classify new images{part}", shlex.join(predict)),
        Command(
            "Merge into a plain timm network, for timm.create_model('local-dir:merged', "
            "pretrained=True); a method that cannot be merged says why",
            shlex.join([*export, "merged"]),
        ),
        Command(
            "Export as ONNX, which needs petlbench[onnx]; a name that ends with .pt2 is for "
            "torch.export",
            shlex.join([*export, "network.onnx"]),
        ),
    ]
