"""The records of several folders; a broken record is refused by name."""

import os
from collections.abc import Sequence
from pathlib import Path

from petlbench.errors import UserError
from petlbench.report.read.check import broken
from petlbench.run import identity
from petlbench.run import record as store
from petlbench.run.record import SCHEMA, Record, Store

MAX_PLACES = 4  # of one broken record in a message


def read(folders: Sequence[Path]) -> list[Record]:
    """Each run once; a finished run takes precedence over a failed one.

    Raises UserError if a folder is missing, no folder holds a record, or a record is broken.
    """
    records: dict[tuple[str, str], Record] = {}
    for folder in folders:
        for record in _read_folder(folder):
            key = (record["protocol"], record["id"])
            if records.get(key, {}).get("status") != "finished":
                records[key] = record
    if folders and not records:
        raise UserError(
            f"--records {', '.join(map(str, folders))} holds no records; "
            "python -m petlbench -m method=linear,lora dataset=mini writes some to results/runs"
        )
    return list(records.values())


def _read_folder(folder: Path) -> list[Record]:
    if not os.path.isdir(folder):  # unlike Path.is_dir it accepts names of any length
        raise UserError(
            f"--records '{folder}' is not a folder; give the results.root of a run or sweep"
        )
    contents = ((path, store.read(path)) for path in Store(folder).files())
    # other tools keep JSON files of their own in such folders
    return [_checked(path, content) for path, content in contents if "schema" in content]


def _checked(path: Path, record: Record) -> Record:
    """The record with the configuration keys that later versions added."""
    if record["schema"] != SCHEMA:
        raise UserError(
            f"record '{path}' has schema {record['schema']}, this petlbench reads {SCHEMA}; "
            "use the version that wrote it, or move it elsewhere"
        )
    if places := broken(record):
        more = f" and {len(places) - MAX_PLACES} more" if len(places) > MAX_PLACES else ""
        raise UserError(
            f"record '{path}' is broken: {', '.join(places[:MAX_PLACES])}{more} missing or wrong; "
            "delete it and run again, or restore it"
        )
    # a null node counts as absent: completed() fills in keys of mappings only
    nodes = {key: node for key, node in record["config"].items() if node is not None}
    return _shortened(record | {"config": identity.completed(nodes)})


def _shortened(record: Record) -> Record:
    """The record without what no report shows: half of its memory."""
    record.pop("curve", None)
    for split in (record["provenance"].get("splits") or {}).values():
        split.pop("labels", None)
    return record
