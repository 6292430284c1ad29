"""python -m tests.golden DIR: one line per reference vector in DIR; exit code 1 if any fails."""

import sys
from pathlib import Path

from tests.golden.case import Case
from tests.golden.check import UnknownMethod, check


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m tests.golden DIR   (a folder with pairs of .json and .npz)")
        return 2
    paths = sorted(
        path for path in Path(arguments[0]).glob("*.json") if path.with_suffix(".npz").is_file()
    )
    passed = sum(_passes(Case(path)) for path in paths)
    print(f"{passed} of {len(paths)} vectors pass")
    return 0 if paths and passed == len(paths) else 1


def _passes(case: Case) -> bool:
    name = f"{case.path.stem:<20}"
    try:
        result = check(case)
    except UnknownMethod as error:
        print(f"{name}  UNKNOWN METHOD {error}", flush=True)
    except Exception as error:  # one broken vector must not hide the others
        print(f"{name}  FAIL  {type(error).__name__}: {error}", flush=True)
    else:
        print(result, flush=True)
        return result.passed
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
