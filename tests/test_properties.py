"""Properties of parsers and of the configuration, on drawn inputs that are always the same."""

import copy
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from petlbench.config import command_line, compositions, options
from petlbench.config.command_line import GROUPS, check_groups, known_options
from petlbench.config.composer import merge
from petlbench.config.interpolation import MISSING, NotCovered
from petlbench.data.readers import lists
from petlbench.errors import UserError
from petlbench.report.read import scores
from petlbench.run import identity
from petlbench.run import record as store
from petlbench.run.check import broken
from petlbench.sweep.overrides import Overrides
from tests.records import probe, record

steady = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PATHS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from(" .é文"), min_size=1
).filter(lambda path: path == path.strip() and not path.startswith("\ufeff"))
LINES = st.lists(st.tuples(PATHS, st.integers(0, 9)), min_size=1, max_size=8)
NUMBERS = st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.sampled_from([1e999, -1e999, 10**400]) | TEXTS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3),
    max_leaves=6,
)


@steady
@given(LINES)
def test_a_list_is_read_as_it_was_written(tmp_path: Path, lines: list[tuple[str, int]]) -> None:
    file = tmp_path / "list.txt"
    file.write_text("".join(f"{path} {label}\n" for path, label in lines), encoding="utf-8")
    images = lists.read(file, classes=10)
    assert list(zip(images.paths, images.labels, strict=True)) == lines


@steady
@given(st.lists(TEXTS | st.from_regex(r"a b? ?-?[0-9]{1,6}", fullmatch=True), max_size=6))
def test_each_line_of_a_list_is_an_image_or_a_defect(tmp_path: Path, lines: list[str]) -> None:
    file = tmp_path / "list.txt"
    file.write_text("\n".join(lines), encoding="utf-8", newline="")
    present = [line for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    try:
        images, wrong = lists.read(file, classes=10), 0
    except lists.DefectiveList as error:
        images, wrong = error.images, len(error.defects)
    assert len(images) + wrong == len(present)
    assert all(0 <= label < 10 for label in images.labels)


def test_a_label_of_any_length_is_a_defect(tmp_path: Path) -> None:
    """Python refuses to convert more than 4300 digits."""
    file = tmp_path / "list.txt"
    file.write_text(f"a.png {'9' * 5000}\n")
    with pytest.raises(lists.DefectiveList, match="the task has 10 classes"):
        lists.read(file, classes=10)


@steady
@given(st.binary(max_size=60) | JSON.map(lambda node: json.dumps(node).encode()))
def test_any_file_is_a_record_or_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(store.NoRecord, match=r"a\.json") as error:
        store.read(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("whole", [record("lora", "digits", 90.0), probe("lora", 10.0)])
def test_a_record_with_one_changed_value_is_shown_or_refused(whole: dict[str, Any]) -> None:
    whole = json.loads(json.dumps(whole))
    whole["scores"] = {name: _score(0.5) for name in whole["scores"]}
    assert broken(whole) == []
    places = [*_places(whole)]

    @steady
    @given(st.sampled_from(places), JSON)
    def check(place: tuple[Any, ...], value: Any) -> None:
        changed = copy.deepcopy(whole)
        node = changed
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value
        if broken(changed) or not isinstance(changed["config"], dict):
            return
        nodes = {key: node for key, node in changed["config"].items() if node is not None}
        changed["config"] = identity.completed(nodes)
        frame = scores.tidy([changed], [], {changed["id"]: "row"})
        assert frame.select_dtypes(float).abs().max().dropna().map(math.isfinite).all()

    check()


def _score(share: float) -> dict[str, Any]:
    return {"top1": 100 * share, "correct": int(2000 * share), "total": 2000}


def _places(node: Any, above: tuple[Any, ...] = ()) -> Sequence[tuple[Any, ...]]:
    """The path of every value in a record."""
    if not isinstance(node, dict | list):
        return []
    found: list[tuple[Any, ...]] = []
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        found += [(*above, key), *_places(value, (*above, key))]
    return found


SUITES = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.sampled_from("abcdxyz"), max_size=4), max_size=4
)


@steady
@given(SUITES, st.lists(st.sampled_from("abcdxyz"), max_size=5))
def test_suites_expand_to_each_member_once_in_order(
    suites: Mapping[str, list[str]], names: list[str]
) -> None:
    def members(name: str, above: str = "") -> list[str]:
        if name in above:
            raise RecursionError
        if name not in suites:
            return [name]
        return [deep for below in suites[name] for deep in members(below, above + name)]

    try:
        expected = list(dict.fromkeys(deep for name in names for deep in members(name)))
    except RecursionError:
        with pytest.raises(UserError, match="contains itself"):
            options.expand(names, suites.get)
    else:
        assert options.expand(names, suites.get) == expected


@cache
def overrides() -> Overrides:
    return Overrides(compositions.current_composer().loader)


