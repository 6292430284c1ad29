"""python -m petlbench: one run, or with -m a sweep."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import hydra
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from petlbench import console, interrupts
from petlbench.config import (
    command_line,
    compose,
    compositions,
    help,
    hydra_keys,
    mistakes,
    recipes,
    search_path,
    selection,
)
from petlbench.errors import UserError, first_line, one_line
from petlbench.garbage import uncollected
from petlbench.progress import say
from petlbench.sweep.overrides import defer
from petlbench.sweep.plugin import register
from petlbench.system import package_version

log = logging.getLogger("petlbench")
FAILED, MISTAKE = 1, 2  # exit codes
# OmegaConf raises these for a value below a node that is null.
COMPOSITION_ERRORS = (AssertionError, AttributeError, TypeError, ValueError, LookupError)


@contextmanager
def user_errors() -> Iterator[None]:
    """Print a mistake of the user in one line, without a traceback; a bug keeps its own."""
    try:
        with interrupts.reader_may_end(), mistakes.as_user_errors(_known_keys):
            yield
    except KeyboardInterrupt:
        line = "interrupted; finished runs are kept, the same command does the rest"
        raise SystemExit(interrupts.end(line)) from None
    except UserError as error:
        say(f"error: {error}")
        raise SystemExit(MISTAKE) from None


def _known_keys() -> Iterable[str]:
    return compositions.keys_with(command_line.chosen(sys.argv[1:]))


@user_errors()  # here too: Hydra prints a line of its own for errors that reach it
def run_single(composed: DictConfig) -> None:
    """A single run: skipped if it is finished; exits with 1 if it fails."""
    refuse_a_sweep(HydraConfig.get().sweeper)
    config = compose.finish(composed, HydraConfig.get().runtime.choices)
    recipes.check(config)
    with uncollected():
        from petlbench.run import single  # imports torch, so after cheap mistakes

    if not single.run(config):
        raise SystemExit(FAILED)


def refuse_a_sweep(sweeper: DictConfig) -> None:
    """Refuse what only a sweep understands: it must not end as one run of the default values."""
    if sweeper.params:
        params = " ".join(f"{key}={value}" for key, value in sweeper.params.items())
        raise UserError(f"this experiment is a sweep ({params}); add -m to run it")
    if sweeper.dry_run:
        raise UserError("hydra.sweeper.dry_run=true prints the plan of a sweep; add -m")


def ordered(preset: Sequence[str], given: Sequence[str]) -> list[str]:
    """Preset overrides beside the given ones, -m first: Hydra wants all overrides in one place."""
    flags = [text for text in given if text in ("-m", "--multirun")]
    others = [text for text in given if text not in flags]
    places = (n for n, text in enumerate(others) if "=" in text and not text.startswith("-"))
    first = next(places, len(others))
    return [*flags, *others[:first], *preset, *others[first:]]


def run_preset(preset: str) -> None:
    """The command line after an override such as `protocol=probe`, which it may not set again."""
    key = preset.partition("=")[0]
    with user_errors():
        for text in sys.argv[1:]:
            if text.lstrip("+~").startswith(f"{key}="):
                raise UserError(
                    f"this command sets {preset}; leave out '{text}', or use petlbench"
                )
    main(preset)


@user_errors()
def main(*preset: str) -> None:
    """Run the command line with preset overrides; leaves by SystemExit if anything went wrong."""
    arguments = ordered(preset, command_line.without_plus(sys.argv[1:]))
    console.check_is_no_command(sys.argv[1:])
    if "--version" in arguments:
        print(f"petlbench {package_version('petlbench')}")
        return
    if {"-h", "--help"} & set(arguments):
        print(help.text())
        return
    shown = {text.partition("=")[0] for text in arguments} & {"-c", "--cfg"}
    if {"-m", "--multirun"} & set(arguments) and shown:
        raise UserError("--cfg shows the configuration of one run; leave out -m")
    hydra_keys.check_flags(arguments)
    command_line.check_groups(arguments)
    command_line.check_backbone(arguments)
    hydra_keys.check(arguments)
    selection.check(arguments)
    search_path.register()
    register()
    sys.argv[1:] = defer(command_line.quoted(arguments))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come out of Hydra instead of being printed
    _start()


@contextmanager
def _composed_once(arguments: Iterable[str]) -> Iterator[None]:
    """Keep Hydra from composing once more to learn hydra.mode, where no argument sets it.

    That takes 0.2 s. Here -m alone makes a sweep, so a configuration file has no say in it.
    """
    ask = Hydra.get_mode
    if not any("hydra.mode" in text for text in arguments):
        Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = ask  # type: ignore[method-assign]


def _start() -> None:
    """Hand over to Hydra, which composes and then calls `run_single`, or the sweeper."""
    composed = False

    def task(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        run_single(config)

    start = hydra.main(
        version_base="1.3", config_path=f"pkg://{search_path.OWN}", config_name="config"
    )
    try:
        with _composed_once(sys.argv[1:]):
            start(task)()
    except yaml.YAMLError as error:
        raise UserError(
            f"a configuration file is not yaml: {one_line(error)}; repair it"
        ) from error
    except COMPOSITION_ERRORS as error:
        # After composition these types mean a bug; user_errors prints a UserError in one line.
        if composed or isinstance(error, UserError):
            raise
        raise UserError(mistakes.unexplained(first_line(error), sys.argv[1:])) from error


if __name__ == "__main__":
    main()
