"""`python -m petlbench.data fetch` from local servers that cut connections or send errors."""

import hashlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from petlbench.commands.data import fetch
from petlbench.commands.data.main import main
from petlbench.errors import UserError
from tests.trees import data

Capture = pytest.CaptureFixture[str]
CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """A server of CONTENT. cuts: bytes that answers send before the connection is cut."""

    url: str = ""
    ranges: bool = True
    sized: bool = True
    cuts: list[int] = field(default_factory=list)
    moved_to: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)  # headers of the requests


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, state)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        state.url = f"http://127.0.0.1:{served.server_port}"
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield state
        served.shutdown()
        thread.join()


def answer(handler: BaseHTTPRequestHandler, state: Server) -> None:
    headers = dict(handler.headers.items())
    state.asked.append(headers)
    if state.moved_to:
        handler.send_response(302)
        handler.send_header("Location", f"{state.moved_to}{handler.path}")
        handler.end_headers()
        return
    if "missing" in handler.path:
        handler.send_error(404)
        return
    start = int(headers.get("Range", "bytes=0-")[6:-1]) if state.ranges else 0
    if start >= len(CONTENT):
        handler.send_error(416)
        return
    handler.send_response(206 if start else 200)
    if state.sized:
        handler.send_header("Content-Length", str(len(CONTENT) - start))
    handler.end_headers()
    cut = state.cuts.pop(0) if state.cuts else len(CONTENT)
    handler.wfile.write(CONTENT[start : start + cut])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PAUSE_S", 0.0)
    monkeypatch.setattr(fetch, "CHUNK", 4096)
    monkeypatch.setenv("no_proxy", "*")


def run_fetch(capsys: Capture, url: str, to: object, sha256: str = SHA256) -> tuple[int, Any, str]:
    return data(capsys, "fetch", url, "--sha256", sha256, "--to", to)


def test_a_file_is_downloaded_completely(server: Server, tmp_path: Path, capsys: Capture) -> None:
    status, report, _ = run_fetch(capsys, f"{server.url}/some%20data.zip?x=1", tmp_path)
    assert (status, report["state"], report["bytes"]) == (0, "fetched", len(CONTENT))
    assert (tmp_path / "some data.zip").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["some data.zip"]
    status, report, _ = run_fetch(
        capsys, f"{server.url}/some%20data.zip", tmp_path, SHA256.upper()
    )
    assert (status, report["state"], len(server.asked)) == (0, "there", 1)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_opened_again(
    ranges: bool, server: Server, tmp_path: Path, capsys: Capture
) -> None:
    server.ranges, server.cuts = ranges, [100_000, *([50_000] if ranges else [])]
    status, _, err = run_fetch(capsys, f"{server.url}/a.zip", tmp_path)
    assert status == 0
    assert "the connection was cut at 0.1 MB; continuing from there" in err
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    asked = [headers.get("Range") for headers in server.asked]
    assert asked == [None, "bytes=100000-", *(["bytes=150000-"] if ranges else [])]


