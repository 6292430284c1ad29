"""A stand-in for W&B's server on loopback: it takes runs and remembers them."""

import gzip
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "someone"
WHEN = "2026-01-01T00:00:00Z"


@dataclass
class Sent:
    """What the server was told of one run."""

    settings: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    opened: int = 1  # times

    @property
    def config(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(self.settings["config"])
        return {key: each["value"] for key, each in plain.items() if key != "_wandb"}

    @property
    def state(self) -> str:
        return {None: "running", 0: "finished"}.get(self.exit_code, "failed")


class Server(ThreadingHTTPServer):
    """url: its address. closing: drop all that comes from now on.

    runs: by their id. sweeps and views: as they were sent. artifacts: type -> name -> digests of
    its versions. uploads: path -> content.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, Sent] = {}
        self.sweeps: list[dict[str, Any]] = []
        self.views: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, list[str]]] = {}
        self.uploads: dict[str, bytes] = {}
        self.closing = False


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.closing:
            self.close_connection = True
            return
        self._answer({})

    def do_PUT(self) -> None:
        self.server.uploads[self.path.removeprefix("/up/")] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.server.closing:
            self.close_connection = True
            return
        if self.path == "/graphql":
            query = json.loads(body)
            self._answer({"data": self._data(query["query"], query.get("variables") or {})})
            return
        if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self._stream(self.server.runs[stream[1]], json.loads(body))
        self._answer({"limits": {}})

    def _data(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        for name, answer in _ANSWERS.items():
            if name in query:
                return answer(self, values)
        user = {"id": "1", "name": ENTITY, "username": ENTITY, "entity": ENTITY, "flags": "{}"}
        return {"viewer": {**user, "email": "", "admin": False, "teams": {"edges": []}}}

    def _upserted(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"upsertBucket": {"bucket": self._opened(values), "inserted": True}}

    def _files(self, values: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.server.url}/up/{name}"}
                 for name in values["files"]]  # fmt: skip
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}

    def _sweep(self, values: dict[str, Any]) -> dict[str, Any]:
        self.server.sweeps.append(values)
        project = {"id": "1", "name": values["projectName"], "entity": {"id": "1", "name": ENTITY}}
        sweep = {"name": f"sweep{len(self.server.sweeps)}", "project": project}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _view(self, values: dict[str, Any]) -> dict[str, Any]:
        found = self.server.views.get(values["viewName"])
        edges = [] if found is None else [{"node": {**found, "id": "9"}}]
        return {"project": {"allViews": {"edges": edges}}}

    def _save_view(self, values: dict[str, Any]) -> dict[str, Any]:
        self.server.views[values["name"]] = values
        view = {"id": "9", "name": values["name"]}
        return {"upsertView": {"view": view, "inserted": "id" not in values}}

    def _run(self, values: dict[str, Any]) -> dict[str, Any]:
        run = _node(values["name"], self.server.runs[values["name"]])
        return {"project": {"internalId": "1", "run": run}}

    def _artifact_types(self, _: dict[str, Any]) -> dict[str, Any]:
        types = [{"id": "1", "name": name, "description": None, "createdAt": WHEN,
                  "__typename": "ArtifactType"} for name in self.server.artifacts]  # fmt: skip
        return {"project": {"artifactTypes": _page(types)}}

    def _collections(self, values: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "1", "internalId": "1", "name": "p", "entity": {"name": ENTITY}}
        shared: dict[str, Any] = {
            "__typename": "ArtifactSequence", "id": "1", "description": None, "createdAt": WHEN,
            "updatedAt": None, "project": project, "tags": {"edges": []},
            "type": {"name": values["type"]}}  # fmt: skip
        found = [{**shared, "name": name} for name in self.server.artifacts[values["type"]]]
        page = {"totalCount": len(found), **_page(found)}
        return {"project": {"artifactType": {"artifactCollections": page}}}

    def _create_artifact(self, values: dict[str, Any]) -> dict[str, Any]:
        given = values["input"]
        names = self.server.artifacts.setdefault(given["artifactTypeName"], {})
        versions = names.setdefault(given["artifactCollectionName"], [])
        state = "COMMITTED" if given["digest"] in versions else "PENDING"
        if state == "PENDING":
            versions.append(given["digest"])
        artifact = {"id": given["digest"], "state": state}
        sequence = {"artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact | sequence}}

    def _manifest(self, name: str) -> dict[str, Any]:
        file = {"id": "1", "uploadUrl": f"{self.server.url}/up/manifest", "uploadHeaders": []}
        return {name: {"artifactManifest": {"id": "1", "file": file}}}

    def _artifact_files(self, values: dict[str, Any]) -> dict[str, Any]:
        files = [{"storagePath": each["name"], "uploadUrl": f"{self.server.url}/up/{each['name']}",
                  "uploadHeaders": [], "uploadMultipartUrls": None,
                  "artifact": {"id": each["artifactID"]}}
                 for each in values["input"]["artifactFiles"]]  # fmt: skip
        return {"createArtifactFiles": {"files": _page(files)}}

    def _committed(self, values: dict[str, Any]) -> dict[str, Any]:
        artifact = {"id": values["artifactID"], "digest": values["artifactID"]}
        return {"commitArtifact": {"artifact": artifact}}

    def _opened(self, values: dict[str, Any]) -> dict[str, Any]:
        name, runs = values["name"], self.server.runs
        if name not in runs:
            runs[name] = Sent(values)
        elif values.get("config") and runs[name].exit_code is not None:
            runs[name] = Sent(values, opened=runs[name].opened + 1)
        project = {"id": "1", "name": values["project"], "entity": {"id": "1", "name": ENTITY}}
        return {"id": "1", "name": name, "displayName": name, "project": project}

    def _project(self) -> dict[str, Any]:
        nodes = [_node(name, run) for name, run in self.server.runs.items()]
        runs = _page(nodes)
        return {"internalId": "1", "runCount": len(nodes), "readOnly": False, "runs": runs}

    def _stream(self, run: Sent, sent: dict[str, Any]) -> None:
        files = sent.get("files") or {}
        if part := files.get("wandb-history.jsonl"):
            # a run that is opened again starts at 0 and replaces what there is
            run.history[part["offset"] :] = [json.loads(line) for line in part["content"]]
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(line)
        if sent.get("complete"):
            run.exit_code = sent.get("exitcode", 0)

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _page(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    return {"edges": [{"node": node, "cursor": "1"} for node in nodes], "pageInfo": page}


def _node(name: str, run: Sent) -> dict[str, Any]:
    user = {"name": ENTITY, "username": ENTITY}
    return {"id": "1", "internalId": "1", "name": name, "displayName": name, "state": run.state,
            "group": run.settings["groupName"], "jobType": run.settings["jobType"],
            "projectId": "1", "sweepName": run.settings.get("sweep"), "tags": [],
            "createdAt": WHEN, "heartbeatAt": WHEN, "config": "{}", "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run.summary), "user": user, "description": "",
            "commit": None, "host": None, "readOnly": False, "historyKeys": None}  # fmt: skip


_ANSWERS: dict[str, Callable[[_Handler, dict[str, Any]], dict[str, Any]]] = {
    "upsertBucket": _Handler._upserted,
    "createRunFiles": _Handler._files,
    "upsertSweep": _Handler._sweep,
    "allViews": _Handler._view,
    "upsertView": _Handler._save_view,
    "query ArtifactType(": lambda *_: {"project": {"artifact": None}},
    "artifactTypes(": _Handler._artifact_types,
    "artifactCollections(": _Handler._collections,
    "createArtifact(": _Handler._create_artifact,
    "createArtifactManifest(": lambda handler, _: handler._manifest("createArtifactManifest"),
    "updateArtifactManifest(": lambda handler, _: handler._manifest("updateArtifactManifest"),
    "createArtifactFiles(": _Handler._artifact_files,
    "commitArtifact(": _Handler._committed,
    "runs(": lambda handler, _: {"project": handler._project()},
    " run(": _Handler._run,
}


@contextmanager
def server() -> Iterator[Server]:
    """A running server."""
    serving = Server()
    thread = threading.Thread(target=serving.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield serving
    finally:
        serving.shutdown()
        serving.server_close()
