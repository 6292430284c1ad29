"""Damaged records, deltas, caches and stores under every command that reads them.

A command heals the file, or skips or refuses it by its name. It never gives another number.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.torture import scenarios
from tests.torture.processes import Command, run
from tests.torture.scenarios import Snapshot, snapshot

Damage = Callable[[bytes], bytes]


def _record(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """A change of what a JSON file holds."""

    def damage(content: bytes) -> bytes:
        record = json.loads(content)
        changed = change(record)
        return json.dumps(record if changed is None else changed).encode()

    return damage


def _without(key: str) -> Damage:
    return _record(lambda record: record.pop(key) and None)


def _with(key: str, value: object) -> Damage:
    return _record(lambda record: record.update({key: value}))


def _scores(**values: object) -> Damage:
    def change(record: dict[str, Any]) -> None:
        for score in record["scores"].values():
            score.update(values)

    return _record(change)


def _flipped(content: bytes) -> bytes:
    """One bit in the second half: among tensors or pixels, behind every header."""
    place = len(content) * 3 // 4
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


BYTES: dict[str, Damage] = {
    "empty": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content[:-1],
    "a flipped bit": _flipped,
    "zeros": lambda content: bytes(len(content)),
    "no text": lambda _: b"\xff\xfe\x00" * 50,
    "longer": lambda content: content + b"\x00" * 100,
}
RECORDS: dict[str, Damage] = {
    "empty": lambda _: b"",
    "cut": BYTES["cut"],
    "no text": BYTES["no text"],
    "no JSON": lambda _: b"{oops",
    "a list": lambda _: b"[]",
    "a number": lambda _: b"3",
    "only a schema": lambda _: b'{"schema": 1}',
    "deep": lambda _: b"[" * 100_000,
    "no id": _without("id"),
    "no status": _without("status"),
    "no factors": _without("factors"),
    "no config": _without("config"),
    "no scores": _without("scores"),
    "no cost": _without("cost"),
    "another status": _with("status", "done"),
    "a number as status": _with("status", 3),
    "factors of text": _with("factors", "linear"),
    "a later schema": _with("schema", 99),
    "another id": _with("id", "0" * 16),
    "top1 too high": _scores(top1=250.0),
    "top1 of a text": _scores(top1="99"),
    "top1 against its counts": _scores(top1=99.9),
    "top1 is NaN": _scores(top1=float("nan")),
    "no totals": _scores(total=0),
    "a target to call": _record(
        lambda record: record["config"]["method"].update(
            {"_target_": "os.system", "command": "touch called"}
        )
    ),
}


@dataclass(frozen=True)
class Target:
    """A kind of file: where it lies, and what is done to it."""

    pattern: str
    damages: dict[str, Damage]


TARGETS = {
    "record": Target("results/runs/**/linear*seed0*.json", RECORDS),
    "delta": Target("results/runs/**/linear*seed0*.safetensors", BYTES),
    "cache": Target("cache/mini/**/*", BYTES),
    "store": Target("cache/folder/*.u8", BYTES),
    "side file of the store": Target("cache/folder/*.json", {**BYTES, "a list": lambda _: b"[]"}),
}


def attack(top: Path) -> Iterator[tuple[str, str]]:
    """(`tried`, what) for each trial, and (`wrong`, why) for each fault."""
    base = top / "base"
    base.mkdir()
    commands = _prepared(base)
    expected = snapshot(base)
    printed = {command: run(command, base).output for command in commands}
    for kind, target in TARGETS.items():
        paths = [path for path in sorted(base.glob(target.pattern)) if path.is_file()]
        assert paths, f"{kind}: no file {target.pattern}"
        for name, damage in target.damages.items():
            for command in commands:
                folder = top / "trial"
                shutil.copytree(base, folder, symlinks=True)
                damaged = folder / paths[0].relative_to(base)
                damaged.write_bytes(damage(damaged.read_bytes()))
                what = f"{kind}, {name}, {command.module} {command.arguments[0]}"
                yield "tried", what
                for fault in _faults(command, folder, damaged, expected, printed[command]):
                    yield "wrong", f"{what}: {fault}"
                shutil.rmtree(folder)


def _prepared(base: Path) -> list[Command]:
    """The commands that read what two scenarios leave in a folder; all have run there once."""
    own = scenarios.images_of_a_folder(base)
    sweep = scenarios.sweep(base)
    for command in (own, sweep):
        end = run(command, base)
        assert end.code == 0, end.output
    [delta] = base.glob("results/runs/folder/**/linear*.safetensors")
    name = delta.relative_to(base).as_posix()
    reports = Command(
        "petlbench.report",
        ("leaderboard", "--records", "results/runs", "--suite", "mini", "--out", "out"),
    )
    predict = Command(
        "petlbench.predict", ("--delta", name, "photos/test"), environment=own.environment
    )
    for command in (reports, predict):
        end = run(command, base)
        assert end.code == 0, f"{command}: {end.output}"
    return [sweep, own, reports, predict]


def _faults(
    command: Command, folder: Path, damaged: Path, expected: Snapshot, printed: str
) -> Iterator[str]:
    """A traceback, a number that differs, or a damaged file that nobody names or heals."""
    end = run(command, folder)
    if end.traceback or end.code not in (0, 1, 2):
        yield f"exit code {end.code}: {end.output[-1000:]}"
        return
    if (folder / "called").exists():
        yield "code from the file was called"
    after = snapshot(folder)
    name = damaged.relative_to(folder).as_posix()
    named = damaged.name in end.output or damaged.stem in end.output
    predicts = command.module == "petlbench.predict"
    if predicts and end.code == 0 and end.output != printed and not named:
        yield f"other predictions, and the damaged file is not named: {end.output[-300:]}"
    for path, content in expected.items():
        is_number = path.endswith((".csv", ".json")) and not path.startswith("cache")
        if is_number and path != name and after.get(path, content) != content and not named:
            yield f"{path} differs, and the damaged file is not named: {end.output[-500:]}"
