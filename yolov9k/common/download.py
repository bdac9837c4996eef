"""Fetching a file: what was cut goes on where it ended, its size is what the server said, its hash what it was before."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from yolov9k.common.errors import RUN, UserError, failing_as, one_line, warn
from yolov9k.common.files import cache_folder, locked, write_json
from yolov9k.common.memory import readable_size
from yolov9k.common.progress import progress_bar

TRIES = 5  # connections in a row that bring nothing new
LARGEST = 2**30  # bytes of a file
_PIECE = 2**18
_TIMEOUT = 30.0  # seconds without a byte
_CUT = (http.client.HTTPException, TimeoutError, ConnectionError, urllib.error.URLError)
_CHECKPOINT = (b"PK\x03\x04", b"\x80\x02")  # an archive of torch, or its form before


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but from https to nothing else."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.type == "https" and not newurl.startswith("https://"):
            raise UserError(f"{req.full_url}: redirected to {one_line(newurl, 100)}, which is not https; it is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_open = urllib.request.build_opener(_Redirects).open


@failing_as(RUN)
def fetch(url: str, path: Path, *, pause: float = 1.0, progress: bool = True) -> str:
    """Fetch a checkpoint to `path`, its folder made where there is none; returns its SHA-256. What is there is not fetched.

    What a cut connection or an ended process left beside it, .NAME.part, is gone on with where the server says that the file
    is still the same. The hash is remembered by address in the folder of caches when a file is first seen; another one later is
    refused. pause: seconds before the second try, doubled at each. Raises UserError.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{one_line(url, 100)}: expected an address that begins with https://")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f".{path.name}"), lambda: warn(f"{path}: another process fetches it; waiting for its end")):
            if path.exists():
                return _pinned(url, path)
            transfer = _Transfer(url, path, pause, progress)
            transfer.run()
            return transfer.finish()
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


