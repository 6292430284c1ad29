"""The search space of NOAH and the evolution in it, https://arxiv.org/abs/2206.04673."""

import random
from collections.abc import Callable
from dataclasses import dataclass, fields

# Tries to find a child that is new and fits the budget, for each child that is wanted. Mutants and
# crossovers as in ZhangYuanhan-AI/NOAH @ e9c55f36, which draws the others until it has enough: of
# the few-shot space 3 % fit.
TRIES, TRIES_BY_CHANCE = 10, 250


@dataclass(frozen=True)
class Genes:
    """Sizes in each block: rank of LoRA, width of the adapter, number of prompts; 0 is none."""

    lora: tuple[int, ...]
    adapter: tuple[int, ...]
    prompts: tuple[int, ...]

    def parameters(self, width: int) -> int:
        """Trained parameters of a subnet without its head.

        The authors' count has the prompts ahead of the first block and their positions too, which
        no output depends on: (p_1 + 100) width more.
        """
        lora = sum(4 * width * rank for rank in self.lora)
        adapters = sum((2 * width + 1) * size + width for size in self.adapter if size)
        return lora + adapters + sum(width * count for count in self.prompts)


MODULES = tuple(field.name for field in fields(Genes))


@dataclass(frozen=True)
class Space:
    """What may be sampled: for each module a depth, and for each block down to it a size."""

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    blocks: int

    def sample(self, dice: random.Random) -> Genes:
        """Depth of each module, then its dims, uniformly."""
        return Genes(*(self.padded(self.drawn(dice.choice(self.depths), dice)) for _ in MODULES))

    def drawn(self, count: int, dice: random.Random) -> tuple[int, ...]:
        """Dims for so many blocks."""
        return tuple(dice.choice(self.dims) for _ in range(count))

    def padded(self, dims: tuple[int, ...]) -> tuple[int, ...]:
        """Dims for the first blocks, and none in those behind."""
        return dims + (0,) * (self.blocks - len(dims))

    def mutated(self, genes: Genes, dice: random.Random, module: float, depth: float) -> Genes:
        """Each module with probability `module`: with probability `depth` a new depth, else as is.

        A larger depth appends new dims and a smaller one cuts; present dims are never drawn again.
        """
        changed = {}
        for name in MODULES:
            present: tuple[int, ...] = tuple(d for d in getattr(genes, name) if d)
            if dice.random() < module and dice.random() < depth:
                new = dice.choice(self.depths)
                present = present[:new] + self.drawn(max(0, new - len(present)), dice)
            changed[name] = self.padded(present)
        return Genes(**changed)

    def crossed(self, first: Genes, second: Genes, dice: random.Random) -> Genes:
        """Each module whole, from one of the two."""
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
    """New subnets that fit the budget: mutants and crossovers of the best, filled up by chance."""
    best = sorted(seen, key=seen.__getitem__, reverse=True)[: plan.parents]

    def mutant() -> Genes:
        return space.mutated(dice.choice(best), dice, plan.module_chance, plan.depth_chance)

    def crossover() -> Genes:
        return space.crossed(dice.choice(best), dice.choice(best), dice)

    bred = [(plan.mutants, TRIES, mutant), (plan.crossovers, TRIES, crossover)] if best else []
    by_chance = (plan.population, TRIES_BY_CHANCE, lambda: space.sample(dice))
    found: list[Genes] = []
    for count, most, make in [*bred, by_chance]:
        tries, wanted = 0, min(plan.population, len(found) + count)
        while len(found) < wanted and tries < most * count:
            tries += 1
            child = make()
            if child not in seen and child not in found and fits(child):
                found.append(child)
    return found
