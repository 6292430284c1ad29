"""Claims: one process does a run, and a claim outlives no owner."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from petlbench.run import claims
from petlbench.run.claims import Claim, Claims, Owner
from petlbench.run.record import Store
from petlbench.system import ABANDONED_S, WriteError

OTHER = Owner("far-away", 1, "2026-01-01T00:00:00+00:00", "another kernel")
HOLD = """
import sys, time
from petlbench.run.claims import Claims
claim = Claims(sys.argv[1]).take("run")
print(claim is not None, flush=True)
time.sleep(60)
"""


def taken(watching: Claims, name: str = "run") -> Claim:
    claim = watching.take(name)
    assert claim is not None
    return claim


def write(root: Path, owner: Owner, beat: int = 0) -> Path:
    path = root / claims.FOLDER / "run"
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(asdict(owner)).encode() + b"\n" + claims._beats(beat)
    path.write_bytes(text)
    return path


class Clock:
    """A monotonic clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(time, "monotonic", moved)
    return moved


def test_a_run_is_claimed_once_and_again_after_its_release(tmp_path: Path) -> None:
    one, other = Claims(tmp_path), Claims(tmp_path)
    with taken(one, "run"):
        assert other.take("run") is None
        assert one.take("run") is None
        with taken(other, "another"):
            assert list(one.owners()) == ["another", "run"]
            owner = one.owners()["run"]
            assert (owner.pid, owner.is_gone) == (os.getpid(), False)
    assert not (tmp_path / claims.FOLDER).exists()
    with taken(other, "run"):
        pass


@pytest.mark.parametrize("is_left", [False, True], ids=["new", "left by a dead process"])
def test_of_many_at_once_one_gets_it(is_left: bool, tmp_path: Path) -> None:
    if is_left:
        write(tmp_path, replace(OTHER, pid=2**22 + 1, system=claims._system()))

    def take(number: int) -> Claim | None:
        return Claims(tmp_path).take("run")

    with ThreadPoolExecutor(16) as pool:
        found = [claim for claim in pool.map(take, range(64)) if claim is not None]
    assert len(found) == 1
    found[0].release()
    assert list(tmp_path.rglob("*")) == []


def test_a_claim_that_beats_stays_however_long(tmp_path: Path, clock: Clock) -> None:
    watching = Claims(tmp_path)
    for beat in range(10):
        write(tmp_path, OTHER, beat)
        assert watching.take("run") is None
        clock.now += claims.FREE_S - 1


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\x00", b'{"pid": true}', b"[1]\n0"])
def test_a_claim_that_does_not_change_is_free_after_a_minute(
    content: bytes | None, tmp_path: Path, clock: Clock
) -> None:
    path = write(tmp_path, OTHER)
    if content is not None:  # garbage
        path.write_bytes(content)
        assert Claims(tmp_path).owners() == {}
    # its date says nothing: clocks of two machines may differ by hours
    os.utime(path, (0, 0))
    watching = Claims(tmp_path)
    assert watching.take("run") is None
    clock.now += claims.FREE_S
    assert watching.take("run") is None
    assert Claims(tmp_path).take("run") is None  # who has just come has not seen it for a minute
    clock.now += 1
    with taken(watching, "run"):
        pass


def test_a_claim_that_was_taken_between_two_looks_stays_with_its_new_owner(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, OTHER)
    slow = Claims(tmp_path)
    slow.take("run")
    clock.now += claims.FREE_S + 1
    rename = os.rename

    def late(source: Path, target: Path) -> None:
        write(tmp_path, replace(OTHER, pid=7))
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    assert slow.take("run") is None
    assert slow.owners()["run"].pid == 7


def test_who_is_slow_to_free_a_claim_leaves_that_of_the_next_owner_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, replace(OTHER, pid=2**22 + 1, system=claims._system()))
    next_owner: list[Claim] = []
    is_free, rename = Claims._is_free, os.rename
    moved: list[bytes] = []

    def slow(watching: Claims, identifier: str, content: bytes) -> bool:
        if not next_owner:
            monkeypatch.setattr(Claims, "_is_free", is_free)
            next_owner.append(taken(Claims(tmp_path)))
        return is_free(watching, identifier, content)

    def noted(source: Path, target: Path) -> None:
        moved.append(source.read_bytes())
        rename(source, target)

    dead = path.read_bytes()
    monkeypatch.setattr(Claims, "_is_free", slow)
    monkeypatch.setattr(os, "rename", noted)
    assert Claims(tmp_path).take("run") is None
    assert moved == [dead]
    next_owner[0].release()
    assert list(tmp_path.rglob("*")) == []


def test_the_claim_of_a_process_that_died_while_it_freed_another_is_freed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = replace(OTHER, pid=2**22 + 1, system=claims._system())
    path = write(tmp_path, gone)
    name = f"{claims.REMOVAL}{hashlib.sha256(path.read_bytes()).hexdigest()}"
    path.with_name(name).write_bytes(path.read_bytes() + b" ")
    with taken(Claims(tmp_path)):
        pass
    assert list(tmp_path.rglob("*")) == []


def test_what_a_process_leaves_that_dies_after_a_removal_is_removed(tmp_path: Path) -> None:
    """And no removal of a process that lives."""
    folder = tmp_path / claims.FOLDER
    with taken(Claims(tmp_path), f"{claims.REMOVAL}1"):
        left = folder / f"{claims.REMOVAL}2"
        left.write_bytes(b"of a dead process, maybe of another machine")
        Store(tmp_path).clean()
        assert left.exists()
        long_ago = time.time() - 2 * ABANDONED_S
        os.utime(left, (long_ago, long_ago))
        Store(tmp_path).clean()
        assert [path.name for path in folder.iterdir()] == [f"{claims.REMOVAL}1"]


def test_the_owner_renews_its_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.02)
    claim = taken(Claims(tmp_path))
    seen: set[bytes] = set()
    deadline = time.monotonic() + 10
    while len(seen) < 3 and time.monotonic() < deadline:
        seen.add(claim.path.read_bytes())
        time.sleep(0.02)
    claim.release()
    assert len(seen) >= 3
    assert len({len(content) for content in seen}) == 1


def test_an_owner_that_lost_its_claim_does_not_remove_the_next(tmp_path: Path) -> None:
    claim = taken(Claims(tmp_path))
    claim.path.unlink()
    with taken(Claims(tmp_path)):
        claim.release()
        assert Claims(tmp_path).take("run") is None


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGTERM])
def test_the_claim_of_a_killed_process_of_this_machine_is_free_at_once(
    which: signal.Signals, tmp_path: Path
) -> None:
    holding = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holding.stdout is not None
    assert holding.stdout.readline() == "True\n"
    assert Claims(tmp_path).take("run") is None
    holding.send_signal(which)
    holding.wait()
    holding.stdout.close()
    with taken(Claims(tmp_path)):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / claims.FOLDER).write_text("")
    with pytest.raises(WriteError, match=r"cannot claim '.*run'"):
        Claims(tmp_path).take("run")
