"""The benchmark's own environment: a virtual environment with the peers, whisper.cpp compiled."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.bench.client import REPOSITORY
from tools.bench.models import write_audio, write_models
from tools.bench.whisper_cpp import LIBRARY_VARIABLE

SHIM = Path(__file__).with_name("whisper_cpp.cpp")
# What decides the models: they are written again when one of these changed.
WRITERS = (
    Path(__file__).with_name("models.py"),
    *sorted((REPOSITORY / "tests" / "support" / "formats").glob("*.py")),
    *sorted((REPOSITORY / "tests" / "support" / "real").glob("*.*")),
)

# PyTorch first and on its own, so that pip does not look for another build of it; then groups
# that pip resolves together. openai-whisper names packages for GPUs, which nothing here needs.
PACKAGES: Sequence[Sequence[str]] = (
    ("torch==2.13.0",),
    (
        "transformers==5.23.0",
        "faster-whisper==1.2.1",
        "ctranslate2==4.8.5",
        "tiktoken",
        "more-itertools",
        "numba",
        "cmake",
        "ninja",
    ),
    ("--no-deps", "openai-whisper==20250625"),
)
# Its source distribution carries whisper.cpp and ggml, which are built here without its wheel.
WHISPER_CPP = "pywhispercpp==1.5.1"
CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DGGML_NATIVE=ON",  # every instruction set of this machine, AVX-512 included
    # Not AMX: with it, its products of q8_0 end in a segmentation fault (on a Xeon, whisper.cpp
    # 1.8.5).
    "-DCMAKE_C_FLAGS=-mno-amx-int8",
    "-DCMAKE_CXX_FLAGS=-mno-amx-int8",
    "-DWHISPER_BUILD_TESTS=OFF",
    "-DWHISPER_BUILD_EXAMPLES=OFF",
    "-DWHISPER_BUILD_SERVER=OFF",
)


DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper-bench"


class Environment:
    """What is needed beside this checkout, in a cache folder; made once."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.python = cache / "venv" / "bin" / "python"
        self.logs = cache / "logs"
        self.whisper_cpp = cache / "whisper.cpp"
        self.audio = cache / "audio"
        self.library = self.whisper_cpp / "libwhisper_bench.so"

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables by which runtimes find what is here."""
        home = str(self.cache / "home")
        return {"WHISPER_NPU_HOME": home, LIBRARY_VARIABLE: str(self.library)}

    def ensure_packages(self) -> None:
        """Install the peers, if they are missing. Raises CalledProcessError where pip fails."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with self._once("packages", repr(PACKAGES).encode()) as missing:
            if missing:
                self._install_packages()

    def ensure(self) -> None:
        """Make what is missing. Raises CalledProcessError where pip or a compiler fails."""
        self.ensure_packages()
        with self._once("ours", (REPOSITORY / "pyproject.toml").read_bytes()) as missing:
            if missing:
                self._pip("install", "--quiet", "--editable", str(REPOSITORY))
        with self._once("whisper.cpp", repr((WHISPER_CPP, CMAKE_OPTIONS)).encode()) as missing:
            if missing:
                self._build_whisper_cpp()
        with self._once("whisper.cpp-bench", SHIM.read_bytes()) as missing:
            if missing:
                self._link_whisper_cpp()
        self._ensure_kernels()

    def models(self, name: str) -> Path:
        """The folder of a model in all formats, which is written with the audio if need be."""
        folder = self.cache / "models" / name
        content = (path.read_bytes() for path in WRITERS)
        with self._once(f"models/{name}", *content) as missing:
            if missing:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                write_models(name, folder)
                write_audio(self.audio)
        return folder

    @contextmanager
    def _once(self, name: str, *content: bytes) -> Iterator[bool]:
        """Gives True if what is made of ``content`` is missing: what follows makes it."""
        stamp = self.cache / f"{name}.stamp"
        wanted = hashlib.sha256(b"\0".join(content)).hexdigest()
        if stamp.is_file() and stamp.read_text() == wanted:
            yield False
            return
        print(f"bench: making {name} in {self.cache}", file=sys.stderr)
        yield True
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(wanted)

    def _install_packages(self) -> None:
        subprocess.run([sys.executable, "-m", "venv", self.python.parents[1]], check=True)
        for group in PACKAGES:
            self._pip("install", "--quiet", *group)

    def _build_whisper_cpp(self) -> None:
        shutil.rmtree(self.whisper_cpp, ignore_errors=True)
        self.whisper_cpp.mkdir(parents=True)
        name = WHISPER_CPP.partition("==")[0]
        target = ("--dest", str(self.whisper_cpp))
        self._pip("download", "--quiet", "--no-deps", "--no-binary", name, *target, WHISPER_CPP)
        (archive,) = self.whisper_cpp.glob("*.tar.gz")
        shutil.unpack_archive(archive, self.whisper_cpp)
        source = archive.with_name(archive.name.removesuffix(".tar.gz")) / "whisper.cpp"
        build = self.whisper_cpp / "build"
        environment = {**os.environ, "PATH": f"{self.python.parent}:{os.environ['PATH']}"}
        cmake = str(self.python.with_name("cmake"))
        for command in (
            [cmake, "-G", "Ninja", "-S", str(source), "-B", str(build), *CMAKE_OPTIONS],
            [cmake, "--build", str(build)],
        ):
            with (self.logs / "whisper.cpp.log").open("a") as log:
                subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)

    def _link_whisper_cpp(self) -> None:
        (source,) = self.whisper_cpp.glob("*/whisper.cpp")
        build = self.whisper_cpp / "build"
        includes = [f"-I{source / part}" for part in ("include", "ggml/include")]
        folders = sorted({library.parent for library in build.rglob("lib*.so")})
        links = [flag for at in folders for flag in (f"-L{at}", f"-Wl,-rpath,{at}")]
        command = ["g++", "-std=c++17", "-O2", "-shared", "-fPIC", *includes, str(SHIM), *links]
        subprocess.run([*command, "-lwhisper", "-o", str(self.library)], check=True)

    def _ensure_kernels(self) -> None:
        """Compile and verify ours, unless that was done; without them NumPy is measured alone."""
        command = [str(self.python), "-m", "whisper_npu", "kernels", "build"]
        with (self.logs / "kernels.log").open("w") as log:
            done = subprocess.run(
                command, env={**os.environ, **self.variables}, stdout=log, stderr=log, check=False
            )
        if done.returncode != 0:
            print(f"bench: not all of our kernels are to be had: see {log.name}", file=sys.stderr)

    def _pip(self, *arguments: str) -> None:
        subprocess.run([str(self.python), "-m", "pip", *arguments], check=True)
