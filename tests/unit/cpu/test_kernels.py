"""CPU kernels in a model: the same integers as NumPy, counted, and a way back."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import Recipe
from whisper_npu import Transcriber
from whisper_npu.backends.cpu import backend as backend_module
from whisper_npu.backends.cpu.backend import CpuBackend, KernelRun, UsableKernels, usable_kernels
from whisper_npu.backends.cpu.build import find_build
from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.cpu.kernels.product_int8 import PRODUCT_INT8
from whisper_npu.backends.cpu.library import ISA_ENVIRONMENT, Library, _libraries, load_library
from whisper_npu.backends.cpu.library_evidence import CpuEvidenceStore
from whisper_npu.backends.cpu.verify_library import run_case
from whisper_npu.backends.machine_options import MachineOptions
from whisper_npu.backends.opening import open_machine
from whisper_npu.errors import KernelError, OptionError
from whisper_npu.files.whole import file_sha256
from whisper_npu.model.builders import build_step
from whisper_npu.model.checkpoint import Checkpoint, load_checkpoint
from whisper_npu.runtime.backend import Array
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.threads import default_threads
from whisper_npu.runtime.usage import Usage


@pytest.fixture(scope="module")
def checkpoint(seeded_directory: Callable[[Recipe], Path]) -> Checkpoint:
    return load_checkpoint(seeded_directory(Recipe("nano")))


def _outputs(model: Model, seed: int = 0) -> list[Array]:
    """Of all phases, on two windows with three sequences each: states, then logits."""
    rng = np.random.default_rng(seed)
    dims = model.dims
    features = rng.standard_normal((2, dims.n_mels, dims.n_frames), np.float32)
    states = model.encode(features)
    session = model.decoder(states, 3)
    outputs = [states, session.prefill([[1, 2, 3], [4, 5, 6]], [0, 2]).copy()]
    for token in range(2):
        outputs.append(session.step(np.arange(6) + token).copy())
    return outputs


def _model(checkpoint: Checkpoint, cpu_kernels: bool | None) -> Model:
    return _open(checkpoint, MachineOptions(precision="int8", cpu_kernels=cpu_kernels))


def _open(checkpoint: Checkpoint, options: MachineOptions) -> Model:
    machine = open_machine(None, checkpoint.dims, options, int8_weights=True)
    return Model(checkpoint, machine.usage.precision, machine)


def _has_cpu_kernels(model: Model) -> bool:
    return any(isinstance(backend, CpuBackend) for backend in model.machine.backends)


def _only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    chosen = tuple(kernel for kernel in KERNELS if kernel.name in names)
    assert len(chosen) == len(names)
    monkeypatch.setattr(backend_module, "KERNELS", chosen)


# What no kernel computes: NumPy copies.
COPIES = {"transpose", "select_rows"}


def test_integers_are_those_of_numpy(cpu_home: Path, checkpoint: Checkpoint) -> None:
    plain, model = _model(checkpoint, False), _model(checkpoint, True)
    for seed in range(2):
        for mine, theirs in zip(_outputs(model, seed), _outputs(plain, seed), strict=True):
            assert np.array_equal(mine, theirs)
            assert np.abs(theirs).max() > 0
    placement = model.machine.usage.placement(model.machine.usage.counts)
    used = {kind: set(kernels) for kind, kernels in placement.ops.items()}
    assert used == {kind: {"numpy" if kind in COPIES else f"cpu_{kind}"} for kind in used}
    attentions = {"attention_int32", "attention_int8", "cached_attention_int16"}
    assert {"product_int8", *attentions} <= set(used)
    assert placement.fallbacks == ()


def test_weights_are_not_held_as_floats(cpu_home: Path, checkpoint: Checkpoint) -> None:
    """In bytes, where NumPy holds those that BLAS multiplies as float32."""

    def held(model: Model) -> tuple[int, int]:
        arrays = model._weights._held.values()
        floats = [array.nbytes for array in arrays if array.ndim == 2 and array.dtype == np.float32]
        return sum(array.nbytes for array in arrays), sum(floats)

    ours, as_floats = held(_model(checkpoint, True))
    theirs, of_blas = held(_model(checkpoint, False))
    assert as_floats == 0
    assert 0 < 4 * (theirs - ours) == 3 * of_blas


def _refuse(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """Have a kernel take nothing."""
    right = Library.function
    # A C function, as several steps are one call of the library.
    no = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(lambda address: 1)

    def function(self: Library, name: str) -> Callable[[int], int]:
        return no if name == kernel else right(self, name)

    monkeypatch.setattr(Library, "function", function)


def test_a_kernel_that_refuses_is_replaced(
    cpu_home: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _outputs(_model(checkpoint, False))
    build = find_build()
    assert build is not None
    library = load_library(build.path)
    _refuse(monkeypatch, "cpu_product_int8")
    model = _model(checkpoint, None)
    assert _has_cpu_kernels(model)
    assert library is load_library(build.path)
    for mine, theirs in zip(_outputs(model), expected, strict=True):
        assert np.array_equal(mine, theirs)
    placement = model.machine.usage.placement(model.machine.usage.counts)
    assert placement.ops["product_int8"].keys() == {"numpy"}
    events = placement.fallbacks
    assert {event.kernel for event in events} == {"cpu_product_int8"}
    # One for each op, though it ran several times.
    assert len(events) == len({(event.phase, event.op) for event in events})


def test_steps_as_one_call_are_the_same_steps(
    cpu_home: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = _model(checkpoint, True)
    found = _outputs(joined)
    monkeypatch.setattr(CpuBackend, "join", lambda self, steps: list(steps))
    single = _model(checkpoint, True)
    for mine, theirs in zip(found, _outputs(single), strict=True):
        assert np.array_equal(mine, theirs)
    counts = [
        model.machine.usage.placement(model.machine.usage.counts).ops for model in (joined, single)
    ]
    assert counts[0] == counts[1]


def _steps(joined: Sequence[object]) -> int:
    return sum(len(step._steps) if isinstance(step, KernelRun) else 1 for step in joined)


def test_what_lies_between_steps_on_numpy_is_one_call(
    cpu_home: Path, checkpoint: Checkpoint
) -> None:
    model = _model(checkpoint, True)
    graph = build_step(model.dims, precision="int8")
    states = {t.name: np.zeros(t.shape, t.dtype) for t in graph.role("state")}
    for name in states:
        states[name] = states[name].astype(model._network.states[name].dtype)
    plan = model._network.plan(graph, states)
    assert _steps(plan._joined) == len(graph.ops)
    assert all(isinstance(step, KernelRun) for step in plan._joined)
    assert len(plan._joined) == -(-len(graph.ops) // 32)


def test_models_of_floats_take_the_kernels_of_floats(
    cpu_home: Path, checkpoint: Checkpoint
) -> None:
    model = _open(checkpoint, MachineOptions(precision="float32", cpu_kernels=True))
    _outputs(model)
    used = model.machine.usage.placement(model.machine.usage.counts).ops
    for kind in ("attention", "cached_attention", "layer_norm", "gelu", "add"):
        assert used[kind].keys() == {f"cpu_{kind}"}
    assert not any("int" in kind for kind in used)


def test_cross_keys_and_values_are_the_integers_of_numpy(
    cpu_home: Path, checkpoint: Checkpoint
) -> None:
    """In bytes where a kernel reads them so, in floats where BLAS does."""
    states = np.random.default_rng(0).standard_normal((2, *_states(checkpoint)), np.float32)
    found = []
    for kernels in (True, False):
        model = _model(checkpoint, kernels)
        model.decoder(states)
        found.append(model._decoder._cross.states)
        integers = {cache.dtype for name, cache in found[-1].items() if "scale" not in name}
        assert integers == {np.dtype(np.int8 if kernels else np.float32)}
    for mine, theirs in zip(found[0].values(), found[1].values(), strict=True):
        assert np.array_equal(mine, theirs)
        assert np.abs(mine).max() > 0


def test_numpy_reads_cross_keys_and_values_in_bytes(
    cpu_home: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where their kernel refuses, and for heads that are not in their order, whose scores it does
    not keep."""
    _only(monkeypatch, "cpu_product_int8", "cpu_quantize_columns", "cpu_cross_attention_int32")
    states = np.random.default_rng(0).standard_normal((1, *_states(checkpoint)), np.float32)
    # Of both layers, so that neither has a kernel; and one token, for which there is no fast path.
    heads = [(0, 1), (0, 0), (1, 1), (1, 0)]
    plain = _model(checkpoint, False).decoder(states)
    expected = [*plain.align([1, 2, 3], heads), plain.prefill([[1]], [0])]
    model = _model(checkpoint, True)
    found = model.decoder(states).align([1, 2, 3], heads)
    _refuse(monkeypatch, "cpu_cross_attention_int32")
    refusing = _model(checkpoint, True)
    found = [*found, refusing.decoder(states).prefill([[1]], [0])]
    for each in (model, refusing):
        assert each._decoder._cross.states["cross.0.k"].dtype == np.int8
        used = each.machine.usage.placement(each.machine.usage.counts).ops["cross_attention_int32"]
        assert used.keys() == {"numpy"}
    for mine, theirs in zip(found, expected, strict=True):
        assert np.array_equal(mine, theirs)
    fallbacks = refusing.machine.usage.placement(refusing.machine.usage.counts).fallbacks
    assert {event.kernel for event in fallbacks} == {"cpu_cross_attention_int32"}


