"""A single run from the command line."""

import logging

from petlbench.config.schema import Config
from petlbench.errors import UserError
from petlbench.garbage import uncollected
from petlbench.run import build, contents, job, splits
from petlbench.run.identity import identity
from petlbench.run.lifecycle import failed
from petlbench.run.once import awaited, once, record_signature
from petlbench.run.record import Record, Store
from petlbench.run.result import result_line

log = logging.getLogger("petlbench")


def run(config: Config) -> bool:
    """Do what the configuration asks for unless it is finished; whether it succeeded."""
    store, work = Store(config.results.root), job.of(config)
    name = identity(contents.identified(config))
    broken = _bug(config, work)
    if broken is None and (path := store.find(name)) is not None:
        log.info("finished already: %s (delete it to run again)", path)
    else:
        if broken is None:
            _check_available(config)
        store.check_writable()
        store.clean()
        seen = record_signature(config, name)
        record = (
            _recorded_failure(config, store, broken)
            if broken
            else awaited(config, name, lambda: once(config, seen, lambda: work.execute(config)))
        )
        log.info("%s", result_line(record))
        # of this run, or of another process that finished it and whose record was kept
        log.info("record: %s", store.find(name) or store.path(record))
        if record["status"] != "finished":
            return False
    # also for a run that was finished earlier: probe.budget_gib is answered from its record
    for line in work.summary(config, store, [name]):
        log.info("%s", line)
    return True


def _check_available(config: Config) -> None:
    """Refuse an unavailable device, format, weights or data before anything is written."""
    build.machine(config)
    build.weights(config)
    splits.prepared(config)


@uncollected()
def _bug(config: Config, work: job.Job) -> Exception | None:
    """The error of a method that fails when it is tried on shapes.

    Raises UserError for a mistake of the user, and for an unsupported pair.
    """
    try:
        work.check(config)
    except UserError:
        raise
    except Exception as error:
        # whatever the code of a method raises; a bug is recorded, as in a sweep
        return error
    return None


def _recorded_failure(config: Config, store: Store, error: Exception) -> Record:
    record = failed(config, error)
    store.write(record)
    return record
