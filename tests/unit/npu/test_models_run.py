from __future__ import annotations

import numpy as np
import pytest

from tests.support.npu.entries import contract, entry
from whisper_npu.backends.npu.families import family_of
from whisper_npu.backends.npu.families.gemm import GemmInt8
from whisper_npu.backends.npu.models import MODELS, numpy_dtype, run_model
from whisper_npu.backends.npu.packing import GemmTile, pack_gemm_weights
from whisper_npu.backends.npu.registry import built_in_folder, read_folder
from whisper_npu.errors import KernelError


def test_every_built_in_model_runs_on_the_buffers_of_its_contract() -> None:
    ran = set()
    for kernel in read_folder(built_in_folder()):
        made = kernel.contract
        # A GEMM has buffers of any size; its model is of one tile.
        if made.model is None or isinstance(family_of(made), GemmInt8):
            continue
        inputs = [
            np.ones((2, a.bytes // numpy_dtype(a.dtype).itemsize), numpy_dtype(a.dtype))
            for a in made.inputs
            if a.dtype is not None and a.bytes is not None
        ]
        outputs = run_model(made, *inputs)
        assert [(o.shape[0], o[0].nbytes) for o in outputs] == [(2, a.bytes) for a in made.outputs]
        ran.add(made.model)
    assert ran == {name for name in MODELS if not name.startswith("gemm.")}


@pytest.mark.parametrize("m", [16, 64])
def test_the_model_of_a_gemm_tile(m: int) -> None:
    rng = np.random.default_rng(m)
    x = rng.integers(-128, 128, (2, m, 64)).astype(np.int8)
    w = rng.integers(-128, 128, (64, 64)).astype(np.int8)
    packed = pack_gemm_weights(w, GemmTile(m, 64, 64)).reshape(1, -1)
    kernel = {e.contract.name: e.contract for e in read_folder(built_in_folder())}
    (sums,) = run_model(
        kernel[f"gemm_int8_{m}x64x64"], x.reshape(2, -1), np.repeat(packed, 2, axis=0)
    )
    expected = x.astype(np.int64) @ w.T.astype(np.int64)
    assert np.array_equal(sums.reshape(2, m, 64), expected)


def test_a_kernel_without_a_model_is_refused() -> None:
    with pytest.raises(KernelError, match="mine: has no model"):
        run_model(contract(model=None, exactness="unknown detail: all"), np.zeros(512, np.int8))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ([np.zeros(511, np.int8)], "bo0 has 512 bytes, not 511"),
        ([np.zeros(512, np.uint8)], "bo0 is int8, not uint8"),
        ([np.zeros(256, np.int8)] * 2, "2 arrays for 1 buffers"),
        ([np.int8(0)], "bo0 has 512 bytes, not 0"),
    ],
)
def test_wrong_buffers_are_refused(arrays: list[np.ndarray], reason: str) -> None:
    with pytest.raises(KernelError, match=f"mine: {reason}"):
        run_model(contract(), *arrays)


def test_a_model_that_does_not_fit_its_contract_is_refused() -> None:
    larger = entry(model="matmul.packed_32x32")
    larger["arguments"][3]["bytes"] = 2048
    with pytest.raises(KernelError, match=r"mine: bo1 has 256 bytes, not 1024"):
        run_model(contract(**larger), np.zeros(2048, np.int8))
    with pytest.raises(KernelError, match=r"mine: its buffers are not those of model"):
        run_model(contract(model="matmul.packed_64x64"), np.zeros(512, np.int8))
