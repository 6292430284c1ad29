"""A probe: the costs of a method on a backbone, measured on noise with random weights."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petlbench import delta
from petlbench.config.job_nodes import ProbeConfig
from petlbench.config.nodes import MEMORY_MODES, Train
from petlbench.config.schema import Config
from petlbench.cost import forecast, memory, speed
from petlbench.cost.section import Conditions, countable, counts, memory_taken
from petlbench.errors import Unsupported, UserError
from petlbench.merge import merged
from petlbench.method import Method
from petlbench.run import budget, build, provenance
from petlbench.run.job import Job
from petlbench.run.lifecycle import Run, recorded, seed_everything
from petlbench.run.record import Record
from petlbench.train.frozen import frozen_in_16_bit, in_16_bit
from petlbench.train.precision import Precision

TAKEN = ("saved_mb", "peak_mib")  # the measured memory of a step
COMPILE_MODES = {True: "default", "reduce-overhead": "reduce-overhead"}  # torch.compile's


def probe(config: Config) -> Record:
    """Counts and, on a GPU, memory and speeds of one method on one backbone, recorded.

    Raises UserError for a mistake in the configuration, before anything is recorded.
    """
    return recorded(config, _fill)


def check(config: Config) -> None:
    """Refuse a configuration without probe values, and unsupported pairs."""
    values(config)
    build.check(config)


def check_device(config: Config) -> None:
    """Refuse to measure on another device than that of the identity.

    A worker may have another GPU or number of threads than the process that made the plan.
    """
    probed = values(config)
    here = provenance.comparable_device(config.device, probed.speed)
    if probed.device != here:
        raise UserError(
            f"probe.device is '{probed.device}', but this process measures on '{here}'; start the "
            f"probe on that device (hydra/launcher=basic), or set 'probe.device=\"{here}\"'"
        )


def values(config: Config) -> ProbeConfig:
    """The values of a probe."""
    if config.probe is None:
        raise UserError(
            f"protocol={config.protocol.name} has no probe values; set protocol=probe, or leave "
            "job out"
        )
    return config.probe


@dataclass(frozen=True)
class Probe:
    """A probe at work: what is measured, and under which conditions."""

    method: Method
    values: ProbeConfig
    conditions: Conditions

    @property
    def is_timed(self) -> bool:
        """Whether images/s are measured."""
        asked, device = self.values.speed, self.conditions.device
        return device.type == "cuda" if asked == "auto" else bool(asked)


def _fill(run: Run) -> None:
    """Every line leaves its part of the record."""
    config, record = run.config, run.record
    check_device(config)
    seed_everything(config.seed)
    device = build.device(config.device)
    method = build.method(config)
    probed = values(config)
    conditions = Conditions(
        device=device,
        precision=Precision(config.train.precision, device),
        train=config.train,
        size=config.input.size,
        warmup=probed.warmup,
        steps=probed.steps,
    )
    probing = Probe(method, probed, conditions)
    record["provenance"] |= provenance.of_run(config, device, method.backbone)
    # counts come first, so that a run out of memory has them in its record
    record["cost"] |= predicted(method, conditions, record["notes"])
    record["cost"] |= {"delta_bytes": delta_bytes(method)}
    record["cost"] |= counts(method, conditions, record["notes"])
    shortage = _measure_training(record, probing)
    if probing.is_timed:
        record["cost"] |= {"inference": list(inference(probing, record["notes"]))}
    # only now: the record is out_of_memory, with the speeds of inference
    if shortage is not None:
        raise shortage


def _measure_training(record: Record, probing: Probe) -> torch.OutOfMemoryError | None:
    """Record memory and speed of training; return an error of memory, since inference may fit."""
    shortage = None
    try:
        record["cost"] |= memory_taken(probing.method, probing.conditions, record["notes"])
        if probing.is_timed and probing.method.takes_steps:
            record["cost"] |= training(probing)
    except torch.OutOfMemoryError as error:
        shortage = error.with_traceback(None)  # whose frames hold the step's tensors
    for mode, figures in record["cost"]["memory_modes"].items():
        figures |= _taken(record["cost"], probing, mode)
    return shortage


def _taken(cost: Mapping[str, Any], probing: Probe, mode: str) -> dict[str, Any]:
    """The measured memory in a mode; cost: what is known in the mode of the probe."""
    conditions = probing.conditions
    if mode == conditions.train.memory:
        return {key: cost.get(key) for key in TAKEN}
    other = replace(conditions, train=replace(conditions.train, memory=mode))
    try:
        return memory_taken(probing.method, other, {})  # a count that fails has its note already
    except torch.OutOfMemoryError:
        return dict.fromkeys(TAKEN)


def predicted(method: Method, conditions: Conditions, notes: dict[str, Any]) -> dict[str, Any]:
    """The peak of memory expected on a GPU, and how it grows with the batch; from shapes.

    memory_modes: both of them in each mode of `train.memory`.
    """
    train, size, batch = conditions.train, conditions.size, conditions.batch
    precision = predicted_precision(train)

    def count() -> dict[str, list[dict[str, float]]]:
        return forecast.peaks_mib(
            method,
            precision=precision,
            train=train,
            batches=[batch, 2 * batch],
            size=size,
            modes=MEMORY_MODES,
        )

    peaks: Mapping[str, list[dict[str, float]]] = {}
    if method.takes_steps:
        peaks = countable("predicted_mib", count, notes) or {}
    else:
        notes["predicted_mib"] = memory.NO_STEP
    modes = {mode: _growing(peaks.get(mode), batch) for mode in MEMORY_MODES}
    return modes[train.memory] | {"predicted_precision": precision, "memory_modes": modes}


def _growing(peaks: Sequence[dict[str, float]] | None, batch: int) -> dict[str, Any]:
    """The peak at a batch, and MiB per image; peaks: at `batch` and twice as many images."""
    if peaks is None:
        return {"predicted_mib": None, "image_mib": None}
    parts, twice = peaks
    return {
        "predicted_mib": parts,
        "image_mib": (twice["allocated"] - parts["allocated"]) / batch,
    }


def predicted_precision(train: Train) -> str:
    """The format that a peak on a GPU is predicted for."""
    # fp16 needs as much as bf16, and on a GPU `auto` is one of them
    return "fp32" if train.precision == "fp32" else "bf16"


def delta_bytes(method: Method) -> int:
    """Size of the delta's file, head included."""
    with tempfile.TemporaryDirectory() as folder:
        # as a file: its header counts, and a shared tensor counts once
        return delta.save(Path(folder) / "delta.safetensors", method, {})


