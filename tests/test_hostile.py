"""Files from strangers: deltas, checkpoints, archives, images, records.

None may run code, write outside its folder, hang, or end in a traceback.
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from petlbench import delta, registry
from petlbench.commands import predict
from petlbench.errors import UserError
from petlbench.model.backbone import Backbone, create
from petlbench.model.checkpoint import load_checkpoint
from petlbench.multitask.network import MultiTask
from tests import settings

TRAP = "petlbench_trap"  # a module whose import, like the call of its function, leaves a file
CODE = """
from pathlib import Path
(Path(__file__).parent / "sprung").touch()
def spring(*values, **named):
    (Path(__file__).parent / "sprung").touch()
"""


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that exists after the trap module was imported or called."""
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / f"{TRAP}.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "trap"))
    importlib.invalidate_caches()
    yield tmp_path / "trap" / "sprung"
    sys.modules.pop(TRAP, None)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    network = create(settings.vit_mini(), classes=3, image_size=48)
    network.load_weights()
    return network


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (20, 20), (200, 10, 10)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def network() -> dict[str, Any]:
    """What a run writes into the metadata of its delta."""
    settled = settings.config(Path("runs"), "lora")
    return {
        "method": settled.method.plain(),
        "backbone": asdict(settled.backbone),
        "input": asdict(settled.input),
        "classes": ["ant", "bee", "cat"],
    }