def _states(checkpoint: Checkpoint) -> tuple[int, int]:
    return checkpoint.dims.n_audio_ctx, checkpoint.dims.n_audio_state


def test_threads_stay_awake_where_all_ops_have_kernels(
    cpu_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(Library, "stay_awake", lambda library, longer: asked.append(longer))
    usable = usable_kernels()
    assert isinstance(usable, UsableKernels)
    for precision in ("int8", "float32"):
        CpuBackend(usable, Usage(precision=precision))
    assert asked == [True, False]


def find_library() -> Path:
    build = find_build()
    assert build is not None
    return build.path


def test_nothing_built_is_nothing_used(no_cpu_kernels: Path, checkpoint: Checkpoint) -> None:
    assert usable_kernels() == "CPU kernels are not built: run whisper-npu kernels build"
    assert not _has_cpu_kernels(_model(checkpoint, None))
    with pytest.raises(KernelError, match=r"^CPU kernels are not built: run whisper-npu kernels b"):
        _model(checkpoint, True)


def test_kernels_can_be_switched_off(
    cpu_home: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _has_cpu_kernels(_model(checkpoint, None))
    monkeypatch.setenv(ISA_ENVIRONMENT, "none")
    assert usable_kernels() == "CPU kernels are switched off: WHISPER_NPU_CPU_ISA is none"
    assert not _has_cpu_kernels(_model(checkpoint, None))
    with pytest.raises(KernelError, match=r"^CPU kernels are switched off: WHISPER_NPU_CPU_ISA"):
        _model(checkpoint, True)


def test_only_what_is_verified_is_used(cpu_home: Path) -> None:
    build = find_build()
    assert build is not None
    library = load_library(build.path)
    found = CpuEvidenceStore().find(build.sha256, library.cpu, library.isa)
    opened = usable_kernels()
    assert isinstance(opened, UsableKernels)
    assert opened.failed == ()
    assert {kernel.name for kernel in opened.kernels} == set(found)
    failed = replace(found["cpu_product_int8"], failure="wrong")
    CpuEvidenceStore().record(failed)
    opened = usable_kernels()
    assert isinstance(opened, UsableKernels)
    assert PRODUCT_INT8 not in opened.kernels
    assert opened.failed == (PRODUCT_INT8,)
    assert len(opened.kernels) == len(found) - 1
    CpuEvidenceStore().record(*(replace(each, failure="wrong") for each in found.values()))
    assert usable_kernels() == "CPU kernels failed verification, all of them"


def _damage(library: Path) -> None:
    library.write_bytes(library.read_bytes() + b"more")


def _open_to_all(library: Path) -> None:
    library.chmod(0o757)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_damage, "is not the file that was compiled"),
        (_open_to_all, "can be written by anybody; run chmod go-w "),
    ],
)
def test_a_library_that_others_may_have_changed_is_not_loaded(
    cpu_home: Path, checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture,
    change: Callable[[Path], None], reason: str,
) -> None:  # fmt: skip
    change(find_library())
    expected = f"CPU kernels cannot be loaded: {find_library()}: {reason}"
    found = usable_kernels()
    assert isinstance(found, str)
    assert found.startswith(expected)
    assert f"no CPU kernels: {find_library()}: {reason}" in caplog.text
    model = _model(checkpoint, None)
    assert not _has_cpu_kernels(model)
    assert np.isfinite(_outputs(model)[0]).all()
    with pytest.raises(KernelError) as caught:
        _model(checkpoint, True)
    assert str(caught.value) == found
    assert "\n" not in found


