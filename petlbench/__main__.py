"""python -m petlbench: one run, or with -m a sweep."""

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from petlbench.config import compose, options, recipes, search_path
from petlbench.errors import UserError, unknown
from petlbench.sweep.plugin import defer, register

log = logging.getLogger("petlbench")
GROUPS = ("method", "backbone", "dataset", "protocol", "recipe", "experiment")
FAILED, MISTAKE, INTERRUPTED = 1, 2, 130


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """A mistake of the user leaves one line on stderr and no traceback; a bug keeps its own."""
    try:
        yield
    except KeyboardInterrupt:
        tell("interrupted; finished runs are kept, the same command does the rest")
        raise SystemExit(INTERRUPTED) from None
    except UserError as error:
        tell(f"error: {error}")
        raise SystemExit(MISTAKE) from None
    except (HydraException, OmegaConfBaseException) as error:
        chosen = [text for text in sys.argv[1:] if text.partition("=")[0] in GROUPS]
        tell(f"error: {compose.explain(error, lambda: compose.keys_with(chosen))}")
        raise SystemExit(MISTAKE) from None


def tell(line: str) -> None:
    print(line, file=sys.stderr)


@told_in_one_line()  # here too: Hydra prints a line of its own for errors that reach it
def one(composed: DictConfig) -> None:
    """A single run: skipped if it is finished; exits with 1 if it fails."""
    refuse_a_sweep(HydraConfig.get().sweeper)
    config = compose.finish(composed, HydraConfig.get().runtime.choices)
    recipes.check(config)
    from petlbench.run import job
    from petlbench.run.record import Store, identity
    from petlbench.sweep.plan import result_line

    store, name, asked = Store(config["results"]["root"]), identity(config), job.of(config)
    asked.check(config)
    if (found := store.find(name)) is not None:
        log.info("finished already: %s (delete it to run again)", found)
    else:
        record = asked.execute(config)
        log.info("%s", result_line(record))
        log.info("record: %s", store.path(record))
        if record["status"] != "finished":
            raise SystemExit(FAILED)
    for line in asked.closing(config, store, [name]):
        log.info("%s", line)


def refuse_a_sweep(sweeper: DictConfig) -> None:
    """What only a sweep understands must not end as one run of the default values."""
    if sweeper.params:
        told = " ".join(f"{key}={value}" for key, value in sweeper.params.items())
        raise UserError(f"this experiment is a sweep ({told}); add -m to run it")
    if sweeper.dry_run:
        raise UserError("hydra.sweeper.dry_run=true prints the plan of a sweep; add -m")


def check_groups(arguments: Sequence[str]) -> None:
    """Refuse an option that does not exist, before anything slow is imported."""
    for argument in arguments:
        group, sign, values = argument.partition("=")
        if not sign or group not in GROUPS or not re.fullmatch(r"[\w/,.+*\-]+", values):
            continue
        known = known_options(group, arguments)
        for value in values.split(","):
            if value not in known and (group, value) != ("experiment", "null"):
                raise unknown("task or suite" if group == "dataset" else group, value, known)


def known_options(group: str, arguments: Sequence[str]) -> list[str]:
    """The options of a configuration group, e.g. mini/digits, with those of --config-dir."""
    pairs = zip(["", *arguments], [*arguments, ""], strict=True)
    own = [value for flag, value in pairs if flag in ("--config-dir", "-cd")]
    own += [text.partition("=")[2] for text in arguments if text.startswith("--config-dir=")]
    folders = [Path(folder) / group for folder in own]
    return options.names(group) + [
        file.relative_to(folder).with_suffix("").as_posix()
        for folder in folders
        for file in folder.glob("**/*.yaml")
    ]


def ordered(preset: Sequence[str], given: Sequence[str]) -> list[str]:
    """Preset overrides beside the given ones, -m ahead: Hydra wants all overrides in one place."""
    flags = [text for text in given if text in ("-m", "--multirun")]
    others = [text for text in given if text not in flags]
    places = (n for n, text in enumerate(others) if "=" in text and not text.startswith("-"))
    first = next(places, len(others))
    return [*flags, *others[:first], *preset, *others[first:]]


@told_in_one_line()
def main(*preset: str) -> None:
    """Run the command line with preset overrides; leaves by SystemExit if anything went wrong."""
    arguments = ordered(preset, sys.argv[1:])
    if "--version" in arguments:
        print(f"petlbench {metadata.version('petlbench')}")
        return
    shown = {text.partition("=")[0] for text in arguments} & {"-c", "--cfg"}
    if {"-m", "--multirun"} & set(arguments) and shown:
        raise UserError("--cfg shows the configuration of one run; leave out -m")
    check_groups(arguments)
    search_path.register()
    register()
    sys.argv[1:] = defer(arguments)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come out of Hydra instead of being printed
    start = hydra.main(
        version_base="1.3", config_path=f"pkg://{search_path.OWN}", config_name="config"
    )
    start(one)()


if __name__ == "__main__":
    main()
