"""What is no ordinary file in the place of one: an error of the package, and nothing waits.

An input is three words: who reads, which of the files, and what is in its place.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz.seed_models import load_seeds
from tests.fuzz.targets import models, records
from tests.fuzz.targets.readers import check_message
from whisper_npu.audio import stream_audio
from whisper_npu.convert.source import open_source
from whisper_npu.errors import WhisperNpuError
from whisper_npu.runtime.packed import sweep
from whisper_npu.transcriber import Transcriber

SECONDS = 10.0
# More than any record or tokenizer has.
_LARGE = 24 << 20


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        # Longer names than a socket may have are those of folders here.
        os.chdir(path.parent)
        made.bind(path.name)


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(_LARGE)


KINDS: dict[str, Callable[[Path], object]] = {
    "fifo": lambda path: os.mkfifo(path),
    "socket": _socket,
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "itself": lambda path: path.symlink_to("."),
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "null": lambda path: path.symlink_to("/dev/null"),
    "full": lambda path: path.symlink_to("/dev/full"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "maps": lambda path: path.symlink_to("/proc/self/maps"),
    "stdin": lambda path: path.symlink_to("/dev/stdin"),
    "empty": lambda path: path.touch(),
    "large": _large,
    "gone": lambda path: None,
}


def seeds() -> list[tuple[str, str]]:
    """Who reads which file."""
    of_models = [("model", file) for files in models.seeds().values() for file in files]
    of_formats = [("format", file) for seed in load_seeds() for file, _ in seed.files]
    of_records = [("record", file) for file in records.seeds()]
    return [*of_models, *of_formats, *of_records, *[("audio", f"x.{e}") for e in ("wav", "ul")]]


def mutate(chance: Random) -> bytes:
    """One of all combinations, but for a FIFO with audio: another program may write into it."""
    reader, name = chance.choice(seeds())
    kinds = [kind for kind in KINDS if (reader, kind) != ("audio", "fifo")]
    return f"{reader} {name} {chance.choice(kinds)}".encode()


def check(data: bytes, folder: Path) -> str:
    """Put it there and read."""
    reader, name, kind = data.decode().split()
    folder = Path(folder, str(len(os.listdir(folder))))
    path = folder / name
    path.parent.mkdir(parents=True)
    if reader == "model":
        for file, content in models.seeds()[path.parent.name].items():
            (folder / file).write_bytes(content)
    elif reader == "format":
        next(seed for seed in load_seeds() if seed.name == name.split("/")[0]).write(folder)
    path.unlink(missing_ok=True)
    KINDS[kind](path)
    try:
        _read(reader, name, folder)
    except WhisperNpuError as error:
        check_message(error)
        return "refused"
    finally:
        # Others' room in memory.
        if kind == "large":
            path.unlink()
    return "read"


def _read(reader: str, name: str, folder: Path) -> None:
    path = folder / name
    if reader == "model":
        Transcriber(path.parent, cpu_kernels=False).close()
    elif reader == "audio":
        for _ in stream_audio(path):
            pass
    elif reader == "format":
        source = open_source(folder / name.split("/")[0])
        for tensor in source.shapes:
            for _ in source.blocks(tensor):
                pass
    else:
        os.environ["WHISPER_NPU_HOME"] = str(folder)
        if name == "packed":
            sweep()
        else:
            records.read(name, path.parent)
