"""One SHA-256 over what every integer op gives on fixed inputs: ``python -m`` this prints it.

Inputs come from SHAKE-256, so that they are the same with every NumPy on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops import attention_int, product_int8, rows
from whisper_npu.ops.arrays import F32, I32

Array = NDArray[Any]


class Inputs:
    """Integers from a stream that a name starts."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0

    def integers(self, low: int, high: int, *shape: int) -> Array:
        """At least ``low``, below ``high``."""
        self.count += 1
        seed = f"{self.name} {self.count}".encode()
        data = hashlib.shake_256(seed).digest(8 * int(np.prod(shape)))
        return (np.frombuffer(data, "<u8") % np.uint64(high - low)).astype(np.int64).reshape(
            shape
        ) + low

    def fixed(self, bits: int, *shape: int) -> I32:
        """Fixed-point numbers whose rows (last axis) have 4 to ``bits`` bits."""
        size = self.integers(4, bits + 1, *shape[:-1], 1)
        return (self.integers(-(2**31) + 1, 2**31, *shape) >> (31 - size)).astype(np.int32)

    def scales(self, bits: int, n: int) -> F32:
        """Scales of products with mantissas of so many bits."""
        mantissa = self.integers(2 ** (bits - 1), 2**bits, n)
        return np.ldexp(mantissa, self.integers(-bits - 7, -bits, n)).astype(np.float32)


def outputs_of_rows(inputs: Inputs) -> Iterator[Array]:
    for bits in (8, 16):
        for x in (inputs.fixed(31, 40, 384), inputs.fixed(14, 40, 131), inputs.fixed(31, 2, 5120)):
            yield from rows.quantize_int32(x, bits)
            yield from rows.rms_norm(x, bits)


def outputs_of_products(inputs: Inputs) -> Iterator[Array]:
    for kind, k in (("i1", 384), ("i2", 1536), ("i2", 77)):
        largest = rows.limit(8 * np.dtype(kind).itemsize, k)
        x = inputs.integers(-largest, largest + 1, 50, k).astype(kind)
        w = inputs.integers(-127, 128, 200, k).astype(np.float32)
        scales = inputs.scales(8, 50), inputs.scales(14, 200)
        yield product_int8.product_int8(x, scales[0], w, scales[1], inputs.fixed(31, 200))
    table, scale = inputs.integers(-127, 128, 60, 384).astype(np.int8), inputs.scales(14, 60)
    tokens, positions = inputs.integers(0, 60, 2, 3), inputs.fixed(20, 9, 384)
    yield product_int8.embed_int32(tokens, table, scale, positions, np.array([4]))
    x = inputs.fixed(31, 30, 500)
    yield product_int8.add_int32(x, inputs.fixed(31, 30, 500))
    yield product_int8.gelu_int32(x)
    yield product_int8.gelu_int32(np.arange(-20000, 20000, dtype=np.int32))
    yield product_int8.logits_float(x)


def outputs_of_attention(inputs: Inputs) -> Iterator[Array]:
    # Scores of a few tens, so that many weights count; at last, the largest there are.
    for query_bits, bits in ((10, 14), (7, 18), (5, 24), (31, 31)):
        q = inputs.fixed(query_bits, 2, 140, 192)
        # Columns of several sizes.
        k, v = (
            inputs.fixed(bits, 2, 140, 192) >> inputs.integers(0, 5, 192).astype(np.int32)
            for _ in range(2)
        )
        yield attention_int.attention_int32(q, k, v, 3)
        yield attention_int.attention_int8(q, k, v, 3)
        caches = [np.zeros((2, 1, 3, 150, 64), np.int16) for _ in range(2)]
        slots = np.arange(2)
        for x, cache in zip((k, v), caches, strict=True):
            attention_int.store_int16(x, cache, np.array([5, 5]), slots)
        yield from (cache[:, 0] for cache in caches)
        at = np.array([100, 100])
        yield attention_int.cached_attention_int16(q[:, :9], *caches, at, slots)
        cached: list[Array] = []
        for x in (k, v):
            values, scale = np.empty((2, 3, 140, 64), np.int8), np.empty((2, 3, 64), np.float32)
            attention_int.quantize_columns(x, values, scale)
            cached += values, scale
        yield from cached
        k8, k_scale, v8, v_scale = cached
        cached_inputs = k8, v8, k_scale, v_scale
        of_two = q[:, :12].reshape(4, 6, 192)
        yield attention_int.cross_attention_int32(of_two, *cached_inputs, slots)
        kept = np.empty((2, 6, 140), np.float32)
        yield attention_int.cross_attention_int32(
            of_two[:1], *cached_inputs, slots[:1], None, (2, 0), kept
        )
        yield kept
    scores = -np.arange(70000.0)[None]
    for exponent in (5, 12, 16):
        yield attention_int.weights_of(scores, np.array([exponent]))


def digest() -> str:
    sha = hashlib.sha256()
    for outputs in (outputs_of_rows, outputs_of_products, outputs_of_attention):
        for output in outputs(Inputs(outputs.__name__)):
            little = output.dtype.newbyteorder("<")
            sha.update(f"{output.shape} {little.str}".encode())
            sha.update(np.ascontiguousarray(output, little).tobytes())
    return sha.hexdigest()


if __name__ == "__main__":
    print(digest())
