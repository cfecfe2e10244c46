"""Level 1: the tile kernels' own sources, compiled for this CPU, against their NumPy models."""

from __future__ import annotations

import ctypes
import math
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kernels.src import tiles
from tests.unit.npu import tile_library
from tests.unit.npu.tile_library import SOURCES, Buffer
from whisper_npu.backends.npu.packing import I8, GemmTile, pack_gemm_weights
from whisper_npu.ops.activation import gelu, softmax_rows
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.linear import layer_norm

TILES = (GemmTile(64, 64, 64), GemmTile(16, 64, 64))
NORM_WIDTHS = (256, 384, 512, 768, 1024, 1280)
SOFTMAX_LENGTHS = (448, 1500)
ALIGNMENT = 32  # bytes, of every buffer


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return tile_library.build(tmp_path_factory.mktemp("tiles"))


def same_bits(a: F32, b: F32) -> bool:
    """Equal to the bit, except that any NaN is as good as any other."""
    equal = a.view(np.uint32) == b.view(np.uint32)
    return a.shape == b.shape and bool(np.all(equal | (np.isnan(a) & np.isnan(b))))


def any_floats(shape: tuple[int, ...], seed: int) -> F32:
    """Random bits without denormal numbers: all magnitudes, infinities and NaN."""
    bits = np.random.default_rng(seed).integers(0, 2**32, shape, dtype=np.uint32)
    floats = bits.view(np.float32)
    tiny = np.finfo(np.float32).tiny
    return np.where(np.abs(floats) < tiny, np.float32(0), floats)


def rows(library: ctypes.CDLL, kernel: str, x: F32, *shared: F32, offset: int = 0) -> F32:
    """The kernel over each row of x, with its canaries checked."""
    out = np.empty_like(x)
    inputs = [Buffer(array, offset) for array in shared]
    for row, result in zip(x, out, strict=True):
        source, target = Buffer(row, offset), Buffer(np.full_like(row, np.nan), offset)
        tile_library.call(library, kernel, source, *inputs, target)
        assert all(b.outside_is_untouched() for b in (source, *inputs, target))
        assert same_bits(source.array, row)
        result[...] = target.array
    return out


# INT8 GEMM

FILLS: dict[str, Callable[[np.random.Generator, tuple[int, int]], I8]] = {
    "random": lambda rng, shape: rng.integers(-128, 128, shape, dtype=np.int8),
    "sparse": lambda rng, shape: (
        rng.integers(-127, 128, shape) * (rng.random(shape) < 0.02)
    ).astype(np.int8),
    "lowest": lambda rng, shape: np.full(shape, -128, np.int8),
    "highest": lambda rng, shape: np.full(shape, 127, np.int8),
    "ends": lambda rng, shape: rng.choice(np.array([-128, -127, 127], np.int8), shape),
}


@pytest.mark.parametrize("offset", [0, ALIGNMENT, 3 * ALIGNMENT])
@pytest.mark.parametrize("fill_b", FILLS)
@pytest.mark.parametrize("fill_a", FILLS)
@pytest.mark.parametrize("tile", TILES)
def test_gemm_tile(
    library: ctypes.CDLL, tile: GemmTile, fill_a: str, fill_b: str, offset: int
) -> None:
    rng = np.random.default_rng(offset)
    a, w = FILLS[fill_a](rng, (tile.m, tile.k)), FILLS[fill_b](rng, (tile.n, tile.k))
    c = rng.integers(-(2**30), 2**30, (tile.m, tile.n), dtype=np.int32)
    packed = pack_gemm_weights(w, tile)[0, 0]
    buffers = (Buffer(a, offset), Buffer(packed, offset), Buffer(c, offset))
    tile_library.call(library, f"gemm_i8_i32_{tile.m}x{tile.k}x{tile.n}", *buffers)

    expected = c + a.astype(np.int64) @ w.T.astype(np.int64)
    assert np.array_equal(buffers[2].array, expected)
    model = tiles.gemm_i8_i32(tile, a.ravel(), packed, c.ravel())
    assert np.array_equal(model, expected.ravel())
    assert np.array_equal(buffers[0].array, a)
    assert np.array_equal(buffers[1].array, packed)
    assert all(buffer.outside_is_untouched() for buffer in buffers)