VALUES = st.integers(-9, 9) | st.floats(-9, 9).map(lambda x: round(x, 3)) | st.booleans()


@steady
@given(
    st.dictionaries(
        st.sampled_from(["train.lr", "method.rank", "dataset.draw", "title"]),
        st.lists(VALUES | st.none(), min_size=2, max_size=4),
        max_size=3,
    )
)
def test_a_sweep_has_each_combination_of_its_values_once(axes: dict[str, list[Any]]) -> None:
    written = {key: [json.dumps(value) for value in values] for key, values in axes.items()}
    arguments = [f"{key}={','.join(texts)}" for key, texts in written.items()]
    found = overrides().axes(arguments, {"seed": "0,1", "method": "linear"})
    groups, values = found.groups, found.values
    assert groups == {"method": ["method=linear"]}
    assert list(values) == ["seed", *axes]
    for key, texts in written.items():
        parsed = [_parsed(text) for text in values[key]]
        assert parsed == [_parsed(f"{key}={text}") for text in dict.fromkeys(texts)]
    count = math.prod(len(dict.fromkeys(texts)) for texts in written.values())
    assert len(set(itertools.product(*values.values()))) == 2 * count


def _parsed(text: str) -> Any:
    return OverridesParser.create().parse_override(text).value()


NUMBER_LIKE = st.from_regex(r"[-+]?[0-9_]{1,6}(\.[0-9]{1,3})?(e[-+]?[0-9]{1,2})?", fullmatch=True)


@steady
@given(
    st.sampled_from(sorted(command_line.text_keys())),
    NUMBER_LIKE
    | st.sampled_from(["true", "False", "nan", "-inf", "null", "a/b", "", "[1]", "'1'"]),
)
def test_a_text_key_never_becomes_a_number(key: str, value: str) -> None:
    argument = f"{key}={value}"
    [quoted] = command_line.quoted([argument])
    assert command_line.quoted([quoted]) == [quoted]
    found = _parsed(quoted)
    assert not isinstance(found, int | float)
    if quoted != argument:
        assert found == value
        assert isinstance(_parsed(argument), int | float)


def test_numbers_stay_texts_in_sweeps_and_lists() -> None:
    for argument, expected in (
        ("results.root=2024_01,2024_02", "results.root='2024_01','2024_02'"),
        ("wandb.group=1_0,a,b/c", "wandb.group='1_0',a,b/c"),
        ("wandb.tags=[2024_11_28,a]", "wandb.tags=['2024_11_28',a]"),
        ("wandb.tags=[a,b]", "wandb.tags=[a,b]"),
        ("results.root=choice(1,2)", "results.root=choice(1,2)"),
        ("seed=0,1", "seed=0,1"),
    ):
        assert command_line.quoted([argument]) == [expected]


@steady
@given(st.sampled_from(["train.lr", "seed", "dataset.draw", "method.rank", "x"]), NUMBER_LIKE)
def test_values_of_other_keys_stay_as_they_are(key: str, value: str) -> None:
    assert command_line.quoted([f"{key}={value}"]) == [f"{key}={value}"]


@steady
@given(st.sampled_from(GROUPS), st.from_regex(r"[a-z_/.+-]{1,12}", fullmatch=True))
def test_an_option_is_known_or_refused_in_one_line(group: str, name: str) -> None:
    known = known_options(group, [])
    check_groups([f"{group}={known[len(name) % len(known)]}"])
    if name in known:
        return
    with pytest.raises(UserError, match="unknown") as error:
        check_groups([f"{group}={name}"])
    assert f"'{name}'" in str(error.value)
    assert "\n" not in str(error.value)


@steady
@given(st.lists(TEXTS | st.tuples(st.sampled_from(GROUPS), TEXTS).map("=".join), max_size=4))
def test_other_arguments_are_left_to_hydra(arguments: list[str]) -> None:
    # any other error fails the test
    with suppress(UserError):
        check_groups(arguments)


NODES = st.recursive(
    st.none() | st.integers(0, 3) | st.sampled_from(["a", "", MISSING]),
    lambda below: (
        st.lists(below.filter(lambda node: node != MISSING), max_size=2)
        | st.dictionaries(st.sampled_from("abc"), below, max_size=3)
    ),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), NODES, max_size=3)


@steady
@given(MAPPINGS, st.lists(MAPPINGS, min_size=1, max_size=3))
def test_values_merge_as_omegaconf_merges(
    below: dict[str, Any], above: list[dict[str, Any]]
) -> None:
    before = copy.deepcopy(above)
    try:
        expected = OmegaConf.to_container(OmegaConf.merge(below, *above))
    except OmegaConfBaseException:
        with pytest.raises(NotCovered):
            _merge_all(below, above)
    else:
        _merge_all(below, above)
        assert below == expected
    assert above == before


def _merge_all(below: dict[str, Any], above: Sequence[Mapping[str, Any]]) -> None:
    for node in above:
        merge(below, node)
