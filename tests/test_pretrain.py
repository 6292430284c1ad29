"""Pre-training: the scenes and their labels, exact resumption, and the weights that ship."""

import ast
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import petlbench.mini
import petlbench.model.vit_mini
from petlbench.errors import UserError
from petlbench.mini.pretrain import Run, main
from petlbench.mini.recipe import Recipe, check_resumable
from petlbench.mini.scenes import HEADS, PATCH, SIZE, Generator

CPU = torch.device("cpu")
QUICK = ["--batch", "4", "--warmup", "2", "--calm-steps", "8", "--decay", "0.25"]
RECIPE = Recipe(
    steps=100,
    batch=8,
    processes=1,
    lr=1e-3,
    weight_decay=0.05,
    warmup=10,
    decay=0.2,
    calm_first=0.9,
    calm_last=0.3,
    calm_steps=50,
    seed=0,
)


def test_equal_seeds_draw_equal_scenes() -> None:
    first, again, other = (Generator(seed, CPU).draw(6, 0.5) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_labels_and_pixels_are_in_range() -> None:
    scenes = Generator(0, CPU).draw(64, 0.5)
    assert scenes.images.shape == (64, 3, SIZE, SIZE)
    assert scenes.images.min() >= 0
    assert scenes.images.max() <= 1
    assert set(scenes.labels) == set(HEADS)
    for kind, classes in HEADS.items():
        assert scenes.labels[kind].min() >= 0
        assert scenes.labels[kind].max() < classes


def test_position_labels_follow_what_the_sprite_covers() -> None:
    scenes = Generator(3, CPU).draw(256, 0.5)
    side = SIZE // PATCH
    cover = scenes.cover[..., 0].view(-1, side, side)
    middle = (torch.arange(side) + 0.5) / side
    total = cover.sum((1, 2)).clamp(min=1e-6)
    for kind, axis in (("x", 1), ("y", 2)):
        centre = (cover.sum(axis) * middle).sum(1) / total
        pair = torch.stack([centre, scenes.labels[kind].float()])
        assert torch.corrcoef(pair)[0, 1] > 0.9


def test_only_scenes_with_distractors_are_covered_by_them() -> None:
    scenes = Generator(4, CPU).draw(128, 0.5)
    others = scenes.cover[..., 1].sum(1)
    assert (others[scenes.labels["count"] == 0] == 0).all()
    assert (others[scenes.labels["count"] > 3] > 0).all()


def test_the_learning_rate_warms_up_stays_and_decays() -> None:
    assert RECIPE.decay_from == 80
    assert RECIPE.rate(0) == pytest.approx(1e-4)
    assert {RECIPE.rate(step) for step in range(9, 81)} == {1e-3}
    assert RECIPE.rate(90) == pytest.approx(5e-4)
    longer = replace(RECIPE, steps=1000)
    assert all(RECIPE.rate(step) == longer.rate(step) for step in range(81))
    assert all(RECIPE.calm(step) == longer.calm(step) for step in range(100))


def test_only_the_number_of_steps_may_change_before_the_decay() -> None:
    check_resumable(RECIPE, replace(RECIPE, steps=60), step=48)
    with pytest.raises(UserError, match="would have begun at 48"):
        check_resumable(RECIPE, replace(RECIPE, steps=60), step=49)
    with pytest.raises(UserError, match=r"lr 0\.001, not 0\.01"):
        check_resumable(RECIPE, replace(RECIPE, lr=0.01), step=0)


def trained(out: Path, *arguments: str) -> dict[str, torch.Tensor]:
    assert main(["--out", str(out), *QUICK, *arguments]) == 0
    return load_file(out / "vit_mini.safetensors")


def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petlbench.mini.pretrain.SAVE_EVERY", 8)
    monkeypatch.setattr("petlbench.mini.objective.HELDOUT_SCENES", 64)
    monkeypatch.setattr("petlbench.mini.objective.HELDOUT_BATCH", 64)
    straight = trained(tmp_path / "a", "--steps", "16")
    # Stopped after 8 of 40 steps, in the constant phase; then resumed to make 16 in all.
    with monkeypatch.context() as patched:
        patched.setattr(Run, "save", save_and_stop)
        assert main(["--out", str(tmp_path / "b"), *QUICK, "--steps", "40"]) == 2
    resumed = trained(tmp_path / "b", "--steps", "16", "--resume")
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


@pytest.mark.slow
def test_a_run_that_ends_within_a_chunk_of_scenes_continues_in_its_middle(
    tmp_path: Path,
) -> None:
    """The scenes of 8 steps are drawn at once; 3 and 11 steps end in the middle of a chunk."""
    straight = steps_of(tmp_path / "a", 18)
    for steps in (3, 11):
        steps_of(tmp_path / "b", steps)
    resumed = steps_of(tmp_path / "b", 18)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def steps_of(out: Path, steps: int) -> dict[str, torch.Tensor]:
    """Train to a step, from the saved state of a folder if there is one."""
    out.mkdir(exist_ok=True)
    run = Run(replace(RECIPE, steps=steps, batch=4, decay=0.0), out, CPU, rank=0)
    if (out / "state.pt").exists():
        run.load()
    run.train()
    return run.model.state_dict()


@pytest.mark.slow
def test_a_mistake_in_a_spawned_process_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("petlbench.mini.objective.HELDOUT_SCENES", 512)
    trained(tmp_path / "a", "--steps", "8", "--processes", "2")
    capfd.readouterr()
    arguments = ["--steps", "8", "--processes", "2", "--lr", "0.5", "--resume"]
    assert main(["--out", str(tmp_path / "a"), *QUICK, *arguments]) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert [line for line in error.splitlines() if line.startswith("error: ")] == [
        line for line in error.splitlines() if "lr 0.0012, not 0.5" in line
    ]


SAVE = Run.save


def save_and_stop(run: Run) -> None:
    """End a run after it has saved its state."""
    SAVE(run)
    raise UserError("stopped")


def test_a_folder_with_a_run_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state.pt").write_bytes(b"")
    assert main(["--out", str(tmp_path), "--steps", "8"]) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "none"), "--resume"]) == 2


