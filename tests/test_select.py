"""protocol=select: equal numbers of trials, the choice on val, final runs, and their report."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from petlbench.config import selection
from petlbench.config.schema import Config
from petlbench.errors import UserError
from petlbench.report import registry
from petlbench.report.model.chart import Chart
from petlbench.report.read.trials import expected_best, tried
from petlbench.run import splits
from petlbench.run.lifecycle import blank, ended
from petlbench.run.record import Record, Store
from petlbench.sweep import conduct, perform, session
from petlbench.sweep.launchers.basic import Basic
from petlbench.sweep.select import Cell, Choice, Search, _ended
from petlbench.sweep.space import read, shown
from tests import records
from tests.command import run
from tests.settings import config

SPACE = {"train": {"lr": [0.1, 0.2, 0.3], "head_lr": [1.0, 2.0]}, "method": {"scale": [1, None]}}


HIGHEST_RATE = 1.0  # of a run that does not fail in `pretended`


GIVEN = ["-m", "protocol=select", "select.trials=2", "dataset=mini/land", "device=cpu"]


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs record a score that follows from their identity, without data and training."""

    def attempted(config: Config) -> Record:
        record = blank(config)
        if config.train.lr > HIGHEST_RATE:
            record = ended(record, "diverged", "pretended")
        else:
            [split] = ["val"] if config.protocol.name == "trial" else ["test"]
            scores = {split: records.score(float(int(record["id"][:2], 16) % 100))}
            plain = records.record("linear", "land", 1.0)
            made = {key: plain[key] for key in ("cost", "selection", "provenance")}
            record = ended(record | made | {"scores": scores}, "finished", None)
        Store(config.results.root).write(record)
        return record

    monkeypatch.setattr(perform, "_attempted", attempted)
    monkeypatch.setattr(splits, "prepared", lambda config: None)
    monkeypatch.setattr(conduct, "_check", lambda config: None)


def test_a_grid_is_tried_row_by_row_or_drawn_without_repeats() -> None:
    space = read(SPACE, "here")
    assert list(space.axes) == ["train.lr", "train.head_lr", "method.scale"]
    whole = [tuple(point.values()) for point in space.points(12, seed=0)]
    assert whole == list(itertools.product([0.1, 0.2, 0.3], [1.0, 2.0], [1, None]))
    drawn = [tuple(point.values()) for point in space.points(9, seed=0)]
    assert len(set(drawn)) == 9
    assert set(drawn) < set(whole)
    # more trials go on where fewer ended
    assert [tuple(p.values()) for p in space.points(5, seed=0)] == drawn[:5]
    assert space.points(9, seed=1) != space.points(9, seed=0)
    assert shown(space.points(12, seed=0)[1]) == [
        *("train.lr=0.1", "train.head_lr=1.0", "method.scale=null")
    ]


def test_ranges_are_drawn_within_their_ends() -> None:
    node = {
        "train": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}},
        "method": {"rank": {"low": 1, "high": 4}},
    }
    points = read(node, "here").points(200, seed=3)
    rates = [float(str(point["train.lr"])) for point in points]
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert 70 < sum(rate < 10**-2.5 for rate in rates) < 130  # the middle of its logarithm
    assert {point["method.rank"] for point in points} == {1, 2, 3, 4}
    few = {"method": {"rank": {"low": 1, "high": 4}}}
    assert [point["method.rank"] for point in read(few, "here").points(4, seed=0)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "must map keys"),
        ({"train": {"lr": 0.1}}, r"here: train\.lr is 0\.1; it must be a list"),
        ({"train": {"lr": [1, 1.0]}}, "each value may be there once"),
        ({"train": {"betas": [[0.9, 0.99]]}}, "must be a list of values"),
        ({"seed": [0, 1]}, "here has seed; trials may change values below method, train"),
        ({"train": {"lr": {"low": 1, "high": 1}}}, "with low < high"),
        ({"train": {"lr": {"low": 0, "high": 1, "log": True}}}, "an end above 0"),
        ({"train": {"lr": {"low": 0, "high": 1, "base": 2}}}, "a range is"),
    ],
)
def test_a_wrong_space_is_refused(node: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(node, "here")


def search(points: int = 3) -> Search:
    space = read({"train": {"lr": [0.1, 0.2, 0.3][:points]}}, "here")
    cell = Cell(space, space.points(points, 0), (), lambda *_: [])
    return Search([cell], [[(config(Path("runs")), (), ())]] * points)


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([[70.0], [72.0], [71.0]], Choice({"train.lr": 0.2}, 72.0, 0)),
        ([[70.0], [72.0], [72.0]], Choice({"train.lr": 0.2}, 72.0, 1)),  # the first of equal ones
        ([[90.0, 10.0], [60.0, 50.0], [0.1, 0.2]], Choice({"train.lr": 0.2}, 55.0, 0)),
        ([[0.1, 0.2], [0.2, 0.1], [0.0, 0.0]], Choice({"train.lr": 0.1}, 0.15, 1)),
        ([[70.0, 70.0], [99.0, None], [71.0, 71.0]], Choice({"train.lr": 0.3}, 71.0, 0)),
        ([[None], [None], [None]], None),
    ],
)
def test_the_highest_mean_is_chosen(
    scores: Sequence[Sequence[float | None]], chosen: Choice | None
) -> None:
    assert search().choice(scores) == chosen


