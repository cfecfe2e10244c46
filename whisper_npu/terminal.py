"""What is shown on a terminal: nothing that steers it, no passwords, nothing of C libraries."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import unquote

HIDDEN = "***"

# C0, DEL and C1; separators of lines and paragraphs; what changes the direction of text; halves of
# characters, which stand for the bytes of names that are no UTF-8.
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# A URL up to a blank. What is before its last "@" is user and password: a password may hold an "@",
# or a "/" that should have been encoded. Each is looked at once, however many are in a text.
_URL = re.compile(r"(?<=://)[^\s'\"<>]+")
# Of Hugging Face, and of headers.
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}|(?<=\bBearer )\S+|(?<=\bBasic )\S+")
_PARAMETER = re.compile(
    r"([?&](?:[\w-]*(?:token|signature|credential|password|secret|key))=)[^&\s'\"]+", re.IGNORECASE
)
# Environment variables that hold a token, and those that hold URLs.
_TOKENS = re.compile("TOKEN$|PASSWORD$|SECRET$", re.IGNORECASE)
_URLS = re.compile("PROXY$|URL$|ENDPOINT$|INDEX$", re.IGNORECASE)
# A shorter one would hide parts of words that have nothing to do with it.
_SHORTEST = 5


def printable(text: str) -> str:
    """A text in one line, with escapes such as ``\\x1b`` for characters that control a terminal."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def without_secrets(text: str) -> str:
    """A text with ``***`` for passwords and tokens in it: of URLs, and of this environment."""
    text = _URL.sub(lambda url: _without_user(url[0]), text)
    text = _TOKEN.sub(HIDDEN, text)
    text = _PARAMETER.sub(rf"\g<1>{HIDDEN}", text)
    for secret in _of_environment():
        text = text.replace(secret, HIDDEN)
    return text


def _without_user(url: str) -> str:
    _, at, rest = url.rpartition("@")
    return HIDDEN + at + rest if at else url


def message(text: object) -> str:
    """A message for people: one line, without secrets."""
    return printable(without_secrets(str(text)))


def note(text: object, who: str = "whisper-npu: ") -> None:
    """Say something on stderr, where that is possible, after the name of ``who`` says it."""
    with suppress(OSError, ValueError):
        print(f"{who}{message(text)}", file=sys.stderr, flush=True)


def _of_environment() -> Iterator[str]:
    """The secrets that environment variables hold."""
    for name, value in os.environ.items():
        if _TOKENS.search(name):
            found = [value]
        elif _URLS.search(name) and "@" in value:
            # Libraries quote such URLs without their scheme, and passwords decoded.
            user = value.rpartition("@")[0].rpartition("://")[2]
            password = user.partition(":")[2] or user
            found = [user, password, unquote(password)]
        else:
            continue
        yield from (secret for secret in found if len(secret) >= _SHORTEST)


_redirecting = threading.Lock()
_commands = 0


@contextmanager
def silencing_libraries() -> Iterator[None]:
    """Meanwhile C code that runs in ``silent_library`` prints nothing on standard error.

    File descriptor 2 is redirected while it runs. It is the process's, so that only a command,
    whose process this is, may ask for it.
    """
    global _commands
    _commands += 1
    try:
        yield
    finally:
        _commands -= 1


@contextmanager
def silent_library() -> Iterator[None]:
    """Run C code that prints what users are told otherwise; see ``silencing_libraries``."""
    if not _commands:
        yield
        return
    with _redirecting:
        kept = os.dup(2)
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
