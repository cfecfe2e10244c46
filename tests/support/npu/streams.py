"""Instruction streams for the tests, word by word."""

from __future__ import annotations

import struct


def pack(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


def seed_stream(words_in: int, words_out: int) -> bytes:
    """What mlir-aie made for a kernel with one input and one output: 300 bytes."""
    return b"".join(
        (
            pack(0x06030100, 0x00000104, 8, 300),
            pack(1, 0, 0x1D020, 48, words_in, 0, 0, 0, 0x80000000, 0x02000000, 0, 0x02000000),
            pack(0x81, 48, 0, 0, 0, 0, 0x1D024, 0, 0, 0, 0, 0),
            pack(0, 0, 0x1D214, 0, 1, 24),
            pack(1, 0, 0x1D000, 48, words_out, 0, 0, 0, 0x80000000, 0x02000000, 0, 0x02000000),
            pack(0x81, 48, 0, 0, 0, 0, 0x1D004, 0, 1, 0, 0, 0),
            pack(3, 0, 0x1D200, 0, 0xF00, 0x1F00, 28),
            pack(0, 0, 0x1D204, 0, 0x80000000, 24),
            pack(0x80, 16, 0, 0x00010100),
        )
    )


def short_stream(words_in: int, words_out: int) -> bytes:
    """The same in version 1.0."""
    operations = b"".join(
        (
            pack(1, 0x1D020, 44, words_in, 0, 0, 0, 0x80000000, 0x02000000, 0, 0x02000000),
            pack(0x81, 24, 0x1D024, 0, 0, 0),
            pack(0, 0x1D214, 1),
            pack(1, 0x1D000, 44, words_out, 0, 0, 0, 0x80000000, 0x02000000, 0, 0x02000000),
            pack(0x81, 24, 0x1D004, 1, 0, 0),
            pack(3, 0x1D200, 0xF00, 0x1F00),
            pack(0, 0x1D204, 0x80000000),
            pack(0x80, 16, 0, 0x00010100),
        )
    )
    return pack(0x06030001, 0x00000104, 8, 16 + len(operations)) + operations


def with_operations(*operations: bytes, version: int = 0x06030100) -> bytes:
    body = b"".join(operations)
    return pack(version, 0x00000104, len(operations), 16 + len(body)) + body
