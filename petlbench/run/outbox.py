"""Records that W&B does not have, and the means of a group, on their way to a project of W&B."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from petlbench.config.job_nodes import WandbConfig
from petlbench.run.wandb_client import FINISH_S, connected, explained, quiet, within
from petlbench.run.wandb_run import ARTIFACT, ROW, arguments, artifact_name, complete

PAGE = 1000  # runs and artifacts of an answer
TABLE = "means"  # key of the table of means


class Outbox:
    """Sends to a project of W&B, each record to the run with its id.

    project: its name and entity; null: the user's. folder: where W&B keeps its files meanwhile.
    Raises UserError if W&B cannot be reached or refuses something.
    """

    def __init__(self, entity: str | None, project: str, folder: str) -> None:
        self.folder = folder
        with explained():
            self._api, own = connected()
            self.entity, self.name = entity or own, project
            self._states = _states(self._api, self.project)

    @property
    def project(self) -> str:
        """ENTITY/PROJECT."""
        return f"{self.entity}/{self.name}"

    def has(self, record: Mapping[str, Any], files: Sequence[Path]) -> bool:
        """Whether W&B has a record, by its id and by whether it finished, and its files."""
        state = "finished" if record["status"] == "finished" else "failed"
        if self._states.get(record["id"]) != state:
            return False
        return not files or artifact_name(files) in self._artifacts

    def send(
        self, record: Mapping[str, Any], settings: WandbConfig, files: Sequence[Path]
    ) -> None:
        """Send configuration, curve, summary and files; replaces what W&B has of the run."""
        with self._opened(arguments(record, settings, self.folder)) as run:
            curve = record.get("curve") or {}  # earlier records may have none
            for values in zip(*(curve.get(name, []) for name in ROW), strict=True):
                run.log(row := dict(zip(ROW, values, strict=True)), step=row["epoch"])
            complete(run, record, files)

    def digest(self, identifier: str) -> str | None:
        """The digest in the summary of a run that is not one of a record; None without it."""
        if self._states.get(identifier) != "finished":
            return None
        with explained():
            digest: str | None = self._api.run(f"{self.project}/{identifier}").summary.get(
                "digest"
            )
        return digest

    def send_table(
        self, names: Mapping[str, Any], table: Mapping[str, Any], summary: Mapping[str, Any]
    ) -> None:
        """Send a run of its own with one table. names: its id, name, group and job_type.

        table: `columns` and `data` of a wandb.Table, null for unknown values.
        """
        import wandb

        place = {"entity": self.entity, "project": self.name, "dir": self.folder}
        with self._opened({**names, **place, "settings": quiet()}) as run:
            run.log({TABLE: wandb.Table(**table, allow_mixed_types=True)})
            run.summary.update(summary)
            within(FINISH_S, run.finish)

    @contextmanager
    def _opened(self, given: Mapping[str, Any]) -> Iterator[Any]:
        import wandb

        with explained():
            yield wandb.init(mode="online", **given)

    @cached_property
    def _artifacts(self) -> set[str]:
        """The names of all artifacts of runs in the project."""
        with explained():
            # W&B has no type before its first artifact
            types = [one for one in self._api.artifact_types(self.project) if one.name == ARTIFACT]
            return {found.name for one in types for found in one.collections(per_page=PAGE)}


def _states(api: Any, project: str) -> dict[str, str]:
    """The states of the runs of a project by their ids; none if there is no such project."""
    try:
        return {_record(run): run.state for run in api.runs(project, per_page=PAGE)}
    except ValueError as error:
        if "find project" in str(error):
            return {}
        raise


def _record(run: Any) -> str:
    """The id of the record of a run; an agent of a sweep has named its run itself."""
    return str(run.summary.get("record", run.id) if run.sweepName else run.id)