def test_a_choice_says_what_to_know_of_it() -> None:
    line = search().line(Choice({"train.lr": 0.3}, 71.25, 2), failed=1)
    assert line == (
        "chosen: lora on vit_mini fake/bright: train.lr=0.3 (val 71.2 %, 3 trials, 1 of them "
        "failed, 2 others as good, declared later, at the edge of its values: train.lr)"
    )


def stored(root: Path) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {"trial": [], "final": []}
    for record in Store(root).records():
        found[record["protocol"]].append(record)
    return found


def times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.glob("**/*.json")}


@pytest.mark.usefixtures("pretended")
def test_trials_then_final_runs_and_only_what_is_missing_again(tmp_path: Path) -> None:
    sweep = [*GIVEN, "method=linear,bitfit", "seed=0,1"]
    code, told = run(tmp_path, *sweep, "hydra.sweeper.dry_run=true")
    assert code == 0, told
    assert "plan: 4 trials, 0 finished (skipped), 4 to run; then 4 final runs" in told
    assert told.count("  to run  ") == 4
    first = next(line.split("seed 0 ")[1] for line in told.splitlines() if "linear" in line)
    # a trial by hand is one of the sweep
    by_hand = ["protocol=trial" if text == GIVEN[1] else text for text in GIVEN]
    del by_hand[2]
    assert run(tmp_path, *by_hand, "method=linear", *first.split())[0] == 0
    code, told = run(tmp_path, *sweep)
    assert code == 0, told
    assert "plan: 4 trials, 1 finished (skipped), 3 to run; then 4 final runs" in told
    assert "plan: 4 final runs, 0 finished (skipped), 4 to run" in told
    root = tmp_path / "results" / "runs"
    found = stored(root)
    for method in ("linear", "bitfit"):
        trials = [r for r in found["trial"] if r["factors"]["method"] == method]
        finals = [r for r in found["final"] if r["factors"]["method"] == method]
        assert (len(trials), [r["factors"]["seed"] for r in finals]) == (2, [0, 1])
        scores = [record["scores"]["val"]["top1"] for record in trials]
        rates = [record["config"]["train"]["head_lr"] for record in trials]
        best = [rate for rate, score in zip(rates, scores, strict=True) if score == max(scores)]
        assert {r["config"]["train"]["head_lr"] for r in finals} <= set(best)
        assert f"chosen: {method} on vit_mini mini/land: train." in told
    before = times(root)
    gone = [
        next(path for path in before if record["id"] in path.name)
        for record in (found["trial"][0], found["final"][0])
    ]
    for path in gone:
        path.unlink()
    code, told = run(tmp_path, *sweep)
    assert "plan: 4 trials, 3 finished (skipped), 1 to run; then 4 final runs" in told
    assert "plan: 4 final runs, 3 finished (skipped), 1 to run" in told
    after = times(root)
    assert {path for path in before if after[path] != before[path]} == set(gone)
    code, told = run(tmp_path, *sweep)
    assert (code, times(root)) == (0, after)
    again = {r["id"]: r["scores"] for part in stored(root).values() for r in part}
    assert again == {r["id"]: r["scores"] for part in found.values() for r in part}


