"""Commands that stand for an override of python -m petlbench."""

import sys

from petlbench.__main__ import main, told_in_one_line
from petlbench.errors import UserError


def run(preset: str) -> None:
    """The command line after an override such as `protocol=probe`, and no other value of it."""
    with told_in_one_line():
        refuse_another(preset)
    main(preset)


def refuse_another(preset: str) -> None:
    """Refuse a command line that sets again what the command itself sets."""
    key = preset.partition("=")[0]
    for text in sys.argv[1:]:
        if text.lstrip("+~").startswith(f"{key}="):
            raise UserError(f"this command sets {preset}; leave out '{text}', or use petlbench")
