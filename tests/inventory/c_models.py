"""The kernels that are not mel, one scalar at a time. Slow, and made without the NumPy models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.inventory.c_integers import clamp, divide, int8, int32, newton_root

Values = Sequence[int]


def tile_product(a: Values, b: Values, size: int) -> list[int]:
    out = []
    for m in range(size):
        for n in range(size):
            total = 0
            for k in range(size):
                total = int32(total + a[m * size + k] * b[k * size + n])
            out.append(int8(clamp(total >> 7)))
    return out


def gelu(x: Values) -> list[int]:
    out = []
    for value in x:
        v = value / 127
        inner = math.sqrt(2 / math.pi) * (v + 0.044715 * v * v * v)
        out.append(math.floor(127 * v * 0.5 * (1 + math.tanh(inner)) + 0.5))
    return out


def layer_norm(x: Values, gamma: Values, beta: Values, epsilon: int, shift: int) -> list[int]:
    n = len(x)
    mean = divide(sum(x), n)
    variance = divide(sum((v - mean) * (v - mean) for v in x), n)
    reciprocal = divide(32768, newton_root(variance + epsilon))
    out = []
    for v, g, b in zip(x, gamma, beta, strict=True):
        normal = int32((v - mean) * reciprocal) >> shift
        out.append(int8(clamp((int32(g * normal) >> 7) + b)))
    return out


def _scores(q: Values, k: Values, row: int, size: int, shift: int) -> list[int]:
    scores = []
    for column in range(size):
        total = 0
        for i in range(size):
            total = int32(total + q[row * size + i] * k[column * size + i])
        scores.append(total >> shift)
    return scores


def attention(
    qkv: Values,
    size: int,
    shift: int,
    softmax: Callable[[list[int]], list[int]],
    nearest: bool,
    rows: Sequence[int],
) -> list[int]:
    """The given rows of the output, behind one another."""
    n = size * size
    q, k, v = qkv[:n], qkv[n : 2 * n], qkv[2 * n :]
    out = []
    for row in rows:
        weights = softmax(_scores(q, k, row, size, shift))
        for column in range(size):
            total = 0
            for i in range(size):
                total = int32(total + weights[i] * v[i * size + column])
            if nearest:
                total += 64 if total >= 0 else -64
            out.append(int8(clamp(total >> 7)))
    return out


def softmax_parabola(scores: list[int]) -> list[int]:
    scores = [clamp(score) for score in scores]
    exps = []
    for score in scores:
        x = clamp(score - max(scores), -64, 0)
        exps.append(max(64 + x + divide(x * x, 128), 0))
    return [int8(min(divide(e * 127, sum(exps)), 127)) for e in exps]


def softmax_pieces(scores: list[int]) -> list[int]:
    scores = [clamp(score) for score in scores]
    exps = []
    for score in scores:
        x = clamp(score - max(scores), -127, 0)
        if x <= -80:
            exps.append(1)
        elif x <= -40:
            exps.append(divide(65536, 256 - 4 * x))
        else:
            square = (x * x) >> 5
            exps.append(max(256 + 8 * x + (square >> 1), 1))
    total = sum(exps)
    return [int8(clamp(divide(e * 127 + (total >> 1), total), 0, 127)) for e in exps]


def softmax_table(scores: list[int]) -> list[int]:
    exps = []
    for score in scores:
        x = clamp((score - max(scores)) >> 8, -127, 0)
        exps.append(max(1, math.floor(1048576 * math.exp(x))))
    total = max(sum(exps) >> 10, 1)
    return [int8(min(divide((e >> 10) * 127, total), 127)) for e in exps]
