"""Files from strangers: deltas, checkpoints, archives, images, records.

None may run code, write outside its folder, hang, or end in a traceback.
"""

import copy
import csv
import importlib
import json
import os
import pickle
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from petlbench import delta, registry
from petlbench.cells import cell, cells
from petlbench.commands import predict
from petlbench.commands.data import archive
from petlbench.commands.data.examine import examine
from petlbench.config import compose
from petlbench.config.job_nodes import DataConfig
from petlbench.data import images, pixels
from petlbench.data.images import View
from petlbench.data.readers import lists, tree
from petlbench.data.readers.lists import ImageList
from petlbench.errors import UserError, printable
from petlbench.model.backbone import Backbone, create
from petlbench.model.checkpoint import load_checkpoint
from petlbench.model.weights import WeightSource
from petlbench.multitask.network import MultiTask
from petlbench.report.__main__ import main as report_main
from petlbench.run import splits, wandb_client, wandb_run
from petlbench.run.identity import without_folders
from petlbench.run.lifecycle import blank, ended
from petlbench.run.record import Store
from petlbench.sweep import choose
from tests import command, settings
from tests.records import record as example

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
    assert status == 2
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
        load_checkpoint(backbone.net, "head", file, with_head=False)


ESCAPES = ("../../x", "/x", "..", "a/../../x", "a/", "a//b", "..\\x", "C:\\x", "x" * 300, "a\nb")


@pytest.mark.parametrize("path", ESCAPES, ids=repr)
def test_no_name_leads_out_of_its_folder(path: str, tmp_path: Path) -> None:
    for key in ("task", "name", "suite"):
        values = settings.config(tmp_path).dataset.target.values
        plain = {**values, "_target_": "tests.fake.load"}
        with pytest.raises(UserError, match=rf"dataset\.{key} is"):
            compose._dataset({**plain, key: path}, "fake/bright")
    with pytest.raises(UserError, match=r"dataset\.task"):
        compose.single([f"++dataset.task='{path}'", "dataset=mini/digits"])


