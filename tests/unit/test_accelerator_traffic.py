"""What goes to a device and comes from it: weights once, then activations alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.npu.faults import Fault, Way
from tests.unit.accelerated import (
    DIMS,
    FEATURES,
    PRODUCTS,
    SMALL,
    accelerated,
    all_but,
    everywhere,
    run_windows,
)
from whisper_npu.backends.npu.device import BufferRefused, DeviceError
from whisper_npu.backends.npu.families.gemm import gemm_shape, product_shape
from whisper_npu.backends.npu.packing import GemmTile
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.model.builders import PHASES, build_phase


class Watched(SoftwareDevice):
    """Keeps the buffers that were made for weights."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int, object]] = []

    def open(self, entry: KernelEntry):  # type: ignore[no-untyped-def]
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
        if op.kind == "product_int8"
    }
    weights = device.weights()
    assert len(weights) == len(names)
    assert {buffer.syncs for buffer in weights} == {1}
    resident = sum(buffer.array.nbytes for buffer in weights)
    assert model.machine.usage.resident_bytes == resident
    moved = device.traffic.to_device - resident
    assert model.machine.usage.counts.bytes_to_device == moved
    assert model.machine.usage.counts.bytes_from_device == device.traffic.from_device


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
        if op.kind == "product_int8"
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