@pytest.mark.usefixtures("pretended")
def test_a_failed_trial_counts_and_is_not_chosen(tmp_path: Path) -> None:
    rates = "select.space.train={lr:[%s],head_lr:[1e-3]}"
    code, told = run(tmp_path, *GIVEN, "method=bitfit", rates % "2,1e-3")
    assert code == 1, told
    assert "train.lr=0.001 train.head_lr=0.001 (val" in told
    assert "2 trials, 1 of them failed" in told
    assert [r["status"] for r in stored(tmp_path / "results" / "runs")["final"]] == ["finished"]
    code, told = run(tmp_path, *GIVEN, "method=bitfit", rates % "2,3", "results.root=b")
    assert code == 1, told
    line = "no final runs: bitfit on vit_mini mini/land: none of 2 trials finished"
    assert line in told
    assert stored(tmp_path / "b")["final"] == []


@pytest.mark.usefixtures("pretended")
def test_a_failure_of_an_earlier_try_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = [*GIVEN, "method=bitfit", "select.space.train={lr:[2,1e-3],head_lr:[1e-3]}"]
    monkeypatch.setattr("tests.test_select.HIGHEST_RATE", 0.0)
    assert run(tmp_path, *sweep)[0] == 1
    # a launcher that submits and does not wait
    monkeypatch.setattr(Basic, "launch", lambda *_: iter(()))
    code, told = run(tmp_path, *sweep)
    assert code == 1, told
    assert "2 of 2 trials have not ended; the same command goes on" in told


@pytest.mark.usefixtures("pretended")
def test_python_returns_the_trials_and_then_the_final_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = [*GIVEN[1:], "method=linear", "seed=0,1", f"results.root={tmp_path}"]
    found = session.run(sweep)
    assert [(record["protocol"], record["factors"]["seed"]) for record in found] == [
        *(("trial", 0), ("trial", 0), ("final", 0), ("final", 1))
    ]
    best = max(found[:2], key=lambda record: record["scores"]["val"]["top1"])
    rates = [record["config"]["train"]["head_lr"] for record in (best, *found[2:])]
    assert len(set(rates)) == 1
    monkeypatch.setattr("tests.test_select.HIGHEST_RATE", 0.0)
    found = session.run([*sweep[:-1], f"results.root={tmp_path / 'failed'}"])
    assert [(r["protocol"], r["status"]) for r in found] == [("trial", "diverged")] * 2


@pytest.mark.usefixtures("pretended")
def test_images_of_the_final_runs_are_decoded_before_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(config: Config) -> None:
        if config.protocol.name == "final":
            raise UserError("test/7.jpg is broken")

    monkeypatch.setattr(splits, "prepared", prepared)
    code, told = run(tmp_path, *GIVEN, "method=linear")
    assert (code, told.splitlines()[-1]) == (2, "error: test/7.jpg is broken")
    assert stored(tmp_path / "results" / "runs") == {"trial": [], "final": []}


def test_a_finished_trial_wins_over_a_failed_one_of_its_identity(tmp_path: Path) -> None:
    """Two options with equal values are one run in two files."""
    done = blank(config(tmp_path, protocol="trial"))
    made = records.record("linear", "land", 1.0)
    done |= {key: made[key] for key in ("cost", "selection", "provenance")}
    done = ended(done | {"scores": {"val": records.score(50.0)}}, "finished", None)
    lost = ended(blank(config(tmp_path, protocol="trial")), "failed", "pretended")
    for place, name in enumerate(("a", "z")):
        store = Store(tmp_path / str(place))
        store.write(done)
        store.write(lost | {"factors": lost["factors"] | {"method": name}})
        found = _ended(str(store.root), store, set())
        assert [record["status"] for record in found.values()] == ["finished"]


@pytest.mark.slow
def test_real_runs_are_chosen_among(tmp_path: Path) -> None:
    small = ["dataset.images=1300", "dataset.sha256=null", "train.epochs=1"]
    methods = ["method=linear,bitfit", "train.schedule.warmup_epochs=0"]
    code, told = run(tmp_path, *GIVEN, *small, *methods, "hydra/launcher=local")
    assert code == 0, told
    assert told.count("chosen: ") == 2
    found = stored(tmp_path / "results" / "runs")
    assert [len(part) for part in found.values()] == [4, 2]


