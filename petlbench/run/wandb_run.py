"""What W&B holds of a run: its names, configuration, summary, and its files as an artifact."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petlbench.config.job_nodes import WandbConfig
from petlbench.run.identity import without_folders
from petlbench.run.wandb_client import FINISH_S, quiet, within

TAG_LENGTH = 64  # W&B refuses longer ones
NAME_LENGTH = 128  # of an artifact
JOB_TYPE = "train"  # of a W&B run with a record
ARTIFACT = "petlbench-run"  # its type
SLOW = 1e6  # bytes/s of a slow line to the server
ROW = ("epoch", "loss", "lr")
COSTS = ("saved_mb", "train_s", "train_images_per_s", "test_images_per_s")


def arguments(
    record: Mapping[str, Any], settings: WandbConfig, folder: str | None
) -> dict[str, Any]:
    """Keyword arguments of `wandb.init`; folder: where W&B keeps its files."""
    factors = record["factors"]
    tags = [record["suite"], record["group"], factors["method"], factors["backbone"]]
    return {
        # given always: WANDB_RUN_ID would make all runs of a sweep one
        "id": record["id"],
        "project": settings.project,
        "entity": settings.entity,
        "name": f"{factors['method']}-{factors['task']}-{factors['seed']}",
        "group": group(record, settings),
        "job_type": JOB_TYPE,
        "tags": list(dict.fromkeys(str(tag)[:TAG_LENGTH] for tag in [*tags, *settings.tags])),
        "config": record["config"],
        "dir": folder,
        "settings": quiet(),
    }


def group(record: Mapping[str, Any], settings: WandbConfig) -> str:
    """The name of the sweep that a run belongs to."""
    return settings.group or str(record["suite"])


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Values for dashboards: top1 per test set, costs, status, weights, record; no nulls."""
    scores = {f"{name}/top1": score["top1"] for name, score in record["scores"].items()}
    cost = record["cost"]
    values = {
        **scores,
        **{name: cost.get(name) for name in COSTS},
        "parameters_method": (cost.get("parameters") or {}).get("method"),
        "peak_mib": (cost.get("peak_mib") or {}).get("allocated"),
        "predicted_peak_mib": (cost.get("predicted_mib") or {}).get("allocated"),
        "status": record["status"],
        "failed": int(record["status"] != "finished"),  # a number, which W&B can add
        "reason": without_folders(record["reason"] or "") or None,
        "checkpoint_sha256": (record["provenance"].get("checkpoint") or {}).get("sha256"),
        "record": record["id"],
    }
    return {name: value for name, value in values.items() if value is not None}


def complete(run: Any, record: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Write the summary and the files, and close the W&B run; raises TimeoutError.

    W&B shows a status other than `finished` as failed.
    """

    def close() -> None:
        run.summary.update(summary(record))
        if files:
            run.log_artifact(_artifact(files))  # asks the server, also a lost one, and waits
        run.finish(exit_code=int(record["status"] != "finished"))

    within(FINISH_S + sum(file.stat().st_size for file in files) / SLOW, close)


def artifact_name(files: Sequence[Path]) -> str:
    """The name of the artifact of a run's files, which have one stem that ends with its id."""
    # other signs are refused
    return re.sub(r"[^\w.-]", "_", files[0].stem, flags=re.ASCII)[-NAME_LENGTH:]


def _artifact(files: Sequence[Path]) -> Any:
    import wandb

    artifact = wandb.Artifact(artifact_name(files), ARTIFACT)
    for file in files:
        # immutable: W&B would otherwise copy each file first
        artifact.add_file(str(file), policy="immutable", skip_cache=True)
    return artifact
