from __future__ import annotations

import numpy as np

from kernels.inventory.models import passthrough


def test_a_copy_is_equal_and_not_the_same() -> None:
    x = np.arange(256, dtype=np.uint8).repeat(4)
    y = passthrough.copy(x)
    assert np.array_equal(x, y)
    assert not np.shares_memory(x, y)


def test_the_placeholder_copies_80_bytes() -> None:
    frame = np.arange(800).astype(np.int8)
    assert passthrough.first_80(frame).tolist() == list(range(80))
    assert not np.shares_memory(frame, passthrough.first_80(frame))
