"""Compare a few methods of fine-tuning on a folder of your own images.

FOLDER has a folder of images for each class, or train/ and test/ with such folders, or is a CSV
file with the columns path and label. The folder is verified, then the plan is shown: settings,
methods, memory, time. A second call goes on where the first one ended.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from petlbench.arguments import Parser, command
from petlbench.checks import positive
from petlbench.commands.own import settings as own_settings
from petlbench.config import command_line, compose, compositions, mistakes, options
from petlbench.config.resolvers import name_of
from petlbench.config.schema import Config
from petlbench.data import configured
from petlbench.data.readers import tree
from petlbench.errors import UserError, unknown
from petlbench.interrupts import end
from petlbench.progress import Stderr, say
from petlbench.system import check_writable, user_path

if TYPE_CHECKING:
    from petlbench.commands.own.plan import Candidate

FAILED = 1  # exit status
DEFAULT_METHODS = "own"
PACKAGED = "vit_mini"  # the backbone whose weights need no download
EXAMPLES = """examples:
  petlbench try photographs
  petlbench try photographs --backbone vit_mini --minutes 10 --methods linear,lora
  petlbench try photographs --budget-gib 8 train.epochs=50 input.augment=null
"""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    found = Parser(
        prog="petlbench try",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("folder", metavar="FOLDER", help="your images")
    found.add_argument(
        "override", metavar="KEY=VALUE", nargs="*", default=[], help="values of all runs"
    )
    found.add_argument("--backbone", default="vit_b16", help="default: %(default)s")
    found.add_argument(
        "--methods", default=DEFAULT_METHODS, help="names, the first for comparison"
    )
    found.add_argument(
        "--budget-gib", type=float, help="memory of a training; default: what is free here"
    )
    found.add_argument("--minutes", type=float, default=30.0, help="of all (default: %(default)s)")
    found.add_argument("--out", metavar="DIR", help="records and report (default: results/try/..)")
    found.add_argument(
        "--allow-duplicates", action="store_true", help="also if two splits share some"
    )
    found.add_argument("--yes", action="store_true", help="do not ask before the runs")
    return found


def attempt(asked: argparse.Namespace, typed: str) -> int:
    """Do what the command asks for; 1 if the data are wrong or a run fails."""
    from petlbench import registry  # imports torch

    own = own_settings.given(asked.override)
    methods = _methods(asked.methods)
    command_line.check_groups([f"backbone={asked.backbone}"])
    _check_limits(asked)
    images = tree.scan(asked.folder)
    out = user_path("--out", asked.out or f"results/try/{name_of(asked.folder)}")
    check_writable("--out", out)
    paths = (asked.folder, asked.backbone, str(out / "runs"))
    first = compose.single([f"method={methods[0]}", *own_settings.overrides(*paths, {}, own)])
    configured.task(first)  # refuses wrong values of the user before they are used
    _check_weights(first)
    sizes = own_settings.sizes(images, first.dataset.target.values, own)
    # of the parts that the runs train and test on
    parts = [f"{key}={value}" for key, value in own.items() if key.startswith("dataset.")]
    parts += [f"dataset.folds={sizes.folds}"] if sizes.folds and "dataset.folds" not in own else []
    skips = first.dataset.target.values["on_bad_image"] == "skip"
    if not _verified(asked, parts, skips=skips):
        return FAILED
    takes_steps = any(registry.kind(name).takes_steps for name in methods)
    chosen = own_settings.chosen(sizes, own, first.train, takes_steps=takes_steps)
    for line in _about(images, sizes, chosen, own):
        print(line)
    found = _plan(asked, methods, own_settings.overrides(*paths, chosen, own), sizes, first)
    print(
        "Times are of a few steps on this machine, just now; memory is predicted for a GPU. "
        "Neither counts decoding and start-up."
    )
    if not _agreed(asked):
        return 0
    return _done([one for one in found if one.reason is None], out, typed)


def _methods(text: str) -> list[str]:
    known = options.names("method")
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise unknown("method", name, known)
    return options.expand(names, lambda name: options.listed("method", name))


def _check_limits(asked: argparse.Namespace) -> None:
    positive("--minutes", asked.minutes)
    if asked.budget_gib is not None:
        positive("--budget-gib", asked.budget_gib)


def _check_weights(config: Config) -> None:
    from petlbench.run import build  # imports torch

    try:
        build.weights(config)
    except UserError as error:
        raise UserError(
            f"{error}; or add --backbone {PACKAGED}, whose weights are in this package"
        ) from error


def _verified(asked: argparse.Namespace, parts: Sequence[str], *, skips: bool) -> bool:
    """Whether the images are as they should be; prints what is wrong, and notes.

    parts: overrides of how the images are divided. skips: whether the runs leave out images that
    cannot be decoded.
    """
    from petlbench.commands.data.verify import verify

    place = user_path("dataset.root", asked.folder)
    [task] = verify("folder", place, asked.allow_duplicates, parts)["tasks"]
    skipped = task["broken"] if skips else []
    defects = [defect for defect in task["defects"] if defect not in skipped]
    for note in [*task["notes"], *(f"{each}; left out" for each in skipped)]:
        say(f"note: {note}")
    for defect in defects:
        instead = ", or add --allow-duplicates" if defect in task["shared"] else ""
        instead += ", or add dataset.on_bad_image=skip" if defect in task["broken"] else ""
        say(f"error: {defect}; mend the folder{instead}")
    return not defects


def _about(
    images: tree.Tree,
    sizes: own_settings.Sizes,
    chosen: Mapping[str, own_settings.Setting],
    own: Mapping[str, str],
) -> list[str]:
    """The images and the settings, one in a line."""
    folds = f" in each of {sizes.folds} folds" if sizes.folds else ""
    return [
        f"{images.root}: {len(images.images)} images of {len(images.names)} classes; trained on "
        f"{sizes.train}, tested on {sizes.test}{folds}",
        "Settings (KEY=VALUE changes them; none was tuned on your images):",
        *(f"  {key}={setting.value}  # {setting.reason}" for key, setting in chosen.items()),
        *(f"  {key}={value}  # yours" for key, value in own.items()),
    ]


def _plan(
    asked: argparse.Namespace,
    methods: Sequence[str],
    common: Sequence[str],
    sizes: own_settings.Sizes,
    first: Config,
) -> "list[Candidate]":
    """The methods, with what each takes on this machine; prints them."""
    from petlbench.commands.own import estimate, plan
    from petlbench.run.record import Store
    from petlbench.sweep import conduct

    budget_gib = asked.budget_gib or plan.budget(first.device)
    print(f"Methods, within {budget_gib:.3g} GiB and {asked.minutes:g} min:", flush=True)
    found = plan.candidates(
        methods,
        plan.combinations(common, sizes.runs),
        partial(conduct.planned, store=cache(Store)),
        lambda configs: estimate.estimated(configs, sizes, budget_gib),
        budget_gib=budget_gib,
        minutes=asked.minutes,
    )
    for one in found:
        print(f"  {one.line()}")
    if (why := plan.lack(found, asked.minutes)) is not None:
        print(why)
    return found


def _agreed(asked: argparse.Namespace) -> bool:
    """Whether to go on; asks on a terminal alone, since a script cannot answer."""
    if asked.yes or not sys.stdin.isatty():
        return True
    try:
        return input("Go on? [Y/n] ").strip().lower() in ("", "y", "yes")
    except EOFError:  # Ctrl-D
        return False


def _done(chosen: "Sequence[Candidate]", out: Path, typed: str) -> int:
    """Do the runs and report them; 1 if one fails."""
    from petlbench.commands.own import results
    from petlbench.run.record import Store
    from petlbench.sweep import conduct
    from petlbench.sweep.launchers.basic import Basic

    runs = [run for one in chosen for run in one.runs]
    store = cache(Store)
    conduct.check(runs, Basic(), dry_run=False)
    failures = conduct.done(runs, store, Basic())
    for failure in failures:
        say(failure)
    if len(failures) == len(runs):  # nothing to report
        return FAILED
    images = tree.scan(str(runs[0].config.dataset.target.values["root"]))
    lines = results.report(out / "runs", {run.id for run in runs}, images, out, typed)
    print("\n".join(lines))
    return FAILED if failures else 0


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 2 for a mistake, 130 after Ctrl-C."""
    texts = sys.argv[1:] if arguments is None else list(arguments)
    # values may stand before and after options
    asked = parser().parse_intermixed_args(texts)
    # the report's libraries have much to say
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[Stderr()])
    logging.getLogger("petlbench").setLevel(logging.INFO)
    try:
        with mistakes.as_user_errors(lambda: compositions.keys_with(["dataset=folder"])):
            return attempt(asked, shlex.join(["petlbench", "try", *texts]))
    except KeyboardInterrupt:
        return end("interrupted; finished runs are kept, the same command does the rest")


if __name__ == "__main__":
    sys.exit(main())