@pytest.mark.usefixtures("pretended")
def test_a_suite_has_one_choice_by_the_mean_over_its_tasks(tmp_path: Path) -> None:
    sweep = ["-m", "protocol=select", "dataset=mini/digits,mini/land", "method=lora", "seed=1"]
    code, told = run(tmp_path, *sweep, "device=cpu", "select.trials=3", "select.per=suite")
    assert code == 0, told
    found = stored(tmp_path / "results" / "runs")
    points: dict[str, list[float]] = {}
    for record in found["trial"]:
        train = record["config"]["train"]
        own = points.setdefault(f"train.lr={train['lr']} train.head_lr={train['head_lr']}", [])
        own.append(record["scores"]["val"]["top1"])
    best = max(fmean(scores) for scores in points.values())
    [chosen] = [line for line in told.splitlines() if line.startswith("chosen: ")]
    assert any(
        chosen.startswith(f"chosen: lora on vit_mini mini (2 tasks): {point} (val {best:.1f} %")
        for point, scores in points.items()
        if fmean(scores) == best
    ), chosen
    assert [r["factors"]["task"] for r in found["final"]] == ["mini/digits", "mini/land"]
    assert "plan: 6 trials, 0 finished (skipped), 6 to run; then 2 final runs" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["select.trials=x"], "select.trials is x; it must be a whole number"),
        (["select.trials=2,3"], "select.trials names several values"),
        (["select.spaces=3"], "select.spaces"),
        (["select.trials=13"], "select.trials is 13 and tune of method=linear has 12 points"),
        (["train.head_lr=1"], "train.head_lr is set by the command and tried by protocol=select"),
        (["+train={head_lr:1}"], "train is set by the command and tried by protocol=select"),
        (["protocol.tests=[val]"], "protocol.tests belongs to the protocols trial and final"),
        (["protocol=select,final"], "protocol=select does trials and final runs"),
        (["method=lora", "select.space.train.rate=[1,2]"], "train.rate"),
        (["method=lora", "select.space.train.lr.x=1"], "lr has values of its own, [0.0001, "),
        (["protocol=final"], "select.trials belongs to protocol=select; add protocol=select"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    keys = {text.partition("=")[0] for text in arguments}
    rest = [text for text in GIVEN if text.partition("=")[0] not in keys]
    code, told = run(tmp_path, *rest, *arguments)
    assert (code, message in told) == (2, True), told
    assert len(told.splitlines()) == 1, told


def test_a_range_takes_the_place_of_a_list() -> None:
    space = {"train": {"lr": [0.1, 0.2]}, "method": {"rank": {"low": 1, "high": 9}}}
    node = {"trials": 8, "per": "task", "trial_seeds": [0], "seed": 0, "space": space}
    ends = {"low": 1e-3, "high": 1e-2}
    changed = selection.settings(node, {"train.lr": ends, "method.rank": ends, "input.size": [1]})
    assert changed.space == {
        "train": {"lr": ends},
        "method": {"rank": ends},
        "input": {"size": [1]},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "select.trials is 0; it must be a whole number from 1"),
        ({"per": "tasks"}, "unknown select.per 'tasks'; did you mean 'task'?"),
        ({"seed": -1}, "select.seed is -1; it must be a whole number from 0"),
        ({"trial_seeds": []}, r"select.trial_seeds is \[\]; it must be a list of different seeds"),
        ({"trial_seeds": [1, 1]}, r"select.trial_seeds is \[1, 1\]; it must be a list"),
        ({"space": None}, "select.space"),
        ({"space": [1]}, "select.space"),
    ],
)
def test_a_wrong_setting_is_refused(change: dict[str, Any], message: str) -> None:
    node = {"trials": 8, "per": "task", "trial_seeds": [0], "seed": 0, "space": SPACE}
    assert selection.settings(node, {}).trials == 8
    with pytest.raises(UserError, match=message):
        selection.settings(node | change, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["protocol=select"], "protocol=select is a sweep of trials and then final runs; add -m"),
        (["select.trials=3"], "select.trials belongs to protocol=select; add -m"),
        (["-m", "tune.train.lr=[1]"], "tune.train.lr can be set in the yaml of a method alone"),
    ],
)
def test_one_run_is_no_selection(arguments: list[str], message: str, tmp_path: Path) -> None:
    code, told = run(tmp_path, *arguments)
    assert (code, message in told) == (2, True), told
    assert len(told.splitlines()) == 1, told


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_expected_best_of_k_is_the_mean_over_all_subsets(k: int) -> None:
    scores = [70.0, 71.0, 71.0, 20.0, 80.0]
    by_hand = fmean(max(subset) for subset in itertools.combinations(scores, k))
    assert expected_best(scores, k) == pytest.approx(by_hand)


