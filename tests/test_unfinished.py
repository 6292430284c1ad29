"""A run that was stopped goes on from what it has saved, with the same bits."""

import errno
import hashlib
import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from petlbench import registry
from petlbench.config import compose
from petlbench.config.schema import Config
from petlbench.data.augment import Augmentation
from petlbench.delta import delta_tensors
from petlbench.method import Method, Step
from petlbench.model.backbone import Backbone
from petlbench.run import contents, provenance
from petlbench.run.identity import identity, placeless
from petlbench.run.lifecycle import seed_everything
from petlbench.run.record import DELTA, UNFINISHED, Record, Store
from petlbench.run.training import run
from petlbench.testing import declared, method_on, tiny
from petlbench.train import unfinished
from petlbench.train.phase import Diverged, Epoch, Phase, changing
from petlbench.train.trainer import TrainingLoop
from petlbench.train.unfinished import Unfinished
from tests import processes
from tests.helpers import sampled, unsaved
from tests.loops import VIEW, bright, feed, trainer
from tests.settings import augment, config, train, with_values
from tests.shallow import shallow, shallow_method
from tests.torture.scenarios import images_of_a_folder

EPOCHS, STOP = 3, 2
TIMES = {"train_s", "scored_s", "test_s", "train_images_per_s", "test_images_per_s"}
Change = Callable[[Config], Config]


