"""The configurations of a sweep: every choice of its options with every choice of its values."""

import copy
import itertools
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from petlbench.config import compose, compositions, mistakes
from petlbench.config.composer import Composer
from petlbench.config.interpolation import NotCovered
from petlbench.config.schema import Config
from petlbench.errors import UserError
from petlbench.sweep.axes import Axes
from petlbench.sweep.overrides import Overrides
from petlbench.sweep.plan import Combination


class Combiner:
    """Composes all combinations; config: the one of the command, as Hydra composed it."""

    def __init__(self, overrides: Overrides, config: DictConfig) -> None:
        self.overrides = overrides
        self.config = config
        self._composer = Composer(overrides.loader)
        # the same choice comes again and again, with other values
        self._by_hydra = lru_cache(maxsize=4)(self._composed)
        self._own = overrides.parse(list(config.hydra.overrides.hydra))

    def combinations(self, axes: Axes, varied: Collection[str]) -> Iterator[Combination]:
        """All combinations, composed by Hydra itself where `Composer` does not cover them.

        varied: the keys that name a run beside method, task and seed.
        """
        groups, values = axes.groups, axes.values
        for choice in itertools.product(*groups.values()):
            parsed = [*self._own, *map(self.overrides.parsed, choice)]
            for settings in itertools.product(*values.values()):
                overrides = (*choice, *settings)
                keys = zip([*groups, *values], overrides, strict=True)
                shown = tuple(text for key, text in keys if key in varied)
                try:
                    found = self._composer.compose(
                        [*parsed, *map(self.overrides.parsed, settings)]
                    )
                    yield compose.typed(*found), shown, overrides
                except NotCovered:
                    yield self._configuration(*self._by_hydra(choice), settings), shown, overrides

    def _composed(self, choice: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
        """What Hydra composes for a choice of options, and the choice of each group."""
        composed = self.overrides.loader.load_sweep_config(self.config, list(choice))
        choices = dict(composed.hydra.runtime.choices)
        return compositions.without_hydra(composed), choices

    def _configuration(
        self, composed: DictConfig, choices: dict[str, str], settings: Sequence[str]
    ) -> Config:
        """The configuration of a run: a copy of the composed one with the values set by Hydra."""
        changed = copy.deepcopy(composed)
        try:
            self.overrides.loader._apply_overrides_to_config(
                self.overrides.parse(settings), changed
            )
            return compose.finish(changed, choices)
        except (HydraException, OmegaConfBaseException, AssertionError) as error:
            line = mistakes.explain(error, lambda: compositions.keys(composed))
            pair = f"method={choices['method']} backbone={choices['backbone']}"
            raise UserError(f"{line} (with {pair} dataset={choices['dataset']})") from error
