"""A probe: what a method costs on a backbone, measured on noise with random weights."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petlbench import build, delta, provenance, tracking
from petlbench.checks import positive, whole
from petlbench.cost import forecast, memory, speed
from petlbench.errors import Unsupported, UserError
from petlbench.interface import Method
from petlbench.job import Job
from petlbench.merge import merged
from petlbench.probe.budget import closing
from petlbench.record import Record, Store
from petlbench.run import measured, recorded, seed_everything
from petlbench.train.precision import Precision

Config = Mapping[str, Any]


def probe(config: Config) -> Record:
    """Counts and, on a GPU, memory and speeds of one method on one backbone, recorded.

    Raises UserError for a mistake in the configuration, before anything is recorded.
    """
    return recorded(config, _fill)


def check(config: Config) -> None:
    """Refuse values outside their range, by their names, and pairs that cannot be."""
    values = config["probe"]
    for name, low in (("warmup", 0), ("steps", 1), ("repeats", 1)):
        whole(f"probe.{name}", values[name], low=low)
    positive("probe.repeat_s", values["repeat_s"])
    if values["speed"] not in ("auto", True, False):
        raise UserError(f"probe.speed is {values['speed']}; it must be auto, true or false")
    if not isinstance(values["batches"], list) or not values["batches"]:
        raise UserError(f"probe.batches is {values['batches']}; it must be a list such as [1,16]")
    for batch in values["batches"]:
        whole("a number of probe.batches", batch, low=1)
    if values["budget_gib"] is not None:
        positive("probe.budget_gib", values["budget_gib"])
    build.check(config)


JOB = Job(check=check, execute=probe, closing=closing)


def _fill(record: Record, config: Config, store: Store, tracker: tracking.Tracker) -> None:
    """Every line leaves its part of the record."""
    values = config["probe"]
    seed_everything(config["seed"])
    device = build.device(config)
    method = build.method(config)
    record["provenance"] |= provenance.origin(config, device, method.backbone)
    record["cost"] |= predicted(method, config)
    record["cost"] |= {"delta_bytes": delta_bytes(method)}
    record["cost"] |= measured(
        method, config, device, warmup=values["warmup"], steps=values["steps"]
    )
    if values["speed"] is True or (values["speed"] == "auto" and device.type == "cuda"):
        record["cost"] |= {"train_images_per_s": training(method, config, device)}
        record["cost"] |= {"inference": list(inference(method, config, device, record["notes"]))}


def predicted(method: Method, config: Config) -> dict[str, Any]:
    """The peak of memory expected on a GPU, and how it grows with the batch; from shapes."""
    settings, size = config["train"], config["input"]["size"]
    formats = "fp32" if settings["precision"] == "fp32" else "bf16"
    batch = settings["batch_size"]
    parts, twice = (
        forecast.peak_mib(method, precision=formats, settings=settings, batch=images, size=size)
        for images in (batch, 2 * batch)
    )
    return {
        "predicted_mib": parts,
        "predicted_precision": formats,
        "image_mib": (twice["allocated"] - parts["allocated"]) / batch,
    }


def delta_bytes(method: Method) -> int:
    """Size of the file that keeps what the method trains, head included."""
    with tempfile.TemporaryDirectory() as folder:
        return delta.save(Path(folder) / "delta.safetensors", method, {})


def training(method: Method, config: Config, device: torch.device) -> float:
    """Images/s of training at the configuration's batch size."""
    settings, size = config["train"], config["input"]["size"]
    method.to(device)
    with memory.unchanged(method, device):
        images = torch.randn(settings["batch_size"], 3, size, size, device=device)
        step = memory.TrainingStep(
            method, Precision(settings["precision"], device), settings, images
        )
        return speed.training(
            step, warmup=config["probe"]["warmup"], steps=config["probe"]["steps"]
        )


def inference(
    method: Method, config: Config, device: torch.device, notes: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """A speed for each batch size, as it is and merged, eager and compiled."""
    values = config["probe"]
    memory.free_what_is_left(device)
    method.to(device).eval()
    networks: dict[bool, nn.Module] = {False: method}
    try:
        networks[True] = merged(method)
    except Unsupported as error:
        notes["merged"] = str(error)
    for is_merged, network in networks.items():
        for compiled in (False, True) if values["compile"] else (False,):
            for batch in values["batches"]:
                torch.compiler.reset()
                found = speed.inference(
                    torch.compile(network, dynamic=False) if compiled else network,  # type: ignore[arg-type]
                    precision=Precision(config["train"]["precision"], device),
                    size=config["input"]["size"],
                    batch=batch,
                    repeats=values["repeats"],
                    repeat_s=values["repeat_s"],
                )
                yield {"merged": is_merged, "compiled": compiled} | found
