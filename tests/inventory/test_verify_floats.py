"""Verification of floats: a bound on the error against what an output is added up from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import pytest

from kernels.inventory.models import BOUNDS, layer_norm
from whisper_npu.backends.npu.dtypes import ULP, rounded
from whisper_npu.backends.npu.launch_case import LaunchCase
from whisper_npu.backends.npu.registry import inventory_folder, read_folder
from whisper_npu.backends.npu.software import SoftwareDevice, SoftwareKernel
from whisper_npu.backends.npu.verify_kernel import verify
from whisper_npu.ops.arrays import widen_bfloat16

# A layer norm of 512 in bfloat16, the only kernel of floats that the registry has a model of.
ENTRIES = {entry.contract.name: entry for entry in read_folder(inventory_folder())}
NORM = ENTRIES["layernorm_nosqrt"]

Rows = Callable[[np.ndarray], np.ndarray]


class Computing(SoftwareDevice):
    """A device whose kernel computes this, from and to float32, and cuts off the rest."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.rows = rows

    def open(self, entry):  # type: ignore[no-untyped-def]
        kernel: SoftwareKernel = super().open(entry)

        def launch(program: object, buffers: Sequence) -> None:  # type: ignore[type-arg]
            x, y = buffers
            found = self.rows(widen_bfloat16(x.device.view(np.uint16))).astype(np.float32)
            y.device.view(np.uint16)[:] = found.view(np.uint32) >> 16

        kernel.launch = launch  # type: ignore[method-assign, assignment]
        return kernel


def norm(x: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    """In float64: another order of the sums, and another square root."""
    wide = x.astype(np.float64)
    return (wide - wide.mean()) / np.sqrt(wide.var() + epsilon)


def test_the_model_itself() -> None:
    found = verify(SoftwareDevice(), NORM)
    assert found.passed
    assert found.worst_error == 0


def test_another_rounding_and_another_order_of_sums_pass() -> None:
    found = verify(Computing(norm), NORM)
    assert found.passed
    assert 0 < found.worst_error <= ULP
    json.dumps(asdict(found), allow_nan=False)


WRONG: dict[str, Rows] = {
    "no mean": lambda x: norm(x) + x.mean() / x.std() + 0.02,
    "epsilon": lambda x: norm(x, 0.1),
    "1 % too large": lambda x: 1.02 * norm(x),
    "shifted by one": lambda x: np.roll(norm(x), 1),
    "unbiased variance of a part": lambda x: (x - x.mean()) / (x[:480].std() + 1e-5),
    "zeros": lambda x: 0 * x,
}


@pytest.mark.parametrize("rows", WRONG.values(), ids=WRONG)
def test_another_function_fails(rows: Rows) -> None:
    found = verify(Computing(rows), NORM)
    assert found.failure is not None
    assert "of their accumulated magnitude, 0.78% is allowed" in found.failure
    assert found.worst_error > ULP


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_fails(value: float) -> None:
    found = verify(Computing(lambda x: np.full_like(x, value)), NORM)
    assert found.failure == "random (): an output is not a finite number"
    json.dumps(asdict(found), allow_nan=False)


@pytest.mark.parametrize("seed", range(3))
def test_a_kernel_that_is_wrong_in_1_of_10_000_outputs(seed: int) -> None:
    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        numbers = outputs[0].view(np.uint16)
        numbers[rng.random(numbers.size) < 1e-4] ^= 0x8000

    rng = np.random.default_rng(seed)
    assert not verify(SoftwareDevice(corrupt=corrupt), NORM).passed


def test_an_error_is_measured_by_what_is_added_up() -> None:
    expected = rounded(np.array([1, -1, 0], np.float32))
    case = LaunchCase("rows", (), (), (expected,), np.array([4.0, 2.0, 0.0]), ULP)
    assert case.error(expected, expected) == 0
    assert case.error(rounded(np.array([1.5, -1, 0], np.float32)), expected) == 0.125
    # Where nothing is added up, nothing may come out.
    assert case.error(rounded(np.array([1, -1, 1e-30], np.float32)), expected) == 1


@pytest.mark.parametrize("offset", [0, 3, 30])
def test_the_magnitude_bounds_the_outputs(offset: float) -> None:
    x = (np.random.default_rng(0).standard_normal((4, 512)) + offset).astype(np.float32)
    model, share = BOUNDS["layer_norm.bfloat16_512"]
    magnitude = model(rounded(x))
    outputs = np.abs(widen_bfloat16(layer_norm.bfloat16_512(rounded(x))))
    assert (magnitude >= 0.99 * outputs).all()
    # Sums over what has cancelled: the further from zero, the less of the output is certain.
    assert magnitude.mean() == pytest.approx(2 * max(offset, 0.8), rel=0.2)
    assert share == ULP


def test_every_model_of_floats_has_a_bound() -> None:
    for contract in (entry.contract for entry in ENTRIES.values() if entry.contract.model):
        floats = [a for a in contract.outputs if a.dtype and "int" not in a.dtype]
        assert bool(floats) == (contract.model in BOUNDS)
