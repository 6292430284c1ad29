"""`fetch`: downloads one file, resumes after a cut connection, and checks its SHA-256."""

import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from petlbench.data import pixels
from petlbench.errors import UserError
from petlbench.progress import say
from petlbench.system import lock, sha256_of, user_path

CHUNK = 2**20  # bytes
TIMEOUT_S = 60.0  # without a byte from the server
PAUSE_S = 2.0  # before a connection that was cut is opened again
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416  # HTTP status codes
# UnicodeError: a host name that is no name, for example with a part of more than 63 letters
CUT = (http.client.HTTPException, ConnectionError, TimeoutError, UnicodeError)
HUB = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)")
ASCII = "".join(map(chr, range(33, 127)))  # characters of an address that are not quoted
Headers = dict[str, str]


def fetch(url: str, sha256: str, to: str) -> dict[str, Any]:
    """Download a file into a folder (an existing one, or a path that ends with /) or to a path.

    Raises UserError for a wrong hash (then no file is left), for a connection that brings nothing
    (then FILE.part is left, and the next call continues it), and if another file exists.
    """
    address, headers = _address(url)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UserError(f"--sha256 is '{sha256}'; it must be 64 hexadecimal digits")
    target = _target(url, address, to)
    report = {"command": "fetch", "ok": True, "url": url, "file": str(target), "sha256": sha256}
    if target.exists():
        if not target.is_file() or sha256_of(target) != sha256.lower():
            raise UserError(f"--to: '{target}' exists and is another file; give another --to")
        return report | {"state": "there", "bytes": target.stat().st_size}
    part = target.with_name(f"{target.name}.part")
    with _locked(part) as file:
        resumed = part.stat().st_size > 0
        digest = _download(address, headers, file, part)
        # the part may be of another file with the same name
        if digest != sha256.lower() and resumed:
            say("the part of an earlier download does not fit; starting again")
            file.truncate(0)
            digest = _download(address, headers, file, part)
        if digest != sha256.lower():
            part.unlink()
            raise UserError(
                f"'{url}' has SHA-256 {digest}, not {sha256.lower()}; the download was deleted"
            )
        os.replace(part, target)
    return report | {"state": "fetched", "bytes": target.stat().st_size}


def _target(url: str, address: str, to: str) -> Path:
    """The path of the file."""
    target = user_path("--to", to)
    if to.endswith("/") or target.is_dir():
        name = unquote(urlsplit(address).path.rpartition("/")[2])
        if name in ("", ".", "..") or "/" in name:
            raise UserError(f"'{url}' ends with no file name; give one with --to FILE")
        target = user_path("--to", target / name)
    return target


def _address(url: str) -> tuple[str, Headers]:
    """The http(s) address of a file, and the headers for its server."""
    if match := HUB.fullmatch(url):
        import huggingface_hub
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise UserError("HF_HUB_OFFLINE is set; unset it to fetch from the hub")
        repository, revision, file = match.groups()
        address = huggingface_hub.hf_hub_url(
            repository, file, repo_type="dataset", revision=revision
        )
        return address, build_hf_headers()
    with suppress(ValueError):  # a port that is no number, or half a bracket
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return quote(url, safe=ASCII), {"User-Agent": "petlbench"}
    raise UserError(
        f"'{url}' is not an address to fetch from; use http(s)://HOST/FILE or "
        "hf://datasets/OWNER/REPOSITORY[@REVISION]/FILE"
    )


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """The file to append to, locked against other processes; deleted at the end if empty."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("ab")
    except OSError as error:
        raise UserError(
            f"--to: '{part}' cannot be written: {error.strerror}; give another --to"
        ) from error
    with file:
        try:
            lock(file, wait=False)
        except BlockingIOError as error:
            raise UserError(f"another process fetches '{part}'; wait for it") from error
        try:
            yield file
        finally:
            if part.is_file() and not part.stat().st_size:
                part.unlink()


def _download(address: str, headers: Headers, file: IO[bytes], part: Path) -> str:
    """Append to a file until it is complete; its SHA-256.

    Raises UserError if an attempt brings nothing.
    """
    while True:
        before = part.stat().st_size
        try:
            if _request(address, headers, file, before):
                file.flush()
                return sha256_of(part)
            reason = "the connection was cut"
        except (*CUT, urllib.error.URLError) as error:
            reason = _reason(error)
        file.flush()
        size = part.stat().st_size
        if size <= before:
            kept = f"; {size / 1e6:.1f} MB are kept, the same command continues" if size else ""
            raise UserError(f"'{address}' cannot be fetched: {reason}{kept}")
        say(f"{reason} at {size / 1e6:.1f} MB; continuing from there")
        time.sleep(PAUSE_S)


def _reason(error: Exception) -> str:
    """An error of the connection in words."""
    if isinstance(error, urllib.error.HTTPError):
        login = "; for a private repository log in with `hf auth login`"
        return f"HTTP {error.code} {error.reason}{login if error.code in (401, 403) else ''}"
    if isinstance(error, urllib.error.URLError):
        return f"{error.reason} (is this machine online?)"
    return str(error) or type(error).__name__


def _request(address: str, headers: Headers, file: IO[bytes], start: int) -> bool:
    """Request the bytes from `start` on and append them; whether all of them came."""
    request = urllib.request.Request(address)
    for key, value in headers.items():
        request.add_unredirected_header(key, value)  # a token is for its own host alone
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == RANGE_NOT_SATISFIABLE and start:
            return True  # nothing is missing; if that is wrong, the SHA-256 differs
        raise
    with answer:
        expected = f"bytes {start}-"
        continues = answer.headers.get("Content-Range", expected).startswith(expected)
        if start and not (answer.status == PARTIAL_CONTENT and continues):
            file.truncate(0)  # the server starts again
            start = 0
        content_length = answer.headers.get("Content-Length", "")
        is_number = content_length.isascii() and content_length.isdecimal()
        length = int(content_length) if is_number else None
        folder = Path(file.name).parent
        pixels.require_space(length or 0, folder, f"'{address}'", "give another --to")
        size = _append(answer, file, start, length)
    return length is None or size == length


def _read(answer: IO[bytes]) -> bytes:
    """The next bytes of an answer; the last ones before a cut included."""
    try:
        return answer.read(CHUNK)
    except http.client.IncompleteRead as error:
        if error.partial:
            return error.partial
        raise


def _append(answer: IO[bytes], file: IO[bytes], start: int, length: int | None) -> int:
    """Append an answer to a file, with a bar on a terminal; the number of bytes."""
    size = 0
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    hidden = not sys.stderr.isatty()
    console = Console(stderr=True)
    with Progress(*columns, TransferSpeedColumn(), console=console, disable=hidden) as bar:
        total = None if length is None else start + length
        task = bar.add_task(Path(file.name).stem, total=total, completed=start)
        while chunk := _read(answer):
            file.write(chunk)
            size += len(chunk)
            bar.advance(task, len(chunk))
    return size
