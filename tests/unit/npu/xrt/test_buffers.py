from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from tests.support.npu.gemm_registry import Gemm
from tests.unit.npu.xrt.conftest import Entries, OpenDevice
from tests.unit.npu.xrt.fake_pyxrt import FREED, HEAP_GRANULE, FakePyxrt
from whisper_npu.backends.npu.device import BufferRefused, LaunchFailed
from whisper_npu.backends.npu.xrt import buffers
from whisper_npu.backends.npu.xrt.device import XrtDevice
from whisper_npu.backends.npu.xrt.kernel import XrtKernel
from whisper_npu.errors import KernelError

SHAPE = (64, 64, 64)


@pytest.fixture
def device(open_device: OpenDevice) -> XrtDevice:
    return open_device()


@pytest.fixture
def kernel(device: XrtDevice, entries: Entries) -> XrtKernel:
    return device.open(entries()[0])


def test_kind_group_and_size(kernel: XrtKernel, pyxrt: FakePyxrt) -> None:
    for i in (3, 4, 5):
        kernel.buffer(i, 100 + i)
    program = kernel.program((64, 64, 128))
    made = [entry[1:] for entry in pyxrt.log if entry[0] == "bo"]
    assert made[:3] == [("host_only", 0x10000, 100 + i) for i in (3, 4, 5)]
    assert made[3][:2] == ("cacheable", 0x10001)
    assert program.shape == (64, 64, 128)


def test_array_is_the_memory(kernel: XrtKernel) -> None:
    buffer = kernel.buffer(3, 12)
    assert (buffer.array.dtype, buffer.array.shape) == (np.uint8, (12,))
    buffer.array.view(np.int32)[:] = (1, -2, 3)
    buffer.to_device()
    buffer.array[:] = 0
    buffer.from_device()
    assert buffer.array.view(np.int32).tolist() == [1, -2, 3]


def test_every_view_keeps_the_memory(
    device: XrtDevice, kernel: XrtKernel, pyxrt: FakePyxrt
) -> None:
    view = kernel.buffer(3, 4096).array.view(np.int16).reshape(64, 32)[1:5, ::3].T
    view[...] = 7
    device.close()
    gc.collect()
    assert pyxrt.live_bos["host_only"] == 1
    assert (view == 7).all()
    del view
    gc.collect()
    assert pyxrt.live_bos["host_only"] == 0


def test_fake_shows_freed_memory(pyxrt: FakePyxrt) -> None:
    """What the test before this one would see."""
    view = np.frombuffer(pyxrt.bo(pyxrt.device(0), 16, "host_only", 0).map(), np.uint8)
    gc.collect()
    assert (view == FREED).all()


def test_memory_is_used_again(kernel: XrtKernel, pyxrt: FakePyxrt) -> None:
    """By a buffer of the same size and kind, once nothing refers to it."""
    address = kernel.buffer(3, 64).array.ctypes.data
    first = kernel.buffer(5, 64)
    assert first.array.ctypes.data == address
    assert kernel.buffer(3, 64).array.ctypes.data != address
    assert kernel.buffer(3, 65).array.ctypes.data != address
    assert pyxrt.count("bo") == 3


def test_memory_of_another_kind_is_not(kernel: XrtKernel, pyxrt: FakePyxrt) -> None:
    size = kernel.program(SHAPE).arguments[0][0].size
    kernel.buffer(3, size)
    kernel.program(SHAPE)
    assert [entry[1] for entry in pyxrt.log if entry[0] == "bo"] == ["cacheable", "host_only"]
    kernel.buffer(3, size)
    assert pyxrt.count("bo") == 2


def test_what_is_kept_is_bounded(
    kernel: XrtKernel, pyxrt: FakePyxrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffers, "_POOL_BYTES", 1000)
    taken = [kernel.buffer(3, 300) for _ in range(5)]
    assert pyxrt.live_bos["host_only"] == 5
    taken.clear()
    assert pyxrt.live_bos["host_only"] == 3
    # Memory that is taken again is no longer among it.
    for _ in range(10):
        taken = [kernel.buffer(3, 300) for _ in range(3)]
        taken.clear()
    assert pyxrt.live_bos["host_only"] == 3
    assert pyxrt.count("bo") == 5