def training(probing: Probe) -> dict[str, float]:
    """Images/s of training at the configured batch size, and their spread."""
    method, conditions, probed = probing.method, probing.conditions, probing.values
    device, size = conditions.device, conditions.size
    method.to(device)
    precision = Precision(conditions.train.precision, device)
    with memory.unchanged(method, device), frozen_in_16_bit(method, precision):
        images = torch.randn(conditions.batch, 3, size, size, device=device)
        step = memory.TrainingStep(method, precision, conditions.train, images)
        try:
            return speed.training(
                step, warmup=probed.warmup, steps=probed.steps, repeats=probed.repeats
            )
        finally:
            step.end()


def inference(probing: Probe, notes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A speed for each batch size, unmerged and merged, eager and compiled."""
    method, device = probing.method, probing.conditions.device
    memory.free_unused(device)
    method.to(device).eval()
    networks: dict[bool, nn.Module] = {False: method}
    try:
        networks[True] = merged(method)
    except Unsupported as error:
        notes["merged"] = str(error)
    compiled = probing.values.compile
    modes = [None, COMPILE_MODES[compiled]] if compiled else [None]
    for is_merged, network in networks.items():
        for mode in modes:
            for batch in probing.values.batches:
                yield {"merged": is_merged} | _timed(probing, network, batch, mode)


def _timed(probing: Probe, network: nn.Module, batch: int, mode: str | None) -> dict[str, Any]:
    """The speed of a network, eager or compiled by torch in a mode."""
    conditions = probing.conditions
    # after recompile_limit (8, torch/_dynamo/config.py) compilations torch runs a function eagerly
    torch.compiler.reset()
    precision = Precision(conditions.train.precision, conditions.device)
    image = partial(torch.empty, 1, 3, conditions.size, conditions.size, device=conditions.device)
    with in_16_bit([network], precision, lambda: network(image())):
        timing = speed.inference(
            torch.compile(network, dynamic=False, mode=mode) if mode else network,  # type: ignore[arg-type]
            precision=precision,
            size=conditions.size,
            batch=batch,
            repeats=probing.values.repeats,
            repeat_s=probing.values.repeat_s,
            failures=Exception if mode else torch.OutOfMemoryError,  # compilers raise all kinds
        )
    return {"compiled": mode is not None, "compile_mode": mode} | timing


JOB = Job(check=check, execute=probe, summary=budget.summary)
