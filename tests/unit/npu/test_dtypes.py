"""The dtypes of contracts: bfloat16 in uint16."""

from __future__ import annotations

import numpy as np

from whisper_npu.backends.npu.dtypes import ULP, rounded
from whisper_npu.ops.arrays import widen_bfloat16


def test_every_finite_number_survives() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    finite = every[(every & 0x7F80) != 0x7F80]
    assert np.array_equal(rounded(widen_bfloat16(finite)), finite)


def test_known_numbers() -> None:
    assert widen_bfloat16(np.array([0x3F80, 0xC000, 0x0000], np.uint16)).tolist() == [1, -2, 0]
    assert widen_bfloat16(np.array([0x3F81], np.uint16)).tolist() == [1 + ULP]


def test_ties_go_to_even() -> None:
    halves = np.float32(1) + np.float32(ULP) * np.array([0.5, 1.5, 0.5001, 0.4999], np.float32)
    assert widen_bfloat16(rounded(halves)).tolist() == [1, 1 + 2 * ULP, 1 + ULP, 1]
