"""``NpuBackend`` on our device: a weight is in the memory of its buffer object and nowhere else."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from tests.unit.npu.products import bound_product, is_right, product_graph
from tests.unit.npu.xrt.conftest import Entries, OpenDevice
from tests.unit.npu.xrt.fake_pyxrt import FakePyxrt, State
from whisper_npu.backends.npu.backend import NpuBackend
from whisper_npu.backends.npu.kernel_rates import PHOENIX_CORE
from whisper_npu.backends.npu.manager import VERIFIED, KernelStatus
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.xrt.device import XrtDevice
from whisper_npu.ops.product_int8 import scale_sums
from whisper_npu.runtime.backend import Bound, Offer, Step, function_of
from whisper_npu.runtime.usage import Usage

BY_NUMPY = "backends.npu.families.gemm.product_int8_tiles"
X, W = (
    np.random.default_rng(seed).integers(-127, 128, shape, np.int8)
    for seed, shape in ((0, (3, 40)), (1, (150, 40)))
)


@pytest.fixture
def device(open_device: OpenDevice) -> XrtDevice:
    return open_device()


@pytest.fixture
def entry(entries: Entries) -> KernelEntry:
    (made,) = entries()
    return made


def bind(
    device: XrtDevice, entry: KernelEntry, check_rate: float, proving: bool = True
) -> tuple[NpuBackend, Bound, Step]:
    """A product whose weight was filled in three parts."""
    kernel = KernelStatus(entry, {}, VERIFIED, None)
    rates = {kernel.name: PHOENIX_CORE}
    npu = NpuBackend(device, [kernel], rates, Usage(), check_rate, proving=proving)
    graph = product_graph(len(X), X.shape[1], len(W))
    offer = npu.offer(graph, 0)
    assert isinstance(offer, Offer)
    (form,) = offer.forms["w"]
    assert form.packing is not None
    packed = form.packing.take("w", W.shape)
    for start in range(0, len(W), form.packing.rows):
        form.packing.fill(packed, W[start : start + form.packing.rows], start)
    bound = bound_product(graph, X, packed)
    return npu, bound, offer.bind(bound)


def test_what_a_kernel_gave_is_scaled(device: XrtDevice, entry: KernelEntry) -> None:
    """The stand-in fills sums with the number of the launch."""
    npu, bound, step = bind(device, entry, 0.0, proving=False)
    _, x_scale, _, w_scale, bias = bound.inputs
    for launch in (1, 2):
        step()
        sums = np.full((3, 150), launch * 0x01010101, np.float64)
        assert np.array_equal(bound.outputs[0], scale_sums(sums, x_scale, w_scale, bias))
    assert npu.usage.counts.launches == 2
    assert function_of(step) == entry.contract.name


@pytest.mark.parametrize(("check_rate", "proving"), [(1.0, False), (0.0, True)])
def test_a_lie_is_found_by_the_weight_in_the_buffer(
    device: XrtDevice, entry: KernelEntry, check_rate: float, proving: bool
) -> None:
    npu, bound, step = bind(device, entry, check_rate, proving)
    for _ in range(2):
        step()
        assert is_right(bound, W)
    assert [event.reason for event in npu.usage.fallbacks] == ["wrong result"]
    assert function_of(step) == BY_NUMPY


@pytest.mark.parametrize("state", [State.ERT_CMD_STATE_ERROR, None])
def test_after_a_failed_launch_the_weight_is_read_where_it_lies(
    open_device: OpenDevice, entry: KernelEntry, pyxrt: FakePyxrt, state: State | None
) -> None:
    device = open_device(launch_timeout_s=0.05)
    npu, bound, step = bind(device, entry, 0.0)
    pyxrt.states = [state]
    for _ in range(2):
        step()
        assert is_right(bound, W)
    (event,) = npu.usage.fallbacks
    assert event.reason == ("timeout" if state is None else "launch failed")
    assert npu.usage.counts.launches == 0


def test_memory_is_there_for_as_long_as_a_step_is(
    device: XrtDevice, entry: KernelEntry, pyxrt: FakePyxrt
) -> None:
    """The stand-in overwrites what is freed."""
    npu, bound, step = bind(device, entry, 0.0)
    # The weight, rows and sums.
    assert pyxrt.live_bos["host_only"] == 3
    npu.close()
    device.close()
    gc.collect()
    for _ in range(2):
        step()
        assert is_right(bound, W)
    gc.collect()
    # Rows and sums are given up by a step that does not launch any more.
    assert pyxrt.live_bos["host_only"] == 1
    del step, bound
    assert pyxrt.live_bos["host_only"] == 0
