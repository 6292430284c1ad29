"""Write a fine-tuned network for other programs.

Loads a backbone and the delta of a run. --out is a folder, which gets the merged network for
timm.create_model("local-dir:FOLDER", pretrained=True), or a file that ends with .onnx (ONNX) or
.pt2 (torch.export): the network with its method, from normalised images to logits. With --peft the
folder gets files of Hugging Face PEFT, which hold LoRA and DoRA.
"""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from petlbench.arguments import Parser, command
from petlbench.errors import Unsupported, UserError
from petlbench.progress import say

EXAMPLE = (
    "example: petlbench export --delta results/runs/folder/birds/lora-*.safetensors --out birds"
)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    options = Parser(
        prog="petlbench export",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--delta", type=Path, required=True, help="a run's .safetensors file")
    options.add_argument("--out", type=Path, required=True, help="a new folder or file")
    options.add_argument("--peft", action="store_true", help="a folder for Hugging Face PEFT")
    options.add_argument("--checkpoint", help="file of the backbone's weights, if they are local")
    return options


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; an error is one line on stderr. What exists is not replaced."""
    options = parser().parse_args(arguments)
    out: Path = options.out
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"'{out}' exists; give --out a new name, or remove it first")
    # torch takes seconds, so after a cheap mistake
    from petlbench.commands.predictor import load
    from petlbench.exported import FORMATS, export
    from petlbench.merge import save_merged
    from petlbench.peft import to_peft

    is_file = out.suffix in FORMATS
    if is_file and options.peft:
        raise UserError(f"--peft writes a folder, and '{out}' names a file; leave out one of them")
    if not is_file and (near := get_close_matches(out.suffix, FORMATS)):
        raise UserError(f"--out '{out}' ends in {out.suffix}; did you mean {near[0]}?")
    found = load(options.delta, checkpoint=options.checkpoint, device="cpu")
    if options.peft:
        to_peft(found.method, out)
    elif is_file:
        export(found.method, out)
    else:
        try:
            save_merged(found.method, out, names=found.names, view=found.view)
        except Unsupported as error:
            files = " or ".join(f"{out.name}{suffix}" for suffix in FORMATS)
            raise Unsupported(f"{error}; a file can hold it: --out {files}") from error
    say(f"wrote {out}" if is_file else f"wrote the folder {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
