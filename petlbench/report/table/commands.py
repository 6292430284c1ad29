"""The commands that use what a run has trained: predict, merge, export."""

import json
import shlex
from pathlib import Path

from petlbench.report.model.report import Command
from petlbench.report.read import fields
from petlbench.report.read.fields import config_value
from petlbench.run.record import DELTA, Record, beside

LOAD = (
    "from pathlib import Path; import petlbench; "
    'found = petlbench.predictor(Path({delta}), checkpoint={checkpoint}, device="cpu"); '
)
MERGE = 'petlbench.save_merged(found.method, Path("merged"), names=found.names, view=found.view)'
EXPORT = 'petlbench.to_peft(found.method, Path("exported"))'
EXPORTED = ("lora", "lora_noah", "dora")  # the methods that files of PEFT can hold


def commands(record: Record) -> list[Command]:
    """For the delta beside a record; none if the record or the delta is in no file."""
    file = record.get("file")
    if file is None or not (delta := beside(Path(file), DELTA)).is_file():
        return []
    # the record has the name of a local file of weights, not its folder
    checkpoint = config_value(record, "backbone.checkpoint")
    weights = ["--checkpoint", checkpoint] if checkpoint else []
    # double quotes, since the shell has single ones around the code
    named = _quoted(checkpoint) if checkpoint else None
    load = LOAD.format(delta=_quoted(str(delta)), checkpoint=named)
    predict = ["python", "-m", "petlbench.predict", "--delta", str(delta), *weights, "NEW_IMAGES"]
    folds = fields.folds(record)
    part = f", by the network of one fold of {folds}: the others are beside its file" * bool(folds)
    found = [
        Command(f"Classify new images{part}", shlex.join(predict)),
        Command(
            "Merge into a plain timm network, for timm.create_model('local-dir:merged', "
            "pretrained=True); a method that cannot be merged says why",
            shlex.join(["python", "-c", load + MERGE]),
        ),
    ]
    if record["factors"]["method"] in EXPORTED:
        export = shlex.join(["python", "-c", load + EXPORT])
        found.append(Command("Export to Hugging Face PEFT", export))
    return found


def _quoted(text: str) -> str:
    # JSON writes characters beyond 16 bits as two escapes, which are two characters in Python
    return json.dumps(text, ensure_ascii=False)
