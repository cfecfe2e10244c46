"""A hub on this machine, which can be told to fail in every way."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = "owner/nano"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

# Answers a request for a file in place of the hub: the handler, the content, the first byte asked.
Fault = Callable[["Handler", bytes, int], None]


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        hub = self.server.hub
        # A proxy gets the whole address.
        parts = urlsplit(self.path)
        hub.requests.append((parts.netloc, parts.path, self.headers))
        hub.answer(self, unquote(parts.path))

    def log_message(self, *_: Any) -> None:
        pass

    def send(
        self, status: int, body: bytes = b"", length: int | None = None, **headers: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_content(self, content: bytes, start: int, length: int | None = None) -> None:
        if start == 0:
            self.send(200, content, length)
            return
        content_range = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(206, content[start:], length, Content_Range=content_range)

    def cut(self) -> None:
        self.wfile.flush()
        self.close_connection = True


@dataclass
class FakeHub:
    """Serves ``files`` as ``REPOSITORY`` at ``COMMIT``, also called main and v1."""

    files: dict[str, bytes]
    lfs: set[str] = field(default_factory=set)
    # What the API says, where it is not the truth.
    listing: dict[str, Any] = field(default_factory=dict)
    commit: str = COMMIT
    # By file name, or "api"; each is used once.
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    # Host (of requests to a proxy), path and headers of every request.
    requests: list[tuple[str, str, Message]] = field(default_factory=list)
    endpoint: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def asked(self, name: str) -> list[Message]:
        """The headers of all requests for a file, or the "api"."""
        return [
            headers
            for _, path, headers in self.requests
            if (path.startswith("/api/") if name == "api" else path.endswith(f"/{name}"))
        ]

    def answer(self, handler: Handler, path: str) -> None:
        name = "api" if path.startswith("/api/") else path.rpartition("/")[2]
        content = self._api(path) if name == "api" else self._file(path, name)
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if faults := self.faults.get(name):
            faults.pop(0)(handler, content or b"", start)
        elif content is None:
            code = (
                "RevisionNotFound"
                if "/revision/" in path and REPOSITORY in path
                else "RepoNotFound"
            )
            handler.send(404, X_Error_Code=code)
        else:
            handler.send_content(content, start)

    def _api(self, path: str) -> bytes | None:
        if path == f"/api/models/{REPOSITORY}/refs":
            refs = {"branches": [{"name": "main"}], "tags": [{"name": "v1"}]}
            return json.dumps(refs).encode()
        if path not in (
            f"/api/models/{REPOSITORY}/revision/{revision}"
            for revision in ("main", "v1", self.commit)
        ):
            return None
        siblings = [self._sibling(name, content) for name, content in self.files.items()]
        return json.dumps({"sha": self.commit, "siblings": siblings, **self.listing}).encode()

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "rfilename": name,
            "size": len(content),
            "blobId": git_blob(content),
        }
        if name in self.lfs:
            sha256 = hashlib.sha256(content).hexdigest()
            entry["blobId"] = git_blob(b"pointer")
            entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 7}
        return entry

    def _file(self, path: str, name: str) -> bytes | None:
        # A second server, to which the hub redirects, serves under /cdn.
        folders = (f"/{REPOSITORY}/resolve/{self.commit}/{name}", f"/cdn/{name}")
        return self.files.get(name) if path in folders else None


class _Server(ThreadingHTTPServer):
    # Its threads are not waited for: some may hang on a connection.
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: FakeHub) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub

    def handle_error(self, *_: Any) -> None:
        """Clients may hang up."""


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    server = _Server(hub)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def read_folder(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def cut_after(n: int) -> Fault:
    """The connection ends after ``n`` bytes of what was announced."""

    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.send_content(content[: start + n], start, len(content) - start)
        handler.cut()

    return fault


def short_after(n: int) -> Fault:
    """Only ``n`` bytes are announced, and sent."""
    return lambda handler, content, start: handler.send_content(content[: start + n], start)


def longer(handler: Handler, content: bytes, start: int) -> None:
    handler.send_content(content + b"more", start)


def corrupt(handler: Handler, content: bytes, start: int) -> None:
    handler.send_content(content[:-1] + bytes([content[-1] ^ 1]), start)


def stall(handler: Handler, content: bytes, start: int) -> None:
    """Half of it, and then nothing."""
    handler.send_content(content[: (start + len(content)) // 2], start, len(content) - start)
    handler.wfile.flush()
    handler.server.hub.released.wait()
    handler.close_connection = True


def silence(handler: Handler, content: bytes, start: int) -> None:
    """No answer at all."""
    handler.server.hub.released.wait()
    handler.close_connection = True


def ignore_range(handler: Handler, content: bytes, start: int) -> None:
    handler.send_content(content, 0)


def other_range(handler: Handler, content: bytes, start: int) -> None:
    content_range = f"bytes 1-{len(content) - 1}/{len(content)}"
    handler.send(206, content[1:], Content_Range=content_range)


def refuse(status: int, **headers: str) -> Fault:
    return lambda handler, content, start: handler.send(status, **headers)


def redirect(to: str) -> Fault:
    return lambda handler, content, start: handler.send(302, Location=to)


def say(body: bytes) -> Fault:
    return lambda handler, content, start: handler.send(200, body)
