"""The hub: what a repository holds, and the way of its files into the Hugging Face cache.

``huggingface_hub`` talks to the hub. Here is what it leaves to its callers: every file is compared
with the hash that the hub gives, a download that was broken off is continued by the next process,
and what goes wrong is said in one line.
"""

from __future__ import annotations

import io
import os
import queue
import re
import shutil
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlsplit

from huggingface_hub import HfApi, constants, get_token, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HTTPError
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers, logging

from whisper_npu.errors import ModelError, OptionError
from whisper_npu.files.whole import replacing
from whisper_npu.hub.cache import difference
from whisper_npu.hub.names import short_names
from whisper_npu.terminal import printable
from whisper_npu.version import __version__

DEFAULT_ENDPOINT = "https://huggingface.co"
# Seconds before each further attempt. The library makes attempts of its own within one, but not
# for every request, nor after every kind of trouble.
BACK_OFF = (1.0, 2.0, 4.0)
# Seconds for the first answer, all attempts and all addresses of the hub together. Only a hub that
# was reached is worth more: where there is no network, every request would wait in vain.
FIRST_ANSWER = 12.0
# A hub that wants a longer pause than this, in seconds, is left to the user's patience.
LONGEST_PAUSE = 60.0
# An attempt that got this many bytes further does not count as failed.
PROGRESS = 1 << 20
# Of our own name: some versions of the library continue a DIGEST.incomplete of theirs unchecked.
_INCOMPLETE = ".whisper-npu.incomplete"
# A folder in which the library tries for symbolic links, and seconds that this never takes.
_PROBE = re.compile("tmp[a-z0-9_]{8}")
_LONGEST_PROBE = 1.0
_LIBRARY = {"library_name": "whisper-npu", "library_version": __version__}

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
# What the library raises: for answers, for connections (OSError without a number, or HTTPError),
# for answers that it cannot read.
_TROUBLES = (HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)

_T = TypeVar("_T")