MISTAKES = {
    "--steps 0": "--steps is 0; it must be a whole number of at least 1",
    "--lr nan": "--lr is nan; it must be a number above 0",
    "--decay 2": "--decay is 2.0; it must be a number from 0 to 1",
    "--warmup 1e3": "argument --warmup: invalid int value: '1e3'",
    "--batch 5 --processes 2": "--batch is 5; it must be a multiple of --processes 2",
    "--device gpu": "unknown --device 'gpu'; did you mean 'cpu'? Known: cpu, cuda",
    "--calm-steps": "argument --calm-steps: expected one argument",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["--out", str(tmp_path / "out"), *text.split()])
    except SystemExit as stop:  # how argparse ends
        status = int(stop.code or 0)
    error = capsys.readouterr().err
    assert (status, error.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])
    assert error.startswith(f"error: {MISTAKES[text]}")


def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for name in ("", "x" * 300, str(tmp_path / "file" / "out")):
        assert main(["--out", name, "--steps", "8"]) == 2
        assert capsys.readouterr().err.startswith(f"error: --out is '{name}'")


def test_the_shipped_weights_fit_and_are_small() -> None:
    file = resources.files(petlbench.mini) / "weights" / "vit_mini.safetensors"
    with resources.as_file(file) as path:
        state = load_file(path)
        assert path.stat().st_size < 5_000_000
    assert {value.dtype for value in state.values()} == {torch.float16}
    timm.create_model("vit_mini", num_classes=0).load_state_dict(state, strict=True)


def test_scenes_and_tasks_share_no_code() -> None:
    root = Path(petlbench.mini.__file__).parent
    scenes = {"scenes", "sprites", "draws", "objective", "recipe", "pretrain"}
    tasks = {"render", "suite", "tasks"}
    files = {name: [root / f"{name}.py"] for name in scenes | {"render", "suite"}}
    files["tasks"] = list((root / "tasks").glob("*.py"))
    for name, paths in files.items():
        forbidden = tasks if name in scenes else scenes
        for path in paths:
            assert not imported(path) & forbidden, path


def imported(path: Path) -> set[str]:
    """Modules of petlbench.mini that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("petlbench.mini"):
            names |= {*(node.module or "").split(".")[2:3], *(alias.name for alias in node.names)}
    return names