def test_a_task_of_too_many_images_is_not_rendered(tmp_path: Path) -> None:
    config = compose.single(["dataset.images=99999999999999", f"dataset.cache={tmp_path}"])
    with pytest.raises(UserError, match=r"dataset.images is 99999999999999; .* to 1000000"):
        splits.data(config)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _bomb(path: Path) -> None:
    """60,000 x 60,000 pixels, 10.8 GB, in a PNG of 150 bytes."""
    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", size), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def _cut(path: Path) -> None:
    content = BytesIO()
    Image.effect_noise((64, 64), 50).save(content, "JPEG")
    path.write_bytes(content.getvalue()[:600])


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%id) run\n"
IMAGES: dict[str, Callable[[Path], object]] = {
    "60,000 x 60,000 pixels": _bomb,
    "cut": _cut,
    "empty": lambda path: path.write_bytes(b""),
    "SVG": lambda path: path.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "PostScript": lambda path: path.write_bytes(POSTSCRIPT),
    "a pickle": lambda path: path.write_bytes(b"cposix\nsystem\n(S'id'\ntR."),
    "a pipe": _pipe,
    "a link to itself": _loop,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("name", IMAGES)
def test_hostile_images_are_refused_by_every_reader(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    IMAGES[name](path)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"image.png' cannot be"):
        images.original(path, images.PUBLISHED)
    with pytest.raises(UserError, match=r"image.png' cannot be"):
        examine(path, images.PUBLISHED)
    listed = ImageList(tmp_path / "list.txt", tmp_path, ("image.png",), (0,))
    view = View(16, "bicubic", None, "squash")
    with pytest.raises(UserError, match=r"image.png'"):
        pixels.open_list(listed, view=view, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.u8"))
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("name", ["a pipe", "a device", "a link to itself", "a folder"])
def test_a_table_that_names_no_file_is_refused(name: str, tmp_path: Path) -> None:
    IMAGES[name](tmp_path / "image.png")
    table = tmp_path / "leaderboard.csv"
    table.write_text("path,label\nimage.png,a\nimage.png2,b\n")
    with pytest.raises(UserError, match=r"image.png' of .* cannot be read"):
        tree.content_hash(str(table))


@pytest.mark.parametrize("name", ["a pipe", "a device", "a link to itself", "a folder"])
def test_a_list_or_delta_that_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    IMAGES[name](path)
    with pytest.raises(UserError, match="cannot be read"):
        lists.read(path, classes=2)
    with pytest.raises(UserError, match=r"is not a file|cannot be read"):
        delta.network(path)
    with pytest.raises(UserError, match=r"no folder or file|classes are needed"):
        tree.scan(str(path))


def test_folders_that_link_to_themselves_end(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / label / "1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to(tmp_path / "b")
    assert {image.label for image in tree.scan(str(tmp_path)).images} == {"a", "b"}
    assert predict.images([tmp_path])


FORMULAS = ("=cmd|'/C calc'!A0", "+1", "-1+1", "@SUM(A1)", "\t=1", " =1", "\uff1d1")


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_becomes_a_formula(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    predict.write(iter([(Path(text), [(text, -0.5)])]), as_json=False)
    [row] = csv.DictReader(StringIO(capsys.readouterr().out))
    marked = f"'{printable(text)}"
    assert row == {"path": marked, "rank": "1", "class": marked, "probability": "-0.5000"}
    predict.write(iter([(Path(text), [(text, -0.5)])]), as_json=True)
    assert json.loads(capsys.readouterr().out)["classes"][0]["class"] == text
    table = cells(pd.DataFrame({text: [text, -1.5, None]}, index=[text, "a", "b"]))
    assert list(table.index) == [marked, "a", "b"]
    assert list(table.columns) == [marked]
    assert list(table[marked][:2]) == [marked, -1.5]


def test_plain_texts_stay_as_they_are() -> None:
    assert [cell(value) for value in ("DTL+", "a=b", "", "'x", -1)] == [
        *("DTL+", "a=b", "", "'x"),
        -1,
    ]


def test_no_folder_of_the_machine_leaves_it(tmp_path: Path) -> None:
    config = replace(
        settings.config(tmp_path / "runs"),
        backbone=settings.vit_mini(checkpoint="/home/ann/weights/best.pth"),
        data=DataConfig(root="/home/ann/data", workers=0),
    )
    target = replace(config.dataset.target, values={"root": "/home/ann/x", "cache": "~/c"})
    config = replace(config, dataset=replace(config.dataset, target=target))
    record = ended(blank(config), "failed", "no '/home/ann/my data/x.png' in /home/ann/list.txt")
    written = Store(tmp_path / "runs").write(record).read_text()
    sent = json.dumps(
        [wandb_run.arguments(record, config.wandb, None)["config"], wandb_run.summary(record)]
    )
    for text in (written, sent):
        assert "/home" not in text
        assert "ann" not in text
        assert str(tmp_path) not in text
        assert "no 'x.png' in list.txt" in text
    assert json.loads(written)["config"]["backbone"]["checkpoint"] == "best.pth"
    assert wandb_client.quiet().x_disable_meta


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'~/a b/c.png' and '/a/b/'", "'c.png' and 'b'"),
        ("https://host/a/b, and/or 1 / 2, runs/x", "https://host/a/b, and/or 1 / 2, runs/x"),
        ("(/tmp/a b)", "(a b)"),
        ("don't open '/a/b/c', it's cut", "don't open 'c', it's cut"),
    ],
)
def test_only_absolute_folders_are_left_out(text: str, shown: str) -> None:
    assert without_folders(text) == shown


def _zip(path: Path, name: str, content: bytes = b"x", method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr(zipfile.ZipInfo(name), content, compress_type=method)


def _tar(path: Path, item: tarfile.TarInfo, content: bytes = b"") -> None:
    with tarfile.open(path, "w:gz") as packed:
        item.size = item.size or len(content)
        packed.addfile(item, BytesIO(content))


def _special(kind: bytes, target: str) -> Callable[[Path], None]:
    item = tarfile.TarInfo("vtab/cifar/a")
    item.type, item.linkname = kind, target
    return lambda path: _tar(path, item)


def _patched(path: Path, old: bytes, new: bytes) -> None:
    """A zip whose bytes are changed in place."""
    _zip(path, "vtab/cifar/a_name.txt", b"content")
    assert len(old) == len(new)
    path.write_bytes(path.read_bytes().replace(old, new))


def _unknown_method(path: Path) -> None:
    _zip(path, "vtab/cifar/a", b"content")
    content = bytearray(path.read_bytes())
    content[8] = content[content.index(b"PK\x01\x02") + 10] = 99
    path.write_bytes(content)


def _before_the_start(path: Path) -> None:
    _zip(path, "vtab/cifar/a", b"content")
    content = bytearray(path.read_bytes())
    end = content.index(b"PK\x05\x06")
    content[end + 16 : end + 20] = struct.pack("<I", 2**31)
    path.write_bytes(content)


ZEROS = b"\0" * 2_000_000
ARCHIVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a zip of zeros": (lambda path: _zip(path, "vtab/a", ZEROS), "times its size"),
    "a tar of zeros": (lambda path: _tar(path, tarfile.TarInfo("a"), ZEROS), "times its size"),
    "a parent": (lambda path: _zip(path, "vtab/../../a"), "leaves the archive"),
    "the root": (lambda path: _tar(path, tarfile.TarInfo("/etc/a"), b"x"), "leaves the archive"),
    "a drive": (lambda path: _zip(path, "C:/a"), "leaves the archive"),
    "backslashes": (lambda path: _tar(path, tarfile.TarInfo("a\\..\\b")), "leaves the archive"),
    "a symbolic link": (_special(tarfile.SYMTYPE, "/etc/passwd"), "a link or a device"),
    "a hard link": (_special(tarfile.LNKTYPE, "../../a"), "a link or a device"),
    "a pipe": (_special(tarfile.FIFOTYPE, ""), "a link or a device"),
    "a device": (_special(tarfile.CHRTYPE, ""), "a link or a device"),
    "two lines": (lambda path: _zip(path, "vtab/a\n0  b"), "no name of a file"),
    "bytes": (lambda path: _tar(path, tarfile.TarInfo("a\udcff"), b"x"), "no name of a file"),
    "a cut name": (lambda path: _patched(path, b"a_name", b"\xff\xfename"[:6]), ""),
    "an unknown method": (_unknown_method, "is damaged or cut off"),
    "a start before the start": (_before_the_start, "is damaged or cut off"),
    "no archive": (lambda path: path.write_bytes(b"PK"), "is damaged or cut off"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archives_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "HARMLESS", 1_000_000)
    path, (make, message) = tmp_path / "archive", ARCHIVES[name]
    make(path)
    if not message:
        assert archive.members(path)  # an odd name alone does no harm
        return
    with pytest.raises(UserError, match=message) as caught:
        _unpacked(path)
    assert str(caught.value).isprintable()


def _unpacked(path: Path) -> None:
    names = {member.name for member in archive.members(path)}
    with archive.damage_reported(path):
        for _, content in archive.contents(path, names):
            content.read()


def test_an_archive_of_small_files_may_shrink_as_it_likes(tmp_path: Path) -> None:
    _zip(tmp_path / "archive", "vtab/list.txt", ZEROS)
    assert [member.size for member in archive.members(tmp_path / "archive")] == [len(ZEROS)]


class Spring:
    """A pickle that creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def _saved_npz(path: Path, **arrays: Any) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=True, **arrays)


def _npz_of_zeros(path: Path) -> None:
    """An array that says that it has 10^15 numbers."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    _zip(path, "embedding/kernel.npy", npy)


CHECKPOINTS: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "a pickle": (".pth", lambda path, mark: path.write_bytes(pickle.dumps(Spring(mark)))),
    "an object": (".pth", lambda path, mark: torch.save({"a": Spring(mark)}, path)),
    "a whole module": (".pth", lambda path, mark: torch.save(torch.nn.Linear(1, 1), path)),
    "a list": (".pth", lambda path, mark: torch.save([torch.zeros(1)], path)),
    "an object array": (
        ".npz",
        lambda path, mark: _saved_npz(path, **{"embedding/kernel": np.array([Spring(mark)])}),
    ),
    "a pickle as npz": (".npz", lambda path, mark: path.write_bytes(pickle.dumps(Spring(mark)))),
    "a huge array": (".npz", lambda path, mark: _npz_of_zeros(path)),
    "a pickle as safetensors": (
        ".safetensors",
        lambda path, mark: path.write_bytes(pickle.dumps(Spring(mark))),
    ),
    "a pipe": (".pth", lambda path, mark: os.mkfifo(path)),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_hostile_checkpoints_run_no_code(name: str, tmp_path: Path, backbone: Backbone) -> None:
    suffix, make = CHECKPOINTS[name]
    path, mark = tmp_path / f"weights{suffix}", tmp_path / "sprung"
    make(path, mark)
    source = WeightSource("vit_mini", str(path), pretrained=True)
    with pytest.raises(UserError, match=r"checkpoint '.*weights") as caught:
        source.load(copy.deepcopy(backbone.net), "head", with_head=False)
    assert str(caught.value).isprintable()
    assert not mark.exists()


HOSTILE_TEXT = "=1+1 <script>alert(1)</script> \\input{/etc/passwd} $\\frac{ ${oc.env:HOME} | `a`"


def test_a_report_of_hostile_records_shows_texts_only(tmp_path: Path, trap: Path) -> None:
    records = [example("lora", "digits", 50.0), example("dtl", "digits", 60.0)]
    for record in records:
        record["title"] = f"{HOSTILE_TEXT} {record['factors']['method']}"
        record["task_title"] = HOSTILE_TEXT
        record["config"] |= {"method": INSTANCE, "dataset": INSTANCE, "job": CALL}
        record["config"]["train"]["lr"] = CALL
        Store(tmp_path / "runs").write(record)
    status = report_main(
        ["leaderboard", "--records", str(tmp_path / "runs"), "--out", str(tmp_path)]
    )
    assert status == 0
    assert not trap.exists()
    for file in tmp_path.glob("leaderboard*.csv"):
        values = [value for row in csv.reader(file.open(newline="")) for value in row]
        assert not [value for value in values if value.startswith("=")]
        assert any(value.startswith("'=1+1") for value in values)
    page = (tmp_path / "leaderboard.html").read_text()
    assert "<script>alert" not in page
    assert "<script>alert" not in (tmp_path / "leaderboard.md").read_text()
    assert "\\input" not in (tmp_path / "leaderboard.tex").read_text()
    for file in tmp_path.glob("leaderboard*.*"):
        assert os.environ["HOME"] not in file.read_text(errors="ignore").replace(str(tmp_path), "")


def test_trials_of_a_stranger_call_nothing(
    tmp_path: Path, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, text in enumerate((CALL, "=1+1")):
        trial = example("lora", "digits", 50.0, seed=seed, protocol="trial")
        trial["scores"] = {"val": trial["scores"]["test"]}
        trial["config"] |= {"method": INSTANCE, "train": {"lr": text, "head_lr": 1.0}}
        Store(tmp_path / "runs").write(trial)
    out = tmp_path / "points.csv"
    assert choose.main(["--records", str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert not trap.exists()
    rows = list(csv.DictReader(out.open(newline="")))
    assert {row["train.lr"] for row in rows} == {CALL, "'=1+1"}
    capsys.readouterr()


def test_a_tag_of_yaml_runs_no_code(tmp_path: Path, trap: Path) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    file = tmp_path / "conf" / "method" / "own.yaml"
    file.write_text(f"title: !!python/object/apply:{TRAP}.spring [x]\n")
    code, output = command.run(
        tmp_path, "--config-dir", str(tmp_path / "conf"), "method=own", "device=cpu"
    )
    assert code == 2
    assert output.startswith("error: ")
    assert output.count("\n") == 1
    assert not trap.exists()
