"""The search space of NOAH and the evolution in it, https://arxiv.org/abs/2206.04673."""

import random
from collections.abc import Callable
from dataclasses import dataclass, fields

# Draws per child until one is new and fits the budget: for mutants and crossovers as in
# ZhangYuanhan-AI/NOAH @ e9c55f36. That code has no limit for random children; 3 % of the few-shot
# space fit its budget.
TRIES, TRIES_BY_CHANCE = 10, 250


@dataclass(frozen=True)
class Genes:
    """Sizes in each block: rank of LoRA, width of the adapter, number of prompts; 0 for none."""

    lora: tuple[int, ...]
    adapter: tuple[int, ...]
    prompts: tuple[int, ...]

    def parameters(self, width: int) -> int:
        """Trained parameters of a subnet without its head.

        The authors' count includes the prompts before the first block and their positions, which
        no output depends on: (p_1 + 100) width more.
        """
        lora = sum(4 * width * rank for rank in self.lora)
        # The last width is b_u, which only exists with an adapter.
        adapters = sum((2 * width + 1) * size + width for size in self.adapter if size)
        return lora + adapters + sum(width * count for count in self.prompts)


MODULES = tuple(field.name for field in fields(Genes))


@dataclass(frozen=True)
class Space:
    """The search space: for each module a depth, and a size for each block up to it."""

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    blocks: int

    def sample(self, dice: random.Random) -> Genes:
        """Depth of each module, then its dims, uniformly."""
        return Genes(*(self.padded(self.drawn(dice.choice(self.depths), dice)) for _ in MODULES))

    def drawn(self, count: int, dice: random.Random) -> tuple[int, ...]:
        """Dims for `count` blocks, uniformly."""
        return tuple(dice.choice(self.dims) for _ in range(count))

    def padded(self, dims: tuple[int, ...]) -> tuple[int, ...]:
        """`dims` for the first blocks and 0 for the others."""
        return dims + (0,) * (self.blocks - len(dims))

    def mutated(self, genes: Genes, dice: random.Random, module: float, depth: float) -> Genes:
        """Draw a new depth for each module with probability `module` x `depth`.

        A larger depth appends new dims and a smaller one cuts; present dims are never redrawn.
        """
        modules = {}
        for name in MODULES:
            present: tuple[int, ...] = tuple(d for d in getattr(genes, name) if d)
            # m_prob and s_prob of the authors' code.
            if dice.random() < module and dice.random() < depth:
                blocks = dice.choice(self.depths)
                present = present[:blocks] + self.drawn(max(0, blocks - len(present)), dice)
            modules[name] = self.padded(present)
        return Genes(**modules)

    def crossed(self, first: Genes, second: Genes, dice: random.Random) -> Genes:
        """Take each module whole from one of the two parents."""
        return Genes(*(getattr(dice.choice((first, second)), name) for name in MODULES))


@dataclass(frozen=True)
class Plan:
    """Sizes of the evolution: each generation scores `population` new subnets."""

    generations: int
    population: int
    parents: int
    mutants: int
    crossovers: int
    module_chance: float
    depth_chance: float


Seen = dict[Genes, float]


def next_generation(
    seen: Seen, space: Space, plan: Plan, fits: Callable[[Genes], bool], dice: random.Random
) -> list[Genes]:
    """New subnets that fit the budget: mutants and crossovers of the best, then random ones."""
    best = sorted(seen, key=seen.__getitem__, reverse=True)[: plan.parents]

    def mutant() -> Genes:
        return space.mutated(dice.choice(best), dice, plan.module_chance, plan.depth_chance)

    def crossover() -> Genes:
        return space.crossed(dice.choice(best), dice.choice(best), dice)

    bred = [(plan.mutants, TRIES, mutant), (plan.crossovers, TRIES, crossover)] if best else []
    by_chance = (plan.population, TRIES_BY_CHANCE, lambda: space.sample(dice))
    children: list[Genes] = []
    for count, most, draw in [*bred, by_chance]:
        tries, enough = 0, min(plan.population, len(children) + count)
        while len(children) < enough and tries < most * count:
            tries += 1
            child = draw()
            if child not in seen and child not in children and fits(child):
                children.append(child)
    return children
