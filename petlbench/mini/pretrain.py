"""Pre-train vit_mini on procedural scenes: python -m petlbench.mini.pretrain --out DIR.

Supervised by the labels of the scenes, several heads at once. The learning rate warms up, stays,
and decays over the last steps; what comes before the decay does not depend on --steps, so a run
can be stopped in its stable phase and resumed with another --steps, as if it had been asked for
from the start. The curve goes to DIR/curve.jsonl, the state to DIR/state.pt, and at the end the
weights to DIR/vit_mini.safetensors (float16) with DIR/heldout.json.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from petlbench.errors import UserError
from petlbench.mini.objective import Pretraining, held_out, losses
from petlbench.mini.scenes import Generator, Scenes

CHUNK = 8  # steps whose scenes are drawn together
SAVE_EVERY = 400  # steps, a multiple of CHUNK
LOG_EVERY = 100


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights. Only `steps` may differ when a run is resumed."""

    steps: int
    batch: int  # scenes per step, over all processes
    processes: int
    lr: float
    weight_decay: float
    warmup: int  # steps
    decay: float  # share of the steps over which the learning rate falls to zero, at the end
    calm_first: float  # share of easy scenes at the start
    calm_last: float
    calm_steps: int  # steps over which that share changes
    seed: int

    @property
    def decay_from(self) -> int:
        """The step at which the learning rate starts to fall."""
        return self.steps - round(self.steps * self.decay)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        falling = (self.steps - step) / max(self.steps - self.decay_from, 1)
        return self.lr * min(1.0, (step + 1) / self.warmup, falling)

    def calm(self, step: int) -> float:
        """Share of easy scenes at a step."""
        done = min(1.0, step / self.calm_steps)
        return self.calm_first + (self.calm_last - self.calm_first) * done


def build_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays the matrices of the blocks and heads, and nothing else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, tensor in model.named_parameters():
        spared = tensor.ndim < 2 or "pos_embed" in name or "cls_token" in name
        (others if spared else matrices).append(tensor)
    parts = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(parts, lr=recipe.lr, betas=(0.9, 0.98), fused=True)


class Run:
    """The state of one process of a pre-training run."""

    def __init__(self, recipe: Recipe, out: Path, device: torch.device, rank: int) -> None:
        self.recipe, self.out, self.device, self.rank = recipe, out, device, rank
        torch.manual_seed(recipe.seed)
        self.model = Pretraining().to(device)
        self.optimiser = build_optimiser(self.model, recipe)
        self.scenes = Generator(recipe.seed * 1000 + 1 + rank, device)
        self.step = 0
        self.seconds = 0.0

    def train(self) -> None:
        """All steps that are left, with a log line and a saved state from time to time."""
        wrapped = self.model if self.recipe.processes == 1 else DistributedDataParallel(self.model)
        self.model.train()
        started, mean = time.monotonic() - self.seconds, _RunningMean()
        for scenes in self._batches():
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.rate(self.step)
            loss, accuracies = losses(wrapped, scenes)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.step += 1
            self.seconds = time.monotonic() - started
            mean.add({"loss": float(loss.detach())} | accuracies)
            if self.step % LOG_EVERY == 0 or self.step == self.recipe.steps:
                self._log(mean.values)
            if self.step % SAVE_EVERY == 0 or self.step == self.recipe.steps:
                self.save()

    def _batches(self) -> Iterator[Scenes]:
        own = self.recipe.batch // self.recipe.processes
        while self.step < self.recipe.steps:
            drawn = self.scenes.draw(own * CHUNK, self.recipe.calm(self.step))
            for k in range(min(CHUNK, self.recipe.steps - self.step)):
                part = slice(own * k, own * (k + 1))
                labels = {kind: label[part] for kind, label in drawn.labels.items()}
                yield Scenes(drawn.images[part], labels, drawn.cover[part])

    def save(self) -> None:
        """The whole state, atomically, by the first process."""
        states: list[Any] = [self.scenes.random.get_state()]
        if self.recipe.processes > 1:
            states = [None] * self.recipe.processes
            dist.all_gather_object(states, self.scenes.random.get_state())
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
        os.replace(self.out / ".state.tmp", self.out / "state.pt")

    def load(self) -> None:
        """Go on from the saved state. Raises UserError where that would be another run."""
        state = torch.load(self.out / "state.pt", map_location=self.device, weights_only=True)
        check_resumable(Recipe(**state["recipe"]), self.recipe, state["step"])
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
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


class _RunningMean:
    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, row: dict[str, float]) -> None:
        for key, value in row.items():
            self.values[key] = 0.97 * self.values.get(key, value) + 0.03 * value


def check_resumable(saved: Recipe, wanted: Recipe, step: int) -> None:
    """Only the number of steps may change, and only before either decay begins."""
    for key, value in asdict(saved).items():
        if key != "steps" and getattr(wanted, key) != value:
            raise UserError(f"the saved run has {key} {value}, not {getattr(wanted, key)}")
    if wanted.steps != saved.steps and step > min(saved.decay_from, wanted.decay_from):
        raise UserError(
            f"the saved run is at step {step}; with --steps {wanted.steps} the decay would have "
            f"begun at {wanted.decay_from} (asked for so far: {saved.decay_from})"
        )


def export(run: Run) -> None:
    """The backbone as float16 safetensors, and what its heads reached on held-out scenes."""
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
    run.model.vit.load_state_dict({key: value.float() for key, value in weights.items()})
    found = held_out(run.model.to(run.device), run.recipe.calm_last, run.device)
    (run.out / "heldout.json").write_text(json.dumps(facts | {"heads": found}, indent=1) + "\n")
    for kind, row in found.items():
        print(f"{kind:12} {row['accuracy']:.3f} (majority {row['majority']:.3f})")


def work(rank: int, recipe: Recipe, out: Path, device: str, resume: bool) -> None:
    """One process: train, and let the first one export."""
    if device == "cpu":
        torch.set_num_threads(1 if recipe.processes > 1 else torch.get_num_threads())
    if recipe.processes > 1:
        store = f"file://{out / f'.meeting-{os.getppid()}'}"
        dist.init_process_group("gloo", store, rank=rank, world_size=recipe.processes)
    run = Run(recipe, out, torch.device(device), rank)
    if resume:
        run.load()
    run.train()
    if rank == 0:
        export(run)
    if recipe.processes > 1:
        dist.destroy_process_group()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m petlbench.mini.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of curve, state and weights")
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
    add("--resume", action="store_true", help="go on from DIR/state.pt")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is told in one line."""
    options = vars(parse(arguments))
    out, device, resume = (options.pop(key) for key in ("out", "device", "resume"))
    recipe = Recipe(**options)
    try:
        if recipe.batch % recipe.processes:
            raise UserError(
                f"--batch {recipe.batch} is not a multiple of --processes {recipe.processes}"
            )
        if resume and not (out / "state.pt").is_file():
            raise UserError(f"no {out / 'state.pt'} to resume from")
        if not resume and (out / "state.pt").exists():
            raise UserError(f"'{out}' holds a run; add --resume, or choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        arguments_of_work = (recipe, out, device, resume)
        if recipe.processes == 1:
            work(0, *arguments_of_work)
        else:
            spawn(work, arguments_of_work, nprocs=recipe.processes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
