"""The shapes that are compared layer by layer, each a seeded checkpoint."""

from __future__ import annotations

from tests.support.checkpoints import Recipe

SHAPES = {
    "tiny": Recipe("tiny", "multilingual"),
    "base": Recipe("base", "multilingual"),
    "wide": Recipe("wide", "small"),  # 128 mels, d = 1280, one layer a side
    "uneven": Recipe("uneven", "small"),  # turbo's: a deep encoder, a shallow decoder
    "odd": Recipe("odd", "small"),
}
