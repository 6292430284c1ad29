"""A stand-in for W&B's server on loopback: it takes runs and remembers them."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "someone"


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
    """url: its address. runs: by their id. closing: drop all that comes from now on."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, Sent] = {}
        self.closing = False


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._body()
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
        if "upsertBucket" in query:
            return {"upsertBucket": {"bucket": self._opened(values), "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/up/{name}"}
                     for name in values["files"]]  # fmt: skip
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        if "runs(" in query:
            return {"project": self._project()}
        user = {"id": "1", "name": ENTITY, "username": ENTITY, "entity": ENTITY, "flags": "{}"}
        return {"viewer": {**user, "email": "", "admin": False, "teams": {"edges": []}}}

    def _opened(self, values: dict[str, Any]) -> dict[str, Any]:
        name, runs = values["name"], self.server.runs
        if name not in runs:
            runs[name] = Sent(values)
        elif values.get("config") and runs[name].exit_code is not None:
            runs[name] = Sent(values, opened=runs[name].opened + 1)
        project = {"id": "1", "name": values["project"], "entity": {"id": "1", "name": ENTITY}}
        return {"id": "1", "name": name, "displayName": name, "project": project}

    def _project(self) -> dict[str, Any]:
        nodes = [
            {"node": _node(name, run), "cursor": name} for name, run in self.server.runs.items()
        ]
        page = {"endCursor": None, "hasNextPage": False}
        return {"internalId": "1", "runCount": len(nodes), "readOnly": False,
                "runs": {"edges": nodes, "pageInfo": page}}  # fmt: skip

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


def _node(name: str, run: Sent) -> dict[str, Any]:
    user = {"name": ENTITY, "username": ENTITY}
    return {"id": "1", "internalId": "1", "name": name, "displayName": name, "state": run.state,
            "projectId": "1", "sweepName": None, "tags": [], "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00", "config": "{}", "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run.summary), "user": user, "description": "",
            "commit": None, "host": None, "readOnly": False, "historyKeys": None}  # fmt: skip


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
