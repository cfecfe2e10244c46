"""Ops on a device: the same numbers as NumPy whatever goes wrong, and a true account of it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from fallback_sweep import WAYS, Fault, Way
from make_checkpoint import Recipe

from tests.unit.accelerated import (
    DIMS,
    FEATURES,
    LARGE,
    RUNS,
    SMALL,
    Alternating,
    accelerated,
    all_but,
    everywhere,
    numpy_model,
    run_windows,
    same,
)
from tests.unit.npu.gemm_kernels import evidence_of, gemm_folder
from tests.unit.signals import noise
from whisper_npu import Transcriber, Transcription
from whisper_npu.model.builders import PHASES, build_phase
from whisper_npu.npu import device as devices
from whisper_npu.npu.device import BufferRefused, DeviceError, DeviceLost, LaunchFailed, NoContext
from whisper_npu.npu.evidence import EvidenceStore
from whisper_npu.npu.gemm import gemm_shape
from whisper_npu.npu.packing import GemmTile
from whisper_npu.npu.registry import Entry, read_folder
from whisper_npu.npu.software import SoftwareDevice
from whisper_npu.runtime.accelerator import product_shape
from whisper_npu.runtime.model import Model

PRODUCTS = {
    phase: [op.name for op in build_phase(phase, DIMS, 3, "int8").ops if op.kind == "linear_int8"]
    for phase in PHASES
}
OPS = [(phase, op) for phase, ops in PRODUCTS.items() for op in ops]
TIMELINE = [(phase, op) for phase in RUNS for op in PRODUCTS[phase]]


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return run_windows(numpy_model())


def fallbacks(model: Model) -> list[tuple[str, str, str, str]]:
    return [(f.phase, f.op, f.kernel, f.reason) for f in model.machine.usage.fallbacks]


@pytest.mark.parametrize("entry", [LARGE, SMALL], ids=["64", "16"])
def test_all_products_on_a_kernel(expected: list[np.ndarray], entry: Entry) -> None:
    device = SoftwareDevice()
    model = accelerated(everywhere(entry), device)
    assert same(run_windows(model), expected)
    usage = model.machine.usage
    assert usage.launches == device.traffic.launches == len(TIMELINE)
    assert usage.kernel_ops == {("linear_int8", entry.contract.name): len(TIMELINE)}
    assert (usage.fallbacks, usage.checks) == ([], 0)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("entries", [(LARGE,), (SMALL,), (LARGE, SMALL)])
def test_half_of_the_products_on_kernels(
    expected: list[np.ndarray], entries: tuple[Entry, ...], first: int
) -> None:
    choose = Alternating(entries, first)
    model = accelerated(choose)
    assert same(run_windows(model), expected)
    assert choose.asked == len(OPS)
    usage = model.machine.usage
    assert {name for _, name in usage.kernel_ops} == {e.contract.name for e in entries}
    assert abs(2 * usage.launches - len(TIMELINE)) <= len(RUNS)
    assert usage.fallbacks == []


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_each_product_alone_fails(expected: list[np.ndarray], way: Way) -> None:
    for phase, op in OPS:
        fault = Fault(SMALL.contract.name, way)
        model = accelerated(all_but(phase, op), SoftwareDevice(fault))
        assert same(run_windows(model), expected), (phase, op)
        assert fault.seen >= way.nth, (phase, op)
        failed = {(phase, op)}
        if way.error is DeviceLost:
            at = [i for i, ran in enumerate(TIMELINE) if ran == (phase, op)]
            failed = set(TIMELINE[at[way.nth - 1] :])
        named = [
            (*name, (SMALL if name == (phase, op) else LARGE).contract.name, way.error.reason)
            for name in failed
        ]
        assert sorted(fallbacks(model)) == sorted(named)
        assert (fault.after > 0) == (way.error is not DeviceLost)


def test_a_fallback_is_logged_with_its_detail(caplog: pytest.LogCaptureFixture) -> None:
    model = accelerated(
        all_but("step", "logits"),
        SoftwareDevice(Fault(SMALL.contract.name, Way("launch", 2, LaunchFailed))),
    )
    with caplog.at_level(logging.WARNING, "whisper_npu"):
        run_windows(model)
    (record,) = caplog.records
    detail = f"{SMALL.contract.name}: launch failed"
    assert record.getMessage() == f"step: logits on NumPy from now on: {detail}"
    assert model.machine.usage.fallbacks[0].detail == detail


@pytest.mark.parametrize(
    "way", [Way("launch", 1, LaunchFailed), Way("open", 1, NoContext)], ids=str
)
def test_what_failed_is_not_tried_again(way: Way) -> None:
    """Not in the plan of another prompt either."""
    fault = Fault(SMALL.contract.name, way)
    model = accelerated(all_but("prefill", "logits"), SoftwareDevice(fault))
    session = model.decoder(model.encode(FEATURES[:1]))
    reference = numpy_model()
    unfailed = reference.decoder(reference.encode(FEATURES[:1]))
    for prompt in ([1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3]):
        logits = session.prefill([prompt], [1])
        assert np.array_equal(logits, unfailed.prefill([prompt], [1]))
    assert fault.seen == 1
    assert len(fallbacks(model)) == 1


def test_after_the_device_is_lost_nothing_is_asked_of_it() -> None:
    asked: list[tuple[str, str]] = []

    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        asked.append((action, kernel))
        return DeviceLost("gone") if action == "launch" else None

    def choose(graph: object, op: object) -> Entry:
        # Kernels that are opened later than the one that found the device gone.
        return LARGE if getattr(graph, "name", "") == "encoder" else SMALL

    model = accelerated(choose, SoftwareDevice(fault))
    run_windows(model)
    assert asked[-1] == ("launch", LARGE.contract.name)
    assert {kernel for _, kernel in asked} == {LARGE.contract.name}
    assert {f[:2] for f in fallbacks(model)} == set(OPS)


def test_a_program_defect_is_no_fallback() -> None:
    class Defect(Exception):
        pass

    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        if action == "launch":
            raise Defect
        return None

    with pytest.raises(Defect):
        run_windows(accelerated(everywhere(LARGE), SoftwareDevice(fault)))


def flip(start: int) -> Callable[[int, Sequence[np.ndarray]], None]:
    """From a launch on, the first sum is wrong by one."""

    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        if count >= start:
            outputs[0].view(np.int32)[0] += 1

    return corrupt


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_a_kernel_that_begins_to_lie_is_quarantined(rate: float, seed: int) -> None:
    start = 10
    drawn = random.Random(seed)
    checked = [i for i in range(1000) if drawn.random() < rate]
    caught = next(i for i in checked if i >= start)
    device = SoftwareDevice(corrupt=flip(start))
    model = accelerated(everywhere(LARGE), device, check_rate=rate, seed=seed)
    reference = numpy_model()
    numbers = 0
    while numbers <= caught + 3 * len(TIMELINE):
        numbers += len(TIMELINE)
        found, exact = run_windows(model), run_windows(reference)
    assert device.traffic.launches == model.machine.usage.launches == caught + 1
    assert model.machine.usage.checks == len([i for i in checked if i <= caught])
    assert same(found, exact)
    assert len(fallbacks(model)) == len(OPS)
    assert {f[:2] for f in fallbacks(model)} == set(OPS)
    assert {f[2:] for f in fallbacks(model)} == {(LARGE.contract.name, "wrong result")}
    discovered = model.machine.usage.fallbacks[0]
    assert (discovered.phase, discovered.op) == TIMELINE[caught % len(TIMELINE)]
    assert f"1 of {sums(*TIMELINE[caught % len(TIMELINE)])} sums" in discovered.detail
    assert model.machine.usage.kernel_ops["linear_int8", LARGE.contract.name] == caught


def sums(phase: str, name: str) -> int:
    graph = build_phase(phase, DIMS, 3, "int8")
    (op,) = (op for op in graph.ops if op.name == name)
    m, _, n = product_shape(graph, op)
    # Two rows of logits are asked of the prompt.
    return (2 * n) if (phase, name) == ("prefill", "logits") else m * n


def test_the_op_that_was_checked_gets_the_right_result(expected: list[np.ndarray]) -> None:
    model = accelerated(everywhere(LARGE), SoftwareDevice(corrupt=flip(0)), check_rate=1.0)
    assert same(run_windows(model), expected)
    assert model.machine.usage.launches == 1


def test_a_lie_of_one_kernel_leaves_the_other(expected: list[np.ndarray]) -> None:
    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        # Only one op is on the small kernel, with 16 rows.
        if outputs[0].nbytes == 4 * 16 * 64:
            outputs[0].view(np.int32)[0] -= 1

    device = SoftwareDevice(corrupt=corrupt)
    model = accelerated(all_but("step", "decoder.0.q"), device, check_rate=1.0)
    assert same(run_windows(model), expected)
    assert fallbacks(model) == [("step", "decoder.0.q", SMALL.contract.name, "wrong result")]
    # Every launch but one of the four of that op.
    assert model.machine.usage.launches == len(TIMELINE) - 3


def test_without_checks_nothing_is_compared() -> None:
    model = accelerated(everywhere(LARGE), SoftwareDevice(corrupt=flip(0)), check_rate=0.0)
    run_windows(model)
    assert (model.machine.usage.checks, fallbacks(model)) == (0, [])


class Watched(SoftwareDevice):
    """Keeps the buffers that were made for weights."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int, object]] = []

    def open(self, entry: Entry):  # type: ignore[no-untyped-def]
        kernel = super().open(entry)
        make = kernel.buffer

        def buffer(argument: int, nbytes: int):  # type: ignore[no-untyped-def]
            made = make(argument, nbytes)
            self.made.append((entry.contract.name, argument, made))
            return made

        kernel.buffer = buffer  # type: ignore[method-assign]
        return kernel

    def weights(self):  # type: ignore[no-untyped-def]
        return [buffer for _, argument, buffer in self.made if argument == 4]


