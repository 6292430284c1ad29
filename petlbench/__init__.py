"""A benchmark suite for parameter-efficient transfer learning (PETL) of vision backbones."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petlbench.interrupts import hear_in_commands
from petlbench.system import order_sums

if TYPE_CHECKING:
    from petlbench.delta import load
    from petlbench.merge import merged
    from petlbench.method import Method
    from petlbench.model.backbone import Backbone
    from petlbench.multitask.network import MultiTask
    from petlbench.registry import create, names

hear_in_commands()  # before a command imports what takes seconds
order_sums()  # before torch calls MKL

# In a checkout, methods/, conf/ and results/published/ lie beside this folder; an installed
# package has them inside.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "methods").is_dir():
    __path__ += [str(_checkout), str(_checkout / "results")]

_HOMES = {
    "Backbone": "petlbench.model.backbone",
    "Method": "petlbench.method",
    "MultiTask": "petlbench.multitask.network",
    "create": "petlbench.registry",
    "load": "petlbench.delta",
    "merged": "petlbench.merge",
    "names": "petlbench.registry",
}
__all__ = [
    "Backbone",
    "Method",
    "MultiTask",
    "__version__",
    "create",
    "load",
    "merged",
    "names",
]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use: torch takes seconds, and a typo needs none."""
    if name == "__version__":
        from petlbench.system import package_version

        return package_version("petlbench")
    if name not in _HOMES:
        raise AttributeError(f"module 'petlbench' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
