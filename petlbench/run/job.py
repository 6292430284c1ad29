"""What a configuration asks for: a run, or a probe of costs (`job` in conf/)."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

from hydra.utils import get_object

from petlbench.run.record import Record, Store

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """check: refuses what cannot be, before anything is done: Unsupported for a pair of method and
    backbone, any other UserError for a mistake.

    execute: does it, records it and returns the record. Raises UserError for a mistake.

    closing: lines to end with, from the configuration, the store and the identities of all
    records that were asked for, those made earlier included.
    """

    check: Callable[[Config], None]
    execute: Callable[[Config], Record]
    closing: Callable[[Config, Store, Collection[str]], list[str]]


def of(config: Config) -> Job:
    """The job that a configuration names."""
    return cast(Job, get_object(config["job"]))
