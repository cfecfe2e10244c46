"""With a device every weight is in memory once, in the kernel's buffer, whatever goes wrong."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import Recipe
from tests.support.npu.gemm_kernels import evidence_of, gemm_folder
from tests.support.signals import noise
from whisper_npu import Transcriber
from whisper_npu.backends.npu.device import BufferRefused, DeviceError, LaunchFailed
from whisper_npu.backends.npu.families.gemm_stream import ARGUMENT_B
from whisper_npu.backends.npu.kernel_evidence import NpuEvidenceStore
from whisper_npu.backends.npu.registry import read_folder
from whisper_npu.backends.npu.software import SoftwareBuffer, SoftwareDevice
from whisper_npu.convert import convert

# Of all weights in memory, host and buffers, over the file of the INT8 model.
MOST = 1.05
_FIRST_BUFFER = 3
OPTIONS: dict[str, Any] = {"language": "en", "temperature": 0.0, "sample_len": 4}


class Counting(SoftwareDevice):
    """Knows how many bytes of weights its buffers have, and has faults for one op."""

    weight_bytes = 0

    def open(self, entry):  # type: ignore[no-untyped-def]
        kernel = super().open(entry)
        make = kernel.buffer

        def buffer(argument: int, nbytes: int) -> SoftwareBuffer:
            if argument == _FIRST_BUFFER + ARGUMENT_B:
                self.weight_bytes += nbytes
            return make(argument, nbytes)

        kernel.buffer = buffer  # type: ignore[method-assign]
        return kernel


@pytest.fixture(scope="module")
def folder(
    seeded_directory: Callable[[Recipe], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    made = tmp_path_factory.mktemp("model") / "int8"
    convert(seeded_directory(Recipe("tiny", seed=1)), made, calibrate=False)
    return made


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    found = gemm_folder(tmp_path / "kernels")
    for entry in read_folder(found):
        NpuEvidenceStore().record(evidence_of(SoftwareDevice().identity, entry))
    return found


def host_bytes(transcriber: Transcriber) -> int:
    """Bytes of weights in host memory and in mapped files: of arrays that are no view of a
    buffer."""
    held = transcriber._model._weights._held
    arrays = [a for (_, form), a in held.items() if form.packing is None]
    assert sum(a.nbytes for a in arrays) + buffer_bytes(transcriber) == sum(
        array.nbytes for array in held.values()
    )
    return sum(a.nbytes for a in arrays)


def buffer_bytes(transcriber: Transcriber) -> int:
    held = transcriber._model._weights._held
    return sum(a.nbytes for (_, form), a in held.items() if form.packing is not None)


def test_all_weights_are_held_once(folder: Path, kernels: Path) -> None:
    device = Counting()
    transcriber = Transcriber(folder, device=device, kernels=[kernels], cpu_kernels=False)
    result = transcriber.transcribe(noise(16000), **OPTIONS)
    file = (folder / "model.safetensors").stat().st_size
    assert device.weight_bytes == buffer_bytes(transcriber)
    assert device.weight_bytes > 0.8 * file
    assert host_bytes(transcriber) + device.weight_bytes <= MOST * file
    on_numpy = Transcriber(folder, precision="int8", cpu_kernels=False)
    assert result == on_numpy.transcribe(noise(16000), **OPTIONS)


@pytest.mark.parametrize("how", ["launch", "wrong"])
def test_an_op_that_fell_back_reads_the_buffer(
    folder: Path, kernels: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the largest, the logits, and all of them."""

    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        failed = how == "launch" and action == "launch" and count % 7 == 3
        return LaunchFailed("no") if failed else None

    device = Counting(fault)
    if how == "wrong":
        device.corrupt = lambda count, outputs: outputs[0].__setitem__(slice(0, 4), 7)
    transcriber = Transcriber(
        folder, device=device, kernels=[kernels], cpu_kernels=False, check_rate=1.0
    )
    result = transcriber.transcribe(noise(16000), **OPTIONS)
    assert result.placement is not None
    fallen = {event.op for event in result.placement.fallbacks}
    assert len(fallen) > 10
    assert how == "launch" or "fixed_logits" in fallen
    file = (folder / "model.safetensors").stat().st_size
    assert host_bytes(transcriber) + device.weight_bytes <= MOST * file
    on_numpy = Transcriber(folder, precision="int8", cpu_kernels=False)
    assert result == on_numpy.transcribe(noise(16000), **OPTIONS)


def test_a_weight_without_a_buffer_is_held_by_rows(folder: Path, kernels: Path) -> None:
    """In bytes, not widened: its op has fallen back before it ran."""

    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        refused = action == "buffer" and count in (0, 5, 9)
        return BufferRefused("out of memory") if refused else None

    device = Counting(fault)
    transcriber = Transcriber(folder, device=device, kernels=[kernels], cpu_kernels=False)
    result = transcriber.transcribe(noise(16000), **OPTIONS)
    assert result.placement is not None
    assert {event.reason for event in result.placement.fallbacks} == {"buffer refused"}
    # Other prompts make other plans: they find what is there.
    transcriber.transcribe(noise(16000), initial_prompt="and so", **OPTIONS)
    file = (folder / "model.safetensors").stat().st_size
    total = host_bytes(transcriber) + buffer_bytes(transcriber)
    assert total <= MOST * file
    assert all(len(forms) == 1 for forms in transcriber._model._weights.forms.values())
    on_numpy = Transcriber(folder, precision="int8", cpu_kernels=False)
    assert result == on_numpy.transcribe(noise(16000), **OPTIONS)


def test_what_is_closed_is_read_from_the_file_again(folder: Path, kernels: Path) -> None:
    device = Counting()
    transcriber = Transcriber(folder, device=device, kernels=[kernels], cpu_kernels=False)
    result = transcriber.transcribe(noise(16000), **OPTIONS)
    transcriber.close()
    assert buffer_bytes(transcriber) == 0
    again = transcriber.transcribe(noise(16000), **OPTIONS)
    assert again == result
    file = (folder / "model.safetensors").stat().st_size
    assert host_bytes(transcriber) <= MOST * file


def test_weights_go_to_their_buffers_some_rows_at_a_time(folder: Path, kernels: Path) -> None:
    """The host never has a second copy of all of them, neither while they are loaded nor later."""

    def loaded() -> Transcriber:
        return Transcriber(folder, device=Counting(), kernels=[kernels], cpu_kernels=False)

    loaded()  # for what is imported and cached with the first
    tracemalloc.start()
    try:
        transcriber = loaded()
        after, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    buffers = buffer_bytes(transcriber)
    # The software device has a copy of each buffer, as its own memory. The host has the weights
    # that no product reads, such as the embedding, and the scales, in a block of 16 MiB that files
    # are read into. What is not of weights is the vocabulary and the graphs.
    weights = 2 * buffers + host_bytes(transcriber)
    assert weights < after < weights + (22 << 20)
    assert most < after + (24 << 20)
