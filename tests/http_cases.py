"""A real server on this machine whose faults are chosen: ranges, cuts, wrong sizes, redirections, statuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What the server does. body: the file; cuts: after so many bytes each of the first connections ends; statuses: what is
    answered first, in place of the file. requests: path and Range of each request."""

    body: bytes
    tag: str | None = '"one"'
    ranges: bool = True
    stated: int | None = None  # another size than the body's
    silent: bool = False  # about the size
    kind: str = "application/octet-stream"
    redirect: str | None = None
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serving(site: Site) -> Iterator[str]:
    """The address of a folder that holds the site's file under every name."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            answer(self, site)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/files"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
    wanted = handler.headers.get("Range")
    site.requests.append((handler.path, wanted))
    if site.redirect and not handler.path.startswith(site.redirect):
        return head(handler, 302, {"Location": f"{site.redirect}{handler.path}", "Content-Length": "0"})
    if site.statuses:
        return head(handler, site.statuses.pop(0), {"Content-Length": "0"})
    same = handler.headers.get("If-Range") in (None, site.tag)
    start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and site.ranges and same else 0
    if start >= len(site.body):
        return head(handler, 416, {"Content-Length": "0"})
    rest, size = site.body[start:], site.stated or len(site.body)
    headers = {"Content-Type": site.kind, "Connection": "close"}
    headers |= {} if site.silent else {"Content-Length": str(size - start)}
    headers |= {"ETag": site.tag} if site.tag else {}
    headers |= {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
    head(handler, 206 if start else 200, headers)
    handler.wfile.write(rest[: site.cuts.pop(0)] if site.cuts else rest)
    handler.close_connection = True
    return None


def head(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