@contextmanager
def stopping(after: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupt what happens in the block when so many parts have been saved."""
    save, saved = Unfinished.save, 0

    def counted(self: Unfinished, name: str, state: Any, at: str) -> None:
        nonlocal saved
        save(self, name, state, at)
        saved += 1
        if saved == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "save", counted)
        with pytest.raises(KeyboardInterrupt):
            yield


def values(**changes: Any) -> dict[str, Any]:
    """Three epochs, each of which is saved."""
    return {"epochs": EPOCHS, "checkpoint_every": 1} | changes


def loop(folder: Path, kind: str = "plain") -> tuple[TrainingLoop, Method]:
    """A training of a kind, as a process begins it."""
    name, drop_path, changes, others = KINDS[kind]
    seed_everything(0)
    made = shallow_method(name, drop_path, **VALUES.get(name, {}))
    arguments: dict[str, Any] = {"fit": bright(10, seed=1), "unfinished": unsaved(folder)} | others
    return trainer(train=train(**values(batch_size=4, **changes)), **arguments), made


def result(begun: TrainingLoop, made: Method) -> dict[str, Any]:
    """What a training leaves, after it was done to its end."""
    made.fit(begun)
    history = [asdict(epoch) for epoch in begun.history]
    seen = (begun.spent.images_seen, begun.spent.images_scored)
    best = begun.best and begun.best.number
    tensors = {name: value.tolist() for name, value in delta_tensors(made).items()}
    return {"history": history, "seen": seen, "best": best, "tensors": tensors}


def chosen() -> dict[str, Any]:
    splits = {"fit": bright(18, seed=1), "select": {"val": bright(10, seed=2)}}
    return splits | {"keep_best": True, "every_epochs": 1}


def augmented() -> dict[str, Any]:
    changes = augment(color_jitter=0.4, erase=0.5)
    return {"feed": feed(Augmentation(changes, VIEW, mean=[0.5] * 3))}


# what each keeps beside its weights: masks, mixing, augmentations, the best epoch
KINDS: dict[str, tuple[str, float, dict[str, Any], dict[str, Any]]] = {
    "plain": ("linear", 0.0, {}, {}),
    "dropped": ("lora", 0.3, {"accumulate": 2, "clip_grad": 0.1, "drop_last": False}, {}),
    "mixed": ("dtl_plus", 0.0, {"mixup": 0.8, "cutmix": 1.0, "optimizer": "sgd"}, {}),
    "augmented": ("ssf", 0.0, {}, augmented()),
    "best_on_val": ("sct", 0.0, {"lr": 0.2, "head_lr": 0.2}, chosen()),
    "full": ("full", 0.3, {}, {}),
    "side": ("lst", 0.0, {}, {}),
    "recomputed": ("lora", 0.3, {"memory": "min"}, {}),
}
VALUES: dict[str, dict[str, Any]] = {"dtl_plus": {"inject_from": 2}}  # of three blocks
FAST = ("dropped", "mixed", "augmented", "best_on_val", "recomputed")


@pytest.mark.parametrize("kind", sampled(KINDS, FAST))
def test_a_stopped_training_goes_on_with_the_same_bits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = result(*loop(tmp_path / "whole", kind))
    assert expected["best"] == (1 if kind == "best_on_val" else None)  # before the stop
    with stopping(STOP, monkeypatch):
        result(*loop(tmp_path / "cut", kind))
    begun, made = loop(tmp_path / "cut", kind)
    assert result(begun, made) == expected
    assert begun.unfinished.resumed == ["training after epoch 2 of 3"]


class Counter(nn.Module):
    """State that is no tensor: training steps, which torch saves as extra state."""

    steps = 0

    def get_extra_state(self) -> int:
        return self.steps

    def set_extra_state(self, state: int) -> None:
        self.steps = state


class Fading(Method):
    """The head shrinks more and more from step to step."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.counter = Counter()

    def after_step(self, step: Step) -> None:
        self.counter.steps += 1
        with torch.no_grad():
            for tensor in self.backbone.head.parameters():
                tensor.mul_(0.99**self.counter.steps)


def test_extra_state_of_modules_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(name: str) -> tuple[TrainingLoop, Method]:
        begun, made = loop(tmp_path / name)
        return begun, Fading(made.backbone)

    expected = result(*begin("whole"))
    with stopping(STOP, monkeypatch):
        result(*begin("cut"))
    assert result(*begin("cut")) == expected


def tried(root: Path, name: str = "linear", protocol: str = "final", **changes: Any) -> Config:
    settings = config(root, name, protocol, **values(**changes))
    return with_values(settings, **declared(name).get("tiny", {}))


def folders(settings: Config) -> list[Path]:
    return list(Path(settings.results.root).glob(f"**/*{UNFINISHED}"))


def decided(settings: Config, record: Record) -> dict[str, Any]:
    """What the training decides of a record, and the bytes of the delta."""
    assert record["status"] == "finished", record["reason"]
    cost = {key: value for key, value in record["cost"].items() if key not in TIMES}
    parts = {key: record[key] for key in ("id", "scores", "selection", "curve")}
    delta = Store(settings.results.root).path(record, DELTA).read_bytes()
    return parts | {"cost": cost, "delta": delta}


def assert_goes_on(
    root: Path, change: Change, monkeypatch: pytest.MonkeyPatch, after: int = STOP, **how: Any
) -> Record:
    """Compare a run that was stopped with one that was not; returns the record of the former."""
    whole, cut = (change(tried(root / name, **how)) for name in ("whole", "cut"))
    expected = decided(whole, run(whole))
    with stopping(after, monkeypatch):
        run(cut)
    assert folders(cut) != []
    record = run(cut)
    assert decided(cut, record) == expected
    assert folders(whole) == folders(cut) == []
    return record


def same(settings: Config) -> Config:
    return settings


def dropped(settings: Config) -> Config:
    return replace(settings, backbone=replace(settings.backbone, drop_path=0.3))


def shallow_and_dropped(settings: Config) -> Config:
    return dropped(shallow(settings))


def test_a_stopped_run_leaves_the_record_and_the_delta_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"name": "lora", "protocol": "best_on_val"}
    record = assert_goes_on(tmp_path, shallow_and_dropped, monkeypatch, **how)
    assert record["notes"]["resumed"] == "training after epoch 2 of 3"
    assert record["cost"]["train_s"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in registry.names() if registry.kind(n).takes_steps])
def test_every_method_goes_on_with_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_goes_on(tmp_path, dropped, monkeypatch, name=name)


