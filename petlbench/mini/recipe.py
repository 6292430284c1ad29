"""The values of a pre-training run of vit_mini."""

from dataclasses import asdict, dataclass

from petlbench.checks import at_least, positive, probability, whole
from petlbench.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """All values that determine the weights. Only `steps` may change when a run is resumed."""

    steps: int
    batch: int  # scenes per step, over all processes
    processes: int
    lr: float
    weight_decay: float
    warmup: int  # steps
    decay: float  # share of the steps, at the end, in which the learning rate falls to zero
    calm_first: float  # share of easy scenes at the start
    calm_last: float
    calm_steps: int  # steps in which that share changes
    seed: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "processes", "warmup", "calm_steps"):
            whole(_option(name), getattr(self, name), low=1)
        for name in ("decay", "calm_first", "calm_last"):
            probability(_option(name), getattr(self, name))
        positive("--lr", self.lr)
        at_least("--weight-decay", self.weight_decay, 0)
        whole("--seed", self.seed, low=0)
        if self.batch % self.processes:
            raise UserError(
                f"--batch is {self.batch}; it must be a multiple of --processes {self.processes}"
            )

    @property
    def decay_from(self) -> int:
        """The step at which the learning rate starts to fall."""
        return self.steps - round(self.steps * self.decay)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        # max: without a decay nothing divides by 0, and the term is at least 1
        falling = (self.steps - step) / max(self.steps - self.decay_from, 1)
        return self.lr * min(1.0, (step + 1) / self.warmup, falling)

    def calm(self, step: int) -> float:
        """Share of easy scenes at a step."""
        share = min(1.0, step / self.calm_steps)
        return self.calm_first + (self.calm_last - self.calm_first) * share


def check_resumable(saved: Recipe, recipe: Recipe, step: int) -> None:
    """Raise UserError unless only `steps` changes, and before either decay begins.

    step: the number of finished steps.
    """
    for key, value in asdict(saved).items():
        if key != "steps" and getattr(recipe, key) != value:
            raise UserError(f"the saved run has {key} {value}, not {getattr(recipe, key)}")
    # until the decay begins, no rate and no scene depends on `steps`
    if recipe.steps != saved.steps and step > min(saved.decay_from, recipe.decay_from):
        raise UserError(
            f"the saved run is at step {step}; with --steps {recipe.steps} the decay would have "
            f"begun at {recipe.decay_from} (with --steps {saved.steps}: {saved.decay_from})"
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
