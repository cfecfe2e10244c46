from __future__ import annotations

import hashlib

import numpy as np

from kernels.inventory.models import gelu
from tests.inventory.c_models import gelu as scalar_gelu

# Of the 256 published entries.
TABLE_SHA256 = "13d02aa96c5e32258d18f8dfe0d20750366522eb7350a354953628c44c0d4f16"


def test_the_table_is_the_published_one() -> None:
    assert hashlib.sha256(gelu.table().tobytes()).hexdigest() == TABLE_SHA256


def test_every_value_is_that_of_the_scalar_formula() -> None:
    x = np.arange(-128, 128).astype(np.int8)
    assert gelu.lookup(x).tolist() == scalar_gelu(x.tolist())


def test_the_ends_and_the_order() -> None:
    y = gelu.lookup(np.array([127, -128, 0, 1, -1], np.int8))
    assert y.tolist() == [107, -20, 0, 1, 0]
    assert y.dtype == np.int8
