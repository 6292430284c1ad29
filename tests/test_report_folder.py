"""The report of one data set: its answer, and what it says without predictions."""

import copy
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from petlbench.config import compose
from petlbench.errors import UserError
from petlbench.report.__main__ import main
from petlbench.report.model.picture import Matrix, Sheet
from petlbench.report.model.report import Report
from petlbench.report.model.table import Table
from petlbench.report.registry import build, find
from petlbench.run import job
from petlbench.run.record import DELTA, PREDICTIONS, Record, beside
from tests.records import CLASSES, LABELS, keep, probe, record, with_predictions
from tests.trees import paint


def predicted(*wrong: int) -> list[int]:
    """All of LABELS right but the images of these numbers."""
    return [(label + (n in wrong)) % 3 for n, label in enumerate(LABELS)]


def report(runs: list[Record], **options: Any) -> Report:
    return build(runs, replace(find("folder"), options=options))


def named(result: Report, name: str) -> Table:
    return next(table for table in result.tables if table.name == name)


def test_the_answer_names_the_cheap_method_that_is_not_distinguishable(tmp_path: Path) -> None:
    slow = with_predictions("lora", predicted(5), tmp_path)
    fast = with_predictions("linear", predicted(5, 8), tmp_path)
    fast["cost"] |= {"train_s": 2.0}
    result = report([slow, fast])
    # psi = delta = 1/12: (1.96 sqrt(1/12) + 0.8416 sqrt(11/144))^2 * 144 = 91.6
    assert result.answer == (
        "LoRA, 91.7 % (95 % interval 65–99) on 12 test images. Linear is not distinguishable from "
        "it (corrected p = 1, McNemar's test). Linear takes 20 % of its training time. About 92 "
        "images would be needed to tell LoRA from Linear, if the observed difference is real."
    )
    assert result.title == "Which method for these images: pets"
    pairs = named(result, "pairs")
    assert pairs.values.loc["Linear", ["first", "second", "p"]].tolist() == [1, 0, 1]


def test_a_time_of_another_device_is_not_compared(tmp_path: Path) -> None:
    slow, fast = (
        with_predictions(m, predicted(n), tmp_path) for n, m in enumerate(("lora", "linear"))
    )
    fast["provenance"] |= {"device": "another"}
    answer = report([slow, fast]).answer
    assert "time" not in answer
    # of equal accuracy the fast one is named first
    mixed = with_predictions("lora", predicted(0), tmp_path, seed=1)
    mixed["provenance"] |= {"device": "another"}
    more = with_predictions("linear", predicted(1), tmp_path, seed=1)
    assert "time" not in report([slow, mixed, fast, more]).answer
    faster = with_predictions("full", predicted(0), tmp_path)
    faster["cost"] |= {"train_s": 1.0}
    answer = report([slow, faster]).answer
    assert answer.startswith("full, 91.7 %")
    assert "full trains faster. These images show no difference of full and LoRA" in answer


def test_times_of_two_devices_have_no_best(tmp_path: Path) -> None:
    runs = [with_predictions(m, predicted(), tmp_path) for m in ("lora", "linear")]
    column = next(c for c in named(report(runs), "").columns if c.key == "train_s")
    assert column.best == "low"
    runs[1]["provenance"] |= {"device": "another"}
    columns = {c.key: c.best for c in named(report(runs), "").columns}
    assert columns["train_s"] is None
    assert columns["delta_kb"] == "low"


def test_a_worse_method_is_named_as_such(tmp_path: Path) -> None:
    runs = [
        with_predictions("lora", predicted(), tmp_path),
        with_predictions("linear", predicted(*range(12)), tmp_path),
        with_predictions("full", predicted(), tmp_path),
    ]
    answer = report(runs).answer
    assert "full, 100.0 %" in answer
    assert answer.endswith("It is significantly better than Linear.")


def test_seeds_are_no_images(tmp_path: Path) -> None:
    """Three seeds of equal predictions have the interval, and the p-value, of one."""
    one = [
        with_predictions("lora", predicted(), tmp_path),
        with_predictions("linear", predicted(1, 2), tmp_path),
    ]
    three = [
        *one,
        *(with_predictions("lora", predicted(), tmp_path, seed=seed) for seed in (1, 2)),
        *(with_predictions("linear", predicted(1, 2), tmp_path, seed=seed) for seed in (1, 2)),
    ]
    single, many = report(one), report(three)
    assert many.answer.replace(", mean over 3 runs", "") == single.answer
    for name in ("pairs", "classes"):
        assert named(many, name).values.equals(named(single, name).values)
    assert list(named(many, "").values["interval"]) == list(named(single, "").values["interval"])


