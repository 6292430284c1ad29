"""Suites of methods: lists, and all options but some."""

import pytest

from petlbench import registry
from petlbench.config import compose, options
from petlbench.errors import UserError


def test_all_is_every_method_but_parts_of_others() -> None:
    components = {n for n in registry.names() if options.content("method", n).get("component")}
    assert "noah_subnet" in components
    assert set(registry.suites()["all"]) == set(registry.names()) - components
    assert options.listed("method", "all") == registry.suites()["all"]
    assert options.listed("method", "lora") is None


def test_one_run_of_a_computed_suite_is_refused_with_its_members() -> None:
    with pytest.raises(UserError, match=r"method=all names a suite, .*add -m .* adapter, .*vqt"):
        compose.single(["method=all"])
