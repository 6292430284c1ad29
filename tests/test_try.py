"""`petlbench try FOLDER`: its settings, its choice of methods, its runs and its mistakes."""

import errno
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from petlbench.commands.own import estimate, plan, results, settings
from petlbench.commands.own import main as command
from petlbench.commands.own.estimate import Estimate
from petlbench.config import compose
from petlbench.config.schema import Config
from petlbench.data.readers import tree
from petlbench.errors import UserError
from petlbench.run.record import Store
from petlbench.sweep import conduct
from petlbench.sweep.plan import FINISHED, TO_RUN, Combination, Planned
from tests.shallow import OVERRIDES
from tests.trees import paint

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETLBENCH_CACHE", str(tmp_path / "cache"))
    tree.scan.cache_clear()


def folder(root: Path, images: int = 6, first: int = 0) -> Path:
    """Two classes of as many images, dark and bright, each image another one."""
    for number in range(images):
        paint(root / "dark" / f"{number}.png", first + number)
        paint(root / "bright" / f"{number}.png", 2**15 + first + number)
    return root


def reader(root: Path, *own: str) -> Any:
    overrides = ["dataset=folder", f"dataset.root={root}", *own]
    return compose.single(overrides).dataset.target.values


def test_few_images_are_tested_in_folds_and_others_in_a_split(tmp_path: Path) -> None:
    few = tree.scan(str(folder(tmp_path / "few")))
    values = reader(tmp_path / "few")
    assert settings.sizes(few, values, {}) == settings.Sizes(9, 3, 5)
    own = {"dataset.folds": "null"}
    assert settings.sizes(few, values, own) == settings.Sizes(10, 2, None)
    divided = folder(folder(tmp_path / "own" / "train").parent / "test", first=50).parent
    size = settings.sizes(tree.scan(str(divided)), reader(divided), {})
    assert size == settings.Sizes(12, 12, None)


def test_settings_depend_on_the_number_of_images_and_give_way_to_the_users(
    tmp_path: Path,
) -> None:
    train = compose.single(["train.epochs=+30", "train.batch_size=4"]).train
    few = settings.chosen(settings.Sizes(20, 5, 5), {}, train, takes_steps=True)
    many = settings.chosen(settings.Sizes(50_000, 10_000, None), {}, train, takes_steps=True)
    assert (few["train.epochs"].value, few["train.batch_size"].value) == ("100", "20")
    assert (many["train.epochs"].value, many["input.augment"].value) == ("10", "null")
    small = settings.chosen(
        settings.Sizes(5_000, 100, None), {"train.batch_size": "4"}, train, takes_steps=True
    )
    assert "train.batch_size" not in small
    assert small["train.epochs"].value == "10"
    given = settings.given(["+train.epochs=+30"])
    own = settings.chosen(settings.Sizes(20, 5, 5), given, train, takes_steps=True)
    assert "train.epochs" not in own
    assert own["train.schedule.warmup_epochs"].value == "3"
    root = str(folder(tmp_path / "x y"))
    config = compose.single(settings.overrides(root, "vit_mini", "runs", own, {"seed": "4"}))
    assert (config.input.aspect, config.seed, config.train.batch_size) == ("keep", 4, 20)


def planned(combinations: Sequence[Combination], finished: Sequence[str] = ()) -> list[Planned]:
    return [
        Planned(config, "0", FINISHED if config.factors.method in finished else TO_RUN)
        for config, _, _ in combinations
    ]


def of(method: str, more: Sequence[str] = ()) -> list[Combination]:
    return [(compose.single([f"method={method}", *more]), (), ())]


COSTS = {"full": (30.0, 60.0), "lora": (9.0, 50.0), "dtl_plus": (2.0, 40.0), "bitfit": (2.0, 30.0)}


def estimated(configs: Sequence[Config]) -> Estimate:
    config = configs[0]
    gib, seconds = COSTS.get(config.factors.method, (1.0, 10.0))
    fits = gib <= 8
    mode = config.train.memory if fits else "min"
    # as of a method whose MLPs fit if they are computed again
    gib, mode = (7.0, "lean") if gib == 9 else (gib, mode)
    return Estimate(mode, gib, seconds if gib <= 8 else None)


def judged(methods: str, minutes: float, finished: Sequence[str] = ()) -> list[plan.Candidate]:
    return plan.candidates(
        methods.split(","),
        of,
        lambda combinations: planned(combinations, finished),
        estimated,
        budget_gib=8,
        minutes=minutes,
    )