def test_the_method_with_most_images_is_not_called_worse(tmp_path: Path) -> None:
    """Linear loses six images in all runs, LoRA another seventeen in one run of three each."""
    labels = [n % 3 for n in range(40)]

    def run(method: str, seed: int, wrong: set[int]) -> Record:
        predicted = [(label + (n in wrong)) % 3 for n, label in enumerate(labels)]
        return with_predictions(method, predicted, tmp_path, labels=labels, seed=seed)

    runs = [run("lora", seed, set(range(6 + seed, 23, 3))) for seed in range(3)]
    result = report([*runs, *(run("linear", seed, set(range(6))) for seed in range(3))])
    pairs = named(result, "pairs").values.loc["Linear"]
    assert pairs[["first", "second"]].tolist() == [6, 17]
    # 2 (C(23, 0) + ... + C(23, 6)) / 2^23
    assert pairs["p"] == pytest.approx(0.0346, abs=1e-4)
    assert result.answer.endswith(
        "On significantly more of the images Linear is the better one, with a lower accuracy, so "
        "neither is clearly better."
    )


def fold(method: str, number: int, wrong: set[int], folder: Path, **changes: Any) -> Record:
    """A run that tests every fifth of 22 images, from `number` on."""
    images = list(range(number, 22, 5))
    labels = [n % 3 for n in images]
    predicted = [(n + (n in wrong)) % 3 for n in images]
    files = [f"{n}.png" for n in images]
    run = with_predictions(method, predicted, folder, labels, number, files=files, **changes)
    run["factors"] |= {"draw": number, "seed": 0}
    run["config"]["dataset"] = {"folds": 5, "fold": number}
    return run


def test_folds_are_images_and_not_runs_of_the_same_ones(tmp_path: Path) -> None:
    runs = [fold("lora", n, {3, 21}, tmp_path) for n in range(5)]
    result = report(runs)
    # 20 of 22, not the mean of 5/5, 4/5 (21), 4/4, 3/4 (3), 4/4, and its Wilson interval
    assert result.answer.startswith(
        "LoRA, 90.9 % (95 % interval 72–97) on 22 test images, mean over 5 runs."
    )
    table = named(result, "")
    # classes of 8, 7 and 7 images, of which two of the first are mistaken
    assert table.values.at["LoRA", "balanced"] == pytest.approx(100 * (6 / 8 + 2) / 3)
    assert "Always answering cat, the most frequent class, scores 36.4 %." in table.notes
    assert named(result, "classes").values["images"].tolist() == [8, 7, 7]
    assert named(result, "mistakes").values["wrong"].tolist() == [1, 1]
    # a mean of right images can exceed the images of the smallest fold: 22 / 5 > 4
    plain = [fold("lora", n, set(), tmp_path) | {"file": None} for n in range(5)]
    assert "(95 % interval 85–100) on 22 test images" in report(plain).answer
    intervals = build(plain, replace(find("table"), intervals=True)).tables[-1]
    assert intervals.values.loc["LoRA"].tolist() == ["85.1–100.0"]


def test_images_that_changed_between_the_runs_are_not_compared(tmp_path: Path) -> None:
    one, other = (with_predictions(m, predicted(), tmp_path) for m in ("lora", "linear"))
    for run, digest in ((one, "a"), (other, "b")):
        run["config"]["contents"] = {"splits": {"test": digest}}
    with pytest.raises(UserError, match="LoRA and Linear were tested on other files of one name:"):
        report([one, other])
    labels = [1, *LABELS[1:]]
    files = [f"{CLASSES[label]}/{n}.png" for n, label in enumerate(LABELS)]
    moved = with_predictions("full", labels, tmp_path, labels, files=files)
    with pytest.raises(
        UserError, match=r"of test image 'cat/0\.png' is cat for LoRA, dog for full"
    ):
        report([one, moved])
    folds = [fold("bitfit", number, set(), tmp_path) for number in range(2)]
    again = copy.deepcopy(folds[1])
    again["factors"]["draw"] = again["config"]["dataset"]["fold"] = 4
    with pytest.raises(UserError, match=r"folds 1 and 4 of bitfit both test '1\.png': the images"):
        report([*folds, again])