def test_weights_are_written_and_synchronised_once() -> None:
    """Over windows, prompts of several lengths, beams, and more plans than are kept."""
    device = Watched()
    model = accelerated(everywhere(SMALL), device)
    for _ in range(2):
        run_windows(model)
        states = model.encode(FEATURES[:1])
        for group in (1, 3):
            session = model.decoder(states, group)
            for length in range(1, 12):
                session.prefill([list(range(length))], [0])
            session.step([1] * group)
        session.align([1, 2, 3], [(0, 1)])
    names = {
        op.inputs[2]
        for phase in PHASES
        for op in build_phase(phase, DIMS, precision="int8").ops
        if op.kind == "linear_int8"
    }
    weights = device.weights()
    assert len(weights) == len(names)
    assert {buffer.syncs for buffer in weights} == {1}
    resident = sum(buffer.array.nbytes for buffer in weights)
    assert model.machine.usage.resident_bytes == resident
    moved = device.traffic.to_device - resident
    assert model.machine.usage.bytes_to_device == moved
    assert model.machine.usage.bytes_from_device == device.traffic.from_device


@pytest.mark.parametrize("phase", ["encoder", "cross_kv", "prefill", "step"])
def test_a_run_moves_activations_alone(phase: str) -> None:
    device = SoftwareDevice()
    model = accelerated(everywhere(SMALL), device)
    run_windows(model)
    states = model.encode(FEATURES[:1])
    session = model.decoder(states)
    runs: dict[str, Callable[[], object]] = {
        "encoder": lambda: model.encode(FEATURES[1:]),
        "cross_kv": lambda: model.decoder(states.copy()),
        "prefill": lambda: session.prefill([[3, 4, 5]], [0]),
        "step": lambda: session.step([1]),
    }
    before = (device.traffic.launches, device.traffic.to_device, device.traffic.from_device)
    runs[phase]()
    after = (device.traffic.launches, device.traffic.to_device, device.traffic.from_device)
    graph = build_phase(phase, DIMS, 3, "int8")
    shapes = [
        gemm_shape(GemmTile(16, 64, 64), *product_shape(graph, op))
        for op in graph.ops
        if op.kind == "linear_int8"
    ]
    assert [b - a for a, b in zip(before, after, strict=True)] == [
        len(shapes),
        sum(shape.bytes_in for shape in shapes),
        sum(shape.bytes_out for shape in shapes),
    ]


