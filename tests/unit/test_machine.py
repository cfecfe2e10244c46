"""From the name of a device to what plans run on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from make_checkpoint import Recipe

import whisper_npu.backends.npu.xrt as xrt
from tests.unit.accelerated import DIMS
from tests.unit.npu.gemm_kernels import LARGE, SMALL, evidence_of, gemm_folder
from tests.unit.signals import noise
from whisper_npu import Transcriber
from whisper_npu.backends.npu.device import DeviceError, NoContext, NoDevice
from whisper_npu.backends.npu.evidence import EvidenceStore
from whisper_npu.backends.npu.registry import read_folder
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.errors import KernelError, OptionError
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.runtime import machine
from whisper_npu.runtime.machine import choose_precision, make_machine, open_device, plan_device


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the driver's nodes: empty."""
    folder = tmp_path / "accel"
    folder.mkdir()
    monkeypatch.setattr(machine, "_NODES", folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return gemm_folder(tmp_path / "kernels")


@pytest.fixture
def verified(folder: Path) -> Path:
    store = EvidenceStore()
    for entry in read_folder(folder):
        store.record(evidence_of(SoftwareDevice().identity, entry))
    return folder


def test_the_cpu_and_a_machine_without_an_npu(nodes: Path) -> None:
    assert open_device("cpu") is None
    assert open_device("auto") is None


def test_the_npu_where_there_is_one(nodes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = SoftwareDevice()
    monkeypatch.setattr(xrt, "open_device", lambda: device)
    assert open_device("npu") is device
    assert open_device("auto") is None
    (nodes / "accel0").touch()
    assert open_device("auto") is device
    assert open_device("cpu") is None


def test_no_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyxrt", None)
    with pytest.raises(NoDevice, match=r"pyxrt cannot be imported .*; run: whisper-npu doctor"):
        open_device("npu")


def test_a_device_that_does_not_exist() -> None:
    with pytest.raises(OptionError, match="device must be one of cpu, npu, auto"):
        open_device("gpu")


def test_precision() -> None:
    assert choose_precision(None, None) == "float32"
    assert choose_precision("int8", None) == "int8"
    assert choose_precision(None, SoftwareDevice()) == "int8"
    assert choose_precision("int8", SoftwareDevice()) == "int8"
    with pytest.raises(OptionError, match="precision 'float32' does not go with an NPU"):
        choose_precision("float32", SoftwareDevice())


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_0_and_1(rate: float) -> None:
    for device in (None, SoftwareDevice()):
        with pytest.raises(OptionError, match=f"check_rate must be between 0 and 1, not {rate}"):
            make_machine(device, DIMS, "int8", check_rate=rate)


def test_the_cpu_alone() -> None:
    made = make_machine(None, DIMS, "float32")
    assert made.accelerator is None
    assert (made.usage.device, made.usage.precision) == (None, "float32")


def test_a_device_whose_kernels_are_verified(verified: Path) -> None:
    device = SoftwareDevice()
    made = make_machine(device, DIMS, "int8", kernels=[verified])
    assert made.accelerator is not None
    assert made.accelerator.device is device
    assert made.accelerator.usage is made.usage
    assert made.usage.device == "software"


def test_a_device_without_verified_kernels(folder: Path) -> None:
    with pytest.raises(KernelError, match=r"\d+ ops cannot run on the NPU .*--allow_fallback"):
        make_machine(SoftwareDevice(), DIMS, "int8", kernels=[folder])
    for options in ({"allow_fallback": True}, {"auto": True}):
        made = make_machine(SoftwareDevice(), DIMS, "int8", kernels=[folder], **options)
        assert made.accelerator is not None


class Taken(SoftwareDevice):
    """Another program has all contexts."""

    def __init__(self) -> None:
        super().__init__()
        self.tried: list[str] = []

    def open(self, entry):  # type: ignore[no-untyped-def]
        self.tried.append(entry.contract.name)
        raise NoContext("the NPU's contexts are taken by python (process 12)")


def test_a_device_that_others_have(verified: Path) -> None:
    """An error before the first window, unless NumPy may do it."""
    with pytest.raises(NoContext, match=r"taken by python \(process 12\)"):
        make_machine(Taken(), DIMS, "int8", kernels=[verified])
    for options in ({"allow_fallback": True}, {"auto": True}):
        device = Taken()
        made = make_machine(device, DIMS, "int8", kernels=[verified], **options)
        assert made.accelerator is not None
        assert device.tried == []


def test_what_was_opened_before_is_given_back(verified: Path) -> None:
    class Second(SoftwareDevice):
        closed = 0

        def open(self, entry):  # type: ignore[no-untyped-def]
            if entry.contract.name == SMALL:
                raise NoContext("taken")
            kernel = super().open(entry)
            kernel.close = self.count  # type: ignore[method-assign]
            return kernel

        def count(self) -> None:
            self.closed += 1

    device = Second()
    with pytest.raises(NoContext):
        make_machine(device, KNOWN_DIMENSIONS["tiny"], "int8", kernels=[verified])
    assert device.closed == 1


def test_all_kernels_that_are_used_are_opened_at_once(verified: Path) -> None:
    opened: list[str] = []

    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        opened.append(f"{action} {kernel}")
        return None

    make_machine(SoftwareDevice(fault), DIMS, "int8", kernels=[verified])
    assert opened == [f"open {SMALL}"]
    opened.clear()
    make_machine(SoftwareDevice(fault), KNOWN_DIMENSIONS["tiny"], "int8", kernels=[verified])
    assert sorted(opened) == sorted([f"open {LARGE}", f"open {SMALL}"])


def test_failed_evidence_is_no_permission(folder: Path) -> None:
    for entry in read_folder(folder):
        EvidenceStore().record(evidence_of(SoftwareDevice().identity, entry, failure="wrong"))
    with pytest.raises(KernelError, match="failed verification"):
        make_machine(SoftwareDevice(), DIMS, "int8", kernels=[folder])


def test_a_described_device_needs_no_evidence(folder: Path) -> None:
    planner, rates = plan_device("phoenix", "npu", [folder])
    assert len(rates) == 3
    assert rates[0].startswith("NumPy here: ")
    assert all("no such device was measured" in line for line in rates[1:])
    assert {line.split(":")[0] for line in rates[1:]} == {LARGE, SMALL}
    assert planner.describe_rates() == rates


def test_planning_for_a_device(verified: Path, folder: Path) -> None:
    _, rates = plan_device("software", "auto", [verified])
    assert len(rates) == 3
    assert all("measured by kernels verify on 2026-01-02" in line for line in rates[1:])
    _, rates = plan_device("cpu", "auto", [folder])
    assert len(rates) == 1


class TestTranscriber:
    """The options of the public door."""

    @pytest.fixture
    def nano(self, seeded_directory: Callable[[Recipe], Path]) -> Path:
        return seeded_directory(Recipe("nano", seed=1))

    def test_options_that_do_not_exist(self, nano: Path) -> None:
        with pytest.raises(OptionError, match="precision must be one of float32, int8, not 'fp4'"):
            Transcriber(nano, precision="fp4")
        with pytest.raises(OptionError, match="device must be one of"):
            Transcriber(nano, device="tpu")
        with pytest.raises(OptionError, match="check_rate must be"):
            Transcriber(nano, check_rate=2)

    def test_a_device_by_name_or_open(self, nano: Path, verified: Path) -> None:
        for device in ("software", SoftwareDevice()):
            made = Transcriber(nano, device=device, kernels=[verified])
            assert made._model.precision == "int8"
            assert made._model.machine.usage.device == "software"

    def test_ops_that_cannot_be_on_the_device(self, nano: Path, folder: Path) -> None:
        with pytest.raises(KernelError, match="ops cannot run on the NPU"):
            Transcriber(nano, device="software", kernels=[folder])
        made = Transcriber(nano, device="software", kernels=[folder], allow_fallback=True)
        assert made._model.precision == "int8"

    def test_a_device_that_others_have(self, nano: Path, verified: Path) -> None:
        with pytest.raises(NoContext):
            Transcriber(nano, device=Taken(), kernels=[verified])
        device = Taken()
        made = Transcriber(nano, device=device, kernels=[verified], allow_fallback=True)
        audio, options = noise(16000), {"language": "en", "temperature": 0.0, "sample_len": 3}
        found = made.transcribe(audio, **options)
        assert found == Transcriber(nano, precision="int8").transcribe(audio, **options)
        assert found.placement is not None
        assert {event.reason for event in found.placement.fallbacks} == {"no context"}
        assert found.placement.ops["linear_int8"].keys() == {"numpy"}
        assert len(device.tried) == len(set(device.tried)) > 0

    def test_auto_without_an_npu_is_the_cpu(self, nano: Path, nodes: Path) -> None:
        made = Transcriber(nano, device="auto")
        assert made._model.machine.accelerator is None
        assert made._model.precision == "float32"