@pytest.mark.slow  # tests/test_noah.py stops one search quickly
@pytest.mark.parametrize("after", range(1, 7))
def test_a_search_goes_on_from_each_of_its_parts(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = assert_goes_on(tmp_path, same, monkeypatch, after, name="noah")
    assert "supernet after epoch 1 of 1" in record["notes"]["resumed"]


def test_a_stop_between_two_saves_costs_the_epochs_since_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def begin() -> tuple[TrainingLoop, Method]:
        settings = train(epochs=5, checkpoint_every=2)
        loop = trainer(train=settings, unfinished=unsaved(tmp_path), on_epoch=seen)
        return loop, shallow_method("linear")

    def seen(epoch: Epoch) -> None:
        trained.append(epoch.number)
        if len(trained) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        result(*begin())
    begun, made = begin()
    result(begun, made)
    assert trained == [1, 2, 3, 4, *(1, 2), 3, 4, 5]
    assert begun.spent.images_seen == 5 * 32


def test_nothing_is_saved_unless_it_is_asked_for(tmp_path: Path) -> None:
    begun = trainer(train=train(), unfinished=unsaved(tmp_path))
    begun.train(shallow_method("linear"))
    assert list(tmp_path.iterdir()) == []


def test_it_is_no_part_of_the_identity_of_a_run(tmp_path: Path) -> None:
    plain = [
        contents.identified(tried(tmp_path, checkpoint_every=every)) for every in (None, 1, 5)
    ]
    assert len({identity(each) for each in plain}) == 1
    assert "checkpoint_every" not in placeless(plain[1])["train"]


@pytest.mark.parametrize("value", ["0", "-1", "true", "x", "1.5"])
def test_wrong_values_are_refused(value: str) -> None:
    with pytest.raises(Exception, match=r"train\.checkpoint_every"):
        compose.single(["method=linear", f"train.checkpoint_every={value}"])


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def without_random_states(content: bytes) -> bytes:
    """With a right digest."""
    part = torch.load(io.BytesIO(content[unfinished.DIGEST :]), weights_only=True)
    del part["random"]
    torch.save(part, written := io.BytesIO())
    return hashlib.sha256(written.getvalue()).digest() + written.getvalue()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-100],
    "flipped": flipped,
    "without a key": without_random_states,
    "pickle": lambda content: b"cos\nsystem\n(S'false'\ntR.",
}


def written(folder: Path, **stamp: object) -> Unfinished:
    made = Unfinished(folder, stamp, torch.device("cpu"), "a CPU")
    made.save("part", {"a": torch.ones(2), "b": [1, None, (2.5, "c")]}, "epoch 1 of 2")
    return made


def test_a_part_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    written(tmp_path, id="a").spent.images_seen = 5
    again = Unfinished(tmp_path, {"id": "a"}, torch.device("cpu"), "another CPU")
    state = again.load("part")
    assert torch.equal(state.pop("a"), torch.ones(2))
    assert state == {"b": [1, None, (2.5, "c")]}
    assert again.resumed == ["part after epoch 1 of 2"]
    assert again.spent.devices == ["a CPU", "another CPU"]
    assert again.load("other") is None