def test_few_images_do_not_beat_the_most_frequent_class(tmp_path: Path) -> None:
    run = with_predictions("lora", [0, 0, 0, 1], tmp_path, labels=[0, 0, 0, 1])
    assert report([run]).answer == (
        "LoRA, 100.0 % (95 % interval 51–100) on 4 test images. Always answering cat (75.0 %) may "
        "do as well. No other method has a result to compare it with."
    )


def test_without_predictions_the_figures_of_counts_remain(tmp_path: Path) -> None:
    plain = [record(m, "folder/pets", 80.0 + n) for n, m in enumerate(("linear", "lora"))]
    for each in plain:
        each["scores"]["test"] |= {"correct": 40, "total": 50}
    result = report(plain)
    assert (
        "Whether another differs is not known: LoRA and Linear were made without" in result.answer
    )
    assert [table.name for table in result.tables] == [""]
    [table] = result.tables
    again = "made without predictions; delete their records and run again with "
    again += "results.predictions=true"
    assert f"Linear, LoRA: {again}." in table.notes
    assert table.values["interval"].tolist() == ["67.0–88.8", "68.1–89.5"]
    with pytest.raises(UserError, match="--images needs predictions: the best run was made"):
        report(plain, images=str(tmp_path))
    # of which some have them, those are compared
    kept = [with_predictions(m, predicted(), tmp_path) for m in ("full", "bitfit")]
    assert report([*plain, *kept]).answer.endswith(
        "Not compared on the same images: Linear and LoRA."
    )


def test_methods_that_share_no_image_are_not_compared(tmp_path: Path) -> None:
    best = with_predictions("lora", predicted(), tmp_path, files=[f"{n}.png" for n in range(12)])
    others = [with_predictions(m, predicted(0), tmp_path) for m in ("linear", "full")]
    assert report([best, *others]).answer.endswith(
        "No other figure is higher. Whether another differs is not known: none was tested on the "
        "same images."
    )


def test_failed_runs_of_the_best_method_are_in_the_answer() -> None:
    runs = [record("lora", "folder/pets", top1, seed) for seed, top1 in enumerate((80.0, None))]
    assert ", mean over" not in (answer := report(runs).answer)
    assert " test images. 1 of its 2 runs failed. " in answer


def test_scores_of_trials_are_no_scores_on_test_images() -> None:
    tried = [record("linear", "folder/pets", 90.0, n, protocol="trial") for n in range(2)]
    for run in tried:
        run["scores"] = {"val": run["scores"].pop("test")}
    assert report([*tried, record("lora", "folder/pets", 80.0)]).answer.startswith("LoRA, 80.0 %")
    with pytest.raises(
        UserError, match="of runs with protocol=final, and --records has protocol=trial"
    ):
        report(tried)
    with pytest.raises(UserError, match="trials have no score on test images"):
        build(tried, replace(find("folder"), protocol="trial"))


def test_no_finished_run_is_no_answer() -> None:
    result = report([record("lora", "folder/pets", None)])
    assert result.answer.startswith("No run has finished")
    assert result.commands == []


def test_a_temperature_is_fitted_where_validation_images_were_kept(tmp_path: Path) -> None:
    runs = [
        with_predictions("lora", predicted(5), tmp_path, with_val=True),
        with_predictions("linear", predicted(5), tmp_path),
    ]
    table = named(report(runs), "")
    # 0.9 confident, 11 of 12 right: an ECE of 1.7, and none with the temperature
    assert table.values.loc["LoRA", "ece"] == pytest.approx(100 * (11 / 12 - 0.9), abs=0.1)
    assert table.values.loc["LoRA", "ece_tempered"] == pytest.approx(0, abs=0.1)
    assert table.values["temperature"].isna().tolist() == [True, False]
    assert any("No temperature for Linear: no predictions for" in note for note in table.notes)


