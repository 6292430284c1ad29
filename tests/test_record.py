"""Records: identity, atomic writes, reading back."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from petlbench.config import compose
from petlbench.config.renamed import current_name
from petlbench.errors import UserError
from petlbench.run.identity import IDENTITY, first_form, identity, placeless
from petlbench.run.record import Store
from petlbench.system import write_atomically

MEASURED = Path(__file__).parent.parent / "results" / "measured"


def config(**changes: Any) -> dict[str, Any]:
    nodes: dict[str, Any] = {
        "method": {"rank": 2},
        "backbone": {"name": "vit_mini", "checkpoint": None},
        "dataset": {"name": "digits", "cache": "/a"},
        "input": {"size": 48},
        "train": {"lr": 1e-3, "schedule": {"min_lr": 0.0}},
        "protocol": {"name": "final"},
        "seed": 0,
        "results": {"root": "x"},
        "wandb": {"mode": "disabled"},
    }
    return nodes | changes


def test_identity_depends_on_what_decides_the_result_and_on_nothing_else() -> None:
    base = identity(config())
    same = [
        config(results={"root": "y"}),
        config(wandb={"mode": "online"}),
        config(dataset={"cache": "/b", "name": "digits"}),
    ]
    different = [
        config(seed=1),
        config(train={"lr": 1e-3, "schedule": {"min_lr": 1e-8}}),
        config(method={"rank": 4}),
        config(method={}),
    ]
    assert {identity(other) for other in same} == {base}
    assert len({base, *map(identity, different)}) == 5


def record(seed: int, status: str = "finished") -> dict[str, Any]:
    factors = {
        "method": "lora",
        "backbone": "vit_mini",
        "task": "mini/digits",
        "draw": 0,
        "seed": seed,
    }
    return {"schema": 1, "id": f"{seed:016x}", "status": status, "factors": factors}


def test_the_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed, status in ((0, "finished"), (1, "failed")):
        store.write(record(seed, status))
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "cut-short.json").write_text("{")
    assert [r["id"] for r in store.records()] == [f"{seed:016x}" for seed in (0, 1)]
    assert store.finished() == {f"{0:016x}"}
    assert list(tmp_path.glob("**/.tmp-*")) == []


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    blocked = tmp_path / "a.json" / "b.json"
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(blocked, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_others_may_read_what_is_written_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    write_atomically(tmp_path / "a.json", b"")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_record_keeps_no_folder_of_the_machine() -> None:
    made = config() | {"results": {"root": "/a"}, "data": {"root": "/b"}}
    assert placeless(made) == made | {"dataset": {"name": "digits"}, "results": {}, "data": {}}
    assert made["dataset"]["cache"] == "/a"


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json"):
        list(Store(tmp_path).records())


def test_a_record_is_one_json_document(tmp_path: Path) -> None:
    path = Store(tmp_path).write(record(3))
    assert json.loads(path.read_text())["factors"]["seed"] == 3
    assert path.relative_to(tmp_path).parts[:2] == ("mini", "digits")


def test_a_folder_under_a_file_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"results\.root"):
        Store(tmp_path / "file" / "runs").check_writable()


@cache
def defaults(method: str, protocol: str) -> dict[str, Any]:
    """The values of a run today, for keys that a record lacks."""
    return compose.single([f"method={method}", f"protocol={protocol}"]).plain()


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(under[key], over[key]) for key in under if isinstance(over.get(key), dict)}
    return under | over | both


def committed() -> list[dict[str, Any]]:
    return list(Store(MEASURED).records())


def test_committed_records_keep_their_identity() -> None:
    """Keys that came later are at their neutral values, and renamed classes have first names."""
    seen = 0
    for record in committed():
        config = record["config"]
        assert identity(config) == record["id"]
        seen += 1
        if "multitask" in record["cost"]:
            continue  # it has no task, and no default of its own
        own = [key for key in IDENTITY if key in config]
        known = first_form(defaults(record["factors"]["method"], record["protocol"]))
        today = {key: known[key] for key in own if known.get(key) is not None}
        assert identity(merged(today, {key: config[key] for key in own})) == record["id"]
    assert seen > 700


def test_the_configuration_of_today_names_the_committed_runs() -> None:
    """The typed values hash as those of the first records did: 0.0 is not 0."""
    finished = {record["id"] for record in committed()}
    for method in ("linear", "lora", "dtl_plus_star", "noah", "fact_tk"):
        for task in ("mini/land", "mini/digits"):
            config = compose.single([f"method={method}", f"dataset={task}", "seed=1"])
            assert identity(config.plain()) in finished
    probe = compose.single(["protocol=probe", "method=dtl", "backbone=vit_b16", "device=cpu"])
    assert identity(probe.plain()) in finished


def test_a_renamed_class_is_hashed_under_its_first_name_and_built_under_todays() -> None:
    node = {"_target_": "petlbench.data.readers.vtab.load", "name": "cifar"}
    first = first_form({"dataset": node})["dataset"]
    assert first == {"_target_": "petlbench.data.vtab.load", "name": "cifar"}
    assert current_name(first) == node


def test_a_method_of_an_earlier_delta_is_built_by_todays_class() -> None:
    """LoRA had a form and an init, which two methods are now."""
    former = {"_target_": "petlbench.methods.lora.LoRA", "rank": 8}
    own = current_name(former | {"form": "qv", "init": "zero_up"})
    noah = current_name(former | {"form": "qkv_shared", "init": "noah"})
    assert own == former
    assert noah == former | {"_target_": "petlbench.methods.lora_noah.NOAHLoRA"}
    assert current_name(former) == former
