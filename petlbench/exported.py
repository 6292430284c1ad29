"""A fine-tuned network as one file that runs without petlbench: ONNX, or torch.export.

    export(method, Path("birds.onnx"))   # for ONNX Runtime and others; needs petlbench[onnx]
    export(method, Path("birds.pt2"))    # for torch.export.load and AOTInductor

The input is a batch of normalised images (B, 3, size, size) of any number B, the output their
logits (B, K).
"""

import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from petlbench.errors import Unsupported, UserError, one_line, unknown
from petlbench.method import Method
from petlbench.system import write_atomically

PACKAGES = ("onnx", "onnxscript")
TOLERANCE = 1e-3  # of the largest logit; the sums of another runtime have another order
TRACED, CHECKED = 3, 2  # images; a file that has learned the number of images fails the check


def export(method: Method, path: Path) -> None:
    """Write a method in the format of the suffix, .onnx or .pt2.

    Raises UserError for another suffix, without the packages of ONNX and for a folder that cannot
    be written, and Unsupported for a network that the format cannot hold, or whose file has other
    outputs. The method itself does not change.
    """
    if path.suffix not in FORMATS:
        raise unknown("suffix of an exported network", path.suffix, FORMATS)
    training = method.training
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about its own interfaces
            FORMATS[path.suffix](method.eval(), path)
    finally:
        method.train(training)


def _program(method: Method, path: Path) -> None:
    """The file of torch.export."""
    batch = torch.export.Dim("batch", min=1)
    try:
        program = torch.export.export(
            method, (_noise(method, TRACED),), dynamic_shapes=[{0: batch}]
        )
    except Exception as error:  # whatever the tracer makes of the code of a method
        raise _unsupported(method, ".pt2", one_line(error)) from error
    _check(method, program.module(), ".pt2")
    content = io.BytesIO()
    torch.export.save(program, content)
    write_atomically(path, content.getvalue())


def _onnx(method: Method, path: Path) -> None:
    """The file of ONNX, by the exporter that goes through torch.export."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"'{path}' needs {', '.join(missing)}; install petlbench[onnx], or write a .pt2 file"
        )
    try:
        program = torch.onnx.export(
            method,
            (_noise(method, TRACED),),
            dynamo=True,
            dynamic_shapes=[{0: "batch"}],
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    except Exception as error:  # whatever the tracer makes of the code of a method
        raise _unsupported(method, ".onnx", one_line(error)) from error
    assert program is not None
    write_atomically(path, program.model_proto.SerializeToString())


def _noise(method: Method, images: int) -> Tensor:
    example = method.backbone.example()  # (1, 3, size, size)
    shape = (images, *example.shape[1:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(example)


def _check(method: Method, network: nn.Module, suffix: str) -> None:
    images = _noise(method, CHECKED)
    expected, found = method(images), network(images)
    if not torch.allclose(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max())):
        raise _unsupported(method, suffix, "the file has other outputs")


def _unsupported(method: Method, suffix: str, why: str) -> Unsupported:
    name = type(method).__name__
    return Unsupported(
        f"{name} on {method.backbone.tag} cannot be written as {suffix}: {why}; write the merged "
        "network by petlbench.save_merged if it can be merged"
    )


FORMATS: dict[str, Callable[[Method, Path], None]] = {".onnx": _onnx, ".pt2": _program}
