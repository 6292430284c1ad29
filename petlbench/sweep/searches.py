"""protocol=select as a command asks for it: its settings, spaces and searches."""

from collections.abc import Iterator
from functools import partial

from omegaconf import DictConfig, OmegaConf

from petlbench.config import selection
from petlbench.config.selection import SelectConfig
from petlbench.errors import UserError
from petlbench.sweep import space
from petlbench.sweep.axes import Axes, Combinations, cells
from petlbench.sweep.overrides import Overrides
from petlbench.sweep.select import Cell
from petlbench.sweep.space import Space


class Searches:
    """What the command and the yaml files say; config: as Hydra composed it for the command."""

    def __init__(self, overrides: Overrides, config: DictConfig) -> None:
        self.overrides = overrides
        self.config = config

    def asked_for(self, axes: Axes) -> bool:
        """Whether a sweep is one of protocol=select."""
        chosen = axes.options("protocol") or [self.config.hydra.runtime.choices.protocol]
        if selection.NAME in chosen and len(chosen) > 1:
            raise UserError("protocol=select does trials and final runs; name no other protocol")
        return chosen == [selection.NAME]

    def cells(self, axes: Axes, combinations: Combinations) -> tuple[Iterator[Cell], SelectConfig]:
        """The searches of a sweep, and their settings."""
        axes = axes.with_option("method", self.config.hydra.runtime.choices.method)
        settings = self._settings(axes)
        return cells(axes, settings, partial(self._space, settings), combinations), settings

    def _settings(self, axes: Axes) -> SelectConfig:
        """The node `select` with the values of the command and the experiment."""
        own = axes.of_node(selection.NAME)
        for key, texts in own.items():
            if len(texts) > 1:
                raise UserError(f"{key} names several values; a sweep of protocol=select has one")
        texts, spaces = [axis[0] for axis in axes.groups.values()], {}
        for override in map(self.overrides.parsed, (axis[0] for axis in own.values())):
            above, _, key = override.key_or_group.partition(f"{selection.SPACE}.")
            if not above and not override.is_delete():
                spaces[key] = override.value()
            else:
                texts.append(str(override.input_line))
        composed = self.overrides.loader.load_sweep_config(self.config, texts)
        node = OmegaConf.to_container(composed.select, resolve=True)
        return selection.settings(node, spaces)

    def _space(self, settings: SelectConfig, method: str) -> Space:
        """The values that the trials of a method have."""
        own = self.overrides.content("method", method).get(selection.TUNE)
        where = f"{selection.TUNE} of method={method}" if own is not None else "select.space"
        return space.read(own if own is not None else settings.space, where)
