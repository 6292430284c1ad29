"""The text of `python -m petlbench --help`; Hydra would take a second to put it together."""

from petlbench.config import options
from petlbench.config.command_line import GROUPS

TEXT = """\
petlbench compares methods of parameter-efficient transfer learning on vision backbones.

  python -m petlbench method=lora dataset=mini/digits                  one run
  python -m petlbench -m method=dtl,lora dataset=mini seed=0,1,2       a sweep; it skips finished runs
  python -m petlbench.report leaderboard --records results/runs --out results      tables, charts, a page

Groups and their options (group=option; a suite such as dataset=mini or method=paper needs -m):

{groups}

key=value sets any value; with -m, key=a,b,c sweeps it. --cfg job prints all keys.
hydra.sweeper.dry_run=true prints the plan of a sweep and stops."""  # noqa: E501


def text() -> str:
    """The commands, and every group with its options."""
    groups: dict[str, list[str]] = {}
    for group in GROUPS:  # not those that a group takes its values from
        for name in options.names(group):
            # dataset/mini is a group of its own, with the option digits
            folder, _, option = f"{group}/{name}".rpartition("/")
            groups.setdefault(folder, []).append(option)
    lines = (f"{folder}: {', '.join(names)}" for folder, names in sorted(groups.items()))
    return TEXT.format(groups="\n".join(lines))
