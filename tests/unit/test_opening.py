"""From the name of a device to what plans run on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest

import whisper_npu.backends.npu.xrt as xrt
from tests.support.checkpoints import Recipe
from tests.support.npu.gemm_kernels import LARGE, SMALL, evidence_of, gemm_folder
from tests.support.signals import noise
from tests.unit.accelerated import DIMS
from whisper_npu import Transcriber
from whisper_npu.backends import opening
from whisper_npu.backends.cpu.backend import UsableKernels
from whisper_npu.backends.cpu.build import source_folder
from whisper_npu.backends.cpu.isas import read_isas
from whisper_npu.backends.cpu.kernels import GELU, KERNELS
from whisper_npu.backends.cpu.library import Library
from whisper_npu.backends.cpu.records import CpuKernel
from whisper_npu.backends.machine_options import MachineOptions
from whisper_npu.backends.npu.backend import NpuBackend
from whisper_npu.backends.npu.device import DeviceError, NoContext, NoDevice
from whisper_npu.backends.npu.kernel_evidence import NpuEvidenceStore
from whisper_npu.backends.npu.registry import read_folder
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.backends.opening import (
    INT8_TIME,
    choose_precision,
    describe_machine,
    open_device,
    open_machine,
    require,
)
from whisper_npu.errors import KernelError, ModelError, OptionError
from whisper_npu.model.builders import PHASES, build_phase
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.model.precision import PRECISIONS
from whisper_npu.runtime.backend import Refusal
from whisper_npu.runtime.machine import Machine


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the driver's nodes: empty."""
    folder = tmp_path / "accel"
    folder.mkdir()
    monkeypatch.setattr(opening, "_NODES", folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return gemm_folder(tmp_path / "kernels")


@pytest.fixture
def verified(folder: Path) -> Path:
    store = NpuEvidenceStore()
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


NONE = "CPU kernels are not built: run whisper-npu kernels build"


class FakeLibrary:
    """Of which only the instruction set is read."""

    def __init__(self, isa: str) -> None:
        self.isa = isa


def usable(isa: str, failed: tuple[CpuKernel, ...] = ()) -> UsableKernels:
    return UsableKernels(cast(Library, FakeLibrary(isa)), KERNELS, failed)


def test_precision_that_was_asked_for() -> None:
    for precision in PRECISIONS:
        for kernels in (NONE, usable("amx")):
            chosen = choose_precision(precision, False, precision == "float32", kernels)
            assert chosen == (precision, "asked for")


def test_precision_of_an_npu() -> None:
    for asked in ("auto", "int8"):
        chosen = choose_precision(asked, True, False, NONE)
        assert chosen == ("int8", "the NPU's products are int8")
    with pytest.raises(OptionError, match="precision 'float32' does not go with an NPU"):
        choose_precision("float32", True, False, NONE)


@pytest.mark.parametrize(
    ("int8_weights", "kernels", "precision", "reason"),
    [
        (True, usable("avx2"), "int8", "INT8 weights and verified CPU kernels"),
        (True, usable("amx"), "int8", "INT8 weights and verified CPU kernels"),
        (False, usable("amx"), "float32", "the model's weights are not INT8"),
        (True, NONE, "float32", NONE),
        (True, usable("scalar"), "float32", "not measured to be faster than float32 on scalar"),
        (True, usable("dotprod"), "float32", "not measured to be faster than float32 on dotprod"),
        (True, usable("amx", (GELU,)), "float32", "CPU kernels failed verification: cpu_gelu"),
    ],
)
def test_precision_auto(
    int8_weights: bool, kernels: UsableKernels | str, precision: str, reason: str
) -> None:
    chosen, why = choose_precision("auto", False, int8_weights, kernels)
    assert chosen == precision
    assert reason in why


def test_a_model_without_floats_is_int8_wherever_it_runs() -> None:
    chosen, why = choose_precision("auto", False, True, NONE, only_int8=True)
    assert chosen == "int8"
    assert why == "the model was converted for int8"


def test_int8_is_measured_to_be_faster_where_it_is_chosen() -> None:
    assert INT8_TIME.keys() <= {isa.name for isa in read_isas(source_folder())}
    assert max(INT8_TIME.values()) < 1


def test_values_become_pythons() -> None:
    options = MachineOptions(
        check_rate=np.float32(0.5),
        threads=np.int64(2),
        cpu_kernels=np.bool_(False),
        allow_fallback=np.bool_(True),
        kernels="folder",
    )
    assert repr(options) == (
        "MachineOptions(device='cpu', precision='auto', kernels=('folder',), allow_fallback=True, "
        "check='full', check_rate=0.5, cpu_kernels=False, threads=2)"
    )


@pytest.mark.parametrize(
    ("name", "value", "must"),
    [
        ("allow_fallback", "no", "be one of True, False, not 'no'"),
        ("cpu_kernels", 2, "be one of True, False, None, not 2"),
        ("kernels", 7, "be a list of folders, not 7"),
        ("check", "most", "be one of full, sample, not 'most'"),
        ("check_rate", "all", "be between 0 and 1, not 'all'"),
        ("threads", 2.5, "be a whole number from 1 to 256, not 2.5"),
    ],
)
def test_values_that_are_refused(name: str, value: object, must: str) -> None:
    with pytest.raises(OptionError, match=f"^{name} must {must}$"):
        MachineOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_0_and_1(rate: float) -> None:
    with pytest.raises(OptionError, match=f"check_rate must be between 0 and 1, not {rate}"):
        MachineOptions(check_rate=rate)


def npu_of(machine: Machine) -> NpuBackend | None:
    found = [backend for backend in machine.backends if isinstance(backend, NpuBackend)]
    return found[0] if found else None


def test_the_cpu_alone() -> None:
    made = open_machine(None, DIMS, MachineOptions(), int8_weights=True)
    assert [backend.name for backend in made.backends] == ["fast NumPy", "specification"]
    assert (made.usage.device, made.usage.precision) == (None, "float32")


def test_a_device_whose_kernels_are_verified(verified: Path) -> None:
    device = SoftwareDevice()
    made = open_machine(device, DIMS, MachineOptions(kernels=[verified]), int8_weights=True)
    npu = npu_of(made)
    assert npu is made.backends[0]
    assert npu is not None
    assert npu.device is device
    assert npu.usage is made.usage
    assert (made.usage.device, made.policy) == ("software", "npu")


def test_a_device_without_verified_kernels(folder: Path) -> None:
    with pytest.raises(KernelError, match=r"\d+ ops cannot run on the NPU .*--allow_fallback"):
        open_machine(SoftwareDevice(), DIMS, MachineOptions(kernels=[folder]), int8_weights=True)
    for options in ({"allow_fallback": True}, {"device": "auto"}):
        checked = MachineOptions(kernels=[folder], **options)
        made = open_machine(SoftwareDevice(), DIMS, checked, int8_weights=True)
        assert npu_of(made) is not None
        assert made.policy == ("auto" if "device" in options else "npu")


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
        open_machine(Taken(), DIMS, MachineOptions(kernels=[verified]), int8_weights=True)
    for options in ({"allow_fallback": True}, {"device": "auto"}):
        device = Taken()
        made = open_machine(
            device, DIMS, MachineOptions(kernels=[verified], **options), int8_weights=True
        )
        assert npu_of(made) is not None
        assert made.policy == ("auto" if "device" in options else "npu")
        assert device.tried == []


def test_what_was_opened_before_is_given_back(verified: Path) -> None:
    class Second(SoftwareDevice):
        opened = closed = 0

        def open(self, entry):  # type: ignore[no-untyped-def]
            self.opened += 1
            if self.opened == 2:
                raise NoContext("taken")
            kernel = super().open(entry)
            kernel.close = self.count  # type: ignore[method-assign]
            return kernel

        def count(self) -> None:
            self.closed += 1

    device = Second()
    with pytest.raises(NoContext):
        open_machine(
            device, KNOWN_DIMENSIONS["tiny"], MachineOptions(kernels=[verified]), int8_weights=True
        )
    assert device.closed == 1


def test_all_kernels_that_are_used_are_opened_at_once(verified: Path) -> None:
    opened: list[str] = []

    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        opened.append(f"{action} {kernel}")
        return None

    open_machine(SoftwareDevice(fault), DIMS, MachineOptions(kernels=[verified]), int8_weights=True)
    assert opened == [f"open {SMALL}"]
    opened.clear()
    options = MachineOptions(kernels=[verified])
    dims = KNOWN_DIMENSIONS["tiny"]
    open_machine(SoftwareDevice(fault), dims, options, int8_weights=True)
    assert sorted(opened) == sorted([f"open {LARGE}", f"open {SMALL}"])


def test_everything_that_is_missing_is_listed_once_by_reason(folder: Path) -> None:
    with pytest.raises(KernelError) as raised:
        open_machine(SoftwareDevice(), DIMS, MachineOptions(kernels=[folder]), int8_weights=True)
    message = str(raised.value)
    graphs = [build_phase(phase, DIMS, precision="int8") for phase in PHASES]
    names = [f"{g.name}/{op.name}" for g in graphs for op in g.ops if op.kind == "product_int8"]
    listed, _, advice = message.partition("); ")
    assert listed == (
        f"{len(names)} ops cannot run on the NPU ({', '.join(names)}: {LARGE} is unverified, its "
        f"xclbin absent; {SMALL} is unverified, its xclbin absent"
    )
    assert advice == (
        "verify its kernels with whisper-npu kernels verify, or let NumPy run them with "
        "--allow_fallback"
    )
    assert "\n" not in message


def test_what_is_missing_is_grouped_by_reason(folder: Path) -> None:
    machine, _ = describe_machine("software", "int8", "npu", [folder])
    npu = npu_of(machine)
    assert npu is not None
    regions = machine.choose(build_phase("step", DIMS, precision="int8"))
    first, *rest = [region for region in regions if region.ops[0].kind == "product_int8"]
    odd = first._replace(refusals=(Refusal("npu", "odd"),))
    with pytest.raises(KernelError) as raised:
        require(npu, [odd, *rest])
    rest_named = ", ".join(f"step/{region.ops[0].name}" for region in rest)
    expected = f"(step/{first.ops[0].name}: odd; {rest_named}: {LARGE} is unverified, "
    assert expected in str(raised.value)


def test_failed_evidence_is_no_permission(folder: Path) -> None:
    for entry in read_folder(folder):
        NpuEvidenceStore().record(evidence_of(SoftwareDevice().identity, entry, failure="wrong"))
    with pytest.raises(KernelError, match="failed verification"):
        open_machine(SoftwareDevice(), DIMS, MachineOptions(kernels=[folder]), int8_weights=True)


def test_a_described_device_needs_no_evidence(folder: Path) -> None:
    machine, rates = describe_machine("phoenix", "int8", "npu", [folder])
    assert len(rates) == 3
    assert rates[0].startswith("NumPy here: ")
    assert all("no such device was measured" in line for line in rates[1:])
    assert {line.split(":")[0] for line in rates[1:]} == {LARGE, SMALL}
    npu = npu_of(machine)
    assert npu is not None
    assert rates[1:] == npu.describe_rates()


def test_planning_for_a_device(verified: Path, folder: Path) -> None:
    _, rates = describe_machine("software", "int8", "auto", [verified])
    assert len(rates) == 3
    assert all("measured by kernels verify on 2026-01-02" in line for line in rates[1:])
    _, rates = describe_machine("cpu", "int8", "auto", [folder])
    assert len(rates) == 1


class TestTranscriber:
    """The options of the public door."""

    @pytest.fixture
    def nano(self, seeded_directory: Callable[[Recipe], Path]) -> Path:
        return seeded_directory(Recipe("nano", seed=1))

    def test_options_that_do_not_exist(self, nano: Path) -> None:
        with pytest.raises(
            OptionError, match="precision must be one of auto, float32, int8, not 'fp4'"
        ):
            Transcriber(nano, precision="fp4")
        with pytest.raises(OptionError, match="device must be one of cpu, npu, auto, not 'tpu'"):
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
        assert found.placement.ops["product_int8"].keys() == {"numpy"}
        assert len(device.tried) == len(set(device.tried)) > 0

    def test_a_device_is_given_back_where_the_model_cannot_be_loaded(
        self, nano: Path, verified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the transcriber has opened it; also once kernels are in use."""
        closed: list[str] = []

        class Closing(SoftwareDevice):
            def close(self) -> None:
                closed.append("device")

        device = Closing()
        monkeypatch.setattr(opening, "open_device", lambda name: device)
        monkeypatch.setattr("whisper_npu.transcriber.open_device", lambda name: device)
        with pytest.raises(ModelError):
            Transcriber(tmp_path / "nothing", device="npu", kernels=[verified])
        assert closed == ["device"]
        with pytest.raises(ModelError):
            Transcriber(tmp_path / "nothing", device=device, kernels=[verified])
        assert closed == ["device"]

        def fail(*args: object) -> None:
            raise ModelError("spoiled")

        monkeypatch.setattr("whisper_npu.transcriber.Model", fail)
        monkeypatch.setattr(NpuBackend, "close", lambda self: closed.append("npu"))
        with pytest.raises(ModelError, match="spoiled"):
            Transcriber(nano, device="npu", kernels=[verified])
        assert closed == ["device", "npu", "device"]

    def test_auto_without_an_npu_is_the_cpu(self, nano: Path, nodes: Path) -> None:
        made = Transcriber(nano, device="auto")
        assert npu_of(made._model.machine) is None
        assert made._model.precision == "float32"
