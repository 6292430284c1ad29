"""NOAH: Neural Prompt Search, https://arxiv.org/abs/2206.04673.

A network with LoRA, adapter and prompts in every block, whose sizes an evolutionary search finds:
`NOAH` trains a supernet, searches, and returns the `NOAHSubnet` found, trained from the
pre-trained network. As in ZhangYuanhan-AI/NOAH @ e9c55f36, but that the prompts ahead of the first
block, which that block replaces unseen, are left out here and in the count.
"""

import copy
import json
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.backbone import Backbone
from petlbench.blocks import OpenBlock
from petlbench.checks import fraction, positive, whole
from petlbench.delta import learned
from petlbench.errors import Unsupported, UserError
from petlbench.interface import Method, Trainer
from petlbench.leaves import QuickGELU
from petlbench.record import write_atomically
from petlbench.surgery import swap

log = logging.getLogger("petlbench")
INIT_STD = 0.02  # the authors' constructor leaves all linear maps so
PROMPT_ROWS = 100  # of the authors' supernet; sets the range of Xavier-uniform prompts
TRIES = 250  # for each child, to find one that is new and fits the budget


@dataclass(frozen=True)
class Genes:
    """Sizes in each block: rank of LoRA, width of the adapter, number of prompts; 0 is none."""

    lora: tuple[int, ...]
    adapter: tuple[int, ...]
    prompts: tuple[int, ...]

    def parameters(self, width: int) -> int:
        """Trained parameters of a subnet without its head."""
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
    makers: list[tuple[int, Callable[[], Genes]]] = []
    if best:
        makers = [
            (
                plan.mutants,
                lambda: space.mutated(
                    dice.choice(best), dice, plan.module_chance, plan.depth_chance
                ),
            ),
            (plan.crossovers, lambda: space.crossed(dice.choice(best), dice.choice(best), dice)),
        ]
    found: list[Genes] = []
    for count, make in [*makers, (plan.population, lambda: space.sample(dice))]:
        tries, wanted = 0, min(plan.population, len(found) + count)
        while len(found) < wanted and tries < TRIES * count:
            tries += 1
            child = make()
            if child not in seen and child not in found and fits(child):
                found.append(child)
    return found


class Elastic(nn.Module):
    """A module of which the first `size` units are in use; 0 takes it out."""

    size: int
    units = 1


