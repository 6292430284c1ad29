"""NOAH: Neural Prompt Search, https://arxiv.org/abs/2206.04673.

A network with LoRA, adapter and prompts in every block, with sizes from an evolutionary search:
`NOAH` trains a supernet, searches, and returns the best subnet (noah_subnet.py), trained from the
pre-trained network.
"""

import copy
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from petlbench import registry
from petlbench.checks import positive, probability, size, whole
from petlbench.errors import UserError
from petlbench.method import Fitted, SearchTrainer, Step, Trainer
from petlbench.methods.noah_genes import MODULES, Genes, Plan, Seen, Space, next_generation
from petlbench.methods.noah_subnet import Composed
from petlbench.model.backbone import Backbone

SUBNET = "noah_subnet"
log = logging.getLogger("petlbench")


class NOAH(Composed):
    """The supernet, with the largest sizes of its search space, and the search.

    `fit` trains the supernet with new random sizes at each step, then evolves subnets of at most
    `budget_m` million parameters. They use the supernet's weights and are scored on the second
    half of the training split (its val part, if it has one). The best one is built at its exact
    size and trained with the run's settings. An interrupted search resumes after its last
    generation, and after the supernet's last epoch that was saved.
    """

    searches = True

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
            size("a size of method.dims", dim)
        for depth in depths:
            whole(
                "a depth of method.depths",
                depth,
                low=1,
                high=backbone.depth,
                of="the network's depth",
            )
        if not (dims and depths):
            raise UserError("dims and depths of the search space must not be empty")
        # Copied before modules are swapped in: the best subnet is built on it.
        pristine = copy.deepcopy(backbone)
        largest = (max(dims),) * backbone.depth
        super().__init__(backbone, Genes(largest, largest, largest), dropout)
        self.pristine = [pristine]  # a list, so that it is no submodule of the supernet
        self.dropout = dropout
        self.space = Space(tuple(dims), tuple(depths), backbone.depth)
        self.plan = Plan(
            generations=whole("method.generations", generations, low=1),
            population=whole("method.population", population, low=1),
            parents=whole("method.parents", parents, low=1),
            mutants=whole("method.mutants", mutants, low=0),
            crossovers=whole("method.crossovers", crossovers, low=0),
            module_chance=probability("method.module_chance", module_chance),
            depth_chance=probability("method.depth_chance", depth_chance),
        )
        self.budget = positive("method.budget_m", budget_m) * 1e6
        self.supernet_epochs = whole("method.supernet_epochs", supernet_epochs, low=1)
        self.supernet_lr = positive("method.supernet_lr", supernet_lr)

    def become(self, genes: Genes) -> None:
        """Use these sizes in the next forward passes."""
        for number, block in enumerate(self.backbone.net.blocks):
            block.after_mlp.size = genes.adapter[number]
            block.block.attn.qkv.size = genes.lora[number]
            prompts = self.prompts_of(number + 1)
            assert prompts is not None  # a supernet has prompts in every block
            prompts.size = genes.prompts[number]

    def fit(self, trainer: Trainer) -> Fitted:
        """Train the supernet, search in it, and train the best subnet."""
        search = trainer.search()
        self._train_supernet(search)
        scores, summary = self._search(search, trainer.seed)
        best = max(scores, key=scores.__getitem__)
        values: dict[str, Any] = {name: list(sizes) for name, sizes in asdict(best).items()}
        values["dropout"] = self.dropout
        torch.manual_seed(trainer.seed)  # a start that does not depend on the search
        subnet = registry.create(SUBNET, self.pristine[0], **values)
        trainer.train(subnet)
        # The delta then names noah_subnet, so loading it needs no search.
        return Fitted(subnet, (SUBNET, values), {"search": summary})

    def _train_supernet(self, search: SearchTrainer) -> None:
        dice = random.Random()

        def draw(step: Step) -> None:
            if step.index == 0:
                dice.seed(step.epoch)  # as in the authors' code
            self.become(self.space.sample(dice))

        log.info("supernet: %d epochs", self.supernet_epochs)
        epochs, lr = self.supernet_epochs, self.supernet_lr
        search.train(self, "supernet", epochs=epochs, lr=lr, before_step=draw)

    def _score(self, search: SearchTrainer, genes: Genes) -> float:
        self.become(genes)
        return search.score(self)

    def _search(self, search: SearchTrainer, seed: int) -> tuple[Seen, dict[str, Any]]:
        """All subnets with their scores, and a summary; each generation is logged and stored."""
        history: list[dict[str, Any]] = search.unfinished.load("search") or []
        seen = {_genes(row): row["top1"] for part in history for row in part["scored"]}
        last = self.plan.generations
        for number in range(len(history) + 1, last + 1):
            # own dice for each generation: a resumed search draws what an uninterrupted one draws
            children = self._children(seen, random.Random(f"{seed} {number}"))
            scored = {genes: self._score(search, genes) for genes in children}
            seen |= scored
            best = max(seen.values())
            rows = [asdict(genes) | {"top1": top1} for genes, top1 in scored.items()]
            history.append({"generation": number, "best": best, "scored": rows})
            search.unfinished.save("search", history, f"generation {number} of {last}")
            log.info(
                "generation %d/%d: %d subnets, best %.1f %% on val",
                *(number, last, len(scored), best),
            )
        best_genes = max(seen, key=seen.__getitem__)
        summary = {
            "generations": [each | {"scored": len(each["scored"])} for each in history],
            "genes": asdict(best_genes),
            "parameters": best_genes.parameters(self.backbone.widths[0]),
            "top1": seen[best_genes],
        }
        return seen, summary

    def _children(self, seen: Seen, dice: random.Random) -> list[Genes]:
        """The subnets of the next generation. Raises UserError if no subnet is small enough."""
        width = self.backbone.widths[0]
        children = next_generation(
            seen,
            self.space,
            self.plan,
            # counted from the sizes, so no subnet is built for it
            lambda genes: genes.parameters(width) <= self.budget,
            dice,
        )
        # a later generation may be empty: small spaces run out of new subnets
        if not (children or seen):
            raise UserError(
                f"no subnet of at most {self.budget / 1e6:g} million parameters was found; "
                "raise method.budget_m"
            )
        return children


def _genes(row: Mapping[str, Any]) -> Genes:
    return Genes(*(tuple(row[name]) for name in MODULES))
