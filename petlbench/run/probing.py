"""A probe: what a method costs on a backbone, measured on noise with random weights."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petlbench import delta
from petlbench.checks import positive, whole
from petlbench.cost import forecast, memory, speed
from petlbench.cost.section import counts, memory_taken
from petlbench.errors import Unsupported, UserError
from petlbench.merge import merged
from petlbench.method import Method
from petlbench.run import build, provenance, tracking
from petlbench.run.budget import closing
from petlbench.run.job import Job
from petlbench.run.lifecycle import recorded, seed_everything
from petlbench.run.record import Record, Store
from petlbench.train.precision import Precision

Config = Mapping[str, Any]
COMPILE_MODES = {True: "default", "reduce-overhead": "reduce-overhead"}  # torch.compile's
CHOICES: Mapping[str, Sequence[object]] = {
    "speed": ("auto", True, False),
    "compile": (*COMPILE_MODES, False),
}


def probe(config: Config) -> Record:
    """Counts and, on a GPU, memory and speeds of one method on one backbone, recorded.

    Raises UserError for a mistake in the configuration, before anything is recorded.
    """
    return recorded(config, _fill)


def check(config: Config) -> None:
    """Refuse values outside their range, by their names, and pairs that cannot be."""
    values = config["probe"]
    for name in ("warmup", "steps", "repeats"):
        whole(f"probe.{name}", values[name], low=1)
    _amount("probe.repeat_s", values["repeat_s"])
    if values["budget_gib"] is not None:
        _amount("probe.budget_gib", values["budget_gib"])
    for name, known in CHOICES.items():
        _one_of(f"probe.{name}", values[name], known)
    if not isinstance(values["batches"], list) or not values["batches"]:
        raise UserError(f"probe.batches is {values['batches']}; it must be a list such as [1,16]")
    for batch in values["batches"]:
        whole("a number of probe.batches", batch, low=1)
    build.check(config)


def _amount(name: str, value: object) -> None:
    if isinstance(value, bool):  # to Python a number
        raise UserError(f"{name} is {value}; it must be a number above 0")
    positive(name, value)


def _one_of(name: str, value: object, known: Sequence[object]) -> None:
    if (type(value), value) not in [(type(choice), choice) for choice in known]:  # 1 == True
        told = " or ".join(str(choice).lower() for choice in known)
        raise UserError(f"{name} is {value}; it must be {told}")


JOB = Job(check=check, execute=probe, closing=closing)


def _fill(record: Record, config: Config, store: Store, tracker: tracking.Tracker) -> None:
    """Every line leaves its part of the record."""
    settings, size = config["train"], config["input"]["size"]
    seed_everything(config["seed"])
    device = build.device(config)
    method = build.method(config)
    record["provenance"] |= provenance.origin(config, device, method.backbone)
    record["cost"] |= predicted(method, config)
    record["cost"] |= {"delta_bytes": delta_bytes(method)}
    record["cost"] |= counts(method, batch=settings["batch_size"], size=size)
    lack = _trained(record, method, config, device)
    if is_timed(config, device):
        record["cost"] |= {"inference": list(inference(method, config, device, record["notes"]))}
    if lack is not None:
        raise lack


def _trained(
    record: Record, method: Method, config: Config, device: torch.device
) -> torch.OutOfMemoryError | None:
    """Record what training takes; return the error where memory is short, as inference may fit."""
    values, settings = config["probe"], config["train"]
    try:
        record["cost"] |= memory_taken(
            method,
            device=device,
            precision=Precision(settings["precision"], device),
            settings=settings,
            size=config["input"]["size"],
            warmup=values["warmup"],
            steps=values["steps"],
        )
        if is_timed(config, device):
            record["cost"] |= training(method, config, device)
    except torch.OutOfMemoryError as error:
        return error.with_traceback(None)  # whose frames hold the step's tensors
    return None


def is_timed(config: Config, device: torch.device) -> bool:
    """Whether images/s are measured."""
    asked: bool | str = config["probe"]["speed"]
    return device.type == "cuda" if asked == "auto" else bool(asked)


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


def training(method: Method, config: Config, device: torch.device) -> dict[str, float]:
    """Images/s of training at the configuration's batch size, and their spread."""
    values, settings, size = config["probe"], config["train"], config["input"]["size"]
    method.to(device)
    with memory.unchanged(method, device):
        images = torch.randn(settings["batch_size"], 3, size, size, device=device)
        step = memory.TrainingStep(
            method, Precision(settings["precision"], device), settings, images
        )
        return speed.training(
            step, warmup=values["warmup"], steps=values["steps"], repeats=values["repeats"]
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
    modes = [None, COMPILE_MODES[values["compile"]]] if values["compile"] else [None]
    for is_merged, network in networks.items():
        for mode in modes:
            for batch in values["batches"]:
                yield {"merged": is_merged} | _timed(network, config, device, batch, mode)


def _timed(
    network: nn.Module, config: Config, device: torch.device, batch: int, mode: str | None
) -> dict[str, Any]:
    """The speed of a network, compiled by torch in a mode, or as it is."""
    values = config["probe"]
    torch.compiler.reset()
    found = speed.inference(
        torch.compile(network, dynamic=False, mode=mode) if mode else network,  # type: ignore[arg-type]
        precision=Precision(config["train"]["precision"], device),
        size=config["input"]["size"],
        batch=batch,
        repeats=values["repeats"],
        repeat_s=values["repeat_s"],
        failures=Exception if mode else torch.OutOfMemoryError,  # compilers raise all kinds
    )
    return {"compiled": mode is not None, "compile_mode": mode} | found