class ElasticLoRA(Elastic):
    """qkv(x) + B A dropout(x), one update of query, key and value."""

    def __init__(self, qkv: nn.Linear, size: int, dropout: float) -> None:
        super().__init__()
        self.qkv = qkv
        self.size = size
        self.dropout = nn.Dropout(dropout)
        self.down = _linear_weight(size, qkv.in_features)
        self.up = _linear_weight(qkv.out_features, size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 3 d)"""
        out: Tensor = self.qkv(x)
        if not self.size:
            return out
        codes = F.linear(self.dropout(x), self.down[: self.size])
        return out + F.linear(codes, self.up[:, : self.size])


class ElasticAdapter(Elastic):
    """m + W_u dropout(phi(W_d m + b_d)) + b_u with phi QuickGELU."""

    def __init__(self, width: int, size: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.act = QuickGELU()
        self.dropout = nn.Dropout(dropout)
        self.down = _linear_weight(size, width)
        self.down_bias = nn.Parameter(torch.zeros(size))
        self.up = _linear_weight(width, size)
        self.up_bias = nn.Parameter(torch.zeros(width))

    def forward(self, m: Tensor) -> Tensor:
        """(..., width) -> (..., width)"""
        if not self.size:
            return m
        hidden = self.act(F.linear(m, self.down[: self.size], self.down_bias[: self.size]))
        return m + F.linear(self.dropout(hidden), self.up[:, : self.size], self.up_bias)


class ElasticPrompts(Elastic):
    """Learned tokens (size, width)."""

    def __init__(self, width: int, size: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.dropout = nn.Dropout(dropout)
        bound = math.sqrt(6 / (PROMPT_ROWS + width))
        self.tokens = nn.Parameter(torch.empty(size, width).uniform_(-bound, bound))

    def forward(self, images: int) -> Tensor:
        """(images, size, width)"""
        return self.dropout(self.tokens[: self.size].expand(images, -1, -1))  # type: ignore[no-any-return]


class SearchedBlock(OpenBlock):
    """A block with an adapter behind the MLP branch and its drop path."""

    def __init__(self, block: nn.Module, adapter: nn.Module) -> None:
        super().__init__(block)
        self.after_mlp = adapter

    def forward(self, z: Tensor) -> Tensor:
        z = z + self.attention(self.norm1(z))
        return z + self.after_mlp(self.mlp(self.norm2(z)))  # type: ignore[no-any-return]


class Composed(Method):
    """LoRA, adapter and prompts of given sizes in every block of a plain ViT.

    A module of size 0 is not made. Prompts stand at the end of the sequence: block i drops those
    of the block before it and appends its own; where it has none, the tokens stay as they are.
    """

    starts_as_pretrained = False
    unmergeable = "its adapters have an activation, and its prompts are tokens"

    def __init__(self, backbone: Backbone, genes: Genes, dropout: float) -> None:
        super().__init__(backbone)
        fraction("dropout", dropout)
        blocks = [block for stage in backbone.stages for block in stage.blocks]
        if {type(block) for block in blocks} != {Block}:
            raise Unsupported(f"NOAH is defined for plain ViTs, and {backbone.tag} is none")
        for name in MODULES:
            sizes = getattr(genes, name)
            if len(sizes) != len(blocks):
                raise UserError(
                    f"{name} has {len(sizes)} sizes and the network {len(blocks)} blocks; "
                    f"set method.{name} to a list of {len(blocks)}"
                )
            for size in sizes:
                whole(f"a size of {name}", size, low=0)
        width = backbone.widths[0]
        adapters = iter(genes.adapter)
        ranks = iter(genes.lora)

        def adapted(block: nn.Module, _: int) -> nn.Module:
            size = next(adapters)
            return SearchedBlock(
                block, ElasticAdapter(width, size, dropout) if size else nn.Identity()
            )

        def updated(qkv: nn.Linear) -> nn.Module:
            rank = next(ranks)
            return ElasticLoRA(qkv, rank, dropout) if rank else qkv

        swap(backbone, "*.attn.qkv", updated)
        backbone.swap_blocks(adapted)
        self.prompts = nn.ModuleDict(
            {
                str(number): ElasticPrompts(width, size, dropout)
                for number, size in enumerate(genes.prompts, 1)
                if size
            }
        )

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding to last block; the prompts are gone at the end."""
        own, present = z.shape[1], 0
        for number, block in enumerate(self.backbone.stages[0].blocks, 1):
            prompts = self.prompts_of(number)
            if prompts is not None and prompts.size:
                kept = z[:, : z.shape[1] - present]
                z, present = torch.cat([kept, prompts(len(z))], dim=1), prompts.size
            z = block(z)
        return z[:, :own]

    def prompts_of(self, number: int) -> ElasticPrompts | None:
        """Those of a block, counted from 1."""
        key = str(number)
        return cast(ElasticPrompts, self.prompts[key]) if key in self.prompts else None


