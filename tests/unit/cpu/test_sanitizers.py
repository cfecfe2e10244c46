"""The kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

The library is compiled as ever, with options of the compiler in ``CXX`` and ``CXXFLAGS``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cpu_library import require_compiler
from whisper_npu.backends.cpu.build import build_library, find_compiler, source_folder

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent


def _sanitized(sanitizers: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library with sanitizers that end the process; skips where the compiler has none."""
    require_compiler()
    compiler = [*find_compiler(), f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    probe = subprocess.run(
        [*compiler, "-x", "c++", "-", "-o", str(folder / "probe")],
        input=b"int main() {}", capture_output=True, check=False,
    )  # fmt: skip
    if probe.returncode != 0:
        pytest.skip(f"{compiler[0]} has no {sanitizers} sanitizer")
    monkeypatch.setenv("CXX", " ".join(compiler))
    monkeypatch.setenv("CXXFLAGS", "-O1 -g1")
    return build_library(folder=folder).path


def test_every_case_of_every_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No address beyond an array or scratch is touched, nothing undefined is computed."""
    library = _sanitized("address,undefined", tmp_path, monkeypatch)
    needed = subprocess.run(
        ["ldd", str(library)], capture_output=True, text=True, check=True
    ).stdout.split()
    # They have to come before all other libraries. Of clang they are part of the library.
    preload = [word for word in needed if word.startswith("/") and "san.so" in word]
    if not preload:
        pytest.skip("the compiler has no sanitizer libraries to load before Python")
    environment = {
        **os.environ,
        "LD_PRELOAD": ":".join(preload),
        # Python keeps what it allocates until it ends.
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    command = [sys.executable, "-m", "tests.unit.cpu.sanitized", str(library)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[:5000]
    assert int(done.stdout.split()[-2]) > 1000


def test_several_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that several threads call at once, and their own threads, share nothing unguarded."""
    library = _sanitized("thread", tmp_path, monkeypatch)
    program = tmp_path / "several_callers"
    subprocess.run(
        [*find_compiler(), "-std=c++17", "-O1", "-g1", f"-I{source_folder()}",
         str(HERE / "several_callers.cc"), str(library), f"-Wl,-rpath,{tmp_path}", "-pthread",
         "-o", str(program)],
        check=True,
    )  # fmt: skip
    done = subprocess.run([program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[:5000]
    assert done.stdout == "0 wrong\n"