def test_what_is_bound_is_not_freed(device: XrtDevice, kernel: XrtKernel, pyxrt: FakePyxrt) -> None:
    gemm = Gemm(kernel, SHAPE)
    gemm.launch()
    pyxrt.log.clear()
    device.pool.close()
    del gemm
    gc.collect()
    assert pyxrt.live_bos == {"host_only": 3, "cacheable": 1}
    kernel.close()
    assert pyxrt.live_bos == {"host_only": 0, "cacheable": 0}


@pytest.mark.parametrize("argument", [-1, 0, 1, 2, 6])
def test_argument_without_data(kernel: XrtKernel, argument: int) -> None:
    with pytest.raises(BufferRefused, match=f"^kernel gemm_0: argument {argument} is not a data"):
        kernel.buffer(argument, 64)


def test_size_of_the_contract(device: XrtDevice, entries: Entries) -> None:
    [entry] = entries(
        arguments=[
            {"index": 0, "name": "opcode", "role": "opcode"},
            {"index": 1, "name": "instr", "role": "instructions", "group": 1},
            {"index": 2, "name": "ninstr", "role": "size"},
            {"index": 3, "name": "bo0", "role": "input", "group": 3, "bytes": 512},
        ]
    )
    kernel = device.open(entry)
    assert kernel.buffer(3, 512).nbytes == 512
    for nbytes in (511, 513, 0, -1):
        with pytest.raises(BufferRefused, match=rf"argument 3 \(bo0\): takes 512 .*not {nbytes}"):
            kernel.buffer(3, nbytes)


def test_full_heap(kernel: XrtKernel, pyxrt: FakePyxrt) -> None:
    pyxrt.heap_bytes = 3 * HEAP_GRANULE
    programs = [kernel.program((64, 64, 64 * n)) for n in (1, 2, 3)]
    with pytest.raises(BufferRefused, match=r"argument 1 \(instr\): .*err=-28.*heap of 64 MiB"):
        kernel.program((64, 64, 256))
    # What lies in the pool makes room.
    programs.pop()
    programs.append(kernel.program((128, 64, 512)))


@pytest.mark.parametrize("n", [0, 2, 4, 9])
def test_number_of_buffers(kernel: XrtKernel, pyxrt: FakePyxrt, n: int) -> None:
    program, buffer = kernel.program(SHAPE), kernel.buffer(5, 4 * 64 * 64)
    with pytest.raises(LaunchFailed, match=f"^kernel gemm_0: takes 3 data buffers, not {n}$"):
        kernel.launch(program, [buffer] * n)
    assert pyxrt.started == 0


def test_size_of_buffers(kernel: XrtKernel, pyxrt: FakePyxrt) -> None:
    gemm = Gemm(kernel, SHAPE)
    for i, size in enumerate((64 * 64, 64 * 64, 4 * 64 * 64)):
        kept = gemm.buffers[i]
        gemm.buffers[i] = kernel.buffer(3 + i, size - 1)
        with pytest.raises(
            LaunchFailed, match=rf"argument {3 + i} \(bo{i}\): .*{size - 1} .*{size}"
        ):
            gemm.launch()
        gemm.buffers[i] = kept
    assert pyxrt.started == 0
    gemm.buffers[0] = kernel.buffer(3, 64 * 64 + 1)
    gemm.launch()


def test_what_belongs_to_others(
    kernel: XrtKernel, device: XrtDevice, entries: Entries, pyxrt: FakePyxrt
) -> None:
    gemm = Gemm(kernel, SHAPE)
    other = device.open(entries(2)[1]).program(SHAPE)
    with pytest.raises(LaunchFailed, match=r"^kernel gemm_0: the program is another kernel's"):
        kernel.launch(other, gemm.buffers)
    with pytest.raises(LaunchFailed, match=r"argument 4 \(bo1\): .*another device's"):
        kernel.launch(gemm.program, [gemm.buffers[0], object(), gemm.buffers[2]])  # type: ignore[list-item]
    assert pyxrt.started == 0