@pytest.mark.parametrize("tile", TILES)
def test_gemm_of_several_tiles(library: ctypes.CDLL, tile: GemmTile) -> None:
    rng = np.random.default_rng(1)
    a = rng.integers(-127, 128, (tile.m, 384), dtype=np.int8)
    w = rng.integers(-127, 128, (100, 384), dtype=np.int8)
    packed = pack_gemm_weights(w, tile)
    result = np.empty((tile.m, 128), np.int32)
    for j, column in enumerate(packed):
        c = Buffer(np.full((tile.m, tile.n), -1, np.int32))
        tile_library.call(library, f"zero_i32_{tile.m}x{tile.n}", c)
        for i, block in enumerate(column):
            part = Buffer(np.ascontiguousarray(a[:, i * tile.k : (i + 1) * tile.k]))
            name = f"gemm_i8_i32_{tile.m}x{tile.k}x{tile.n}"
            tile_library.call(library, name, part, Buffer(block), c)
        assert c.outside_is_untouched()
        result[:, j * tile.n : (j + 1) * tile.n] = c.array
    assert np.array_equal(result[:, :100], a.astype(np.int32) @ w.T.astype(np.int32))
    assert not result[:, 100:].any()


# GELU


def erf_gelu(x: F32) -> list[float]:
    return [v / 2 * math.erfc(-v / math.sqrt(2)) for v in x.astype(np.float64).tolist()]


@pytest.mark.parametrize("offset", [0, ALIGNMENT, 3 * ALIGNMENT])
def test_gelu_equals_its_model(library: ctypes.CDLL, offset: int) -> None:
    x = np.random.default_rng(0).normal(0, 3, (64, 1024)).astype(np.float32)
    assert same_bits(rows(library, "gelu_f32_1024", x, offset=offset), tiles.gelu_f32(x))
    x = any_floats((64, 1024), 1)
    assert same_bits(rows(library, "gelu_f32_1024", x, offset=offset), tiles.gelu_f32(x))


def test_gelu_is_gelu(library: ctypes.CDLL) -> None:
    x = np.linspace(-10, 10, 64 * 1024, dtype=np.float32).reshape(64, 1024)
    result = rows(library, "gelu_f32_1024", x)
    assert np.abs(result.ravel() - erf_gelu(x.ravel())).max() < 6e-7
    assert np.abs(result - gelu(x)).max() < 6e-7


def test_gelu_of_special_values(library: ctypes.CDLL) -> None:
    special = [0.0, -0.0, np.inf, 3e38, 7.0, -np.inf, -3e38, -7.0, np.nan]
    x = np.resize(np.float32(special), (1, 1024))
    result = rows(library, "gelu_f32_1024", x)[0, : len(special)]
    assert same_bits(result[:5], np.float32([0.0, -0.0, np.inf, 3e38, 7.0]))
    assert np.all((result[5:8] > -1e-8) & (result[5:8] < 0))
    assert np.isnan(result[8])


# Layer norm


def norm_inputs(width: int, scale: float, offset: float) -> tuple[F32, F32, F32]:
    rng = np.random.default_rng(width)
    x = (rng.normal(offset, scale, (8, width))).astype(np.float32)
    return x, rng.normal(1, 1, width).astype(np.float32), rng.normal(0, 1, width).astype(np.float32)


@pytest.mark.parametrize("offset", [0, ALIGNMENT, 3 * ALIGNMENT])
@pytest.mark.parametrize("width", NORM_WIDTHS)
def test_layer_norm_equals_its_model(library: ctypes.CDLL, width: int, offset: int) -> None:
    name = f"layer_norm_f32_{width}"
    for scale, mean in ((1.0, 0.0), (1e-6, 0.0), (100.0, -3000.0), (1e17, 0.0), (1e37, 0.0)):
        x, gain, bias = norm_inputs(width, scale, mean)
        result = rows(library, name, x, gain, bias, offset=offset)
        assert same_bits(result, tiles.layer_norm_f32(x, gain, bias))
    x = any_floats((8, width), 2)
    result = rows(library, name, x, gain, bias, offset=offset)
    assert same_bits(result, tiles.layer_norm_f32(x, gain, bias))