class NOAHSubnet(Composed):
    """What a search ends with: the sizes in each block are given, block by block."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        lora: Sequence[int],
        adapter: Sequence[int],
        prompts: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__(backbone, Genes(tuple(lora), tuple(adapter), tuple(prompts)), dropout)


class NOAH(Composed):
    """The supernet, as large as its space allows, and the search in it.

    `fit` trains the supernet with sizes drawn anew at each step, then lets subnets of at most
    `budget_m` million parameters evolve: they are scored with the supernet's weights on the second
    half of the training split (its val part, where there is one). The best is built at its exact
    size and trained as the run's settings say. A killed search goes on after its last generation.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        dims: Sequence[int],
        depths: Sequence[int],
        dropout: float,
        budget_m: float,
        supernet_epochs: int,
        supernet_lr: float,
        generations: int,
        population: int,
        parents: int,
        mutants: int,
        crossovers: int,
        module_chance: float,
        depth_chance: float,
    ) -> None:
        for dim in dims:
            whole("a size of dims", dim, low=1)
        for depth in depths:
            whole("a depth of depths", depth, low=1, high=backbone.depth, of="the network's depth")
        if not (dims and depths):
            raise UserError("dims and depths of the search space must not be empty")
        pristine = copy.deepcopy(backbone)
        largest = (max(dims),) * backbone.depth
        super().__init__(backbone, Genes(largest, largest, largest), dropout)
        self.pristine = [pristine]  # in a list: no part of the supernet
        self.dropout = dropout
        self.space = Space(tuple(dims), tuple(depths), backbone.depth)
        self.plan = Plan(
            generations=whole("generations", generations, low=1),
            population=whole("population", population, low=1),
            parents=whole("parents", parents, low=1),
            mutants=whole("mutants", mutants, low=0),
            crossovers=whole("crossovers", crossovers, low=0),
            module_chance=module_chance,
            depth_chance=depth_chance,
        )
        self.budget = positive("budget_m", budget_m) * 1e6
        self.supernet_epochs = whole("supernet_epochs", supernet_epochs, low=1)
        self.supernet_lr = positive("supernet_lr", supernet_lr)

    def become(self, genes: Genes) -> None:
        """Take these sizes for the forward passes to come."""
        for number, block in enumerate(self.backbone.net.blocks):
            block.after_mlp.size = genes.adapter[number]
            block.block.attn.qkv.size = genes.lora[number]
            prompts = self.prompts_of(number + 1)
            assert prompts is not None
            prompts.size = genes.prompts[number]

    def fit(self, trainer: Trainer) -> Method:
        """Supernet, search, and the subnet found."""
        train, val = trainer.halves()
        self._train_supernet(trainer, train)
        seen = self._search(trainer, lambda genes: self._score(trainer, genes, val))
        best = max(seen, key=seen.__getitem__)
        values: dict[str, Any] = {name: list(sizes) for name, sizes in asdict(best).items()}
        values["dropout"] = self.dropout
        subnet = NOAHSubnet(self.pristine[0], **values)
        subnet.made_by = ("noah_subnet", values)
        trainer.train(subnet)
        return subnet

    def _train_supernet(self, trainer: Trainer, train: Any) -> None:
        saved = trainer.scratch / "supernet.pt"
        if saved.is_file():
            self._restore(torch.load(saved, weights_only=True))
            log.info("supernet of an earlier start: %s", saved)
            self.to(trainer.device)
            return
        dice = random.Random()

        def draw(epoch: int, step: int) -> None:
            if step == 0:
                dice.seed(epoch)
            self.become(self.space.sample(dice))

        log.info("supernet: %d epochs", self.supernet_epochs)
        trainer.train_before(
            self, train, epochs=self.supernet_epochs, lr=self.supernet_lr, before_step=draw
        )
        trainer.scratch.mkdir(parents=True, exist_ok=True)
        partial = saved.with_suffix(".part")
        torch.save({name: tensor.cpu() for name, tensor in learned(self).items()}, partial)
        partial.replace(saved)

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        own = learned(self)
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)

    def _score(self, trainer: Trainer, genes: Genes, val: Any) -> float:
        self.become(genes)
        return trainer.evaluate(self, val).top1

    def _search(self, trainer: Trainer, score: Callable[[Genes], float]) -> Seen:
        """All subnets seen, with their scores; every generation is logged and kept."""
        width = self.backbone.widths[0]
        path = trainer.scratch / "search.json"
        history: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
        seen = {_genes(row): row["top1"] for generation in history for row in generation["scored"]}
        for number in range(len(history) + 1, self.plan.generations + 1):
            dice = random.Random(f"{trainer.seed} {number}")
            children = next_generation(
                seen,
                self.space,
                self.plan,
                lambda genes: genes.parameters(width) <= self.budget,
                dice,
            )
            if not (children or seen):
                raise UserError(
                    f"no subnet of at most {self.budget / 1e6:g} million parameters was found; "
                    "raise method.budget_m"
                )
            scored = {genes: score(genes) for genes in children}
            seen |= scored
            history.append(
                {
                    "generation": number,
                    "best": max(seen.values()),
                    "scored": [asdict(genes) | {"top1": top1} for genes, top1 in scored.items()],
                }
            )
            write_atomically(path, json.dumps(history).encode())
            log.info(
                "generation %d/%d: %d subnets, best %.1f %% on val",
                number,
                self.plan.generations,
                len(scored),
                max(seen.values()),
            )
        best = max(seen, key=seen.__getitem__)
        trainer.notes["search"] = {
            "generations": [
                {"generation": g["generation"], "best": g["best"], "scored": len(g["scored"])}
                for g in history
            ],
            "genes": asdict(best),
            "parameters": best.parameters(width),
            "top1": seen[best],
        }
        return seen


def _genes(row: Mapping[str, Any]) -> Genes:
    return Genes(*(tuple(row[name]) for name in MODULES))


def _linear_weight(out: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(out, width), std=INIT_STD))
