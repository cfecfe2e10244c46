"""C's integers in Python: stores that wrap, division toward zero, shifts that round down."""

from __future__ import annotations


def _wrap(x: int, bits: int) -> int:
    return (x + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def int8(x: int) -> int:
    return _wrap(x, 8)


def int16(x: int) -> int:
    return _wrap(x, 16)


def int32(x: int) -> int:
    return _wrap(x, 32)


def divide(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def clamp(x: int, low: int = -128, high: int = 127) -> int:
    return low if x < low else high if x > high else x


def newton_root(n: int) -> int:
    """floor(sqrt(n)) by Newton's method, from above."""
    if n < 2:
        return n
    x, y = n, (n + 1) // 2
    while y < x:
        x, y = y, (y + n // y) // 2
    return x
