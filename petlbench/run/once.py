"""A run once, however many processes want it: finished before, claimed, or done now."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

from petlbench.config.schema import Config
from petlbench.run import contents
from petlbench.run.claims import Claims
from petlbench.run.identity import identity
from petlbench.run.record import NoRecord, Record, Store, read

POLL_S = 1.0  # between two looks at a run of another process
Signature = tuple[int, int, int]  # of a file: it changes whenever the file is written
log = logging.getLogger("petlbench")


def once(config: Config, seen: Signature | None, do: Callable[[], Record]) -> Record | None:
    """The record of a run: of another process that has ended it, or what `do` returns.

    seen: the signature of its record when the run was wanted. None while another process does it.
    """
    name = identity(contents.identified(config))
    if (record := _ended(config, name, seen)) is not None:
        return record
    claim = _claims(config.results.root).take(name)
    if claim is None:
        return None
    with claim:
        # once more: its former owner may have ended it before it was free
        return _ended(config, name, seen) or do()


def awaited(config: Config, name: str, attempt: Callable[[], Record | None]) -> Record:
    """The record that `attempt` returns, now or when no other process does the run any more.

    name: the identity of the run.
    """
    record = attempt()
    if record is None:
        log.info("another process does this run; waiting for it")
    while record is None:
        time.sleep(POLL_S)
        # an attempt reads the files of the run
        record = attempt() if is_free(config, name) else None
    return record


def is_free(config: Config, name: str) -> bool:
    """Whether no process does the run with an identity any more; reads one small file."""
    return _claims(config.results.root).is_free(name)


def record_signature(config: Config, name: str) -> Signature | None:
    """The signature of the record of a run with an identity; None without a record."""
    try:
        status = _file(config, name).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _ended(config: Config, name: str, seen: Signature | None) -> Record | None:
    """The record of a run that has ended since it was wanted."""
    if (path := Store(config.results.root).find(name)) is not None:
        log.info("finished meanwhile: %s", path)
        return read(path)
    if record_signature(config, name) in (None, seen):
        return None
    try:
        return read(_file(config, name))  # it failed, and is not tried again
    except NoRecord:
        return None


def _file(config: Config, name: str) -> Path:
    return Store(config.results.root).path({"id": name, "factors": asdict(config.factors)})


@cache
def _claims(root: str) -> Claims:
    return Claims(root)  # one for all runs of this process: it watches the claims of others
