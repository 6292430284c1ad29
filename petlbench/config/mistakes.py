"""What Hydra and OmegaConf refuse, in one line that names the key, the value and the choices."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from petlbench.config import options
from petlbench.config.wrong_values import wrong_value
from petlbench.errors import UserError, first_line, unknown

# The patterns below are messages of Hydra 1.3 and OmegaConf 2.3; others are shown as they are.
SUGGESTED = 3  # keys of other nodes with the same last part


@contextmanager
def as_user_errors(known: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Raise what Hydra and OmegaConf refuse as a UserError; known: as for `explain`."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, known)) from error


def explain(error: Exception, known: Callable[[], Iterable[str]]) -> str:
    """One line for an error of composition; known: returns the keys that can be set."""
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingMandatoryValue):
        return unresolved(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return str(unknown(group, name, error.options))
    line = first_line(error)
    if match := re.match(r"Could not append to config\. An item is already at '([^']+)'", line):
        return f"'{match[1]}' has a value; write {match[1]}=VALUE, without +"
    if match := re.match(r"Could not override '([^']+)'", line):
        return no_key(match[1], known())
    # the first of a plain key=a,b, the second of choice(), range() and glob()
    if match := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '([^']+)'", line):
        return f"'{match[1]}' names several values; add -m to sweep them"
    if match := re.match(r"Error resolving interpolation '(.*)', possible interpolation", line):
        return _without_option(match[1], line)
    if match := re.match(r"Could not delete from config\. '([^']+)' does not exist", line):
        return no_key(match[1], known())
    # Hydra names only the override; its cause has the key and the value
    if isinstance(error, HydraException) and isinstance(cause, OmegaConfBaseException):
        return wrong_value(cause)
    if isinstance(error, OmegaConfBaseException):
        return wrong_value(error)
    return line


def no_key(key: str, known: Iterable[str]) -> str:
    """A key that does not exist: the nearest one that does, or the options that have it."""
    names = list(known)
    # `lr` for train.lr: half of a dotted key is not close to it
    near = sorted(n for n in names if n.endswith(f".{key}") and not n.startswith("hydra."))
    near = near[:SUGGESTED]
    if not near and (choices := options.having(key)) is not None:
        group, having = choices
        return (
            f"no key '{key}' to set: it depends on the {group}; choose {group}=NAME, one of "
            f"{', '.join(having)}"
        )
    near = near or get_close_matches(key, names, n=1)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"no key '{key}' to set; {hint}petlbench run --cfg job prints all keys"


def unresolved(error: OmegaConfBaseException) -> str:
    """A value that was never set, or an interpolation that fails."""
    if isinstance(error, MissingMandatoryValue):
        return f"no value for '{error.full_key}'; set {error.full_key}=VALUE"
    if match := re.search(r"Missing mandatory value: ([\w.]+)", str(error)):  # referred to
        return f"no value for '{match[1]}'; set {match[1]}=VALUE"
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, UserError):
        inner = inner.__context__  # OmegaConf wraps what a resolver raises
    return str(inner) if inner is not None else wrong_value(error)


def _without_option(interpolation: str, line: str) -> str:
    """The defaults list refers to a group whose option was deleted."""
    present = line.rpartition(":")[2]
    groups = re.findall(r"\$\{(\w+)\}", interpolation)
    missing = next((group for group in groups if group not in present), groups[0])
    return f"no {missing} is chosen; set {missing}=NAME"


def unexplained(line: str, arguments: Iterable[str]) -> str:
    """An error of OmegaConf without words for the user: most often a key below a null node."""
    dotted = [text.partition("=")[0].lstrip("+~") for text in arguments if "." in text]
    keys = ", ".join(f"'{key}'" for key in dict.fromkeys(dotted)) or "the command"
    return (
        f"cannot set {keys}: the node above is null or not a mapping ({line}); set the whole "
        "node, or choose an option that has it"
    )


def _unreadable(error: OverrideParseException) -> str:
    """An override that Hydra's grammar refuses."""
    if error.override and re.fullmatch(r"[\w/.-]+", error.override):
        return f"'{error.override}' is no KEY=VALUE; values are given as method=lora train.lr=1e-3"
    if error.override and "=~" in error.override:
        return f"cannot read '{error.override}'; write the folder out, without ~"
    return (
        f"cannot read '{error.override}' ({first_line(error)}); quote a value that has other "
        "characters than a-z, A-Z, 0-9 and ./_-:~%: 'dataset.root=\"my (new) images\"'"
    )
