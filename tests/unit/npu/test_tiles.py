"""Weights that lie in tiles alone: filled in parts, multiplied and looked up where they lie."""

from __future__ import annotations

import tracemalloc
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_npu.backends.npu.families import gemm
from whisper_npu.backends.npu.families.gemm import (
    TilePacking,
    embed_rows,
    linear_int8_tiles,
    product_of_tiles,
)
from whisper_npu.backends.npu.packing import GemmTile, pack_gemm_weights
from whisper_npu.ops.arrays import I8
from whisper_npu.ops.quant import embed_int8, integer_product, linear_int8
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


@given(sizes, st.integers(1, 2100), sizes, tiles, st.booleans(), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_products_from_tiles_have_the_bits_of_the_specification(
    m: int, k: int, n: int, tile: GemmTile, bias: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, w = matrix(m, k, seed, -128), matrix(n, k, seed + 1)
    x_scale, w_scale, b = (rng.standard_normal(size, np.float32) for size in (m, n, n))
    added = b if bias else None
    out = np.empty((m, n), np.float32)
    packed = pack_gemm_weights(w, tile)
    linear_int8_tiles(tile, x, x_scale, packed, w_scale, added, out)
    assert np.array_equal(out, linear_int8(x, x_scale, w.astype(np.float32), w_scale, added))
    sums = product_of_tiles(x, packed, n, tile)
    assert np.array_equal(sums, integer_product(x.astype(np.float32), w.astype(np.float32)))


@pytest.mark.parametrize("block", [1, 1000, 10_000])
def test_tiles_are_unpacked_some_at_a_time(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """With columns left over, and n within a tile."""
    monkeypatch.setattr(gemm, "_BLOCK", block)
    tile = GemmTile(16, 8, 8)
    x, w = matrix(3, 37, 0), matrix(77, 37, 1)
    found = product_of_tiles(x, pack_gemm_weights(w, tile), 77, tile)
    assert np.array_equal(found, x.astype(np.int64) @ w.T.astype(np.int64))


def test_no_copy_of_a_packed_weight_is_made() -> None:
    """Neither packing it, nor multiplying with it or looking it up takes as much as it has."""
    n, k, tile = 8192, 1024, GemmTile(16, 64, 64)
    memory = np.empty(n * k, np.uint8)
    own = TilePacking("kernel", tile, lambda weight, nbytes: memory)
    w, x = matrix(n, k, 0), matrix(1, k, 1)
    scale, position, out = np.ones(n, np.float32), np.int64(0), np.empty((1, 1, k), np.float32)
    packed = own.take("w", w.shape)
    assert np.may_share_memory(packed, memory)
    for use in (
        partial(own.fill, packed, w, 0),
        partial(product_of_tiles, x, packed, n, tile),
        partial(
            embed_rows, tile, np.array([[5]]), packed, scale, np.ones((4, k), np.float32),
            position, out,
        ),
    ):  # fmt: skip
        tracemalloc.start()
        use()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # A part as int8 and as float32, and room for both while one becomes the other.
        assert most < 8 * gemm._BLOCK
        assert most < memory.nbytes


@given(sizes, sizes, tiles, st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_embeddings_from_tiles_have_the_bits_of_the_specification(
    v: int, d: int, tile: GemmTile, b: int, n: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    table, scale = matrix(v, d, seed), rng.standard_normal(v, np.float32)
    positions = rng.standard_normal((n + 3, d), np.float32)
    tokens = rng.integers(0, v, (b, n))
    tokens[0, 0] = v - 1
    expected = embed_int8(tokens, table.astype(np.float32), scale, positions, 2)
    for held in (pack_gemm_weights(table, tile), table, table.astype(np.float32)):
        out = np.full((b, n, d), np.nan, np.float32)
        embed_rows(tile, tokens, held, scale, positions, np.array(2), out)
        assert np.array_equal(out, expected)


def test_functions_have_their_names() -> None:
    named = partial(linear_int8_tiles, GemmTile(16, 64, 64))
    assert function_of(named) == "backends.npu.families.gemm.linear_int8_tiles"
