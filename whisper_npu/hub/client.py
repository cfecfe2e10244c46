"""The hub's API over HTTP: what a repository holds, and the bytes of its files."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import requests
from requests import PreparedRequest, Response
from requests.exceptions import (
    InvalidHeader,
    InvalidSchema,
    RequestException,
    SSLError,
    TooManyRedirects,
)

from whisper_npu.errors import ModelError, OptionError
from whisper_npu.hub.names import SHORT_NAMES
from whisper_npu.version import __version__

DEFAULT_ENDPOINT = "https://huggingface.co"
# Seconds until a connection is made, and between two pieces of an answer.
TIMEOUTS = (10.0, 30.0)
# Seconds before each further attempt.
BACK_OFF = (1.0, 2.0, 4.0, 8.0)
# A hub that wants a longer pause than this, in seconds, is left to the user's patience.
LONGEST_PAUSE = 60.0
# An attempt that got this many bytes further does not count as failed.
PROGRESS = 1 << 20
# Bytes taken at once; as many at most are lost when the connection is.
BLOCK = 1 << 16
_LONGEST_LISTING = 16 << 20

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Would fail again in the same way. (Some broken addresses raise ValueError.)
_LASTING = (InvalidHeader, InvalidSchema, SSLError, TooManyRedirects, ValueError)
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)

_T = TypeVar("_T")


class Interrupted(Exception):
    """An attempt that failed but may succeed later: ``pause`` seconds later, if the hub says so.

    ``position`` is how many bytes of a file are there.
    """

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause
        self.position = 0


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. ``digest`` is its sha256, or its git blob id (a sha1)."""

    name: str
    size: int
    algorithm: str
    digest: str


@dataclass(frozen=True)
class Snapshot:
    """A repository at a commit. ``entries`` are the hub's own, by file name."""

    repository: str
    commit: str
    entries: Mapping[str, Mapping[str, Any]]

    def file(self, name: str) -> RemoteFile:
        """Size and hash of a file that is in ``entries``. Raises ModelError."""
        entry = self.entries[name]
        lfs = entry.get("lfs")
        if isinstance(lfs, dict):
            size, algorithm, digest, pattern = lfs.get("size"), "sha256", lfs.get("sha256"), _SHA256
        else:
            size, algorithm, digest = entry.get("size"), "git blob sha1", entry.get("blobId")
            pattern = _COMMIT
        if (
            isinstance(size, int)
            and size >= 0
            and isinstance(digest, str)
            and pattern.fullmatch(digest)
        ):
            return RemoteFile(name, size, algorithm, digest)
        raise ModelError(f"{self.repository}: the hub gives no valid size and hash of {name}")


