"""The record of a run and the store: one JSON file per run, beside its delta.

A record is a plain dictionary with `schema: 1`:

    schema      1
    id          16 hex digits: hash of all values that affect the result (identity.py)
    status      finished | failed | out_of_memory | diverged | unsupported
    reason      one line, or null
    factors     {method, backbone, task, draw, seed}: the cell of a table; task is e.g. mini/digits
    protocol    final | trial | best_on_val | audit | probe (costs only, no scores)
    title       name of the method in tables; task_title, suite and group: the column
    config      the full resolved configuration, without folders of the machine; `contents` has
                {checkpoint: sha256, splits: {split: digest}} of the files that the run reads
    scores      {test set: {top1 (percent), correct, total}}
    selection   {fit_on, select_on, epoch, scores: {epoch: percent}, honest: bool}
    curve       {epoch: [...], loss: [...], lr: [...]}: mean training loss and lr of each epoch
    cost        {parameters: {method, head}, units, delta_bytes, saved_mb (MB = 1e6 bytes kept for
                backward by one step), gflops: {forward, step} (1e9 operations per image), peak_mib
                (null on CPU, else {weights, gradients, optimiser, activations, workspace,
                allocated, reserved}), train_s, train_images_per_s, test_s, test_images_per_s};
                a cost that cannot be counted is null, with its reason in notes. A probe adds
                predicted_mib (as peak_mib, from shapes), predicted_precision, image_mib (MiB that
                one more image in the batch adds), train_images_per_s_spread, inference: [{batch,
                merged, compiled, compile_mode, images_per_s (median), spread, repeats, passes}].
                Multi-task inference adds multitask: {tasks, shared_blocks, blocks, images,
                gflops: {shared, batch}, saved_percent, seconds, spread_s, saved_time_percent}
    notes       remarks of the method and reasons of missing costs, by name
    provenance  {splits: {name: fingerprint, and of own images how they are decoded}, checkpoint:
                {tag, file, sha256}, versions, device, precision, attention (fused | unfused |
                null), deterministic, started (UTC), seconds}
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from petlbench.errors import UserError
from petlbench.run.identity import without_folders
from petlbench.system import WriteError, write_atomically

SCHEMA = 1
STATUSES = ("finished", "failed", "out_of_memory", "diverged", "unsupported")

LEFTOVER_S = 3600  # a temporary file of this age belongs to a killed process


Record = dict[str, Any]
Config = Mapping[str, Any]


class Store:
    """A folder of records: <root>/<suite>/<task>/<method>-<backbone>-seed<n>-<id>.json."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()

    def path(self, record: Record, suffix: str = ".json") -> Path:
        factors = record["factors"]
        draw = f"-draw{factors['draw']}" if factors["draw"] else ""
        name = f"{factors['method']}-{factors['backbone']}{draw}-seed{factors['seed']}"
        return self.root / str(factors["task"]) / f"{name}-{record['id']}{suffix}"

    def finished(self) -> set[str]:
        """Identities of all finished runs."""
        return {record["id"] for record in self.records() if record["status"] == "finished"}

    def find(self, identifier: str) -> Path | None:
        """The file of the finished run with an identity, or None."""
        # names of files end with the identity, so that no other file is read
        for path in self.root.glob(f"**/*-{identifier}.json"):
            if read(path)["status"] == "finished":
                return path
        return None

    def sweep_leftovers(self) -> None:
        """Remove temporary files of killed processes."""
        for path in self.root.glob("**/.tmp-*"):
            # a younger one may belong to a run of another process
            if time.time() - path.stat().st_mtime > LEFTOVER_S:
                path.unlink(missing_ok=True)

    def files(self) -> Iterator[Path]:
        """Files below the folder that may be records, sorted by path."""
        for path in sorted(self.root.glob("**/*.json")):
            # W&B stores its own files below the folder; they may be incomplete.
            if not path.name.startswith(".") and path.relative_to(self.root).parts[0] != "wandb":
                yield path

    def records(self) -> Iterator[Record]:
        """All records of this schema below the folder. Raises UserError for an unreadable one."""
        for path in self.files():
            record = read(path)
            if record.get("schema") == SCHEMA:
                yield record

    def check_writable(self) -> None:
        """Raise WriteError if the folder is not writable; called before hours of training."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".tmp-"):
                pass
        except OSError as error:
            raise WriteError(
                f"results.root '{self.root}' cannot be written ({error.strerror}); "
                "set results.root=FOLDER to a place with write permission and free space"
            ) from error

    def write(self, record: Record) -> Path:
        """Write a record atomically and return its path."""
        path = self.path(record)
        reason = record.get("reason")
        write(record | {"reason": without_folders(reason)} if reason else record, path)
        return path


def write(record: Record, path: Path) -> None:
    """Write a record to a file, atomically."""
    # NaN is not JSON: readers other than Python's refuse it
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def read(path: Path) -> Record:
    """The record in a file. Raises UserError if the file cannot be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"record '{path}' cannot be read ({error}); delete it or restore it"
        ) from error
    return content if isinstance(content, dict) else {}
