"""Weights that lie in tiles alone: filled in parts, multiplied where they lie."""

from __future__ import annotations

import tracemalloc
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.npu.products import bound_product, is_right, product_graph, rows_of
from whisper_npu.backends.npu.families import gemm
from whisper_npu.backends.npu.families.gemm import (
    TilePacking,
    product_int8_tiles,
    sums_of_tiles,
)
from whisper_npu.backends.npu.packing import GemmTile, pack_gemm_weights
from whisper_npu.ops.arrays import I8
from whisper_npu.runtime.backend import Form, Packing, function_of

sizes = st.integers(1, 200)
tiles = st.builds(GemmTile, st.just(16), st.sampled_from([8, 24, 64]), st.sampled_from([8, 16, 64]))


def matrix(rows: int, columns: int, seed: int, low: int = -127) -> I8:
    return np.random.default_rng(seed).integers(low, 128, (rows, columns), np.int8)


def packing(tile: GemmTile, kernel: str = "kernel") -> TilePacking:
    """In memory that is full of something else."""
    return TilePacking(kernel, tile, lambda weight, nbytes: np.full(nbytes, 0xAB, np.uint8))


@given(sizes, sizes, tiles, st.integers(1, 9), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_weight_is_filled_in_parts_of_any_number_of_tiles(
    n: int, k: int, tile: GemmTile, groups: int, seed: int
) -> None:
    w, own = matrix(n, k, seed), packing(tile)
    packed = own.take("w", w.shape)
    assert packed.shape == own.shape(w.shape)
    starts = list(range(0, n, groups * own.rows))
    np.random.default_rng(seed).shuffle(starts)
    for start in starts:
        own.fill(packed, w[start : start + groups * own.rows], start)
    assert np.array_equal(packed, pack_gemm_weights(w, tile))


@pytest.mark.parametrize("block", [1, 2000, 4096])
def test_a_large_part_is_packed_bit_by_bit(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(gemm, "_BLOCK", block)
    w, own = matrix(150, 30, 0), packing(GemmTile(16, 8, 16))
    packed = own.take("w", w.shape)
    own.fill(packed, w[:96], 0)
    own.fill(packed, w[96:], 96)
    assert np.array_equal(packed, pack_gemm_weights(w, own.tile))


def test_rows_within_a_tile_are_refused() -> None:
    own = packing(GemmTile(16, 8, 16))
    packed = own.take("w", (32, 8))
    with pytest.raises(ValueError, match="row 8 is not the first of a tile of 16"):
        own.fill(packed, matrix(8, 8, 0), 8)


def test_packings_of_one_kernel_are_one_form() -> None:
    small, large = GemmTile(16, 64, 64), GemmTile(64, 64, 64)
    first: Packing = packing(small)
    assert Form.packed("int8", first) == Form.packed("int8", packing(small))
    assert hash(first) == hash(packing(small))
    assert first != packing(large)
    assert first != packing(small, "other")
    assert str(Form.packed("int8", first)) == "int8 kernel tiles"


@given(sizes, st.integers(1, 2100), sizes, tiles, st.booleans(), st.sampled_from([8, 16]))
@settings(max_examples=40, deadline=None)
def test_products_from_tiles_have_the_bits_of_the_specification(
    m: int, k: int, n: int, tile: GemmTile, bias: bool, bits: int
) -> None:
    x, w = rows_of(m, k, bits), matrix(n, k, 1)
    packed = pack_gemm_weights(w, tile)
    bound = bound_product(product_graph(m, k, n, bias=bias), x, packed)
    x, x_scale, _, w_scale, *rest = bound.inputs
    product_int8_tiles(tile, x, x_scale, packed, w_scale, *rest or [None], bound.outputs[0])
    assert is_right(bound, w)
    sums = sums_of_tiles(x, packed, n, tile)
    assert np.array_equal(sums, x.astype(np.int64) @ w.T.astype(np.int64))


@pytest.mark.parametrize("block", [1, 1000, 10_000])
def test_tiles_are_unpacked_some_at_a_time(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """With columns left over, and n within a tile."""
    monkeypatch.setattr(gemm, "_BLOCK", block)
    tile = GemmTile(16, 8, 8)
    x, w = rows_of(3, 37, 16), matrix(77, 37, 1)
    packed = pack_gemm_weights(w, tile)
    found = sums_of_tiles(x, packed, 77, tile)
    assert np.array_equal(found, x.astype(np.int64) @ w.T.astype(np.int64))
    bound = bound_product(product_graph(3, 37, 77), x, packed)
    x, x_scale, _, w_scale, bias = bound.inputs
    product_int8_tiles(tile, x, x_scale, packed, w_scale, bias, bound.outputs[0])
    assert is_right(bound, w)


def test_no_copy_of_a_packed_weight_is_made() -> None:
    """Neither packing it nor multiplying with it takes as much as it has."""
    n, k, tile = 8192, 1024, GemmTile(16, 64, 64)
    memory = np.empty(n * k, np.uint8)
    own = TilePacking("kernel", tile, lambda weight, nbytes: memory)
    w, x = matrix(n, k, 0), rows_of(1, k, 16)
    scale, out = np.ones(n, np.float32), np.empty((1, n), np.int32)
    packed = own.take("w", w.shape)
    assert np.may_share_memory(packed, memory)
    for use in (
        partial(own.fill, packed, w, 0),
        partial(sums_of_tiles, x, packed, n, tile),
        partial(product_int8_tiles, tile, x, scale[:1], packed, scale, None, out),
    ):
        tracemalloc.start()
        use()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # A part as int8 and as float32, and room for both while one becomes the other.
        assert most < 8 * gemm._BLOCK
        assert most < memory.nbytes


def test_functions_have_their_names() -> None:
    named = partial(product_int8_tiles, GemmTile(16, 64, 64))
    assert function_of(named) == "backends.npu.families.gemm.product_int8_tiles"