class Hub:
    """The hub at ``HF_ENDPOINT``, with ``HF_TOKEN``. Raises OptionError if one is unusable."""

    def __init__(self) -> None:
        self.endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(
                f"HF_ENDPOINT: must be like {DEFAULT_ENDPOINT}, not {self.endpoint!r}"
            )
        token = os.environ.get("HF_TOKEN", "").strip()
        if not token.isascii() or not token.isprintable():
            raise OptionError("HF_TOKEN: holds characters that no token has")
        self._auth = _bearer(token) if token else None
        self._session = requests.Session()
        # Compressed answers would have other lengths and no ranges.
        self._session.headers.update(
            {"User-Agent": f"whisper-npu/{__version__}", "Accept-Encoding": "identity"}
        )

    def snapshot(self, repository: str, revision: str) -> Snapshot:
        """What a repository holds at a branch, tag or commit. Raises ModelError."""
        path = f"/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true"
        try:
            answer = persevere(lambda: self._json(path))
        except _Refused as refused:
            raise ModelError(self._explain(refused, repository, revision)) from refused
        commit, siblings = answer.get("sha"), answer.get("siblings")
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise ModelError(f"{repository}: the hub gives no valid commit for {revision!r}")
        if not isinstance(siblings, list):
            raise ModelError(f"{repository}: the hub does not say which files it has")
        entries = {
            entry["rfilename"]: entry
            for entry in siblings
            if isinstance(entry, dict) and isinstance(entry.get("rfilename"), str)
        }
        return Snapshot(repository, commit, entries)

    @contextmanager
    def open(self, snapshot: Snapshot, name: str, start: int) -> Iterator[tuple[int, Blocks]]:
        """The bytes of a file from ``start``, or, if the hub prefers, from 0; with which it is.

        Raises Interrupted, also between blocks, and ModelError.
        """
        path = f"/{snapshot.repository}/resolve/{snapshot.commit}/{quote(name, safe='')}"
        with self._get(path, start) as response:
            if start and response.status_code == HTTPStatus.PARTIAL_CONTENT:
                content_range = response.headers.get("Content-Range", "")
                if not content_range.startswith(f"bytes {start}-"):
                    raise ModelError(
                        f"{snapshot.repository}: the hub was asked for {name} from byte {start} on "
                        f"and sends {content_range[:80]!r}"
                    )
            elif response.status_code == HTTPStatus.OK:
                start = 0
            else:
                refused = _Refused(response)
                raise ModelError(self._explain(refused, snapshot.repository, snapshot.commit, name))
            yield start, _blocks(response)

    def _json(self, path: str) -> dict[str, Any]:
        with self._get(path) as response:
            if response.status_code != HTTPStatus.OK:
                raise _Refused(response)
            body = b""
            for block in _blocks(response):
                body += block
                if len(body) > _LONGEST_LISTING:
                    raise ModelError(f"{_host(response)}: gives more than 16 MiB of file names")
            try:
                value = json.loads(body)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise ModelError(f"{_host(response)}: is no model hub: its answer is not JSON")
            return value

    @contextmanager
    def _get(self, path: str, start: int = 0) -> Iterator[Response]:
        """An answer with any status but those that may be gone at the next attempt."""
        url = self.endpoint + path
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            response = self._session.get(
                url, headers=headers, auth=self._auth, timeout=TIMEOUTS, stream=True
            )
        except _LASTING as error:
            raise ModelError(f"{self.endpoint}: cannot be reached: {_reason(error)}") from error
        except RequestException as error:
            raise Interrupted(f"{self.endpoint}: cannot be reached: {_reason(error)}") from error
        with response:
            status = response.status_code
            if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                pause = _retry_after(response)
                if pause > LONGEST_PAUSE:
                    raise ModelError(
                        f"{_host(response)}: answers {status} and wants a pause of {pause:.0f} s; "
                        "try again then"
                    )
                raise Interrupted(f"{_host(response)}: answers {status}", pause)
            yield response

    def _explain(
        self, refused: _Refused, repository: str, revision: str, file: str | None = None
    ) -> str:
        what = f"{repository}: {self.endpoint} refuses {file or 'it'} ({refused.status})"
        page = f"{self.endpoint}/{repository}"
        if refused.status in (401, 403) and self._auth is not None:
            return f"{what}; accept its terms at {page}, and see that HF_TOKEN may read it"
        if refused.status == 403 or refused.code == "GatedRepo":
            return f"{what}; accept its terms at {page} and set HF_TOKEN to your token"
        if refused.status == 401:
            # The hub's answer to a name that does not exist, too.
            return f"{what}: there is none of that name, or it is private: then set HF_TOKEN"
        if refused.status == 404 and refused.code == "RevisionNotFound":
            known = self._revisions(repository)
            return f"{repository}: has no revision {revision!r}; it has {known}"
        if refused.status == 404 and file is not None:
            return f"{what}, though {revision[:12]} lists it"
        if refused.status == 404:
            return (
                f"{repository}: there is no such repository at {self.endpoint}; the known short "
                f"names are {', '.join(SHORT_NAMES)}"
            )
        return what

    def _revisions(self, repository: str) -> str:
        try:
            refs = persevere(lambda: self._json(f"/api/models/{repository}/refs"))
        except (_Refused, ModelError):
            return "others"
        try:
            names = [str(ref["name"]) for kind in ("branches", "tags") for ref in refs[kind]]
        except (KeyError, TypeError):
            return "others"
        return ascii(names[:20])[1:-1]


def persevere(attempt: Callable[[], _T]) -> _T:
    """Try until it succeeds or was interrupted too often in a row without getting further.

    Raises ModelError then.
    """
    failures = furthest = 0
    while True:
        try:
            return attempt()
        except Interrupted as error:
            failures += 1
            if error.position >= furthest + PROGRESS:
                furthest, failures = error.position, 1
            if failures > len(BACK_OFF):
                raise ModelError(f"{error}; gave up after {failures} attempts") from error
            time.sleep(max(BACK_OFF[failures - 1], error.pause))


Blocks = Iterator[bytes]


def _bearer(token: str) -> Callable[[PreparedRequest], PreparedRequest]:
    """requests takes the header away when it follows a redirect to another host or port."""

    def authorize(request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return authorize


class _Refused(Exception):
    """An answer that will not change by asking again."""

    def __init__(self, response: Response) -> None:
        super().__init__(str(response.status_code))
        self.status = response.status_code
        self.code = response.headers.get("X-Error-Code")


def _blocks(response: Response) -> Blocks:
    try:
        yield from response.iter_content(BLOCK)
    except RequestException as error:
        raise Interrupted(f"{_host(response)}: stopped sending: {_reason(error)}") from error


def _host(response: Response) -> str:
    return str(urlsplit(response.url).netloc)


def _retry_after(response: Response) -> float:
    """Seconds of the Retry-After header, which may be a date; 0 without one."""
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words: the outer ones quote each other."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return " ".join(text.split())[:200]