@pytest.mark.parametrize("width", NORM_WIDTHS)
def test_layer_norm_is_layer_norm(library: ctypes.CDLL, width: int) -> None:
    for scale in (1e-3, 1.0, 1e15):
        x, gain, bias = norm_inputs(width, scale, 0.0)
        result = rows(library, f"layer_norm_f32_{width}", x, gain, bias)
        centred = x.astype(np.float64) - x.mean(axis=1, dtype=np.float64, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + 1e-5)
        assert np.abs(result - (centred / deviation * gain + bias)).max() < 3e-6
        assert np.abs(result - layer_norm(x, gain, bias)).max() < 4e-6


def test_layer_norm_of_a_constant_row_is_the_bias(library: ctypes.CDLL) -> None:
    _, gain, bias = norm_inputs(512, 1.0, 0.0)
    x = np.full((1, 512), 2.5, np.float32)
    assert same_bits(rows(library, "layer_norm_f32_512", x, gain, bias)[0], bias)


# Softmax


@pytest.mark.parametrize("offset", [0, ALIGNMENT, 3 * ALIGNMENT])
@pytest.mark.parametrize("length", SOFTMAX_LENGTHS)
def test_softmax_equals_its_model(library: ctypes.CDLL, length: int, offset: int) -> None:
    rng = np.random.default_rng(length)
    inputs = [rng.normal(0, s, (8, length)).astype(np.float32) for s in (0.1, 1, 10, 100, 1e37)]
    masked = inputs[2].copy()
    masked[:, length // 3 :] = -np.inf
    for x in (*inputs, masked, any_floats((8, length), 3)):
        result = rows(library, f"softmax_f32_{length}", x, offset=offset)
        assert same_bits(result, tiles.softmax_f32(x))


@pytest.mark.parametrize("length", SOFTMAX_LENGTHS)
def test_softmax_is_softmax(library: ctypes.CDLL, length: int) -> None:
    # Multiples of 1/16: x - max is exact, so that what is left is the error of the kernel itself.
    x = np.random.default_rng(length).integers(-400, 400, (16, length)).astype(np.float32) / 16
    result = rows(library, f"softmax_f32_{length}", x)
    weights = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    exact = weights / weights.sum(axis=1, keepdims=True)
    assert (np.abs(result - exact) / exact).max() < 6e-7
    specified = x.copy()
    specified /= softmax_rows(specified)
    assert (np.abs(result - specified) / exact).max() < 6e-7


@pytest.mark.parametrize("length", SOFTMAX_LENGTHS)
def test_softmax_sees_every_place(library: ctypes.CDLL, length: int) -> None:
    x = np.full((length, length), -np.inf, np.float32)
    np.fill_diagonal(x, 5.0)
    expected = np.eye(length, dtype=np.float32)
    assert same_bits(rows(library, f"softmax_f32_{length}", x[::13]), expected[::13])
    assert same_bits(rows(library, f"softmax_f32_{length}", x[-16:]), expected[-16:])


def test_softmax_has_no_denormal_weights(library: ctypes.CDLL) -> None:
    x = np.linspace(-120, 0, 1500, dtype=np.float32)[None]
    weights = rows(library, "softmax_f32_1500", x)
    assert weights[weights > 0].min() >= np.finfo(np.float32).tiny
    assert np.array_equal(weights == 0, x < -75)


def test_softmax_with_nan_is_nan(library: ctypes.CDLL) -> None:
    for place in (0, 700, 1499):
        x = np.zeros((1, 1500), np.float32)
        x[0, place] = np.nan
        assert np.isnan(rows(library, "softmax_f32_1500", x)).all()


# All of them


def test_header_declares_what_is_tested(library: ctypes.CDLL) -> None:
    declared = re.findall(r"^void (\w+)\(", (SOURCES / "tiles.h").read_text(), re.MULTILINE)
    tested = [f"gemm_i8_i32_{t.m}x{t.k}x{t.n}" for t in TILES]
    tested += [f"zero_i32_{t.m}x{t.n}" for t in TILES]
    tested += ["gelu_f32_1024"]
    tested += [f"layer_norm_f32_{width}" for width in NORM_WIDTHS]
    tested += [f"softmax_f32_{length}" for length in SOFTMAX_LENGTHS]
    assert sorted(declared) == sorted(tested)
    assert all(hasattr(library, name) for name in declared)


def test_fast_math_is_refused(tmp_path: Path) -> None:
    command = f"{tile_library.compiler()} -ffast-math"
    done = subprocess.run(
        ["make", "-C", str(SOURCES), f"BUILD={tmp_path}", f"CXX={command}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "compile without -ffast-math" in done.stderr