def test_methods_are_taken_in_their_order_as_far_as_they_fit() -> None:
    found = judged("linear,full,lora,dtl_plus,bitfit", 1.7)
    reasons = {one.method: one.reason for one in found}
    assert reasons == {
        "linear": None,
        "full": "more than 8 GiB",
        "lora": None,
        "dtl_plus": None,
        "bitfit": "more than the 2 s that are left",
    }
    assert found[2].runs[0].config.train.memory == "lean"
    assert plan.lack(found, 1.7) is None
    # 30 s of the 10 s and 50 s of these epochs
    fewer = compose.single(["method=linear"]).train.epochs // 2
    line = str(plan.lack(judged("linear,lora", 0.5), 0.5))
    assert line.startswith("Only linear fits")
    assert line.endswith(f", or train.epochs={fewer}.")
    assert str(plan.lack(judged("linear,full", 0.5), 0.5)).endswith(", or a smaller train.epochs.")
    assert found[2].line() == "lora: 1 run, 7.00 GiB with train.memory=lean, about 50 s"


def test_what_is_finished_takes_no_time_and_four_methods_are_enough() -> None:
    found = judged("linear,lora,dtl_plus,bitfit,ssf", 1.2, ["linear", "lora"])
    assert [one.reason is None for one in found] == [True, True, True, True, False]
    assert [one.left for one in found[:3]] == [0, 0, 1]


def test_a_first_method_that_does_not_fit_ends_the_command() -> None:
    with pytest.raises(UserError, match=r"full: .*more than 8 GiB; give more --budget-gib, or"):
        judged("full,linear", 1)
    epochs = compose.single(["method=lora"]).train.epochs  # which take 50 s
    with pytest.raises(UserError, match=f"or set train.epochs={epochs // 5}$"):
        judged("lora,linear", 0.5)