Honest = tuple[dict[str, torch.Tensor], dict[str, str]]  # tensors and metadata of a delta


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Honest:
    backbone = create(settings.vit_mini(), classes=3, image_size=48)
    backbone.load_weights()
    path = tmp_path_factory.mktemp("honest") / "delta.safetensors"
    metadata = {"method": "lora", "network": network(), "record": "0" * 16}
    delta.save(path, registry.create("lora", backbone), metadata)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def written(path: Path, honest: Honest, change: Callable[[dict[str, Any]], object]) -> Path:
    """A delta of LoRA whose metadata `change` alters."""
    tensors, texts = honest
    metadata = {key: json.loads(texts[key]) for key in ("method", "network")}
    change(metadata)
    save_file(tensors, path, texts | {key: json.dumps(value) for key, value in metadata.items()})
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which predict ends."""
    status = predict.main(["--device", "cpu", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert status == 1
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()
    return err


def test_an_honest_delta_is_accepted(
    tmp_path: Path,
    honest: Honest,
    backbone: Backbone,
    image: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = written(tmp_path / "a.safetensors", honest, lambda metadata: None)
    assert predict.main(["--device", "cpu", "--delta", str(path), str(image)]) == 0
    assert capsys.readouterr().out.count("\n") == 2
    assert set(MultiTask.load(backbone, {"task": path}).tasks) == {"task"}


CALLED = (
    *(f"{TRAP}.spring", f"{TRAP}.Anything", "os.system", "builtins.eval", "subprocess.getoutput"),
    *("hydra.utils.instantiate", "torch.nn.Linear", "petlbench.method.Method", TRAP, "..", ""),
    *("petlbench.methods.lora.LoRA.__init__", ["os.system"], {"a": 1}, 7, "methods/../x.y\n"),
)


@pytest.mark.parametrize("path", CALLED, ids=repr)
def test_a_delta_names_a_registered_method_only(
    path: object,
    tmp_path: Path,
    honest: Honest,
    backbone: Backbone,
    image: Path,
    trap: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def change(metadata: dict[str, Any]) -> None:
        metadata["network"]["method"] |= {"_target_": path, "args": ["touch x"]}

    file = written(tmp_path / "a.safetensors", honest, change)
    assert "is not registered here" in refusal(capsys, "--delta", file, image)
    with pytest.raises(UserError, match="is not registered here"):
        MultiTask.load(backbone, {"task": file})
    assert not trap.exists()


def _nested(place: str, value: object) -> Callable[[dict[str, Any]], object]:
    """A change of the metadata at a dotted place."""

    def change(metadata: dict[str, Any]) -> None:
        node = metadata
        *above, key = place.split(".")
        for part in above:
            node = node[part]
        node[key] = value

    return change


INSTANCE = {"_target_": f"{TRAP}.spring", "_args_": ["touch x"]}
CALL = f"${{petlbench.function:{TRAP}.spring,x}}"
DEEP: Any = 1
for _ in range(600):
    DEEP = {"a": DEEP}
MISTAKES = {
    # values that a careless reader would instantiate or resolve
    "a node as rank": ("network.method.rank", INSTANCE),
    "a call as rank": ("network.method.rank", CALL),
    "a node as name": ("network.backbone.name", INSTANCE),
    "a call as name": ("network.backbone.name", CALL),
    "a call as flag": ("network.backbone.pretrained", CALL),
    "a call as pool": ("network.backbone.pool", CALL),
    "a call in a list": ("network.backbone.mean", [CALL, 0.5, 0.5]),
    "the environment": ("network.input.interpolation", "${oc.env:HOME}"),
    "a node as size": ("network.input.size", INSTANCE),
    "a call in augment": ("network.input.augment", {"auto_augment": CALL}),
    "a node as augment": ("network.input.augment", INSTANCE),
    "another key": ("network.backbone.hook", INSTANCE),
    "another argument": ("network.method.hook", INSTANCE),
    # values out of range and of other types
    "no rank": ("network.method", {"_target_": "petlbench.methods.lora.LoRA"}),
    "a negative rank": ("network.method.rank", -1),
    "a huge rank": ("network.method.rank", 10**15),
    "a text as rank": ("network.method.rank", "8"),
    "a list as method": ("network.method", []),
    "no method": ("network.method", None),
    "a name in two lines": ("network.backbone.name", "vit_mini\nerror: \x1b[2J"),
    "a path as name": ("network.backbone.name", "../../vit_mini"),
    "a hub address as name": ("network.backbone.name", "hf-hub:somebody/vit_mini"),
    "a folder as name": ("network.backbone.name", "local-dir:/tmp"),
    "a tag with a path": ("network.backbone.name", "vit_mini./../../x"),
    "a list as backbone": ("network.backbone", ["vit_mini"]),
    "no backbone": ("network.backbone", None),
    "a text as input": ("network.input", "48"),
    "no pixels": ("network.input.size", 0),
    "not a number": ("network.backbone.std", [0.5, 0.5, float("nan")]),
    "no classes": ("network.classes", []),
    "a text as classes": ("network.classes", "abc"),
    "fewer classes": ("network.classes", ["a", "b"]),
    "no network": ("network", None),
    "a deep network": ("network", {"method": DEEP, "classes": ["a"]}),
    "a deep value": ("network.input.augment", DEEP),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_values_of_a_delta_are_checked_and_call_nothing(
    name: str,
    tmp_path: Path,
    honest: Honest,
    image: Path,
    trap: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = written(tmp_path / "a.safetensors", honest, _nested(*MISTAKES[name]))
    assert str(file) in refusal(capsys, "--delta", file, image)
    assert not trap.exists()


TEXTS = {
    "method": "{",
    "network": '{"a": ' * 5000,
    "aliases": '{"x": "y"}',
    "format": "2\n\x1b[2J",
    "backbone": "vit\nmini\x1b[2J",
    "backbone_sha256": "\u202e",
    "tensors_sha256": "0" * 64,
}


@pytest.mark.parametrize("key", TEXTS)
def test_metadata_that_are_no_json_are_refused(
    key: str,
    tmp_path: Path,
    honest: Honest,
    backbone: Backbone,
    image: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "a.safetensors"
    save_file(honest[0], file, honest[1] | {key: TEXTS[key]})
    refusal(capsys, "--delta", file, image)
    with pytest.raises(UserError):
        MultiTask.load(backbone, {"task": file})


def _header(size: int, text: bytes) -> bytes:
    return size.to_bytes(8, "little") + text


def _described(**tensor: object) -> bytes:
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | tensor})
    return _header(len(text), text.encode() + b"\0\0\0\0")


SAFETENSORS = {
    "empty": b"",
    "a header of 2^63 bytes": _header(2**63, b"{}"),
    "a header longer than the file": _header(10**6, b"{}"),
    "a header that is no JSON": _header(2, b"{{"),
    "a deep header": _header(10**5, b'{"a":' * 20_000),
    "a tensor beyond the end": _described(data_offsets=[0, 4 * 10**12], shape=[10**12]),
    "a tensor before the start": _described(data_offsets=[-4, 0]),
    "a shape that overflows": _described(shape=[2**62, 2**62]),
    "an unknown type": _described(dtype="PY_OBJECT"),
    "a pickle": b"\x80\x04cposix\nsystem\n.",
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_damaged_safetensors_are_refused(
    name: str,
    tmp_path: Path,
    backbone: Backbone,
    image: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(SAFETENSORS[name])
    assert "cannot be read" in refusal(capsys, "--delta", file, image)
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(backbone.net, "head", file)