def test_no_buffer_is_made_while_running() -> None:
    made: list[str] = []

    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        made.append(action)
        return None

    model = accelerated(everywhere(SMALL), SoftwareDevice(fault))
    run_windows(model)
    first = made.index("launch")
    encoder = len(PRODUCTS["encoder"])
    assert made[first : first + encoder] == ["launch"] * encoder
    made.clear()
    run_windows(model)
    assert set(made) == {"launch"}


def test_a_refused_buffer_leaves_the_resident_bytes_true() -> None:
    """The weight got there, the buffer of rows did not."""
    device = Watched()
    device.fault = Fault(SMALL.contract.name, Way("buffer", 2, BufferRefused))
    model = accelerated(all_but("encoder", "encoder.0.fc1"), device)
    run_windows(model)
    resident = sum(buffer.array.nbytes for buffer in device.weights())
    assert model.machine.usage.resident_bytes == resident


# Whole transcriptions.

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
    store = EvidenceStore()
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
    assert "numpy" not in placement.ops["linear_int8"]
    assert sum(placement.ops["linear_int8"].values()) == plain.ops["linear_int8"]["numpy"]
    assert {k: v for k, v in placement.ops.items() if k != "linear_int8"} == {
        k: v for k, v in plain.ops.items() if k != "linear_int8"
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
        (3, LaunchFailed, ("encoder", "encoder.0.q")),
        (15, devices.LaunchTimedOut, ("cross_kv", "cross.0.k_proj")),
        (36, DeviceLost, ("step", "decoder.0.q")),
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
        assert names[:17] == [("step", op.name) for op in steps.ops if op.kind == "linear_int8"]
        assert found.placement.launches == nth - 1
    numpy = found.placement.ops["linear_int8"].get("numpy", 0)
    total = sum(found.placement.ops["linear_int8"].values())
    assert total - numpy == found.placement.launches
