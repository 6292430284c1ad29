"""python -m petlbench: one run, or with -m a sweep."""

import logging
import os
import re
import sys
from difflib import get_close_matches
from importlib import resources

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from petlbench import compose
from petlbench.errors import UserError, unknown
from petlbench.sweep.hydra import register

log = logging.getLogger("petlbench")
GROUPS = ("method", "backbone", "dataset", "protocol", "recipe", "experiment")
INTERRUPTED = 130


def one(composed: DictConfig) -> None:
    """A single run: skipped if it is finished; exits with 1 if it fails."""
    config = compose.finish(composed, HydraConfig.get().runtime.choices)
    from petlbench import build
    from petlbench.record import Store, identity
    from petlbench.run import run
    from petlbench.sweep.plan import result_line

    store = Store(config["results"]["root"])
    if (found := store.find(identity(config))) is not None:
        log.info("finished already: %s (delete it to run again)", found)
        return
    build.check(config)
    record = run(config)
    log.info("%s", result_line(record))
    log.info("record: %s", store.path(record))
    if record["status"] != "finished":
        raise SystemExit(1)


def options(group: str) -> list[str]:
    """The options of a configuration group, e.g. mini/digits."""
    root = resources.files("petlbench.conf") / group
    with resources.as_file(root) as folder:
        files = sorted(folder.glob("**/*.yaml"))
        return [file.relative_to(folder).with_suffix("").as_posix() for file in files]


def check_groups(arguments: list[str]) -> None:
    """Refuse an option that does not exist, before anything slow is imported."""
    for argument in arguments:
        group, sign, values = argument.partition("=")
        if not sign or group not in GROUPS or not re.fullmatch(r"[\w/,.+*\-]+", values):
            continue
        known = options(group)
        for value in values.split(","):
            if value != "null" and value not in known:
                raise unknown("task or suite" if group == "dataset" else group, value, known)


def explain(error: BaseException) -> str:
    """One line for what Hydra or OmegaConf refused."""
    while not str(error) and error.__cause__ is not None:
        error = error.__cause__
    line = compose.first_line(error)
    if (match := re.match(r"Could not override '([^']+)'", line)) is None:
        return line
    key = match[1]
    near = get_close_matches(key, list(_keys()), n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"no key '{key}' to set; {hint}--cfg job prints all keys"


def _keys() -> set[str]:
    """All dotted keys of the default configuration and of the methods' values."""
    from omegaconf import OmegaConf

    found: set[str] = set()
    with resources.as_file(resources.files("petlbench.conf")) as folder:
        files = [folder / "config.yaml", *(folder / "method").glob("*.yaml")]
        for node in map(OmegaConf.load, files):
            stack = [("", node)]
            while stack:
                prefix, part = stack.pop()
                for key in part if OmegaConf.is_dict(part) else ():
                    found.add(f"{prefix}{key}")
                    if not OmegaConf.is_missing(part, key) and not OmegaConf.is_interpolation(part, key):
                        stack.append((f"{prefix}{key}.", part[key]))
    return found


def main() -> int:
    """Run the command line; a mistake of the user is one line on stderr, not a traceback."""
    # Hydra would print several lines for an error and leave with 1; so the error itself comes out.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        check_groups(sys.argv[1:])
        register()
        hydra.main(version_base="1.3", config_path="pkg://petlbench.conf", config_name="config")(one)()
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept, the same command does the rest", file=sys.stderr)
        return INTERRUPTED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
