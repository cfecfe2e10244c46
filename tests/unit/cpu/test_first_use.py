"""Kernels that there is no evidence of are verified when they are first used."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from whisper_npu.backends.cpu import first_use, verify_library
from whisper_npu.backends.cpu.backend import UsableKernels, usable_kernels
from whisper_npu.backends.cpu.build import find_build
from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.cpu.kernels.elementwise import GELU
from whisper_npu.backends.cpu.library import ISA_ENVIRONMENT, Library, _libraries, load_library
from whisper_npu.backends.cpu.library_evidence import CpuEvidence, CpuEvidenceStore
from whisper_npu.backends.cpu.op_case import OpCase
from whisper_npu.backends.cpu.records import CpuKernel
from whisper_npu.runtime.workers import find_blas

FIRST = r"are used for the first time: verifying them$"


@pytest.fixture
def home(cpu_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a library, without evidence."""
    (cpu_home / "cpu" / "evidence.json").unlink()
    monkeypatch.setattr(first_use, "_unkept", {})
    return cpu_home


def _opened() -> UsableKernels:
    opened = usable_kernels()
    assert isinstance(opened, UsableKernels)
    return opened


def _opened_without_a_word() -> UsableKernels:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return _opened()


def _library() -> Library:
    build = find_build()
    assert build is not None
    return load_library(build.path)


def _there() -> list[str]:
    return [kernel.name for kernel in KERNELS]


def test_kernels_are_verified_once_for_the_set_in_use(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, blas = _library(), find_blas()
    if blas is not None:
        monkeypatch.setattr(blas, "threads", 2)
    before = library.threads, blas and blas.threads
    with pytest.warns(UserWarning, match=FIRST):
        opened = _opened()
    assert (library.threads, blas and blas.threads) == before
    assert [kernel.name for kernel in opened.kernels] == _there()
    known = CpuEvidenceStore().all().values()
    assert {(each.kernel, each.isa) for each in known} == {(name, library.isa) for name in _there()}
    # The second time nothing is.
    monkeypatch.setattr(verify_library, "verify_library", None)
    assert _opened_without_a_word() == opened


def test_evidence_is_for_one_instruction_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _libraries.clear()
    monkeypatch.setenv(ISA_ENVIRONMENT, "scalar")
    with pytest.warns(UserWarning, match=r"for this CPU \(scalar\) " + FIRST):
        assert _opened().library.isa == "scalar"
    monkeypatch.setenv(ISA_ENVIRONMENT, "")
    _libraries.clear()
    if _library().isa == "scalar":
        pytest.skip("this CPU has no other instruction set")
    with pytest.warns(UserWarning, match=FIRST):
        _opened()
    known = CpuEvidenceStore().all().values()
    assert {each.isa for each in known} == {"scalar", _library().isa}


def test_what_is_missing_is_verified_and_no_more(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match=FIRST):
        _opened()
    store = CpuEvidenceStore()
    known = [each for each in store.all().values() if each.kernel != GELU.name]
    store.path.unlink()
    store.record(*known)
    verified: list[str] = []

    def run_case(
        library: Library, kernel: CpuKernel, case: OpCase, expected: object, beyond: int = 0
    ) -> tuple[str | None, float]:
        verified.append(kernel.name)
        return None, 0.0

    monkeypatch.setattr(verify_library, "run_case", run_case)
    with pytest.warns(UserWarning, match=FIRST):
        _opened()
    assert set(verified) == {GELU.name}
    assert len(store.all()) == len(_there())


def test_a_kernel_that_fails_at_first_use(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run_case(
        library: Library, kernel: CpuKernel, case: OpCase, expected: object, beyond: int = 0
    ) -> tuple[str | None, float]:
        return ("wrote outside of an output" if kernel is GELU else None), 0.0

    monkeypatch.setattr(verify_library, "run_case", run_case)
    with pytest.warns(UserWarning, match=FIRST):
        opened = _opened()
    assert opened.failed == (GELU,)
    assert "cpu_gelu is not used: random (1,), 1 threads: wrote outside of" in caplog.text
    # It stays so.
    assert _opened_without_a_word().failed == (GELU,)


def test_evidence_that_cannot_be_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CpuEvidenceStore()
    # No file can take the place of a folder, whoever the user is.
    (store.path / "folder").mkdir(parents=True)
    not_kept = (
        "^evidence of the CPU kernels is not kept, each start verifies them: "
        f"{re.escape(str(store.path))}: cannot be written: "
    )
    not_used = "^evidence of kernels is not used: .* cannot be read: Is a directory"
    with (
        pytest.warns(UserWarning, match=FIRST),
        pytest.warns(UserWarning, match=not_kept),
        pytest.warns(UserWarning, match=not_used),
    ):
        opened = _opened()
    assert [kernel.name for kernel in opened.kernels] == _there()
    # Not twice in a process: another model may run on them.
    monkeypatch.setattr(verify_library, "verify_library", None)
    assert _opened_without_a_word() == opened


def test_two_threads_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verification sets the library's threads: there must not be two."""
    right, started = verify_library.verify_library, list[str]()

    def verify(library: Library, *arguments: Any) -> list[CpuEvidence]:
        started.append(library.isa)
        return right(library, *arguments)

    monkeypatch.setattr(verify_library, "verify_library", verify)
    with ThreadPoolExecutor(2) as threads, pytest.warns(UserWarning, match=FIRST):
        first, second = threads.map(lambda _: _opened(), range(2))
    assert first == second
    assert len(started) == 1


def test_two_processes_at_once(home: Path) -> None:
    script = (
        "from whisper_npu.backends.cpu.backend import usable_kernels\n"
        "print(*[kernel.name for kernel in usable_kernels().kernels])"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in running:
        found, _ = process.communicate(timeout=120)
        assert found.split() == _there()
    assert len(CpuEvidenceStore().all()) == len(_there())
    assert {each.name for each in (home / "cpu").iterdir()} == {
        "evidence.json", "library.json", _library().path.name
    }  # fmt: skip
    _opened_without_a_word()
