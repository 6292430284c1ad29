"""Pre-train vit_mini on procedural scenes: python -m petlbench.mini.pretrain --out DIR.

Several heads learn the labels of the scenes. The learning rate warms up, is constant, and decays
over the last steps. The steps before the decay do not depend on --steps, so a run that stopped in
the constant phase can be resumed with another --steps and gives the same weights as a run that had
it from the start. Writes DIR/curve.jsonl, DIR/state.pt, and at the end the weights to
DIR/vit_mini.safetensors (float16) and the accuracies to DIR/heldout.json.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException, spawn
from torch.nn.parallel import DistributedDataParallel

from petlbench.arguments import MISTYPED, Parser, command
from petlbench.errors import UserError, unknown
from petlbench.mini.objective import Pretraining, held_out, losses
from petlbench.mini.recipe import Recipe, check_resumable
from petlbench.mini.scenes import Generator, Scenes
from petlbench.system import user_path

CHUNK = 8  # steps for which scenes are drawn at once
SAVE_EVERY = 400  # steps
LOG_EVERY = 100


def build_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases, norms, class token and positions."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, tensor in model.named_parameters():
        # class token and positions have three dimensions; timm's no_weight_decay() names both
        exempt = tensor.ndim < 2 or "pos_embed" in name or "cls_token" in name
        (others if exempt else matrices).append(tensor)
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True)


class Run:
    """The state of one process of a pre-training run."""

    def __init__(self, recipe: Recipe, out: Path, device: torch.device, rank: int) -> None:
        self.recipe, self.out, self.device, self.rank = recipe, out, device, rank
        torch.manual_seed(recipe.seed)
        self.model = Pretraining().to(device)
        self.optimiser = build_optimiser(self.model, recipe)
        # equal weights at the start, but scenes of its own in each process
        self.scenes = Generator(recipe.seed * 1000 + 1 + rank, device)
        self.before_chunk = self.scenes.random.get_state()
        self.step = 0
        self.seconds = 0.0

    def train(self) -> None:
        """Make the remaining steps; log and save the state at intervals."""
        single = self.recipe.processes == 1
        # self.model stays unwrapped: DistributedDataParallel would put `module.` before its names
        model = self.model if single else DistributedDataParallel(self.model)
        self.model.train()
        started = time.monotonic() - self.seconds
        means: dict[str, float] = {}
        for scenes in self._batches():
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.rate(self.step)
            loss, accuracies = losses(model, scenes)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.step += 1
            self.seconds = time.monotonic() - started
            for key, value in ({"loss": float(loss.detach())} | accuracies).items():
                # over about 33 steps: figures of one small batch scatter
                means[key] = 0.97 * means.get(key, value) + 0.03 * value
            if self.step % LOG_EVERY == 0 or self.step == self.recipe.steps:
                self._log(means)
            if self.step % SAVE_EVERY == 0 or self.step == self.recipe.steps:
                self.save()

    def _batches(self) -> Iterator[Scenes]:
        own = self.recipe.batch // self.recipe.processes
        while self.step < self.recipe.steps:
            # A run that was saved within a chunk draws it again and starts in its middle.
            first = self.step % CHUNK
            self.before_chunk = self.scenes.random.get_state()
            drawn = self.scenes.draw(own * CHUNK, self.recipe.calm(self.step - first))
            for k in range(first, min(CHUNK, first + self.recipe.steps - self.step)):
                part = slice(own * k, own * (k + 1))
                labels = {kind: label[part] for kind, label in drawn.labels.items()}
                yield Scenes(drawn.images[part], labels, drawn.cover[part])

    def save(self) -> None:
        """Save the state atomically, in the first process; all processes must call it."""
        within = self.step % CHUNK > 0
        own = self.before_chunk if within else self.scenes.random.get_state()
        states: list[Any] = [own]
        if self.recipe.processes > 1:
            states = [None] * self.recipe.processes
            dist.all_gather_object(states, own)
        if self.rank:
            return
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "scenes": states,
        }
        torch.save(state, self.out / ".state.tmp")
        # atomic: a run that is killed here can still be resumed from the former state
        os.replace(self.out / ".state.tmp", self.out / "state.pt")

    def load(self) -> None:
        """Continue from the saved state. Raises UserError if its recipe is another."""
        # weights_only: loading a file must not run code from it
        state = torch.load(self.out / "state.pt", map_location=self.device, weights_only=True)
        check_resumable(Recipe(**state["recipe"]), self.recipe, state["step"])
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        # set_state takes a CPU tensor, but map_location has moved it
        self.scenes.random.set_state(state["scenes"][self.rank].cpu())

    def _log(self, values: dict[str, float]) -> None:
        if self.rank:
            return
        images = self.step * self.recipe.batch
        row = {"step": self.step, "images": images, "seconds": round(self.seconds, 1)}
        row |= {"lr": self.recipe.rate(self.step - 1)}
        row |= {key: round(value, 4) for key, value in values.items()}
        with (self.out / "curve.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        left_s = self.seconds / self.step * (self.recipe.steps - self.step)
        print(
            f"step {self.step}/{self.recipe.steps} loss {values['loss']:.3f} "
            f"sprite {values['sprite']:.3f} x {values['x']:.3f} {left_s:.0f} s left",
            flush=True,
        )


def export(run: Run) -> None:
    """Write the backbone as float16 safetensors, and the held-out accuracies of its heads."""
    # safetensors stores contiguous tensors only
    weights = {
        key: value.half().cpu().contiguous() for key, value in run.model.vit.state_dict().items()
    }
    facts = asdict(run.recipe) | {
        "images": run.recipe.steps * run.recipe.batch,
        "seconds": round(run.seconds),
        "torch": torch.__version__,
    }
    metadata = {key: str(value) for key, value in facts.items()}
    save_file(weights, run.out / "vit_mini.safetensors", metadata=metadata)
    # the rounded weights are what users get, so the accuracies are theirs
    run.model.vit.load_state_dict({key: value.float() for key, value in weights.items()})
    heads = held_out(run.model.to(run.device), run.recipe.calm_last, run.device)
    (run.out / "heldout.json").write_text(json.dumps(facts | {"heads": heads}, indent=1) + "\n")
    for kind, row in heads.items():
        print(f"{kind:12} {row['accuracy']:.3f} (majority {row['majority']:.3f})")


def work(rank: int, recipe: Recipe, out: Path, device: str, resume: bool) -> None:
    """One process: train, and export in the first one."""
    if device == "cpu":
        # more threads would compete with the other processes
        torch.set_num_threads(1 if recipe.processes > 1 else torch.get_num_threads())
    if recipe.processes > 1:
        # the parent's id: the same in all processes, and not that of an earlier run's file
        rendezvous = f"file://{out / f'.meeting-{os.getppid()}'}"
        dist.init_process_group("gloo", rendezvous, rank=rank, world_size=recipe.processes)
    run = Run(recipe, out, torch.device(device), rank)
    if resume:
        run.load()
    run.train()
    if rank == 0:
        export(run)
    if recipe.processes > 1:
        dist.destroy_process_group()


def work_or_tell(
    rank: int, mistakes: "SimpleQueue[str]", recipe: Recipe, out: Path, device: str, resume: bool
) -> None:
    """`work` in a spawned process: a mistake of the user is passed on, and ends the process."""
    try:
        work(rank, recipe, out, device, resume)
    except UserError as error:
        mistakes.put(str(error))
        sys.exit(MISTYPED)


def _spawned(recipe: Recipe, out: Path, device: str, resume: bool) -> None:
    """`work` in several processes. Raises the UserError of one of them."""
    mistakes = get_context("spawn").SimpleQueue()
    arguments = (mistakes, recipe, out, device, resume)
    try:
        spawn(work_or_tell, arguments, nprocs=recipe.processes)
    except ProcessExitedException as error:
        if mistakes.empty():
            raise
        raise UserError(mistakes.get()) from error


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m petlbench.mini.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", required=True, help="folder of curve, state and weights")
    add("--steps", type=int, default=40_000)
    add("--batch", type=int, default=48, help="scenes per step, over all processes")
    add("--processes", type=int, default=1, help="CPU processes of one thread each")
    add("--device", default="cpu", help="cpu or cuda")
    add("--lr", type=float, default=1.2e-3)
    add("--weight-decay", type=float, default=0.05)
    add("--warmup", type=int, default=300, help="steps")
    add("--decay", type=float, default=0.25, help="share of the steps, at the end")
    add("--calm-first", type=float, default=0.9, help="share of easy scenes at the start")
    add("--calm-last", type=float, default=0.3)
    add("--calm-steps", type=int, default=15_000)
    add("--seed", type=int, default=0)
    add("--resume", action="store_true", help="continue from DIR/state.pt")
    return parser.parse_args(arguments)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Exit status: 0, or 2 if the user made a mistake."""
    options = vars(parse(arguments))
    folder, device, resume = (options.pop(key) for key in ("out", "device", "resume"))
    recipe = Recipe(**options)
    _check_device(device)
    out = _prepare_folder(folder, resume)
    if recipe.processes == 1:
        work(0, recipe, out, device, resume)
    else:
        _spawned(recipe, out, device, resume)
    return 0


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unknown("--device", name, ("cpu", "cuda")) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device is {name}, but torch finds no GPU; set --device cpu")


def _prepare_folder(name: str, resume: bool) -> Path:
    """The folder of a run, created if needed; it has a state only if the run is resumed."""
    out = user_path("--out", name)
    exists = (out / "state.pt").exists()
    if resume and not exists:
        raise UserError(f"--resume: no '{out / 'state.pt'}'; leave out --resume to start a run")
    if exists and not resume:
        raise UserError(f"--out: '{out}' holds a run; add --resume, or choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out is '{out}': {error.strerror}; give another folder") from error
    return out


if __name__ == "__main__":
    sys.exit(main())
