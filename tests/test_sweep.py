"""The plan of a sweep, and the command line around it, as a user meets them."""

import itertools
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hydra._internal.hydra import Hydra

from petlbench import registry
from petlbench.config import compose, compositions, options
from petlbench.config.command_line import check_groups, known_options
from petlbench.config.schema import Config
from petlbench.errors import Unsupported, UserError
from petlbench.run.identity import identity
from petlbench.run.record import Store
from petlbench.sweep import conduct, plan
from petlbench.sweep.launchers.launcher import Launcher
from petlbench.train import trainer
from tests.command import run as in_process
from tests.helpers import sampled
from tests.processes import command, finished, records, wait_for
from tests.settings import config
from tests.shallow import OVERRIDES

CONF = Path(__file__).parent.parent / "conf"
SUITES = {"all": ["a", "b", "one"], "a": ["one", "two"], "b": ["two", "three"], "loop": ["loop"]}
QUICK = ["train.epochs=1", "train.drop_last=true", "dataset.images=1300", "dataset.sha256=null"]
FEW = ["train.epochs=2", "train.batch_size=10", "dataset.images=80", "dataset.sha256=null"]


def test_suites_expand_in_order_and_once() -> None:
    assert options.expand(["four", "all"], SUITES.get) == ["four", "one", "two", "three"]
    with pytest.raises(UserError, match="'loop' contains itself: loop > loop"):
        options.expand(["loop"], SUITES.get)


def run_of(method: str, seed: int) -> Config:
    settings = config(Path("runs"), method)
    return replace(settings, seed=seed, factors=replace(settings.factors, seed=seed))


def test_a_plan_knows_finished_and_refused_runs_and_checks_each_pair_once() -> None:
    names = ("lora", "vpt_deep", "dtl")
    runs = [(run_of(method, seed), (), ()) for method in names for seed in (0, 1, 1)]
    checked: list[str] = []

    def check(settings: Config) -> None:
        checked.append(settings.factors.method)
        if settings.factors.method == "vpt_deep":
            raise Unsupported("needs a token sequence")
        if settings.factors.method == "dtl":
            raise ZeroDivisionError("a bug")

    planned = plan.build(runs, lambda root: {identity(runs[0][0].plain())}, check)
    assert [run.state for run in planned] == [
        *("finished", "to run", "unsupported", "unsupported", "broken", "broken")
    ]
    assert checked == list(names)
    assert plan.headline(planned) == (
        "plan: 6 runs, 1 finished (skipped), 1 to run, 2 unsupported, 2 broken"
    )
    assert plan.refusals(planned) == [
        "unsupported: vpt_deep on vit_mini: needs a token sequence",
        "broken: dtl on vit_mini: ZeroDivisionError: a bug",
    ]


def test_a_pair_whose_runs_are_all_finished_is_not_checked() -> None:
    """A check imports torch and builds the network, which a finished sweep can do without."""
    runs = [(run_of(method, seed), (), ()) for method in ("lora", "dtl") for seed in (0, 1)]
    names = [identity(settings.plain()) for settings, _, _ in runs]
    checked: list[str] = []

    def check(settings: Config) -> None:
        checked.append(f"{settings.factors.method} {settings.seed}")
        raise Unsupported("no")

    planned = plan.build(runs, lambda root: names[:3], check)
    assert checked == ["dtl 1"]
    # one open run is enough: a refused pair stays refused
    assert [run.state for run in planned] == ["finished"] * 2 + ["unsupported"] * 2


def test_a_launcher_gets_no_sweep_whose_runs_are_all_refused(tmp_path: Path) -> None:
    launcher = cast(Launcher, SimpleNamespace(is_here=True))  # it can do nothing
    refused = plan.Planned(config(tmp_path), "0" * 16, plan.UNSUPPORTED, reason="no")
    conduct.check([refused], launcher, dry_run=False)
    assert conduct.done([refused], Store, launcher) == []


def test_a_key_that_a_launcher_lacks_is_named(tmp_path: Path) -> None:
    sweep = ["-m", "dataset=mini/digits", "hydra/launcher=local", "+hydra.launcher.gpu=1"]
    code, told = in_process(tmp_path, *sweep)
    assert (code, "unexpected keyword argument 'gpu'" in told) == (2, True), told
    assert len(told.splitlines()) == 1, told


