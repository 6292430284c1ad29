"""What a configuration asks for: a training run, or a probe of costs (`job` in conf/)."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from petlbench.config import target
from petlbench.config.schema import Config
from petlbench.errors import UserError
from petlbench.run.record import Record, Store


@dataclass(frozen=True)
class Job:
    """The three steps of a kind of work.

    check: refuses, before anything is done, what cannot run: Unsupported for a pair of method and
    backbone, another UserError for a mistake.
    execute: does the work, records it and returns the record. Raises UserError for a mistake.
    summary: lines to end with, from the configuration, the store and the identities of all
    requested records, including those made earlier.
    """

    check: Callable[[Config], None]
    execute: Callable[[Config], Record]
    summary: Callable[[Config, Store, Collection[str]], list[str]]


def of(config: Config) -> Job:
    """The job that a configuration names. Raises UserError if there is no such job."""
    job = target.find(config.job, "job")  # by name: the modules of jobs import this one
    if not isinstance(job, Job):
        raise UserError(f"job is {config.job}, which is not a job; leave job out")
    return job
