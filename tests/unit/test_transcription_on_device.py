"""Whole transcriptions on the software device."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import Recipe
from tests.support.npu.gemm_kernels import evidence_of, gemm_folder
from tests.support.signals import noise
from tests.support.waiting import wait_for
from whisper_npu import Transcriber, Transcription
from whisper_npu import transcriber as transcriber_module
from whisper_npu.backends.npu import device as devices
from whisper_npu.backends.npu.device import DeviceError, DeviceLost, LaunchFailed
from whisper_npu.backends.npu.kernel_evidence import NpuEvidenceStore
from whisper_npu.backends.npu.registry import KernelEntry, read_folder
from whisper_npu.backends.npu.software import SoftwareBuffer, SoftwareDevice, SoftwareKernel
from whisper_npu.model.builders import build_phase

AUDIO = noise(16000 * 3)
OPTIONS = {"language": "en", "temperature": 0.0, "sample_len": 6}


@pytest.fixture(scope="module")
def nano(seeded_directory: Callable[[Recipe], Path]) -> Path:
    return seeded_directory(Recipe("nano", seed=1))


@pytest.fixture(scope="module")
def on_numpy(nano: Path) -> Transcription:
    return Transcriber(nano, precision="int8").transcribe(AUDIO, **OPTIONS)


@pytest.fixture
def verified(tmp_path: Path) -> Path:
    """A folder with both kernels, which the evidence of this home says are verified."""
    folder = gemm_folder(tmp_path / "kernels")
    store = NpuEvidenceStore()
    for entry in read_folder(folder):
        store.record(evidence_of(SoftwareDevice().identity, entry))
    return folder


def transcriber(nano: Path, folder: Path, device: SoftwareDevice) -> Transcriber:
    return Transcriber(nano, device=device, kernels=[folder], check_rate=0.0)


def test_a_transcription_on_the_device(nano: Path, verified: Path, on_numpy: Transcription) -> None:
    device = SoftwareDevice()
    found = transcriber(nano, verified, device).transcribe(AUDIO, **OPTIONS)
    assert found == on_numpy
    assert found.segments
    placement, plain = found.placement, on_numpy.placement
    assert placement is not None
    assert plain is not None
    assert (placement.device, plain.device) == ("software", None)
    assert placement.fallbacks == ()
    assert placement.launches == device.traffic.launches > 0
    assert "numpy" not in placement.ops["product_int8"]
    assert sum(placement.ops["product_int8"].values()) == plain.ops["product_int8"]["numpy"]
    assert {k: v for k, v in placement.ops.items() if k != "product_int8"} == {
        k: v for k, v in plain.ops.items() if k != "product_int8"
    }
    assert device.traffic.to_device == placement.bytes_to_device + placement.resident_bytes
    assert device.traffic.from_device == placement.bytes_from_device


class FaultInOp:
    """Fails the nth launch, of all there are."""

    def __init__(self, nth: int, error: type[DeviceError]) -> None:
        self.nth, self.error, self.launches = nth, error, 0

    def __call__(self, action: str, kernel: str, count: int) -> DeviceError | None:
        if action != "launch":
            return None
        self.launches += 1
        return self.error("injected") if self.launches == self.nth else None


@pytest.mark.parametrize(
    ("nth", "error", "first"),
    [
        (4, LaunchFailed, ("encoder", "encoder.0.q")),
        (16, devices.LaunchTimedOut, ("cross_kv", "cross.0.k_proj")),
        (37, DeviceLost, ("step", "decoder.0.q")),
    ],
)
def test_a_transcription_with_a_failure(
    nano: Path,
    verified: Path,
    on_numpy: Transcription,
    nth: int,
    error: type[DeviceError],
    first: tuple[str, str],
) -> None:
    device = SoftwareDevice(FaultInOp(nth, error))
    found = transcriber(nano, verified, device).transcribe(AUDIO, **OPTIONS)
    assert found == on_numpy
    assert found.placement is not None
    names = [(f.phase, f.op) for f in found.placement.fallbacks]
    assert names[0] == first
    assert {f.reason for f in found.placement.fallbacks} == {error.reason}
    if error is not DeviceLost:
        assert len(names) == 1
    else:
        steps = build_phase("step", Transcriber(nano).dims, precision="int8")
        assert names[:17] == [("step", op.name) for op in steps.ops if op.kind == "product_int8"]
        assert found.placement.launches == nth - 1
    numpy = found.placement.ops["product_int8"].get("numpy", 0)
    total = sum(found.placement.ops["product_int8"].values())
    assert total - numpy == found.placement.launches


class Counted(SoftwareDevice):
    """Knows the buffers there are, and the kernels that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[str] = []
        self.buffers: list[weakref.ref[SoftwareBuffer]] = []
        self.closed = False

    def open(self, entry: KernelEntry) -> SoftwareKernel:
        kernel = super().open(entry)
        make, name = kernel.buffer, entry.contract.name
        self.kernels.append(name)

        def buffer(argument: int, nbytes: int) -> SoftwareBuffer:
            made = make(argument, nbytes)
            self.buffers.append(weakref.ref(made))
            return made

        kernel.buffer = buffer  # type: ignore[method-assign]
        kernel.close = lambda: self.kernels.remove(name)  # type: ignore[method-assign]
        return kernel

    def close(self) -> None:
        self.closed = True

    @property
    def live(self) -> int:
        return sum(buffer() is not None for buffer in self.buffers)


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """Nothing is left to the collector of cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def all_is_given_back(device: Counted) -> None:
    """Soon: by the engine's thread, if it has not ended yet."""
    wait_for(lambda: device.kernels == [] and device.live == 0, "the device still has something")


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("how", ["close", "with", "drop"])
def test_contexts_and_buffers_are_given_back(
    nano: Path, verified: Path, on_numpy: Transcription, how: str
) -> None:
    device = Counted()
    found = transcriber(nano, verified, device)
    if how == "with":
        with found:
            found.transcribe(AUDIO, **OPTIONS)
    else:
        found.transcribe(AUDIO, **OPTIONS)
        assert device.kernels
        assert device.live
        if how == "close":
            found.close()
    if how == "drop":
        del found
    else:
        # Without it the work goes on.
        after = found.transcribe(AUDIO, **OPTIONS)
        assert after == on_numpy
        assert after.placement is not None
        assert {event.reason for event in after.placement.fallbacks} == {"device lost"}
        found.close()
        assert device.kernels == []
    all_is_given_back(device)
    # It was not the transcriber that opened it.
    assert not device.closed


@pytest.mark.usefixtures("_no_collector")
def test_a_device_by_name_is_closed(
    nano: Path, verified: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Counted()
    monkeypatch.setattr(transcriber_module, "open_device", lambda name: device)
    found = Transcriber(nano, device="npu", kernels=[verified])
    assert not device.closed
    del found
    assert device.closed


@pytest.mark.usefixtures("_no_collector")
def test_a_stream_keeps_the_device(nano: Path, verified: Path, on_numpy: Transcription) -> None:
    device = Counted()
    stream = transcriber(nano, verified, device).segments(AUDIO, **OPTIONS)
    segments = list(stream)
    assert tuple(segments) == on_numpy.segments
    placement = stream.result().placement
    assert placement is not None
    assert placement.fallbacks == ()
    assert device.kernels
    del stream
    all_is_given_back(device)