@pytest.mark.parametrize("lost", ["gone", "damaged", "made again"])
def test_a_part_is_not_used_without_the_one_before_it(
    lost: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as the scores of a search without the network that they are of."""
    begun, path = written(tmp_path), tmp_path / "part.pt"
    for at in ("1 of 2", "2 of 2"):  # each replaces the one before, and is no part after itself
        begun.save("scores", [1.0], at)
    whole = unsaved(tmp_path)
    assert whole.load("part") is not None
    assert whole.load("scores") == [1.0]
    path.write_bytes(b"cut") if lost == "damaged" else path.unlink()
    if lost == "made again":
        written(tmp_path).save("part", {}, "another one")
    later = unsaved(tmp_path)
    assert (later.load("part") is None) == (lost != "made again")
    assert later.load("scores") is None
    assert "goes on from a part that is lost; scores starts from the beginning" in caplog.text


def test_a_part_of_another_run_or_version_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path, id="a", torch="2.6", timm="1")
    other = Unfinished(tmp_path, {"id": "b", "torch": "2.7", "timm": "1"}, torch.device("cpu"), "")
    before = torch.get_rng_state()
    assert other.load("part") is None
    assert other.resumed == []
    assert "was saved with another id, torch; part starts from" in caplog.text
    same_run = Unfinished(tmp_path, {"id": "a", "torch": "2.6", "timm": "1"}, other.device, "")
    assert same_run.load("part", fits=lambda state: False) is None
    assert "is of another network" in caplog.text
    assert torch.equal(torch.get_rng_state(), before)


def test_other_code_of_a_method_is_other_software(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own_method_of_a_test.py"
    file.write_text("class Own: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = import_module(file.stem).Own
    before = provenance.code(own)
    (tmp_path / ".#open.py").symlink_to("nothing")  # of an editor
    provenance.code.cache_clear()
    assert provenance.code(own) == before
    file.write_text("class Own: rank = 2\n")
    provenance.code.cache_clear()  # as in a later process
    assert provenance.code(own) != before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_named_in_a_warning(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path)
    path = tmp_path / "part.pt"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert unsaved(tmp_path).load("part") is None
    [warning] = [each.getMessage() for each in caplog.records]
    assert warning == f"'{path}' is damaged; part starts from the beginning"


def test_a_training_without_its_part_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = result(*loop(tmp_path / "whole"))
    with stopping(STOP, monkeypatch):
        result(*loop(tmp_path / "cut"))
    path = tmp_path / "cut" / "training.pt"
    path.write_bytes(flipped(path.read_bytes()))
    begun, made = loop(tmp_path / "cut")
    assert result(begun, made) == expected
    assert begun.unfinished.resumed == []


class Trap:
    """Its pickle calls a function when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_reading_a_part_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    unsaved(tmp_path).save("part", Trap(), "epoch 1 of 2")
    assert unsaved(tmp_path).load("part") is None
    assert "is damaged" in caplog.text
    assert not (tmp_path / "trapped").exists()


def test_a_full_disk_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def full(path: Path) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    expected = result(*loop(tmp_path))
    monkeypatch.setattr(unfinished, "replacing", full)
    assert result(*loop(tmp_path / "full")) == expected
    assert caplog.text.count("No space left on device") == 1


@pytest.mark.parametrize(
    ("error", "is_kept"),
    sampled(
        [(Diverged, False), (ZeroDivisionError, True), (MemoryError, True)], [(Diverged, False)]
    ),
)
def test_what_was_saved_goes_when_the_run_has_an_end_of_its_own(
    error: type[Exception], is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = shallow(tried(tmp_path))
    with stopping(STOP, monkeypatch):
        run(settings)

    def broken(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Phase, "_step", broken)
        record = run(settings)
    assert record["status"] in ("diverged", "failed", "out_of_memory")
    assert record["notes"]["resumed"] == "training after epoch 2 of 3"
    assert bool(folders(settings)) == is_kept


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_goes_on(sent: signal.Signals, tmp_path: Path) -> None:
    data = ("dataset=folder", "dataset.root=photos", "input.size=48", "device=cpu")
    training = ("backbone=vit_mini", "train.epochs=12", "train.checkpoint_every=1")
    arguments = ("method=lora", *data, *training)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        images_of_a_folder(folder)
    assert processes.finished(whole, *arguments)[0] == 0
    process = processes.command(cut, *arguments)
    deadline = time.monotonic() + 120
    while not list(cut.glob(f"**/*{UNFINISHED}/training.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert processes.records(cut) == {}
    code, output = processes.finished(cut, *arguments)
    assert code == 0, output
    assert "goes on from" in output
    first, second = (
        (store := Store(folder / "results" / "runs"), next(store.records()))
        for folder in (whole, cut)
    )
    assert second[1]["scores"] == first[1]["scores"]
    assert second[1]["curve"] == first[1]["curve"]
    deltas = [store.path(record, DELTA).read_bytes() for store, record in (first, second)]
    assert deltas[0] == deltas[1]


def test_codes_of_quantised_weights_are_built_again_and_not_saved() -> None:
    method = method_on(tiny("vit", weights="int8"), "dtl")
    codes = [name for name, _ in method.named_buffers() if ".codes_" in name]
    assert codes
    saved = changing(method)
    assert not saved.keys() & set(codes)
    assert saved.keys() >= delta_tensors(method).keys()
