"""A hub on this machine, which can be told to fail in every way, and the library pointed at it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

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
        # What the library asks for its own ends.
        if parts.path == "/api/agent-harnesses":
            self.send(404)
            return
        if self.command == "GET":
            hub.requests.append((parts.netloc, parts.path, self.headers))
        else:
            hub.heads.append((parts.path, self.headers))
        hub.answer(self, unquote(parts.path))

    do_HEAD = do_GET

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
        if self.command == "GET":
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
    # By file name, "HEAD " and file name, or "api"; each is used once.
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    # Host (of requests to a proxy), path and headers of every request for content.
    requests: list[tuple[str, str, Message]] = field(default_factory=list)
    # Path and headers of every request for what a file is.
    heads: list[tuple[str, Message]] = field(default_factory=list)
    endpoint: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def asked(self, name: str) -> list[Message]:
        """The headers of all requests for the content of a file, or for the "api"."""
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
        head = handler.command == "HEAD"
        if faults := self.faults.get(f"HEAD {name}" if head else name):
            faults.pop(0)(handler, content or b"", start)
        elif head and content is not None:
            handler.send(200, content, **self._described(name, content))
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
            refs = {kind: [_ref(name)] for kind, name in (("branches", "main"), ("tags", "v1"))}
            refs["converts"] = []
            return json.dumps(refs).encode()
        if path == f"/api/models/{REPOSITORY}/tree/{self.commit}":
            return json.dumps([self._leaf(name) for name in self.files]).encode()
        if path not in (
            f"/api/models/{REPOSITORY}/revision/{revision}"
            for revision in ("main", "v1", self.commit)
        ):
            return None
        siblings = [self._sibling(name, content) for name, content in self.files.items()]
        about = {"id": REPOSITORY, "tags": [], "sha": self.commit, "siblings": siblings}
        return json.dumps({**about, **self.listing}).encode()

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

    def _leaf(self, name: str) -> dict[str, Any]:
        described = self._sibling(name, self.files[name])
        leaf = {"type": "file", "path": name, "oid": described["blobId"], "size": described["size"]}
        if lfs := described.get("lfs"):
            leaf["lfs"] = {**lfs, "oid": lfs["sha256"]}
        return leaf

    def _described(self, name: str, content: bytes) -> dict[str, str]:
        found = {"X_Repo_Commit": self.commit, "ETag": f'"{git_blob(content)}"'}
        if name in self.lfs:
            found["X_Linked_ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            found["X_Linked_Size"] = str(len(content))
        return found

    def _file(self, path: str, name: str) -> bytes | None:
        # A second server, to which the hub redirects, serves under /cdn.
        revisions = (self.commit, "main", "v1")
        paths = (f"/cdn/{name}", *(f"/{REPOSITORY}/resolve/{r}/{name}" for r in revisions))
        return self.files.get(name) if path in paths else None


def _ref(name: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{name}", "targetCommit": COMMIT}


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


@contextmanager
def reached(hub: FakeHub, folder: Path) -> Iterator[FakeHub]:
    """Serve, and have the library use it with an empty cache in ``folder``, in a hurry.

    The library reads its environment when it is imported, so its constants are set as well.
    """
    sleep = time.sleep
    with serving(hub), pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        patch.setenv("HF_HOME", str(folder))
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        set_endpoint(patch, hub.endpoint)
        # Files are small here, and so are the pieces in which they are written.
        patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        patch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
        # One that knows another proxy, maybe.
        close_session()
        yield hub
        close_session()


def set_endpoint(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    patch.setenv("HF_ENDPOINT", endpoint)
    patch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


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


def damage(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def corrupt(handler: Handler, content: bytes, start: int) -> None:
    handler.send_content(damage(content), start)


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


def begin_anew(handler: Handler, content: bytes, start: int) -> None:
    """Half of it, from the first byte, whatever was asked for."""
    handler.send(200, content[: len(content) // 2], len(content))
    handler.cut()


def refuse(status: int, **headers: str) -> Fault:
    return lambda handler, content, start: handler.send(status, **headers)


def redirect(to: str) -> Fault:
    return lambda handler, content, start: handler.send(302, Location=to)


def say(body: bytes) -> Fault:
    return lambda handler, content, start: handler.send(200, body)
