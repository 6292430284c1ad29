"""Share the delta of a run with a model card, for others to load.

Writes README.md (the model card), delta.safetensors and record.json to a folder (--to), or to a
repository on Hugging Face (--repo), which needs a token with write permission.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from petlbench.arguments import Parser, command
from petlbench.checks import is_whole
from petlbench.errors import UserError, first_line, printable
from petlbench.run.record import DELTA, Record, beside, read, write
from petlbench.system import user_path, write_atomically

EXAMPLE = "example: petlbench push-hub results/runs/mini/digits/lora-*.json --to share/digits"
TAGS = ("petlbench", "parameter-efficient-transfer-learning")
LONGEST = 300  # characters of a text in the card
MARKUP = "\\`*_[]<>|#&~$:@!"
CARD, FILE, RECORD = "README.md", "delta.safetensors", "record.json"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; a mistake is one line on stderr and status 2."""
    options = parser().parse_args(arguments)
    if options.to is not None:
        if options.private:
            raise UserError("--private is for a repository; give --repo, or leave --private out")
        print(to_folder(options.record, options.to))
    else:
        print(to_hub(options.record, options.repo, private=options.private))
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = Parser(
        prog="petlbench push-hub",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("record", metavar="RECORD", help="the .json file of a run")
    place = options.add_mutually_exclusive_group(required=True)
    place.add_argument("--to", metavar="FOLDER", help="a new or empty folder")
    place.add_argument("--repo", metavar="USER/NAME", help="repository; created if it is new")
    options.add_argument("--private", action="store_true", help="create it as a private one")
    return options


def to_folder(name: str, to: str) -> Path:
    """Write the files of a run's record to a new or empty folder, and return it.

    Raises UserError for a record of an unfinished run or without its delta, and for another
    folder.
    """
    record, delta = _run(name)
    folder = user_path("--to", to)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--to '{folder}' is not an empty folder; name a new one")
    _write(record, delta, folder, None)
    return folder


def to_hub(name: str, repository: str, *, private: bool) -> str:
    """Upload the files of a run's record to a repository, and return its address.

    Raises UserError without a token, and for all that the hub refuses.
    """
    import huggingface_hub

    record, delta = _run(name)
    if huggingface_hub.get_token() is None:
        raise UserError(
            "there is no token of Hugging Face; set HF_TOKEN or log in by `hf auth login`, or "
            "write to a folder by --to FOLDER"
        )
    hub = huggingface_hub.HfApi()
    with tempfile.TemporaryDirectory() as folder, _refusals(repository):
        _write(record, delta, Path(folder), repository)
        address = hub.create_repo(repository, private=private, exist_ok=True)
        message = printable(record["title"])[:LONGEST]
        hub.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message=message)
    return str(address)


def _write(record: Record, delta: Path, folder: Path, repository: str | None) -> None:
    content = card(record, repository).encode()
    write_atomically(folder / FILE, delta.read_bytes())
    write(record, folder / RECORD)
    write_atomically(folder / CARD, content)


