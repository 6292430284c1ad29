"""One file from the network: resumed where it was cut off, and kept only with the right sha256."""

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

from petlbench.commands.data import sums
from petlbench.data import pixels
from petlbench.errors import UserError
from petlbench.progress import say
from petlbench.system import lock

CHUNK = 2**20  # bytes
SILENT_S = 60.0  # a server that says nothing for so long is gone
PAUSE_S = 2.0  # before a connection that was cut is made again
PART, PAST_END = 206, 416  # answers of HTTP
CUT = (http.client.HTTPException, ConnectionError, TimeoutError)
HUB = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)")
ASCII = "".join(map(chr, range(33, 127)))  # stays as it is in an address
Headers = dict[str, str]


def fetch(url: str, sha256: str, to: str) -> dict[str, Any]:
    """Download a file into a folder (one that is there, or a name that ends with /), or as a file.

    Raises UserError for a wrong hash (then nothing is kept), for a connection that brings nothing
    (then FILE.part is kept, and the next call goes on from there), and where another file is.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UserError(f"--sha256 '{sha256}' is no sha256; it has 64 hexadecimal digits")
    address, headers = _address(url)
    target = Path(to).expanduser()
    if to.endswith("/") or target.is_dir():
        name = unquote(urlsplit(address).path.rpartition("/")[2])
        if name in ("", ".", "..") or "/" in name:
            raise UserError(f"'{url}' ends with no file name; give one with --to FILE")
        target /= name
    report = {"command": "fetch", "ok": True, "url": url, "file": str(target), "sha256": sha256}
    if target.exists():
        if not target.is_file() or sums.of(target) != sha256.lower():
            raise UserError(f"'{target}' is there and is another file; give another --to")
        return report | {"state": "there", "bytes": target.stat().st_size}
    part = target.with_name(f"{target.name}.part")
    with _alone(part) as file:
        resumed = part.stat().st_size > 0
        found = _download(address, headers, file, part)
        if found != sha256.lower() and resumed:
            say("what was kept of an earlier try does not fit; starting again")
            file.truncate(0)
            found = _download(address, headers, file, part)
        if found != sha256.lower():
            part.unlink()
            raise UserError(
                f"what '{url}' sent has sha256 {found}, not {sha256.lower()}; nothing was kept"
            )
        os.replace(part, target)
    return report | {"state": "fetched", "bytes": target.stat().st_size}


def _address(url: str) -> tuple[str, Headers]:
    """The http(s) address of a file, and the headers that its server wants."""
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
    with suppress(ValueError):  # an address that is none, for example of half a bracket
        if urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname:
            return quote(url, safe=ASCII), {"User-Agent": "petlbench"}
    raise UserError(
        f"'{url}' is no address to fetch from; use http(s)://HOST/FILE or "
        "hf://datasets/OWNER/REPOSITORY[@REVISION]/FILE"
    )


@contextmanager
def _alone(part: Path) -> Iterator[IO[bytes]]:
    """The file to append to, which no other process does; an empty one is not left behind."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("ab")
    except OSError as error:
        raise UserError(f"'{part}' cannot be written: {error.strerror}") from error
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
    """Append to a file until it is whole; its sha256. A try that brings nothing ends it."""
    while True:
        before = part.stat().st_size
        try:
            if _try(address, headers, file, before):
                file.flush()
                return sums.of(part)
            why = "the connection was cut"
        except (*CUT, urllib.error.URLError) as error:
            why = _why(error)
        file.flush()
        have = part.stat().st_size
        if have <= before:
            kept = f"; {have / 1e6:.1f} MB are kept, the same command goes on" if have else ""
            raise UserError(f"'{address}' cannot be fetched: {why}{kept}")
        say(f"{why} at {have / 1e6:.1f} MB; going on from there")
        time.sleep(PAUSE_S)


def _why(error: Exception) -> str:
    """What went wrong, in words."""
    if isinstance(error, urllib.error.HTTPError):
        secret = "; for a closed repository log in with `hf auth login`"
        return f"HTTP {error.code} {error.reason}{secret if error.code in (401, 403) else ''}"
    if isinstance(error, urllib.error.URLError):
        return f"{error.reason} (is this machine online?)"
    return str(error) or type(error).__name__


def _try(address: str, headers: Headers, file: IO[bytes], start: int) -> bool:
    """Ask once for what is missing, and append it; whether all of it came."""
    request = urllib.request.Request(address)
    for key, value in headers.items():
        request.add_unredirected_header(key, value)  # a token is for its own host alone
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        answer = urllib.request.urlopen(request, timeout=SILENT_S)
    except urllib.error.HTTPError as error:
        if error.code == PAST_END and start:
            return True  # nothing is missing; if that is wrong, the sha256 will tell
        raise
    with answer:
        wanted = f"bytes {start}-"
        sent = answer.headers.get("Content-Range", wanted).startswith(wanted)
        if start and not (answer.status == PART and sent):
            file.truncate(0)  # a server that starts again
            start = 0
        told = answer.headers.get("Content-Length", "")
        length = int(told) if told.isascii() and told.isdecimal() else None
        pixels.room(length or 0, Path(file.name).parent, address, "give another --to")
        got = _copied(answer, file, start, length)
    return length is None or got == length


def _read(answer: IO[bytes]) -> bytes:
    """The next bytes of an answer; of one that is cut off, what came."""
    try:
        return answer.read(CHUNK)
    except http.client.IncompleteRead as error:
        if error.partial:
            return error.partial
        raise


def _copied(answer: IO[bytes], file: IO[bytes], start: int, length: int | None) -> int:
    """Append an answer to a file, with a bar on a terminal; the bytes that came."""
    got = 0
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    hidden = not sys.stderr.isatty()
    console = Console(stderr=True)
    with Progress(*columns, TransferSpeedColumn(), console=console, disable=hidden) as bar:
        total = None if length is None else start + length
        shown = bar.add_task(Path(file.name).stem, total=total, completed=start)
        while chunk := _read(answer):
            file.write(chunk)
            got += len(chunk)
            bar.advance(shown, len(chunk))
    return got