def test_the_next_call_continues(server: Server, tmp_path: Path, capsys: Capture) -> None:
    server.cuts = [100_000, 0]
    status, _, err = run_fetch(capsys, f"{server.url}/a.zip", tmp_path)
    assert status == 2
    assert "the connection was cut; 0.1 MB are kept, the same command continues" in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip.part"]
    assert run_fetch(capsys, f"{server.url}/a.zip", tmp_path)[0] == 0
    assert server.asked[-1]["Range"] == "bytes=100000-"
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_complete_part_is_used(server: Server, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert run_fetch(capsys, f"{server.url}/a.zip", tmp_path)[0] == 0
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_server_may_omit_the_length(server: Server, tmp_path: Path, capsys: Capture) -> None:
    server.sized = False
    assert run_fetch(capsys, f"{server.url}/a.zip", tmp_path)[0] == 0


@pytest.mark.parametrize("before", [b"", b"from another file"])
def test_a_file_with_a_wrong_hash_is_deleted(
    before: bytes, server: Server, tmp_path: Path, capsys: Capture
) -> None:
    if before:
        (tmp_path / "a.zip.part").write_bytes(before)
    status, _, err = run_fetch(capsys, f"{server.url}/a.zip", tmp_path, "0" * 64)
    assert status == 2
    assert f"not {'0' * 64}; the download was deleted" in err
    assert list(tmp_path.iterdir()) == []


def test_the_part_of_another_file_is_replaced(
    server: Server, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"from another file")
    status, _, err = run_fetch(capsys, f"{server.url}/a.zip", tmp_path)
    assert status == 0
    assert "the part of an earlier download does not fit; starting again" in err
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_unusual_addresses(server: Server, tmp_path: Path, capsys: Capture) -> None:
    assert (
        run_fetch(capsys, f"{server.url}/\N{LATIN SMALL LETTER E WITH ACUTE}.zip", tmp_path)[0]
        == 0
    )
    status, _, err = run_fetch(capsys, "http://[::1", tmp_path)
    assert status == 2
    assert err.startswith("error: 'http://[::1' is not an address to fetch from")


def test_another_file_is_never_overwritten(
    server: Server, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "a.zip").write_bytes(b"mine")
    status, _, err = run_fetch(capsys, f"{server.url}/a.zip", tmp_path)
    assert (status, server.asked) == (2, [])
    assert "a.zip' exists and is another file; give another --to" in err
    assert (tmp_path / "a.zip").read_bytes() == b"mine"
    assert run_fetch(capsys, f"{server.url}/a.zip", tmp_path / "new" / "b.zip")[0] == 0
    assert (tmp_path / "new" / "b.zip").read_bytes() == CONTENT
    assert run_fetch(capsys, f"{server.url}/a.zip", f"{tmp_path}/folder/")[0] == 0
    assert (tmp_path / "folder" / "a.zip").read_bytes() == CONTENT


MISTAKES = [
    ("{server}/missing.zip", SHA256, "cannot be fetched: HTTP 404 Not Found"),
    ("http://127.0.0.1:1/a.zip", SHA256, "Connection refused (is this machine online?)"),
    ("{server}/a.zip", "abc", "--sha256 is 'abc'; it must be 64 hexadecimal digits"),
    ("{server}/..%2Fa.zip", SHA256, "ends with no file name; give one with --to FILE"),
    ("{server}/", SHA256, "ends with no file name; give one with --to FILE"),
    ("http://127.0.0.1:99999/a.zip", SHA256, "is not an address to fetch from"),
    ("http://" + 70 * "a" + "/a.zip", SHA256, "cannot be fetched: "),
    (
        "ftp://host/a.zip",
        SHA256,
        "is not an address to fetch from; use http(s)://HOST/FILE or hf://",
    ),
    ("hf://datasets/owner", SHA256, "is not an address to fetch from"),
]


@pytest.mark.parametrize(("url", "sha256", "message"), MISTAKES)
def test_an_error_is_one_line(
    url: str, sha256: str, message: str, server: Server, tmp_path: Path, capsys: Capture
) -> None:
    status, _, err = run_fetch(capsys, url.format(server=server.url), tmp_path, sha256)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_on_the_hub_has_an_address(
    server: Server, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    address, headers = fetch._address("hf://datasets/some/data@v1/folder/a.zip")
    assert address.endswith("/datasets/some/data/resolve/v1/folder/a.zip")
    assert headers["authorization"] == "Bearer hf_secret"
    monkeypatch.setattr(fetch, "_address", lambda _: (f"{server.url}/a.zip", headers))
    other = f"http://localhost:{server.url.rpartition(':')[2]}"
    server.moved_to = other
    with pytest.raises(UserError):  # endless redirection
        fetch.fetch("hf://", SHA256, str(tmp_path))
    tokens = [headers.get("Authorization") for headers in server.asked]
    assert tokens[0] == "Bearer hf_secret"
    assert set(tokens[1:]) == {None}  # another host never sees it
    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        fetch.fetch("hf://datasets/some/data/a.zip", SHA256, str(tmp_path))


def test_two_processes_do_not_write_one_file(
    server: Server, tmp_path: Path, capsys: Capture
) -> None:
    with fetch._locked(tmp_path / "a.zip.part"):
        status, _, err = run_fetch(capsys, f"{server.url}/a.zip", tmp_path)
    assert (status, server.asked) == (2, [])
    assert "another process fetches" in err


def test_an_interrupt_keeps_the_downloaded_part(
    server: Server, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    server.cuts = [100_000]
    monkeypatch.setattr("time.sleep", interrupted)
    command = ["fetch", f"{server.url}/a.zip", "--sha256", SHA256, "--to", str(tmp_path)]
    assert main(command) == 130
    assert (tmp_path / "a.zip.part").stat().st_size == 100_000