@contextmanager
def _refusals(repository: str) -> Iterator[None]:
    """Whatever the client of the hub, its server or the network raises, in one line."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"Hugging Face refused '{repository}' ({first_line(error)}); check the name and the "
            "permission of the token, or write to a folder by --to FOLDER"
        ) from error


def _run(name: str) -> tuple[Record, Path]:
    """The record in a file, and its delta, which lies beside it."""
    file = user_path("RECORD", name)
    if not file.exists() or file.is_dir() or file.suffix == DELTA:
        raise UserError(f"'{file}' is no record; give the .json file of a run, beside its delta")
    record, found = read(file), beside(file, DELTA)
    if record["status"] != "finished":
        raise UserError(f"run '{file}' is {record['status']}; only a finished one can be shared")
    if not found.is_file():
        raise UserError(f"record '{file}' has no delta '{found.name}' beside it; run it again")
    from petlbench import delta  # imports torch

    if (own := delta.run_of(found)) != record["id"]:
        raise UserError(
            f"delta '{found}' is of run {own}, and record '{file}' of run {record['id']}; put the "
            "files of one run beside each other"
        )
    return record, found


def card(record: Record, repository: str | None) -> str:
    """The model card of a record, Markdown. repository: on Hugging Face, None for a folder."""
    factors, versions = record["factors"], record["provenance"].get("versions") or {}
    title = _text(record["title"])
    lines = [
        "---",
        "library_name: petlbench",
        "pipeline_tag: image-classification",
        f"tags: {json.dumps([*TAGS, factors['method'][:LONGEST]])}",  # JSON is YAML
        "---",
        f"# {title} on {_text(record['task_title'])}",
        "",
        f"The trained tensors (a delta) of {title} ({_code(factors['method'])}) on the frozen "
        f"backbone {_code(factors['backbone'])}, by petlbench "
        f"{_text(str(versions.get('petlbench')))}. The file has no weights of the backbone.",
        "",
        "## Scores",
        "| test set | top-1 (%) | 95 % interval (Wilson) | correct | images |",
        "|---|---|---|---|---|",
        *(_score(name, score) for name, score in record["scores"].items()),
        "",
        "The interval is that of the test images; it has no spread over seeds or draws.",
        "",
        "## How it was made",
        *(f"- {_text(key)}: {_text(str(value))}" for key, value in _facts(record)),
        "",
        "`record.json` has the whole configuration, the versions and the costs.",
        "",
        "## How to load",
        "```python",
        *_loading(record, repository),
        "```",
        "",
    ]
    return "\n".join(lines)


def _loading(record: Record, repository: str | None) -> Iterator[str]:
    """Lines of Python."""
    weights = (record["config"].get("backbone") or {}).get("checkpoint")
    yield "import petlbench"
    yield "from pathlib import Path"
    if repository is None:
        yield f'file = "{FILE}"'
    else:
        yield "from huggingface_hub import hf_hub_download"
        yield f"file = hf_hub_download({repository!r}, {FILE!r})"
    yield f'predictor = petlbench.predictor(Path(file), checkpoint={weights!r}, device="cpu")'
    yield "predictor.names  # of the classes"
    yield "predictor.probabilities(images)  # of (size, size, 3) uint8 -> (images, classes)"


def _score(name: str, score: Mapping[str, Any]) -> str:
    from petlbench.report.table.images import wilson  # scipy takes a second

    low, high = wilson(score["correct"], score["total"])
    interval = f"{low:.1f} to {high:.1f}"
    return (
        f"| {_text(name)} | {score['top1']:.2f} | {interval} | {score['correct']} "
        f"| {score['total']} |"
    )


def _facts(record: Record) -> Iterator[tuple[str, object]]:
    """What the card says of the data, the protocol and the method."""
    config, provenance = record["config"], record["provenance"]
    checkpoint, selection = provenance.get("checkpoint") or {}, record["selection"]
    parameters = record["cost"].get("parameters") or {}
    counts = [parameters.get(key) for key in ("method", "head")]
    yield "task", record["factors"]["task"]
    for name, split in (provenance.get("splits") or {}).items():
        yield f"split {name}", f"{split.get('images')} images, SHA-256 {split.get('sha256')}"
    yield "protocol", record["protocol"]
    yield "trained on", selection.get("fit_on")
    chosen = selection.get("select_on")
    yield "epoch chosen on", chosen or "nothing, the last one"
    if selection.get("honest") is False:
        yield "caution", "the epoch was chosen on the test set"
    yield "seed", record["factors"]["seed"]
    if all(map(is_whole, counts)):
        yield "trained parameters", "{:,}, and {:,} of the head".format(*counts)
    values = {k: v for k, v in (config.get("method") or {}).items() if not k.startswith("_")}
    yield "values of the method", ", ".join(f"{k} {v}" for k, v in values.items()) or "none"
    if checkpoint:
        weights = f"{checkpoint.get('tag')}, SHA-256 {checkpoint.get('sha256')}"
        yield "weights of the backbone", weights
    yield "device", provenance.get("device")


def _text(text: str) -> str:
    """A text of a record that is no markup and no link of the card."""
    return "".join(f"\\{sign}" if sign in MARKUP else sign for sign in _short(text))


def _code(text: str) -> str:
    """A name of a record as code, which takes no escapes."""
    return f"`{_short(text).replace('`', '')}`"


def _short(text: str) -> str:
    """A text in one line that is not too long for a card."""
    plain = printable(" ".join(text.split()))
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}..."