class _Transfer:
    """One file's way here, over as many connections as it takes."""

    def __init__(self, url: str, path: Path, pause: float, progress: bool) -> None:
        self.url, self.path, self.pause, self.progress = url, path, pause, progress
        self.part, self.facts = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "part.json"))

    def run(self) -> None:
        """Bring the whole file into its part."""
        most, failures, reason = 0, 0, ""
        while failures < TRIES:
            try:
                if self._go_on():
                    break
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                reason = self._refused(error)
            except _CUT as error:
                reason = str(getattr(error, "reason", "") or error or type(error).__name__)
            most, failures = (held, 0) if (held := self._held()) > most else (most, failures + 1)
            time.sleep(self.pause * 2**failures if failures < TRIES else 0)
        else:
            here = f"{readable_size(self._held())} of it are here, the same command goes on; " if self._held() else ""
            raise UserError(f"{self.url}: cannot be fetched ({one_line(reason, 100)}); {here}check the connection")

    def _held(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _refused(self, error: urllib.error.HTTPError) -> str:
        """What a server's status says that another try may change. Raises UserError for all others."""
        if error.code == 416:  # beyond the end: what is here is of another file
            self._forget()
        elif error.code < 500 and error.code not in (408, 429):
            raise UserError(f"{self.url}: the server says {error.code} {error.reason}; check the name, or the proxy")
        return f"{error.code} {error.reason}"

    def _go_on(self) -> bool:
        """Take what a connection gives; whether the file is complete then."""
        known, held = self._known(), self._held()
        request = urllib.request.Request(self.url, headers={"User-Agent": "yolov9k", "Accept-Encoding": "identity"})
        if held and known.get("tag"):
            request.add_header("Range", f"bytes={held}-")
            request.add_header("If-Range", known["tag"])
        with closing(_open(request, timeout=_TIMEOUT)) as answer:
            size = self._size(answer, held)
            resumed = answer.status == 206 and size == known.get("size")
            if not resumed:
                if answer.status == 206:
                    self._forget()
                    return False
                self._begin(answer, size)
            self._check_room(size - self._held())
            return self._take(answer, size)

    def _known(self) -> dict[str, Any]:
        """What the server said of the part that is here; nothing where that cannot be read."""
        with suppress(OSError, ValueError):
            known = json.loads(self.facts.read_text())
            if isinstance(known, dict) and known.get("url") == self.url:
                return known
        self._forget()
        return {}

    def _forget(self) -> None:
        for path in (self.part, self.facts):
            path.unlink(missing_ok=True)

    def _size(self, answer: Any, held: int) -> int:
        """Bytes of the whole file. Raises UserError where the server does not say, or says what no checkpoint has."""
        if "text/html" in answer.headers.get("Content-Type", ""):
            raise UserError(f"{self.url}: the server sends a page in place of a file; open the address in a browser")
        length = answer.headers.get("Content-Length", "")
        stated = answer.headers.get("Content-Range", "").rpartition("/")[2] if answer.status == 206 else length
        if not stated.isdecimal():
            raise UserError(f"{self.url}: the server does not say how large the file is; fetch it by hand")
        if not 0 < int(stated) <= LARGEST or (int(stated) < held and answer.status == 206):
            raise UserError(f"{self.url}: the server says {stated} bytes, expected 1 to {LARGEST}; fetch it by hand")
        return int(stated)

    def _begin(self, answer: Any, size: int) -> None:
        """Start anew. A weak tag does not promise the same bytes."""
        tag = answer.headers.get("ETag", "")
        tag = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
        self._forget()
        self.part.touch()
        write_json(self.facts, {"url": self.url, "size": size, "tag": tag})

    def _check_room(self, size: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if free < size:
            raise UserError(f"{self.path}: {readable_size(size)} are to come and {readable_size(free)} are free; free space")

    def _take(self, answer: Any, size: int) -> bool:
        with self.part.open("ab") as file, progress_bar(self.progress, sizes=True) as bar:
            task = bar.add_task(self.path.name, total=size, completed=self._held())
            held = self._held()
            while held < size and (piece := _read(answer, min(_PIECE, size - held))):
                file.write(piece)
                held += len(piece)
                bar.update(task, completed=held)
        return held == size

    def finish(self) -> str:
        """Give the file its name; returns its hash. What is not what it should be is removed, with a UserError."""
        try:
            with self.part.open("rb") as file:
                begin = file.read(4)
            if not begin.startswith(_CHECKPOINT):
                what = f"what came is no checkpoint (it begins with {begin!r})"
                raise UserError(f"{self.url}: {what}; open the address in a browser")
            digest = _pinned(self.url, self.part)
            self.part.replace(self.path)
        finally:
            self._forget()
        return digest


def _read(answer: Any, size: int) -> bytes:
    try:
        return answer.read(size)  # type: ignore[no-any-return]
    except OSError as error:  # told from those of the disk
        raise ConnectionError(str(error)) from None


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _pinned(url: str, path: Path) -> str:
    """A file's hash, remembered by its address. Raises UserError where it is another than when it was first seen."""
    digest = _hash(path)
    now = {"sha256": digest, "size": path.stat().st_size}
    try:
        pins = cache_folder() / "downloads.json"
        pins.parent.mkdir(parents=True, exist_ok=True)
        with locked(pins):
            known = _read_pins(pins)
            if url not in known:
                write_json(pins, {**known, url: now})
    except (OSError, UserError) as error:
        warn(f"the hash of {url} is not remembered ({one_line(str(error), 100)})")
        return digest
    if known.get(url, now) != now:
        raise UserError(
            f"{url}: its SHA-256 is {digest}, it was {known[url]['sha256']} when it was first fetched; remove {path} to "
            f"fetch it again, and the line of {pins} if the release has changed"
        )
    return digest


def _read_pins(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
        pins = json.loads(path.read_text())
        return {url: pin for url, pin in pins.items() if isinstance(pin["sha256"], str)}
    return {}
