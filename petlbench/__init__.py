"""A benchmark suite for parameter-efficient transfer learning (PETL) of vision backbones."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from petlbench import run
from petlbench.interrupts import hear_in_commands
from petlbench.system import order_sums, wait_briefly

if TYPE_CHECKING:
    from petlbench.commands.predictor import load as predictor
    from petlbench.delta import load
    from petlbench.exported import export
    from petlbench.merge import merged, save_merged
    from petlbench.method import Method
    from petlbench.model.backbone import Backbone
    from petlbench.multitask.network import MultiTask
    from petlbench.peft import to_peft
    from petlbench.registry import create, names

hear_in_commands()  # before a command imports what takes seconds
order_sums()  # before torch calls MKL
wait_briefly()  # before torch loads OpenMP

# In a checkout, methods/, conf/ and results/published/ lie beside this folder; an installed
# package has them inside.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "methods").is_dir():
    __path__ += [str(_checkout), str(_checkout / "results")]

_HOMES = {
    "Backbone": "petlbench.model.backbone:Backbone",
    "Method": "petlbench.method:Method",
    "MultiTask": "petlbench.multitask.network:MultiTask",
    "create": "petlbench.registry:create",
    "export": "petlbench.exported:export",
    "load": "petlbench.delta:load",
    "merged": "petlbench.merge:merged",
    "names": "petlbench.registry:names",
    "predictor": "petlbench.commands.predictor:load",
    "save_merged": "petlbench.merge:save_merged",
    "to_peft": "petlbench.peft:to_peft",
}
__all__ = [
    "Backbone",
    "Method",
    "MultiTask",
    "__version__",
    "create",
    "export",
    "load",
    "merged",
    "names",
    "predictor",
    "run",
    "save_merged",
    "to_peft",
]


class _Run(ModuleType):
    """The package petlbench.run, which can also be called: `petlbench.run(["method=lora"])`."""

    def __call__(self, overrides: Sequence[str]) -> list[dict[str, Any]]:
        """See `petlbench.sweep.session.run`."""
        from petlbench.sweep import session  # imports Hydra

        return session.run(overrides)


run.__class__ = _Run


def __getattr__(name: str) -> Any:
    """Import a public name on its first use: torch takes seconds, and a typo needs none."""
    if name == "__version__":
        from petlbench.system import package_version

        return package_version("petlbench")
    if name not in _HOMES:
        raise AttributeError(f"module 'petlbench' has no attribute '{name}'")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute)
