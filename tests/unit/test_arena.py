from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from whisper_npu.runtime.arena import ALIGNMENT, Arena, Block, lay_out

blocks = st.dictionaries(
    st.text(min_size=1, max_size=3),
    st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(0, 20)).map(
        lambda t: Block(t[0], min(t[1:]), max(t[1:]))
    ),
    max_size=25,
)


@given(blocks)
def test_blocks_alive_together_never_overlap(blocks: dict[str, Block]) -> None:
    layout = lay_out(blocks)
    spans = {
        name: (layout.offsets[name], layout.offsets[name] + block.nbytes)
        for name, block in blocks.items()
    }
    for a, first in blocks.items():
        assert spans[a][1] <= layout.nbytes
        assert spans[a][0] % ALIGNMENT == 0
        for b, second in blocks.items():
            if a < b and first.first <= second.last and second.first <= first.last:
                assert spans[a][1] <= spans[b][0] or spans[b][1] <= spans[a][0]


def test_memory_is_reused_over_time() -> None:
    chain = {f"t{i}": Block(64, i, i + 1) for i in range(10)}
    assert lay_out(chain).nbytes == 2 * 64


def test_a_gap_is_filled() -> None:
    layout = lay_out(
        {"large": Block(640, 0, 9), "early": Block(320, 0, 1), "late": Block(256, 2, 9)}
    )
    assert layout.nbytes == 640 + 320


def test_an_arena_is_one_memory_until_more_is_wanted() -> None:
    arena = Arena()
    first, smaller = arena.take(100), arena.take(60)
    assert (first.size, smaller.size) == (100, 60)
    assert np.shares_memory(first, smaller)
    first[:] = 7
    larger = arena.take(200)
    assert larger.size == 200
    assert not np.shares_memory(first, larger)
    larger[:] = 0
    assert first.tolist() == [7] * 100
    assert np.shares_memory(arena.take(100), larger)