@pytest.mark.parametrize("shape", [(), (64, 64), (64, 64, 65), (0, 64, 64), (64, 64, 64, 64)])
def test_shapes_that_the_kernel_does_not_take(kernel: XrtKernel, shape: tuple[int, ...]) -> None:
    with pytest.raises(KernelError, match=r"^kernel gemm_0: "):
        kernel.program(shape)


def test_files_of_the_kernel(device: XrtDevice, entries: Entries, tmp_path: Path) -> None:
    [entry] = entries()
    path = tmp_path / "gemm.xclbin"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\1")
    with pytest.raises(KernelError, match=r"gemm\.xclbin is not the file of the registry"):
        device.open(entry)
    path.unlink()
    with pytest.raises(KernelError, match=r"gemm\.xclbin is missing"):
        device.open(entry)
    [entry] = entries(xclbin={"path": "gemm.xclbin"})
    path.write_bytes(content[:1000])
    with pytest.raises(KernelError, match=r"gemm\.xclbin: byte"):
        device.open(entry)
    with pytest.raises(KernelError, match="names no xclbin"):
        device.open(entries(xclbin=None)[0])
    with pytest.raises(KernelError, match=r"has no kernel 'OTHER'; there are: MLIR_AIE"):
        device.open(entries(kernel="OTHER")[0])
    npu4 = {"name": "npu4", "pci_id": "1022:17f0", "columns": 1}
    with pytest.raises(KernelError, match=r"^kernel gemm_0: is for npu4, 1022:17f0; this NPU is"):
        device.open(entries(device=npu4)[0])


def test_xclbin_with_fewer_arguments(device: XrtDevice, entries: Entries) -> None:
    """XRT does not check, it crashes."""
    [entry] = entries()
    first = entry.contract.arguments
    more = [
        {"index": i, "name": f"bo{i - 3}", "role": "input", "group": i}
        for i in range(len(first), 9)
    ]
    known = [
        {"index": a.index, "name": a.name, "role": a.role}
        | ({} if a.group is None else {"group": a.group})
        for a in first
    ]
    with pytest.raises(KernelError, match="takes 8 arguments, the registry says 9"):
        device.open(entries(arguments=known + more)[0])


def test_instructions_of_a_file(device: XrtDevice, entries: Entries, tmp_path: Path) -> None:
    from tests.support.npu.streams import seed_stream

    def opened(stream: bytes, bytes_in: int) -> XrtKernel:
        (tmp_path / "insts.bin").write_bytes(stream)
        return device.open(
            entries(
                instructions={"path": "insts.bin", "bytes": 300},
                arguments=[
                    {"index": 0, "name": "opcode", "role": "opcode"},
                    {"index": 1, "name": "instr", "role": "instructions", "group": 1},
                    {"index": 2, "name": "ninstr", "role": "size"},
                    {"index": 3, "name": "in", "role": "input", "group": 3, "bytes": bytes_in},
                    {"index": 4, "name": "out", "role": "output", "group": 4, "bytes": 64},
                ],
            )[0]
        )

    stream = seed_stream(32, 16)
    assert len(stream) == 300
    kernel = opened(stream, 128)
    program = kernel.program(())
    assert program.sizes == (128, 64)
    assert program.arguments[1] == (75, 75)
    with pytest.raises(KernelError, match=r"has one shape, \(\), not \(64, 64, 64\)"):
        kernel.program(SHAPE)
    with pytest.raises(KernelError, match=r"insts\.bin: touches bytes up to 128 of data buffer 0"):
        opened(stream, 124).program(())
    with pytest.raises(KernelError, match=r"insts\.bin: has 304 bytes, the registry says 300"):
        opened(stream + bytes(4), 128).program(())
    with pytest.raises(KernelError, match=r"insts\.bin"):
        opened(bytes(300), 128).program(())
