"""A web server on loopback that misbehaves on demand: real sockets, real status lines."""

from __future__ import annotations

import re
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from types import TracebackType
from typing import Any


@dataclass
class Page:
    """What lies at a path, and what happens to the requests for it: one fault each, in order."""

    content: bytes = b""
    etag: str | None = '"v1"'
    modified: str | None = None
    ranges: bool = True
    length: bool = True  # says how long it is
    kind: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


@dataclass
class Request:
    """A line of the server's log; `sent` are the bytes of the body so far."""

    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0
    done: bool = False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path)
        self.line = Request(self.path, self.headers.get("Range"), self.headers.get("If-Range"))
        self.server.log.append(self.line)
        try:
            if page is None:
                self.answer(404, b"no such page")
            elif page.faults:
                page.faults.pop(0)(self, page)
            else:
                self.serve(page)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client was killed, or had enough
        finally:
            self.line.done = True

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.head(status, {"Content-Length": str(len(body)), **headers})
        self.write(body)

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.line.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def begin(self, page: Page) -> bytes:
        """Send the head for what was asked for; returns the body that should follow."""
        content, status = page.content, 200
        headers = {"Content-Type": page.kind, **page.headers}
        if page.etag:
            headers["ETag"] = page.etag
        if page.modified:
            headers["Last-Modified"] = page.modified
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fresh = self.headers.get("If-Range") in (None, page.etag, page.modified)
        if asked and page.ranges and fresh:
            start = int(asked[1])
            if start >= len(content):
                self.answer(416, b"", Content_Range=f"bytes */{len(content)}")
                return b""
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        if page.length:
            headers["Content-Length"] = str(len(content))
        else:
            self.close_connection = True
            headers["Connection"] = "close"
        self.head(status, headers)
        return content

    def serve(self, page: Page) -> None:
        self.write(self.begin(page))

    def write(self, body: bytes) -> None:
        for start in range(0, len(body), 2**14):
            piece = body[start : start + 2**14]
            self.wfile.write(piece)
            self.line.sent += len(piece)

    def log_message(self, format: str, *args: object) -> None:
        pass  # `Server.log` has it


class Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error of the server's; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


Fault = Callable[[Handler, Page], None]


def status(code: int, body: bytes = b"no", **headers: str) -> Fault:
    """Answer with a status; `Retry_After="1"` becomes a header."""
    return lambda handler, page: handler.answer(code, body, **headers)


def cut(share: float) -> Fault:
    """Close the connection, as if all were said, after a share of the body."""

    def fault(handler: Handler, page: Page) -> None:
        body = handler.begin(page)
        handler.write(body[: int(len(body) * share)])
        handler.close_connection = True

    return fault


def reset(share: float) -> Fault:
    """Break the connection (TCP RST) once this share of the whole file was sent."""

    def fault(handler: Handler, page: Page) -> None:
        body = handler.begin(page)
        gone = len(page.content) - len(body)
        handler.write(body[: max(0, int(len(page.content) * share) - gone)])
        drain(handler.connection)
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()
        handler.close_connection = True

    return fault


def drain(connection: socket.socket) -> None:
    """Wait until what was sent has arrived: a reset throws away what has not."""
    try:
        import fcntl
        import termios

        while fcntl.ioctl(connection, termios.TIOCOUTQ, b"    ") != bytes(4):
            time.sleep(0.005)
    except (ImportError, OSError):  # not on this system
        time.sleep(1)


def trickle(pause: float, piece: int = 1) -> Fault:
    """Send a few bytes at a time, for ever as it seems."""

    def fault(handler: Handler, page: Page) -> None:
        body = handler.begin(page)
        for start in range(0, len(body), piece):
            handler.wfile.write(body[start : start + piece])
            handler.line.sent += piece
            time.sleep(pause)

    return fault


def stall(share: float, go: Event) -> Fault:
    """Send a share of the body, and the rest when told to."""

    def fault(handler: Handler, page: Page) -> None:
        body = handler.begin(page)
        handler.write(body[: int(len(body) * share)])
        go.wait(60)
        handler.write(body[int(len(body) * share) :])

    return fault


def silence(seconds: float) -> Fault:
    """Say nothing, then close."""

    def fault(handler: Handler, page: Page) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return fault


def compressed(handler: Handler, page: Page) -> None:
    """Gzip although nobody asked for it, as some proxies do."""
    import gzip

    handler.answer(200, gzip.compress(page.content), Content_Encoding="gzip")


class Server:
    """`with Server() as server:` serves `server.pages` and writes `server.log`."""

    def __init__(self) -> None:
        self._http = Http(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page] = {}
        self._log: list[Request] = []
        vars(self._http).update(pages=self.pages, log=self._log)
        self._thread = Thread(target=lambda: self._http.serve_forever(0.02), daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def log(self) -> list[Request]:
        """Every request so far, once none is being answered."""
        deadline = time.monotonic() + 10
        while not all(line.done for line in self._log) and time.monotonic() < deadline:
            time.sleep(0.005)
        return self._log

    def put(self, path: str, content: bytes, *faults: Fault, **more: Any) -> str:
        """Let a page lie at a path; returns its address."""
        self.pages[path] = Page(content, faults=list(faults), **more)
        return self.address + path

    def statuses(self, path: str) -> list[int]:
        return [request.status for request in self.log if request.path == path]

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