def test_a_probe_says_what_fits(tmp_path: Path) -> None:
    run = with_predictions("lora", predicted(5), tmp_path)
    measured = probe("lora", 100.0)
    measured["config"] = copy.deepcopy(run["config"])
    # shapes alone decide, so a probe needs no weights
    measured["config"]["backbone"] = {"pretrained": False}
    run["config"]["backbone"] = {"pretrained": True}
    measured["factors"] |= {"backbone": "vit_mini"}
    for each in (run, measured):
        each["config"]["train"] |= {"batch_size": 32, "memory": "fast"}
    measured["cost"] |= {"image_mib": 10.0}
    table = named(report([run, measured], budget_gib=2.0), "")
    # 1200 MiB are reserved at 32 images: 848 MiB more are room for 84 of 10 MiB
    assert table.values.loc["LoRA", ["step_mib", "batch"]].tolist() == [1200, 116]
    # images that are only prepared otherwise take as much memory, another optimiser does not
    measured["config"]["input"] = {"augment": None}
    assert "step_mib" in named(report([run, measured]), "").values
    measured["config"]["train"]["optimizer"] = "sgd"
    assert "step_mib" not in named(report([run, measured]), "").values
    measured["config"]["train"].pop("optimizer")
    assert "largest batch in 2 GiB" in [column.title for column in table.columns]
    uncounted = measured | {"cost": measured["cost"] | {"peak_mib": None, "predicted_mib": None}}
    for runs in ([run], [run, uncounted]):
        alone = named(report(runs, budget_gib=2.0), "")
        assert any("What fits is not known" in note for note in alone.notes)


def test_the_most_confident_mistakes_come_with_their_images(tmp_path: Path) -> None:
    run = with_predictions("lora", predicted(5, 8), tmp_path)
    for name in ("owl/5.png", "owl/8.png"):
        paint(tmp_path / "images" / name, 9)
    (tmp_path / "images" / "owl" / "8.png").write_bytes(b"no image")
    result = report([run], images=str(tmp_path / "images"))
    table = named(result, "mistakes")
    assert table.rows == ["owl/5.png", "owl/8.png"]
    assert table.values.loc["owl/5.png", ["class", "predicted", "wrong"]].tolist() == [
        "owl",
        "cat",
        1,
    ]
    matrix, sheet = result.pictures
    assert isinstance(matrix, Matrix)
    assert matrix.counts.tolist() == [[4, 0, 0], [0, 4, 0], [2, 0, 2]]
    assert isinstance(sheet, Sheet)
    assert [tile.image is None for tile in sheet.tiles] == [False, True]
    assert sheet.tiles[0].text == "owl\n→ cat (90 %)"
    with pytest.raises(UserError, match=r"has none of the test images, e\.g\. 'owl/5\.png'"):
        report([run], images=str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match=r"--images is '/a+': File name too long"):
        report([run], images=f"/{300 * 'a'}")


def test_a_command_names_its_file_in_any_script(tmp_path: Path) -> None:
    run = with_predictions("lora", predicted(5), tmp_path / "猫 🐱 'a' \"b\"")
    delta = beside(Path(run["file"]), DELTA)
    delta.touch()
    commands = [shlex.split(command.text) for command in report([run]).commands]
    assert [words[words.index("--delta") + 1] for words in commands] == [str(delta)] * 3


def test_the_network_of_a_fold_is_named_as_such(tmp_path: Path) -> None:
    run = with_predictions("lora", predicted(5), tmp_path)
    beside(Path(run["file"]), DELTA).touch()
    assert report([run]).commands[0].title == "Classify new images"
    run["config"] |= {"dataset": {"folds": 5}}
    assert "by the network of one fold of 5" in report([run]).commands[0].title


def test_predictions_of_another_run_are_refused(tmp_path: Path) -> None:
    one, other = (with_predictions("lora", predicted(n), tmp_path, seed=n) for n in (0, 1))
    files = [beside(Path(each["file"]), PREDICTIONS) for each in (one, other)]
    files[0].write_bytes(files[1].read_bytes())
    with pytest.raises(UserError, match=r"belong to run lora1, not to lora0; delete the rec"):
        report([one, other])
    files[0].write_bytes(b"")
    with pytest.raises(UserError, match=r"predictions '.*' cannot be read"):
        report([one, other])
    # of the same run, but other ones than those that its record counts
    with_predictions("lora", predicted(0, 1), tmp_path)
    with pytest.raises(UserError, match="predictions of run lora0 do not fit its score on test"):
        report([one, other])


