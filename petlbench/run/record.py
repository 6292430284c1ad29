"""The record of a run and the store: one JSON file per run, beside its delta and predictions.

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
    selection   {fit_on, select_on, epoch (None: there are none), scores: {epoch: percent}, honest}
    curve       {epoch: [...], loss: [...], lr: [...]}: mean training loss and lr of each epoch
    cost        {parameters: {method, head}, units, delta_bytes, saved_mb (MB = 1e6 bytes kept for
                backward by one step), gflops: {forward, step} (1e9 operations per image), peak_mib
                (null on CPU and without training steps, else {weights, gradients, optimiser,
                activations, workspace, allocated, reserved}), train_s (of the whole fit),
                scored_s (of these, for scores between epochs and in searches),
                train_images_per_s (without scored_s), test_s, test_images_per_s}; a cost that
                cannot be counted is null, with its reason in notes. A probe adds predicted_mib (as
                peak_mib, from shapes),
                predicted_precision, image_mib (MiB that one more image in the batch adds),
                memory_modes: {fast | lean | min: {saved_mb, peak_mib, predicted_mib, image_mib}},
                train_images_per_s_spread, inference: [{batch, merged, compiled, compile_mode,
                images_per_s (median), spread, repeats, passes}].
                Multi-task inference adds multitask: {tasks, shared_blocks, blocks, images,
                gflops: {shared, batch}, saved_percent, seconds, spread_s, saved_time_percent}
    notes       remarks of the method and reasons of missing costs, by name; resumed: where a run
                that was stopped went on; tested: that the tests ran on the merged network
    provenance  {splits: {name: fingerprint, and of own images how they are decoded}, checkpoint:
                {tag, file, sha256}, versions, device, precision, attention (fused | unfused |
                null), deterministic, started (UTC), seconds}; the last two of the last start
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from petlbench.checks import is_whole
from petlbench.errors import UserError, first_line
from petlbench.run.check import broken, is_shallow, wrong
from petlbench.run.identity import without_folders
from petlbench.system import (
    TEMPORARY,
    WriteError,
    file_status,
    folder_lock,
    remove_abandoned,
    temporary_file,
    write_atomically,
)

SCHEMA = 1
DELTA = ".safetensors"  # suffix of the trained tensors beside a record
PREDICTIONS = (
    ".predictions.npz"  # suffix of the predictions for the tests; petlbench/data/predictions.py
)
UNFINISHED = ".unfinished"  # suffix of the folder with what a stopped run has saved
MAX_PLACES = 4  # of one broken record in a message
log = logging.getLogger("petlbench")

Record = dict[str, Any]


def beside(path: Path, suffix: str) -> Path:
    """The file of a run with a suffix, such as DELTA, from the file of its record."""
    return path.with_name(path.name.removesuffix(".json") + suffix)


class NoRecord(UserError):
    """A file that holds no record, or not a whole one."""


class Store:
    """A folder of records: <root>/<suite>/<task>/<method>-<backbone>-seed<n>-<id>.json.

    Files that hold no record, and folders that cannot be read, are named in a warning, each once,
    and skipped; `skipped` has the reasons.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        self.skipped: dict[Path, str] = {}

    def path(self, record: Record, suffix: str = ".json") -> Path:
        factors = record["factors"]
        draw = f"-draw{factors['draw']}" if factors["draw"] else ""
        name = f"{factors['method']}-{factors['backbone']}{draw}-seed{factors['seed']}"
        return self.root / str(factors["task"]) / f"{name}-{record['id']}{suffix}"

    def kept(self, record: Record) -> list[Path]:
        """The files of a run that exist: its record, its delta and its predictions."""
        paths = [self.path(record, suffix) for suffix in (".json", DELTA, PREDICTIONS)]
        return [path for path in paths if path.is_file()]

    def finished(self) -> set[str]:
        """Identities of all finished runs."""
        return {record["id"] for record in self.records() if record["status"] == "finished"}

    def find(self, identifier: str) -> Path | None:
        """The file of the finished run with an identity, or None."""
        # names of files end with the identity, so that no other file is read
        end = f"-{identifier}.json"
        return self._finished(identifier, (p for p in self._below() if p.name.endswith(end)))

    def _finished(self, identifier: str, paths: Iterable[Path]) -> Path | None:
        for path in sorted(paths):
            record = self._read(path) if path.is_file() else None
            if record and (record["id"], record["status"]) == (identifier, "finished"):
                return path
        return None

    def files(self) -> Iterator[Path]:
        """Files below the folder that may be records, sorted by path."""
        for path in sorted(self._below(), key=lambda path: path.parts):
            if path.is_file():  # reading a pipe would wait for its other end
                yield path

    def _below(self) -> Iterator[Path]:
        """What is named as a record; a folder that cannot be read is skipped with a warning."""
        for place, folders, names in os.walk(self.root, onerror=self._skip_folder):
            folder = Path(place)
            if folder == self.root:
                # W&B stores its own files here, which may be incomplete; plans are hidden
                folders[:] = [n for n in folders if not n.startswith(".") and n != "wandb"]
            yield from (folder / n for n in names if n.endswith(".json") and n[0] != ".")

    def _skip_folder(self, error: OSError) -> None:
        # a store that does not exist yet has no records
        if isinstance(error, PermissionError):
            reason = f"folder '{error.filename}' cannot be read ({error.strerror})"
            self._skip(Path(error.filename), reason)

    def records(self) -> Iterator[Record]:
        """All records of this schema below the folder."""
        return (record for _, record in self.located())

    def located(self) -> Iterator[tuple[Path, Record]]:
        """The records, each with its file."""
        for path in self.files():
            if record := self._read(path):
                yield path, record

    def _read(self, path: Path) -> Record | None:
        try:
            return read(path)
        except NoRecord as error:
            self._skip(path, str(error))
            return None

    def _skip(self, path: Path, reason: str) -> None:
        if path not in self.skipped:
            log.warning("skipped: %s", reason)
        self.skipped[path] = reason

    def check_writable(self) -> None:
        """Raise WriteError if the folder is not writable; called before hours of training."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with temporary_file(self.root):
                pass
        except OSError as error:
            raise WriteError(
                f"results.root '{self.root}' cannot be written ({error.strerror}); "
                "set results.root=FOLDER to a place with write permission and free space"
            ) from error

    def clean(self) -> None:
        """Remove what killed processes have left in all folders; once before many runs."""
        # unlike glob, it skips folders that other processes remove meanwhile
        for folder, _, names in os.walk(self.root):
            if any(name.startswith(TEMPORARY) for name in names):
                remove_abandoned(Path(folder))

    def check_replaceable(self, record: Record) -> None:
        """Raise UserError if this run's record could not be written.

        A later version of petlbench may have written it, or it is a folder.
        """
        path = self.path(record)
        if path.is_dir():
            raise WriteError(
                f"record '{path}' is a folder; remove it, or set another results.root"
            )
        if (schema := _schema(path)) > SCHEMA:
            raise UserError(
                f"record '{path}' has schema {schema}, this petlbench writes {SCHEMA}; use the "
                "version that wrote it, or another results.root"
            )

    def write(self, record: Record) -> Path:
        """Write a record atomically and return its path.

        A record of a later schema stays, and so does a finished one unless this one is finished
        too. Delta and predictions of a run that is not finished are removed.
        """
        path = self.path(record)
        reason = record.get("reason")
        kept = record | {"reason": without_folders(reason)} if reason else record
        # of two processes, neither may replace what the other one has just finished
        with folder_lock(path.parent):
            if (better := self._better(record)) is not None:
                log.warning("kept '%s', which is finished or of a later version", better)
                return better
            if record["status"] != "finished":
                self._discard(record)
            write(kept, path)
        return path

    def discard(self, record: Record) -> None:
        """Remove delta and predictions of a run, but beside a record that `write` keeps."""
        with folder_lock(self.path(record).parent):
            if self._better(record | {"status": "failed"}) is None:
                self._discard(record)

    def _discard(self, record: Record) -> None:
        for suffix in (DELTA, PREDICTIONS):
            self.path(record, suffix).unlink(missing_ok=True)

    def _better(self, record: Record) -> Path | None:
        """The stored record of the same run that this one must not replace."""
        path = self.path(record)
        if _schema(path) > SCHEMA:
            return path
        if record["status"] == "finished":
            return None
        # another option file may have named its method or backbone
        return self._finished(record["id"], path.parent.glob(f"*-{record['id']}.json"))


def write(record: Record, path: Path) -> None:
    """Write a record to a file, atomically."""
    # NaN is not JSON: readers other than Python's refuse it
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def read(path: Path) -> Record:
    """The record in a file. Raises NoRecord if it cannot be read or has a wrong value."""
    text = _text(path)
    content, is_json = _parsed(path, text)
    if not isinstance(content, dict) or "schema" not in content:
        raise NoRecord(f"'{path}' is no record: it has no schema")
    if content["schema"] != SCHEMA or isinstance(content["schema"], bool):
        raise NoRecord(
            f"record '{path}' has schema {content['schema']}, this petlbench reads {SCHEMA}; "
            "use the version that wrote it, or move it elsewhere"
        )
    if places := wrong(content) if is_json and is_shallow(content, text) else broken(content):
        more = f" and {len(places) - MAX_PLACES} more" if len(places) > MAX_PLACES else ""
        raise NoRecord(
            f"record '{path}' is broken: {', '.join(places[:MAX_PLACES])}{more} missing or wrong; "
            "delete it and run again, or restore it"
        )
    return content


def _text(path: Path) -> bytes:
    try:
        file_status(path)  # reading a pipe would wait for its other end
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _parsed(path: Path, text: bytes) -> tuple[Any, bool]:
    """The content of a file, and whether JSON can hold all of it."""
    try:
        return orjson.loads(text), True  # four times as fast
    except orjson.JSONDecodeError:
        try:
            # accepts more, such as NaN, so that `broken` can name its place
            return json.loads(text.decode("utf-8")), False
        except (ValueError, RecursionError) as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> NoRecord:
    reason = getattr(error, "strerror", None) or first_line(error)
    return NoRecord(f"record '{path}' cannot be read ({reason}); delete it or restore it")


def _schema(path: Path) -> int:
    """The schema of the record in a file; 0 if the file holds none."""
    try:
        content = _parsed(path, _text(path))[0] if path.is_file() else None
    except NoRecord:
        return 0
    schema = content.get("schema") if isinstance(content, dict) else None
    return schema if is_whole(schema) else 0
