"""The records of several folders; whatever cannot be one is refused by name."""

from collections.abc import Sequence
from pathlib import Path

from petlbench.errors import UserError
from petlbench.report.check import broken
from petlbench.run import identity
from petlbench.run import record as records_of
from petlbench.run.record import SCHEMA, Record, Store

MAX_PLACES = 4  # of one record in one line


def read(folders: Sequence[Path]) -> list[Record]:
    """Each run once; a finished one wins over a failed one."""
    found: dict[tuple[str, str], Record] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder '{folder}'; --records takes the results.root of a sweep")
        for path in Store(folder).files():
            content = records_of.read(path)
            if "schema" in content:  # other tools keep files of their own below such folders
                _check(path, content)
                content["config"] = identity.completed(content["config"])
                key = (content["protocol"], content["id"])
                if found.get(key, {}).get("status") != "finished":
                    found[key] = content
    if folders and not found:
        raise UserError(
            f"no records in {', '.join(map(str, folders))}; "
            "python -m petlbench -m method=linear,lora dataset=mini makes some in results/runs"
        )
    return list(found.values())


def _check(path: Path, record: Record) -> None:
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