def trial(method: str, lr: float, top1: float | None, **changes: Any) -> Record:
    made = records.record(method, "land", top1, **changes)
    values = {"train": {"epochs": 10, "lr": lr}, "method": {"rank": 8}}
    scores = {} if top1 is None else {"val": records.score(top1)}
    return made | {"protocol": "trial", "scores": scores, "config": values, "id": f"{method}{lr}"}


def test_a_trial_of_which_one_seed_failed_has_failed() -> None:
    runs = [trial("lora", 0.1, 90.0), trial("lora", 0.1, None, seed=1), trial("lora", 0.01, 80.0)]
    for number, made in enumerate(runs):
        made["id"] = str(number)
    [found] = tried(runs, dict.fromkeys("012", "LoRA")).values()
    assert (found.scores, found.failed) == ([0.0, 80.0], 1)


def test_trials_of_one_point_in_different_settings_are_not_averaged() -> None:
    runs = [trial("lora", 0.1, 90.0), trial("lora", 0.1, 50.0) | {"id": "fewer"}]
    for made, classes in zip(runs, (10, 5), strict=True):
        made["config"] = made["config"] | {"dataset": {"classes": classes}}
    with pytest.raises(UserError, match=r"differ in dataset\.classes \(10, 5\); a mean never"):
        tried(runs, {made["id"]: "LoRA" for made in runs})


def test_an_unsupported_pair_is_no_trial() -> None:
    runs = [trial("lora", 0.1, 90.0), trial("hst", 0.1, None) | {"status": "unsupported"}]
    assert list(tried(runs, {run["id"]: run["id"] for run in runs})) == [("lora0.1", "mini/land")]


@pytest.mark.parametrize(("tested", "expected"), [([0.01], 75.0), ([0.1], 75.0), ([0.3], None)])
def test_the_test_is_that_of_the_choice_also_of_a_suite(
    tested: list[float], expected: float | None
) -> None:
    """Of the best trial, or of the only one with final runs; not of values that were no trial."""
    runs = [trial("lora", lr, top1) for lr, top1 in ((0.1, 60.0), (0.01, 80.0), (0.001, 10.0))]
    for lr in tested:
        final = trial("lora", lr, 1.0) | {"protocol": "final", "id": f"final{lr}"}
        runs.append(final | {"scores": {"test": records.score(75.0)}})
    [found] = tried(runs, {run["id"]: "LoRA" for run in runs}).values()
    assert found.test_of_choice == expected


def test_the_report_shows_the_best_of_k_and_the_test_of_the_choice() -> None:
    scores = {0.1: 60.0, 0.01: 80.0, 0.001: None}
    runs = [trial("lora", lr, top1) for lr, top1 in scores.items()]
    runs += [trial("linear", lr, 50.0) for lr in (0.1, 0.01)]
    final = json.loads(json.dumps(runs[1])) | {"protocol": "final", "id": "final"}
    runs.append(final | {"scores": {"test": records.score(75.0)}})
    report = registry.build(runs, registry.find("trials"))
    [table], [chart] = report.tables, report.charts
    assert isinstance(chart, Chart)
    assert table.rows == ["Linear", "LoRA"]
    values = table.values.loc["LoRA"].to_dict()
    assert values == pytest.approx(
        {"trials": 3, "best_1": 140 / 3, "best_2": 220 / 3, "best_3": 80, "test": 75}
    )
    assert table.text("Linear", table.columns[-1]) == "–"
    assert any("differ: Linear 2, LoRA 3" in note for note in table.notes)
    assert any("with 0 %: LoRA 1" in note for note in table.notes)
    points = [series.points for series in chart.panels[0].series]
    assert [[round(point.y, 1) for point in line] for line in points] == [
        *([50.0, 50.0], [46.7, 73.3, 80.0])
    ]
