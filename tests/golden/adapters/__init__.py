"""How each family of vectors maps to a method here: one file a family, found by itself."""

import importlib
import pkgutil
from collections.abc import Callable

from tests.golden.case import Case, Plan

Adapter = Callable[[Case], Plan]


def adapters() -> dict[str, Adapter]:
    """All adapters by the method name that the vectors use."""
    found: dict[str, Adapter] = {}
    for module in pkgutil.iter_modules(__path__):
        found |= importlib.import_module(f"{__name__}.{module.name}").ADAPTERS
    return found
