"""What the integer ops give on fixed inputs is one and the same, whatever computes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

try:
    from numpy._core import _multiarray_umath as umath
except ImportError:  # NumPy 1
    from numpy.core import _multiarray_umath as umath

ROOT = Path(__file__).parents[3]

# Of what tests/unit/ops_int/digest.py computes. It changes with the arithmetic, and with nothing
# else: a change of it makes models give other bits.
DIGEST = "0ad5c44871b901c8b95e758e23fabd710838a01d392c03e9fefaf86206d7586d"

FEATURES = umath.__cpu_features__
AVX512 = FEATURES.get("X86_V4", FEATURES.get("AVX512_SKX", False))
# Of what NumPy chooses from at run time: more than the machine has is told, and does no harm.
PORTABLE = {"NPY_DISABLE_CPU_FEATURES": " ".join(umath.__cpu_dispatch__)}

SETTINGS = {
    "as it is": {},
    "one thread": {"OPENBLAS_NUM_THREADS": "1"},
    "two threads": {"OPENBLAS_NUM_THREADS": "2"},
    "NumPy without vectors": PORTABLE,
    "BLAS with SSE3, NumPy without vectors": {**PORTABLE, "OPENBLAS_CORETYPE": "Prescott"},
    "BLAS with AVX": {"OPENBLAS_CORETYPE": "Sandybridge", "OPENBLAS_NUM_THREADS": "2"},
    "BLAS with AVX2": {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "2"},
    "BLAS with AVX-512": {"OPENBLAS_CORETYPE": "SkylakeX", "OPENBLAS_NUM_THREADS": "2"},
}


def runs_here(setting: dict[str, str]) -> bool:
    vectors = {"SkylakeX": AVX512, "Haswell": FEATURES.get("AVX2")}
    # Other machines than x86 have cores of other names.
    core = setting.get("OPENBLAS_CORETYPE", "")
    return core == "" or bool(FEATURES.get("SSE3") and vectors.get(core, FEATURES.get("AVX")))


@pytest.mark.parametrize("name", SETTINGS)
def test_digest(name: str) -> None:
    setting = SETTINGS[name]
    if not runs_here(setting):
        pytest.skip("this CPU does not run such kernels")
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OPENBLAS_", "NPY_", "OMP_"))
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.unit.ops_int.digest"],
        cwd=ROOT, env={**inherited, **setting}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == DIGEST