def test_several_tasks_are_refused(tmp_path: Path) -> None:
    runs = [
        with_predictions("lora", predicted(), tmp_path, task=f"folder/{name}") for name in "ab"
    ]
    runs[1]["id"] = "another"
    with pytest.raises(UserError, match=r"of 2 \(folder/a, folder/b\); give the folder of one"):
        report(runs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("folder --budget-gib 0", "--budget-gib is 0.0; it must be a size above 0"),
        ("folder --budget-gib nan", "--budget-gib is nan; it must be a size above 0"),
        ("folder --budget-gib x", "invalid float value: 'x'"),
        ("folder --intervals", "this report has the interval of each method; leave out"),
        ("folder --images nowhere", "--images needs predictions: the best run was made without"),
        ("table --images x", "unknown option of report 'table' (table) 'images'"),
    ],
)
def test_a_wrong_option_is_one_line(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = keep([record("lora", "folder/pets", 50.0)], tmp_path / "runs")
    try:
        code: Any = main([*arguments.split(), "--records", str(runs), "--out", str(tmp_path)])
    except SystemExit as ended:
        code = ended.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_intervals_are_a_table_of_any_report(tmp_path: Path) -> None:
    runs = [record("lora", task, 50.0, seed) for task in ("digits", "land") for seed in (0, 1)]
    for each in runs:
        each["scores"]["test"] |= {"correct": 50, "total": 100}
    for name in ("table", "leaderboard"):
        result = build(runs, replace(find(name), intervals=True))
        table = named(result, "intervals")
        assert table.values.loc["LoRA"].tolist() == ["40.4–59.6"] * 2
    higher = [record("dtl_plus", task, 60.0) for task in ("digits", "land")]
    for each in higher:
        each["scores"]["test"] |= {"correct": 60, "total": 100}
    ranked = build([*runs, *higher], replace(find("leaderboard"), intervals=True))
    assert ranked.tables[0].rows == named(ranked, "intervals").rows == ["DTL+", "LoRA"]
    with pytest.raises(UserError, match="--intervals needs records with scores"):
        build([probe("lora", 9.0)], replace(find("efficiency"), intervals=True))


def test_a_folder_of_images_is_answered_from_run_to_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, runs, out = (tmp_path / name for name in ("photos", "runs", "out"))
    for number in range(10):
        paint(images / "light" / f"{number}.png", 200 + number)
        paint(images / "dark" / f"{number}.png", number)
    settings = ["dataset=folder", f"dataset.root={images}", "backbone=vit_mini", "method=linear"]
    quick = ["train.epochs=1", "train.batch_size=8", f"dataset.cache={tmp_path}"]
    config = compose.single([*settings, *quick, "protocol=best_on_val", f"results.root={runs}"])
    assert job.of(config).execute(config)["status"] == "finished"
    arguments = ["folder", "--records", str(runs), "--out", str(out), "--images", str(images)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "Linear," in printed
    assert "on 4 test images." in printed.replace("\n", " ")
    page = (out / "folder.html").read_text()
    assert "data:image/png;base64," in page
    [delta] = runs.glob(f"**/*{DELTA}")
    assert f"petlbench predict --delta {delta}" in (out / "folder.md").read_text()
    assert (out / "folder_confusion.pdf").is_file()


def test_runs_of_a_fold_do_not_weigh_more_than_its_images(tmp_path: Path) -> None:
    """Of fold 0 one seed has two of five images right, another four; all others are right."""
    runs = [fold("lora", n, {0, 5, 10}, tmp_path) for n in range(5)]
    again = fold("lora", 0, {0}, tmp_path) | {"id": "again"}
    again["factors"] |= {"seed": 1}
    without = [run | {"file": None} for run in (*runs, again)]
    values = report(without).tables[0].values
    assert values.at["LoRA", "folder/pets"] == pytest.approx(100 * (3 + 17) / 22)


def test_a_method_without_all_folds_is_not_ranked_with_those_that_have_them(
    tmp_path: Path,
) -> None:
    """LoRA's only fold is right; Linear has three of all images wrong."""
    runs = [fold("linear", n, {1, 2, 3}, tmp_path) for n in range(5)]
    few = [fold("lora", 0, set(), tmp_path)]
    result = report([*runs, *few])
    assert result.answer.startswith("Linear, 86.4 %")
    assert "LoRA" not in result.answer
    table = named(result, "")
    assert table.values.loc["LoRA", ["folder/pets", "interval"]].isna().all()
    assert (
        "LoRA has no figure on folder/pets: folds 1, 2, 3, 4 of others are missing, so its images "
        "are not theirs." in table.notes
    )
    assert not any("No row was tested" in note for note in table.notes)
    # one that all share is compared
    other = [fold("linear", 1, set(), tmp_path)]
    assert report([*few, *other]).answer.startswith(
        "No method can be recommended: none was tested"
    )
    alone = [fold("linear", 0, {0}, tmp_path), *few]
    result = report(alone)
    assert result.answer.startswith("LoRA, 100.0 %")
    note = "No row was tested on folds 1, 2, 3, 4 of folder/pets: its figures are of the other "
    assert any(line.startswith(note) for line in named(result, "").notes)
