"""Lists of one task that number their classes differently are found by the paths of images."""

from pathlib import Path

import pytest

from petlbench.config import compose
from petlbench.data.readers.lists import ImageList
from petlbench.data.readers.numbering import conflicts
from petlbench.errors import UserError
from petlbench.run import splits
from tests import trees

IDS = [f"n{1440764 + 1000 * number:08d}" for number in range(12)]


def listed(name: str, pairs: list[tuple[str, int]]) -> ImageList:
    paths, labels = zip(*pairs, strict=True)
    return ImageList(Path(f"{name}.txt"), Path(), paths, labels)


TRAIN = listed("train", [(f"{each}/{each}_1.JPEG", label) for label, each in enumerate(IDS)])
HARD = [(f"imagenet-a/{IDS[n]}/a b.png", n) for n in (3, 7)]
NUMBERS = [(f"v2/{n}/x.jpeg", n) for n in range(12)]
FLAT = [(f"images/{n}.png", n % 5) for n in range(12)]
AS_TEXT = sorted(map(str, range(12)))  # 0, 1, 10, 11, 2, ...


@pytest.mark.parametrize(
    "other",
    [
        HARD,
        NUMBERS,
        [(f"v2/{n + 1}/x.jpeg", n) for n in range(12)],
        FLAT,
        [(f"val_0{n}_{IDS[n]}.JPEG", n) for n in (0, 5)],
        [("cats/a.png", 0)],
    ],
)
def test_lists_in_one_numbering_agree(other: list[tuple[str, int]]) -> None:
    assert list(conflicts({"train": TRAIN, "test": listed("test", other)})) == []


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ([(HARD[0][0], 0), (HARD[1][0], 1)], "train and test number 2 classes differently: 'n"),
        ([(f"val_{IDS[4]}.JPEG", 5)], "train and test number 1 classes differently"),
        ([(f"{IDS[0]}/a.png", 0), (f"{IDS[0]}/b.png", 1)], "test gives 'n01440764' two labels"),
        (
            [(f"v2/{folder}/x.jpeg", label) for label, folder in enumerate(AS_TEXT)],
            "the labels of test do not follow the numbers of its folders",
        ),
    ],
)
def test_another_numbering_is_found(other: list[tuple[str, int]], message: str) -> None:
    [line] = list(conflicts({"train": TRAIN, "test": listed("test", other)}))[:1]
    assert line.startswith(message)
    assert "\n" not in line


def test_another_order_of_ids_is_found_where_folders_have_numbers() -> None:
    turned = listed("train", [(f"{each}/1.JPEG", label) for label, each in enumerate(IDS[::-1])])
    assert list(conflicts({"train": turned})) == []
    [line] = conflicts({"train": turned, "v2": listed("v2", NUMBERS)})
    assert line.startswith("the labels of WordNet ids do not follow their order")


def test_class_folders_agree_too() -> None:
    train = listed("train", [("cat/1.png", 0), ("dog/1.png", 1)])
    test = listed("test", [("cat/2.png", 1), ("dog/2.png", 0)])
    [line] = conflicts({"train": train, "test": test})
    assert "number 2 classes differently: 'cat' is label 0 in one and 1 in the other" in line


def test_verify_and_a_run_refuse_another_numbering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trees.shrink(monkeypatch, tmp_path / "cache")
    trees.domains(tmp_path / "dg", tmp_path / "dg")
    hard = tmp_path / "dg/imagenet-adversarial/annotations/val_meta.list"
    options = ["dataset=dg/imagenet", f"data.root={tmp_path}", "protocol=final"]
    folder = tmp_path / "dg/imagenet-adversarial"
    (tmp_path / "dg/imagenet-a").rename(folder / "imagenet-a")
    splits.prepared(compose.single(options))
    hard.write_text(hard.read_text().replace(".png 1", ".png 0").replace(".png 4", ".png 1"))
    status, report, _ = trees.data(capsys, "verify", "dg/imagenet", "--root", tmp_path)
    assert status == 1
    assert any("a number 2 classes differently" in line for line in report["tasks"][0]["defects"])
    with pytest.raises(UserError, match=r"^dg/imagenet: .* number 2 classes differently"):
        splits.prepared(compose.single(options))
