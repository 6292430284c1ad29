"""The records of several folders; a file that holds none is named and skipped."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from petlbench.errors import UserError
from petlbench.run import identity
from petlbench.run.record import Record, Store
from petlbench.system import check_readable, user_path


def read(folders: Sequence[Path]) -> list[Record]:
    """Each run once, with its `file`; a finished run takes precedence over a failed one.

    Raises UserError if a folder is missing or no folder holds a record.
    """
    records: dict[tuple[str, str], Record] = {}
    stores = [Store(user_path("--records", folder)) for folder in folders]
    for store in stores:
        for record in _read_folder(store):
            key = (record["protocol"], record["id"])
            if records.get(key, {}).get("status") != "finished":
                records[key] = record
    if folders and not records:
        reasons = [reason for store in stores for reason in store.skipped.values()]
        advice = (
            "python -m petlbench -m method=linear,lora dataset=mini writes some to results/runs"
        )
        raise UserError(
            f"--records {', '.join(map(str, folders))} holds no records; {[*reasons, advice][0]}"
        )
    return list(records.values())


def _read_folder(store: Store) -> Iterator[Record]:
    """Its records, comparable with each other."""
    if not os.path.isdir(store.root):  # unlike Path.is_dir it accepts names of any length
        raise UserError(
            f"--records '{store.root}' is not a folder; give the results.root of a run or sweep"
        )
    check_readable("--records", store.root)
    for path, record in store.located():
        yield _shortened(comparable(record)) | {"file": str(path)}


def comparable(record: Record) -> Record:
    """The record with the configuration keys that later versions added."""
    return record | {"config": identity.completed(record["config"])}


def _shortened(record: Record) -> Record:
    """The record without what no report shows: half of its memory."""
    record.pop("curve", None)
    for split in (record["provenance"].get("splits") or {}).values():
        split.pop("labels", None)
    return record