def attempt(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    backbone = () if "--backbone" in arguments else ("--backbone", "vit_mini")
    try:
        code = command.main([*map(str, arguments), *backbone, "--yes"])
    except SystemExit as leaving:  # of the parser
        code = int(leaving.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_a_folder_ends_in_a_report_and_a_second_call_does_what_is_left(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = folder(tmp_path / "own images"), tmp_path / "out"
    few = ("dataset.folds=2", "train.epochs=1", "device=cpu")
    typed = (root, "--out", out, *few, *OVERRIDES)

    def interrupted(*_: Any) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conduct, "done", interrupted)
        code, printed, told = attempt(capsys, *typed, "--methods", "linear")
    assert code == 130
    assert "the same command does the rest" in told
    assert "12 images of 2 classes; trained on 6, tested on 6 in each of 2 folds" in printed
    assert "  input.aspect=keep  # photographs keep their shape" in printed
    monkeypatch.setattr(estimate, "estimated", lambda *_: Estimate("fast", 0.1, 1.0))
    code, printed, told = attempt(capsys, *typed, "--methods", "linear")
    assert code == 0, told
    assert "one seed and 2 folds" in printed
    assert "petlbench predict --delta" in printed
    assert {record["factors"]["draw"] for record in Store(out / "runs").records()} == {0, 1}
    assert (out / "folder.html").is_file()
    monkeypatch.setattr(results, "report", lambda *_: [])
    code, printed, _ = attempt(capsys, *typed, "--methods", "linear")
    assert code == 0
    assert "linear: 2 runs, 2 finished" in printed


@pytest.mark.parametrize("denied", ["", "dark"])
def test_a_folder_without_permission_is_named(
    denied: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused as the system refuses other users than root."""
    root = folder(tmp_path / "own")
    listed = Path.iterdir

    def iterdir(place: Path) -> Iterator[Path]:
        if place == root / denied:
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    line = re.escape(f"folder '{root / denied}' cannot be read: Permission denied")
    with pytest.raises(UserError, match=line):
        compose.single(["dataset=folder", f"dataset.root={root}"])


def three(root: Path) -> None:
    for name in ("cat/a", "cat/b", "dog/c"):
        paint(root / f"{name}.png", ord(name[-1]))


def test_duplicates_are_allowed_where_they_are_what_is_wrong(
    tmp_path: Path, capsys: Capture
) -> None:
    root = tmp_path / "own"
    folder(root)
    (root / "dark" / "cut.png").write_bytes(b"\x89PNG cut")
    code, _, told = attempt(capsys, root, "--out", tmp_path / "out")
    assert code == 1
    assert "cut.png' cannot be decoded" in told
    assert told.endswith("; mend the folder, or add dataset.on_bad_image=skip\n")
    few = ("--methods", "linear", "dataset.folds=2", "train.epochs=1", "device=cpu", *OVERRIDES)
    skip = ("dataset.on_bad_image=skip", *few)
    code, _, told = attempt(capsys, root, "--out", tmp_path / "out", *skip)
    assert code == 0
    noted = re.findall("^note: .*cut.png' cannot be decoded.*; left out$", told, re.MULTILINE)
    assert len(noted) == 1
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            paint(tmp_path / "split" / split / name / "a.png", number)
    code, _, told = attempt(capsys, tmp_path / "split", "--out", tmp_path / "out")
    assert code == 1
    assert "test shares 2 images with train" in told
    assert told.endswith("; mend the folder, or add --allow-duplicates\n")


def test_an_image_that_two_folds_would_share_is_refused(tmp_path: Path, capsys: Capture) -> None:
    """Of two classes here: the default split of the same folder has both in train."""
    root = folder(tmp_path / "own")
    copied = root / "dark" / "again.png"
    copied.write_bytes((root / "bright" / "0.png").read_bytes())
    code, _, told = attempt(capsys, root, "--out", tmp_path / "out")
    assert code == 1
    [error] = [line for line in told.splitlines() if line.startswith("error: ")]
    assert re.search("two folds share 1 image, .*again.png.*; mend the folder, or add --al", error)
    assert "has 1 image twice in different classes, for example" in told
    for number in range(1, 5):
        copied = root / "dark" / f"again{number}.png"
        copied.write_bytes((root / "bright" / f"{number}.png").read_bytes())
    tree.scan.cache_clear()
    _, _, told = attempt(capsys, root, "--out", tmp_path / "out")
    assert re.search("^error: two folds share [345] images", told, re.MULTILINE)


def test_a_method_that_cannot_choose_its_value_on_so_few_images_is_left_out(
    tmp_path: Path, capsys: Capture
) -> None:
    quick = ("dataset.folds=2", "train.epochs=1", "device=cpu", *OVERRIDES)
    few = (folder(tmp_path / "few", images=4), "--out", tmp_path / "one")
    code, printed, _ = attempt(capsys, *few, "--methods", "linear,knn", *quick)
    assert code == 0
    line = "knn: 2 runs, left out: the folder has fewer than 5 training images of each class"
    assert line in printed
    more = (folder(tmp_path / "more", images=12), "--out", tmp_path / "other")
    code, printed, told = attempt(capsys, *more, "--methods", "knn,logistic", *quick)
    assert code == 0, told
    assert len(re.findall(r"(knn|logistic): 2 runs, about \d+ s$", printed, re.MULTILINE)) == 2


@pytest.mark.parametrize(
    ("make", "typed", "line"),
    [
        (three, (), "leaves no image for test: 3 images, 2 classes"),
        (lambda root: paint(root / "cat" / "a.png", 1), (), "has 1 image of 1 class (cat)"),
        (folder, ("epochs=3",), "no key 'epochs' to set; did you mean 'train.epochs'?"),
        (folder, ("method=lora",), "method cannot be set here; use --methods"),
        (folder, ("lora",), "'lora' is no KEY=VALUE"),
        (folder, ("~train.epochs=3",), "'~train.epochs=3' is no KEY=VALUE"),
        (folder, ("++method=lora",), "method cannot be set here; use --methods"),
        (folder, ("results.predictions=false",), "results.predictions cannot be set here"),
        (folder, ("protocol=probe",), "protocol=probe scores no test images"),
        (folder, ("protocol=select",), "protocol=select scores no test images"),
        (folder, ("protocol=trail",), "unknown protocol 'trail'; did you mean 'trial'?"),
        (folder, ("hydra/launcher=local",), "hydra/launcher cannot be set here; use petlbench sw"),
        (folder, ("+experiment=demo",), "experiment cannot be set here; use petlbench sweep"),
        (folder, ("probe.steps=3",), "probe.steps cannot be set here; use petlbench probe"),
        (folder, ("seed=0,1",), "seed=0,1 names several values; use petlbench sweep"),
        (folder, ("dataset.folds=x",), "dataset.folds is 'x'; it must be a whole number or null"),
        (folder, ("dataset.folds=99",), "dataset.folds is 99; it must be a whole number from 2"),
        (folder, ("dataset.test_share=2",), "dataset.test_share is 2; it must be a number"),
        (folder, ("--out", "/proc/none/x"), "--out '/proc/none/x' cannot be written"),
        (folder, ("--methods", "lorra"), "unknown method 'lorra'; did you mean 'lora'?"),
        (folder, ("--minutes", "0"), "--minutes is 0.0; it must be a number above 0"),
        (folder, ("backbone.checkpoint=x.pth",), "or add --backbone vit_mini"),
        (folder, ("train.lr=1", "train.lr=2"), "train.lr is given twice; give it once"),
        (folder, ("--methods", "lora", "--methods", "dtl"), "argument --methods: given twice"),
        (
            folder,
            ("train.batch_size=64",),
            "a step has 64 images, and each run trains on",
        ),
    ],
)
def test_a_mistake_is_one_line(
    make: Any, typed: tuple[str, ...], line: str, tmp_path: Path, capsys: Capture
) -> None:
    make(tmp_path / "own")
    out = () if "--out" in typed else ("--out", tmp_path / "out")
    code, _, told = attempt(capsys, tmp_path / "own", *out, *typed)
    assert code in (1, 2)
    assert line in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