def test_a_library_that_does_not_load(cpu_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    _libraries.clear()
    find_library().write_bytes(b"no library")
    record = cpu_home / "cpu" / "library.json"
    told = {**json.loads(record.read_text()), "sha256": file_sha256(find_library())}
    record.write_text(json.dumps(told))
    found = usable_kernels()
    assert isinstance(found, str)
    assert found.startswith(f"CPU kernels cannot be loaded: {find_library()}: cannot be loaded (")
    assert "run whisper-npu kernels build --force" in caplog.text


def test_the_instruction_set_can_be_capped(cpu_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = find_build()
    assert build is not None
    best = load_library(build.path).isa
    for isa in load_library(build.path).isas:
        monkeypatch.setenv(ISA_ENVIRONMENT, isa)
        assert Library(build.path).isa == isa
    monkeypatch.setenv(ISA_ENVIRONMENT, "amx")
    assert Library(build.path).isa == best
    monkeypatch.setenv(ISA_ENVIRONMENT, "sse")
    with pytest.raises(OptionError, match="WHISPER_NPU_CPU_ISA must be one of none, scalar, "):
        Library(build.path)
    with pytest.raises(KernelError, match="this CPU has no altivec"):
        load_library(build.path).choose_isa("altivec")


def test_a_child_has_threads_of_its_own(cpu_home: Path) -> None:
    script = """
import os, sys
import numpy as np
from whisper_npu.backends.cpu.build import find_build
from whisper_npu.backends.cpu.kernels.product_int8 import PRODUCT_INT8
from whisper_npu.backends.cpu.library import load_library
from whisper_npu.backends.cpu.verify_library import run_case
library = load_library(find_build().path)
library.threads = 3
case = next(c for c in PRODUCT_INT8.cases(np.random.default_rng(0)) if "520x" in c.name)
assert run_case(library, PRODUCT_INT8, case)[0] is None
child = os.fork()
if child == 0:
    failures = [run_case(library, PRODUCT_INT8, case)[0] for _ in range(2)]
    os._exit(0 if failures == [None, None] else 1)
assert os.waitpid(child, 0)[1] == 0
assert run_case(library, PRODUCT_INT8, case)[0] is None
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)


def test_two_threads_of_a_program_at_the_same_time(cpu_home: Path) -> None:
    build = find_build()
    assert build is not None
    library = load_library(build.path)
    cases = [c for c in PRODUCT_INT8.cases(np.random.default_rng(0)) if " 97x" in c.name]
    before, library.threads = library.threads, 3
    try:
        with ThreadPoolExecutor(2) as threads:
            found = threads.map(lambda case: run_case(library, PRODUCT_INT8, case)[0], 10 * cases)
            assert set(found) == {None}
    finally:
        library.threads = before


def test_threads_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, count in (("3", 3), ("2,4", 2)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert default_threads() == count
    for text in ("0", "many", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert 1 <= default_threads() <= (os.cpu_count() or 1)


def test_a_transcription_says_where_it_ran(
    cpu_home: Path, seeded_directory: Callable[[Recipe], Path]
) -> None:
    folder = seeded_directory(Recipe("nano"))
    audio = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    transcriber = Transcriber(folder, precision="int8", cpu_kernels=True)
    placement = transcriber.transcribe(audio, language="en", temperature=0.0).placement
    assert placement is not None
    assert placement.ops["product_int8"].keys() == {"cpu_product_int8"}
    none = Transcriber(folder, precision="int8", cpu_kernels=False)
    placement = none.transcribe(audio, language="en", temperature=0.0).placement
    assert placement is not None
    assert placement.ops["product_int8"].keys() == {"numpy"}