def test_a_sweep_without_runs_is_an_error() -> None:
    with pytest.raises(UserError, match="no runs"):
        plan.build([], lambda root: (), lambda settings: None)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("method=vpt", "unknown method 'vpt'; did you mean 'vpt_deep'?"),
        ("method=lorra", "unknown method 'lorra'; did you mean 'lora'?"),
        ("method=dtl,dtl+", r"unknown method 'dtl\+'; did you mean 'dtl_plus'?"),
        ("dataset=mini/digitz", "did you mean 'mini/digits'?"),
        ("backbone=vit_b", "did you mean 'vit_b16'?"),
        ("protocol=finale", "did you mean 'final'?"),
        ("experiment=dmo", "did you mean 'demo'?"),
    ],
)
def test_an_option_that_does_not_exist_is_named_with_its_neighbour(
    argument: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_groups([argument])


OVERLAYS = [
    (path.parent.name, path.stem) for path in sorted((CONF / "method_on").glob("*/*.yaml"))
]
PAIRS = dict.fromkeys(
    [(method, "vit_mini") for method in registry.names()]
    + [("dtl", backbone) for backbone in options.names("backbone")]
    + OVERLAYS  # a method and a backbone meet only there
)


@pytest.mark.parametrize(("method", "backbone"), PAIRS)
def test_every_method_and_every_backbone_composes(method: str, backbone: str) -> None:
    config = compose.single([f"method={method}", f"backbone={backbone}"])
    assert (config.factors.method, config.factors.backbone) == (method, backbone)
    assert config.title
    assert config.train.lr > 0
    assert config.train.head_lr > 0


@pytest.mark.parametrize("dataset", [name for name in known_options("dataset", []) if "/" in name])
def test_every_task_composes_and_a_suite_says_what_to_do(dataset: str) -> None:
    if isinstance(options.content("dataset", dataset).get("suite"), list):
        with pytest.raises(UserError, match="add -m to sweep it"):
            compose.single([f"dataset={dataset}"])
    else:
        task = compose.single([f"dataset={dataset}"]).dataset
        assert task.classes > 1
        assert dataset == f"{task.suite}/{task.target.values['name']}"


# Each is on a page, whose commands tests/test_docs.py composes.
@pytest.mark.parametrize(
    "experiment", sampled(known_options("experiment", []), ("demo", "table2_paper"))
)
def test_every_experiment_composes(experiment: str) -> None:
    assert compositions.by_hydra([f"experiment={experiment}"]).train.epochs > 0


def test_values_that_differ_on_a_backbone_come_in() -> None:
    for backbone, block in (("swin_b", 15), ("vit_b16", 7)):
        config = compose.single(["method=dtl", f"backbone={backbone}"])
        assert config.method.values["inject_from"] == block


def test_the_plan_of_vtab(tmp_path: Path) -> None:
    arguments = ["-m", "method=dtl,lora", "dataset=vtab", "backbone=vit_b16", "seed=0,1,2"]
    code, told = in_process(tmp_path, *arguments, "hydra.sweeper.dry_run=true")
    assert code == 0
    assert "plan: 114 runs, 0 finished (skipped), 114 to run" in told
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_is_a_sweep_and_the_command_line_wins(tmp_path: Path) -> None:
    arguments = ["-m", "experiment=demo", "seed=1,2", "hydra.sweeper.dry_run=true"]
    code, told = in_process(tmp_path, *arguments)
    assert code == 0
    methods = 7
    assert f"plan: {methods * 3 * 2} runs, 0 finished" in told
    assert "seed 0" not in told


def test_a_value_that_one_of_the_methods_lacks_or_that_is_null_can_be_swept(
    tmp_path: Path,
) -> None:
    arguments = ["-m", "method=dtl", "method.beta=null", "dataset=mini/land", "seed=0,1"]
    code, told = in_process(tmp_path, *arguments, "hydra.sweeper.dry_run=true")
    assert (code, told.count("to run  ")) == (0, 2), told
    arguments = ["-m", "method=dtl,lora", "method.beta=null", "dataset=mini/land"]
    code, told = in_process(tmp_path, *arguments, "hydra.sweeper.dry_run=true")
    assert code == 2
    assert "no key 'method.beta' to set" in told
    assert "method=lora" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=mini"], "names a suite, not one dataset; add -m"),
        (["method=paper"], "names a suite, not one method; add -m"),
        (["trian.lr=1"], "no key 'trian.lr' to set; did you mean 'train.lr'?"),
        (["-m", "method=lora", "method.rank=0"], "rank is 0; it must be a whole number from 1 to"),
        (["method=dtl", "method.inject_from=13"], "inject_from 13 is outside the network's 12"),
        (["backbone.checkpoint=none.pth"], "checkpoint 'none.pth' does not exist"),
        (["wandb.mode=on"], "unknown wandb.mode 'on'"),
        (["method.rank=4"], "no key 'method.rank' to set"),
        (["train.lr=[1"], "cannot read 'train.lr=[1'"),
        (["seed=x"], "seed is x; it must be a whole number"),
        (["method=lora,dtl"], "'method=lora,dtl' names several values; add -m"),
        (["experiment=mini"], "this experiment is a sweep (method=paper dataset=mini seed=0,1,2)"),
        (["-m", "experiment=mini,demo"], "experiment=mini is a sweep itself"),
        (["hydra.sweeper.dry_run=true"], "prints the plan of a sweep; add -m"),
        (["-m", "hydra.sweeper.dry_run=maybe"], "dry_run is maybe; it must be true or false"),
        (["-m", "hydra.sweep.dir=out"], "hydra.sweep.dir has no effect: records go to"),
        (["hydra.run.dir=out"], "hydra.run.dir has no effect: records go to results.root"),
        (["++hydra.job.chdir=true"], "hydra.job.chdir has no effect"),
        (["-m", "hydra.launcher.workers=2"], "workers belongs to a launcher; add hydra/launcher="),
        (
            ["-m", "hydra/launcher=joblbi"],
            "unknown hydra/launcher 'joblbi'; Known: basic, local, ray, slurm",
        ),
        (["-m", "hydra/launcher=local", "hydra.launcher.workers=0"], "launcher.workers is 0; it"),
        (["-m", "hydra/launcher=local", "hydra.launcher.worker=2"], "hydra.launcher.worker"),
        (["-m", "hydra/sweeper=basic"], "hydra/sweeper=basic cannot expand suites"),
        (["-m", "hydra.sweeper=null"], "hydra.sweeper cannot be changed as a whole"),
        (["~method"], "method cannot be left out; a run needs one: method=NAME"),
        (["-m", "~protocol=final"], "protocol cannot be left out; a run needs one"),
        (["+hydra.foo=1"], "unknown key below hydra 'foo'; Known: "),
        (["-m", "+hydra.sweeper.foo=1"], "unknown key below hydra.sweeper 'foo'; Known: dry_run"),
        (["+hydra.job.nme=x"], "unknown key below hydra.job 'nme'; did you mean 'name'?"),
        (["protocol=probe", "protocol.tests=[nan]"], "protocol.tests is [nan]; it must be finite"),
        (["dataset=true"], "unknown dataset 'true'"),
        (["-m", "device=x"], "unknown device 'x'"),
        (["-m", "backbone.checkpoint=x"], "checkpoint 'x' has no known format"),
        (["-m", "dataset=glob(vtab/*)"], "matches no option; name a suite"),
        (["-m", "--cfg", "job"], "leave out -m"),
        (
            ["recipe=paper"],
            "linear on vit_mini and mini/digits; it has some for linear on vit_b16",
        ),
        (
            ["-m", "dataset=vtab/cifar", "backbone=vit_mini"],
            "vtab/cifar has no folder 'data/vtab/cifar'",
        ),
        (["-m", "dataset=vtab/dtd,vtab/kitti", "backbone=vit_mini"], "(refused too: vtab/kitti)"),
        (["-m", "dataset=vtab"], "dataset=vtab needs a backbone: add backbone=NAME, one of "),
        (["-m", "dataset=glob(vt*)"], "dataset=vtab needs a backbone"),
        (["dataset=fewshot/pets"], "dataset=fewshot/pets needs a backbone"),
        (["dataset='vtab/cifar'"], "dataset=vtab/cifar needs a backbone"),
        (["-m", "experiment=mini", "dataset=vtab"], "dataset=vtab needs a backbone"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, output = in_process(tmp_path, *arguments)
    assert code == 2, output
    [line] = output.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_process_ends_as_the_tests_of_mistakes_do_in_theirs(tmp_path: Path) -> None:
    arguments = ["-m", "trian.lr=1"]  # found by Hydra, without an import of torch
    code, output = finished(tmp_path, *arguments)
    assert (code, output) == in_process(tmp_path, *arguments)
    assert code == 2


@pytest.mark.parametrize(
    ("mode", "compositions", "ends"),
    [([], 1, (2, "add -m")), (["hydra.mode=MULTIRUN"], 2, (0, "plan: 1 run,"))],
)
def test_hydra_composes_twice_only_to_learn_a_mode(
    mode: list[str],
    compositions: int,
    ends: tuple[int, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted, composed = [], Hydra.compose_config

    def counting(self: Hydra, *given: Any, **named: Any) -> Any:
        counted.append(given)
        return composed(self, *given, **named)

    monkeypatch.setattr(Hydra, "compose_config", counting)
    code, told = in_process(tmp_path, "dataset=mini/digits", *mode, "hydra.sweeper.dry_run=true")
    assert (code, ends[1] in told, len(counted)) == (ends[0], True, compositions), told


def test_options_may_be_added_as_in_other_projects(tmp_path: Path) -> None:
    dry = ["-m", "hydra.sweeper.dry_run=true"]
    added = in_process(tmp_path, *dry, "+experiment=demo", "++dataset=mini/digits")
    assert added == in_process(tmp_path, *dry, "experiment=demo", "dataset=mini/digits")
    assert added[0] == 0
    code, output = in_process(tmp_path, "+backbone=true")
    assert code == 2
    assert output.startswith("error: unknown backbone 'true'")


@pytest.mark.usefixtures("few_images")
def test_an_interrupted_sweep_resumes_without_repeating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ctrl-C in the middle of the second run; signals to processes are slow tests."""
    sweep = ["-m", "method=linear", "dataset=mini/location", "seed=range(3)", *FEW, *OVERRIDES]
    with monkeypatch.context() as patched:
        patched.setattr(trainer.TrainingLoop, "_test", _interrupted_at(2))
        code, told = in_process(tmp_path, *sweep)
    assert code == 130
    assert "interrupted; finished runs are kept, the same command does the rest" in told
    before = records(tmp_path)
    assert len(before) == 1
    code, told = in_process(tmp_path, *sweep)
    assert (code, len(records(tmp_path))) == (0, 3), told
    assert "3 runs, 1 finished (skipped), 2 to run" in told
    assert before.items() <= records(tmp_path).items()
    after = records(tmp_path)
    assert (in_process(tmp_path, *sweep)[0], records(tmp_path)) == (0, after)


def _interrupted_at(number: int) -> Callable[..., object]:
    """A test that is interrupted at its given call."""
    calls, test = itertools.count(1), trainer.TrainingLoop._test

    def tested(*given: Any, **named: Any) -> object:
        if next(calls) == number:
            raise KeyboardInterrupt
        return test(*given, **named)

    return tested


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_resumes_without_repeating(tmp_path: Path, stop: signal.Signals) -> None:
    sweep = ["-m", "method=linear", "dataset=mini/location", "seed=range(4)", *QUICK]
    process = command(tmp_path, *sweep)
    wait_for(tmp_path, 1)
    process.send_signal(stop)
    told, _ = process.communicate(timeout=60)
    assert (
        process.returncode
        == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}[stop]
    ), told
    before = records(tmp_path)
    assert 1 <= len(before) < 4
    code, told = finished(tmp_path, *sweep)
    assert code == 0, told
    assert f"4 runs, {len(before)} finished (skipped), {4 - len(before)} to run" in told
    after = records(tmp_path)
    assert len(after) == 4
    assert before.items() <= after.items()
    code, told = finished(tmp_path, *sweep)
    assert (code, records(tmp_path)) == (0, after)


@pytest.mark.usefixtures("few_images")
def test_a_failure_is_listed_and_the_rest_runs(tmp_path: Path) -> None:
    few = ["method=full", "dataset=mini/location", *FEW, *OVERRIDES]
    sweep = ["-m", *few, "train.lr=1e30,1e-3"]
    code, told = in_process(tmp_path, *sweep)
    assert code == 1
    assert "[2/2 ok=1 failed=1" in told
    [line] = [line for line in told.splitlines() if line.startswith("diverged: ")]
    assert line.startswith("diverged: full mini/location seed 0")
    assert ": the training loss became" in line
    assert "train.lr=1e+30" in line
    assert sorted(r["status"] for r in Store(tmp_path / "results" / "runs").records()) == [
        "diverged",
        "finished",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"results"}
    code, told = in_process(tmp_path, *few, "train.lr=1e-3")
    assert code == 0
    assert "finished already: results/runs/mini/location/full-petlbench_shallow-seed0-" in told


def test_published_values_are_compared_inside_a_command(tmp_path: Path) -> None:
    """`recipe.changed` composes the options once more, while Hydra is at work."""
    paper = ["recipe=paper", "backbone=vit_b16", "dataset=vtab/cifar", "train.lr=3"]
    arguments = ["-m", "method=lora,lora_noah", *paper, "hydra.sweeper.dry_run=true"]
    code, output = in_process(tmp_path, *arguments)
    assert code == 0, output
    assert "plan: 2 runs, 0 finished (skipped), 2 to run" in output