class UnreachableHubError(ModelError):
    """The hub has not answered, or what answered is no hub."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. ``digest`` is its sha256, or its git blob id (a sha1), in hex."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Snapshot:
    """A repository at a commit. ``entries`` are size and hash of its files, if valid, by name."""

    repository: str
    commit: str
    entries: Mapping[str, RemoteFile | None]

    def file(self, name: str) -> RemoteFile:
        """A file that is in ``entries``. Raises ModelError if the hub does not describe it."""
        if file := self.entries[name]:
            return file
        raise ModelError(f"{self.repository}: the hub gives no valid size and hash of {name}")


class Hub:
    """The hub at ``HF_ENDPOINT`` with the user's token. Raises OptionError if one is unusable."""

    def __init__(self) -> None:
        self.endpoint = constants.ENDPOINT or DEFAULT_ENDPOINT
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(
                f"HF_ENDPOINT: must be like {DEFAULT_ENDPOINT}, not {self.endpoint!r}"
            )
        token = get_token()
        if token is not None and not (token.isascii() and token.isprintable()):
            raise OptionError("HF_TOKEN: holds characters that no token has")
        self._has_token = token is not None
        self._answered = False
        self._api = HfApi(endpoint=self.endpoint, **_LIBRARY)
        # It warns of every attempt that fails; what comes of them is told by an error.
        logging.set_verbosity_error()

    def snapshot(self, repository: str, revision: str) -> Snapshot:
        """What a repository holds at a branch, tag or commit.

        Raises ModelError, and of its kind UnreachableHubError.
        """
        info = self._persevere(
            lambda: self._api.model_info(
                repository,
                revision=revision,
                files_metadata=True,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            ),
            repository,
            revision,
        )
        if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
            raise ModelError(f"{repository}: the hub gives no valid commit for {revision!r}")
        if info.siblings is None:
            raise ModelError(f"{repository}: the hub does not say which files it has")
        entries = {
            sibling.rfilename: _described(sibling)
            for sibling in info.siblings
            if isinstance(sibling.rfilename, str)
        }
        return Snapshot(repository, info.sha, entries)

    def n_present(self, snapshot: Snapshot, file: RemoteFile) -> int:
        """Bytes of a file that are in the Hugging Face cache."""
        blob = self._blob(snapshot, file)
        paths = (_pointer(snapshot, file), blob, _part(blob))
        return next((path.stat().st_size for path in paths if path and path.exists()), 0)

    def fetch(self, snapshot: Snapshot, file: RemoteFile) -> Path:
        """The path of a file in the Hugging Face cache, downloaded unless it is there and right.

        What came of it before is continued, and stays when the download fails. A file that comes
        wrong is downloaded once more, from its start. Raises ModelError, and OSError if the cache
        cannot be written.
        """
        if not self._is_right(snapshot, file):
            # Whoever else uses this cache waits for it, and may have made it right meanwhile.
            with self._locked(snapshot, file):
                if not self._is_right(snapshot, file):
                    self._download(snapshot, file)
        blob = self._blob(snapshot, file)
        path = self._point(snapshot, file.name, snapshot.commit)
        # The library found or made another file where the hub names it otherwise than it lists it,
        # and where there are no symbolic links.
        if blob.exists() and not path.samefile(blob):
            blob.unlink()
            if wrong := difference(path, file.size, file.digest):
                path.unlink()
                raise self._wrong(snapshot, file, wrong)
        return path

    def remember(self, snapshot: Snapshot, revision: str) -> None:
        """Note in the cache what commit a revision is. Raises OSError."""
        # Not by the library, which would leave a file behind if it were killed here.
        note = self._blobs(snapshot.repository).parent / "refs" / revision
        if revision == snapshot.commit or (note.exists() and note.read_text() == snapshot.commit):
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        with replacing(note) as new:
            new.write_text(snapshot.commit)

    def discard_parts(self, repository: str) -> None:
        """Remove what came of files that nobody has asked for again, as those of other commits,
        and what the library has left when it was killed."""
        blobs = self._blobs(repository)
        for part in blobs.glob(f"*{_INCOMPLETE}"):
            part.unlink(missing_ok=True)
        for probe in blobs.parent.glob("tmp*"):
            with suppress(OSError):
                if _is_left_probe(probe):
                    shutil.rmtree(probe)

    def _is_right(self, snapshot: Snapshot, file: RemoteFile) -> bool:
        path = _pointer(snapshot, file) or self._blob(snapshot, file)
        return path.exists() and not difference(path, file.size, file.digest)

    @contextmanager
    def _locked(self, snapshot: Snapshot, file: RemoteFile) -> Iterator[None]:
        """Hold the lock that the library takes for a blob."""
        folder = repo_folder_name(repo_id=snapshot.repository, repo_type="model")
        lock = Path(constants.HF_HUB_CACHE, ".locks", folder, f"{file.digest}.lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            yield

    def _blobs(self, repository: str) -> Path:
        folder = repo_folder_name(repo_id=repository, repo_type="model")
        return Path(constants.HF_HUB_CACHE, folder, "blobs")

    def _blob(self, snapshot: Snapshot, file: RemoteFile) -> Path:
        return self._blobs(snapshot.repository) / file.digest

    def _point(self, snapshot: Snapshot, name: str, revision: str) -> Path:
        """Have the library put a file, whose content is there, into the snapshot's folder."""
        return Path(
            self._persevere(
                lambda: hf_hub_download(
                    snapshot.repository,
                    name,
                    revision=revision,
                    endpoint=self.endpoint,
                    **_LIBRARY,
                ),
                snapshot.repository,
                snapshot.commit,
                name,
            )
        )

    def _download(self, snapshot: Snapshot, file: RemoteFile) -> None:
        """Make a file's blob, and remove what the snapshot had in its place."""
        blob, pointer = self._blob(snapshot, file), _pointer(snapshot, file)
        blob.parent.mkdir(parents=True, exist_ok=True)
        part = _part(blob)
        for _ in range(2):
            try:
                self._persevere(
                    lambda: self._continue(snapshot, file, part),
                    snapshot.repository,
                    snapshot.commit,
                    file.name,
                    lambda: part.stat().st_size,
                )
                wrong = difference(part, file.size, file.digest)
            except _TooLong as error:
                wrong = str(error)
            if not wrong:
                os.replace(part, blob)
                if pointer is not None and not pointer.samefile(blob):
                    pointer.unlink()
                return
            part.unlink()
        raise self._wrong(snapshot, file, f"{wrong}; it came so twice")

    def _continue(self, snapshot: Snapshot, file: RemoteFile, part: Path) -> None:
        """Append what is missing of a file. Raises _TooLong, OSError, and what the library does."""
        name = quote(file.name, safe="")
        with io.BufferedWriter(_Part(part, file.size)) as out:
            if out.tell() > file.size:
                raise _TooLong(file.size)
            http_get(
                f"{self.endpoint}/{snapshot.repository}/resolve/{snapshot.commit}/{name}",
                out,
                resume_size=out.tell(),
                # Compressed answers would have other lengths and no ranges.
                headers={**build_hf_headers(**_LIBRARY), "Accept-Encoding": "identity"},
                expected_size=file.size,
                displayed_filename=printable(file.name),
            )

    def _wrong(self, snapshot: Snapshot, file: RemoteFile, how: str) -> ModelError:
        return ModelError(
            f"{snapshot.repository}: {file.name} comes wrong from {self.endpoint}: {how}"
        )

    def _persevere(
        self,
        attempt: Callable[[], _T],
        repository: str,
        revision: str,
        file: str | None = None,
        position: Callable[[], int] = lambda: 0,
    ) -> _T:
        """Try until it succeeds, cannot, or failed too often without getting further.

        ``position`` is the number of bytes that are there. Raises ModelError, and OSError if a file
        cannot be written.
        """
        # The user may have given a slow hub more time.
        end = time.monotonic() + max(FIRST_ANSWER, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        failures = furthest = 0
        while True:
            try:
                result = attempt() if self._answered else _before(end, attempt)
                self._answered = True
                return result
            except _TROUBLES as error:
                # Of a file. (Those of connections have lost their number.)
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                trouble = _unwrapped(error)
                why = self._explain(trouble, repository, revision, file)
                response = getattr(trouble, "response", None)
                self._answered = self._answered or response is not None
                kind = ModelError if self._answered else UnreachableHubError
                if not _may_pass(trouble):
                    raise kind(why) from error
                pause = _retry_after(trouble)
                if pause > LONGEST_PAUSE:
                    raise ModelError(
                        f"{why} and wants a pause of {pause:.0f} s; try again then"
                    ) from error
                failures += 1
                if (reached := position()) >= furthest + PROGRESS:
                    furthest, failures = reached, 1
                if failures > len(BACK_OFF):
                    raise kind(f"{why}; gave up after {failures} attempts") from error
                pause = max(BACK_OFF[failures - 1], pause)
                if not self._answered and time.monotonic() + pause >= end:
                    raise kind(f"{why}; gave up") from error
                time.sleep(pause)

    def _explain(
        self, error: BaseException, repository: str, revision: str, file: str | None
    ) -> str:
        response = getattr(error, "response", None)
        if response is None:
            if isinstance(error, HTTPError):
                return f"{self.endpoint}: cannot be reached: {_reason(error)}"
            if isinstance(error, OSError):
                return f"{repository}: {file or revision}: {_reason(error)}"
            return f"{self.endpoint}: is no model hub: its answer is not one's: {_reason(error)}"
        status, code = response.status_code, response.headers.get("X-Error-Code")
        if _may_pass(error):
            # Without a user and a password.
            host = urlsplit(str(response.url)).netloc.rpartition("@")[2]
            return f"{host}: answers {status}"
        what = f"{repository}: {self.endpoint} refuses {file or 'it'} ({status})"
        page = f"{self.endpoint}/{repository}"
        if status in (401, 403) and self._has_token:
            return f"{what}; accept its terms at {page}, and see that your token may read it"
        if status == 403 or code == "GatedRepo":
            return f"{what}; accept its terms at {page} and set HF_TOKEN to your token"
        if status == 401:
            # The hub's answer to a name that does not exist, too.
            return f"{what}: there is none of that name, or it is private: then set HF_TOKEN"
        if status == 404 and code == "RevisionNotFound":
            known = self._revisions(repository)
            return f"{repository}: has no revision {revision!r}; it has {known}"
        if status == 404 and file is not None:
            return f"{what}, though {revision[:12]} lists it"
        if status == 404:
            return (
                f"{repository}: there is no such repository at {self.endpoint}; the known short "
                f"names are {', '.join(short_names())}"
            )
        return what

    def _revisions(self, repository: str) -> str:
        try:
            refs = self._api.list_repo_refs(repository)
            names = [str(ref.name) for ref in (*refs.branches, *refs.tags)]
        except _TROUBLES:
            return "others"
        return ascii(names[:20])[1:-1]


class _TooLong(Exception):
    """More came of a file than it has."""

    def __init__(self, size: int) -> None:
        super().__init__(f"more than its {size} bytes came")


class _Part(io.FileIO):
    """The beginning of a file of ``size`` bytes, to append the rest. Raises _TooLong."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path, "ab")
        self._size, self._n_written = size, 0

    def write(self, content: Any) -> int:
        self._n_written += len(content)
        # The library lets a server begin anew as often as it likes.
        if self._n_written > 2 * self._size:
            raise _TooLong(self._size)
        return super().write(content)


def _before(end: float, attempt: Callable[[], _T]) -> _T:
    """The result of an attempt, given up when ``end`` of the monotonic clock comes.

    The library waits for each address of a hub, and the system for each server of names, as long as
    for all of them together. Raises HTTPError then.
    """
    outcome: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((True, attempt()))
        except BaseException as error:
            outcome.put((False, error))

    # Nobody can end a thread that waits for the network. A daemon does not keep the process.
    threading.Thread(target=run, daemon=True).start()
    with suppress(queue.Empty):
        succeeded, result = outcome.get(timeout=max(0.0, end - time.monotonic()))
        if not succeeded:
            raise result
        return cast(_T, result)
    raise HTTPError("it does not answer")


def _described(sibling: Any) -> RemoteFile | None:
    if sibling.lfs is not None:
        size, digest, pattern = sibling.lfs.size, sibling.lfs.sha256, _SHA256
    else:
        size, digest, pattern = sibling.size, sibling.blob_id, _COMMIT
    if (
        isinstance(size, int)
        and size >= 0
        and isinstance(digest, str)
        and pattern.fullmatch(digest)
    ):
        return RemoteFile(sibling.rfilename, size, digest)
    return None


def _pointer(snapshot: Snapshot, file: RemoteFile) -> Path | None:
    """Where the cache has a file of a snapshot: a link to its blob, or a file."""
    found = try_to_load_from_cache(snapshot.repository, file.name, revision=snapshot.commit)
    return Path(found) if isinstance(found, str) else None


def _is_left_probe(folder: Path) -> bool:
    """Whether the library tried here for symbolic links, which takes it no time. Raises OSError."""
    return (
        _PROBE.fullmatch(folder.name) is not None
        and time.time() - folder.stat().st_mtime > _LONGEST_PROBE
        and all(entry.name.startswith("dummy_file_") for entry in folder.iterdir())
    )


def _part(blob: Path) -> Path:
    return blob.with_name(blob.name + _INCOMPLETE)


def _unwrapped(error: BaseException) -> BaseException:
    """What the library met, where it says only that a file is not in its cache either."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _may_pass(error: BaseException) -> bool:
    response = getattr(error, "response", None)
    if response is not None:
        status = response.status_code
        return status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    # A certificate that is not trusted now will not be in a second.
    trusted = not isinstance(_innermost(error), ssl.SSLError)
    return trusted and isinstance(error, (HTTPError, OSError))


def _retry_after(error: BaseException) -> float:
    """Seconds that the hub wants to be left alone; 0 if it does not say so."""
    response = getattr(error, "response", None)
    text = "" if response is None else response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0


def _innermost(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words: the outer ones quote each other."""
    error = _innermost(error)
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return " ".join(text.split())[:200]
