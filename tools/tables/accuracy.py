"""Word errors on real speech, and what systems differ from our float32 by: tools.accuracy."""

from __future__ import annotations

from tools.accuracy.__main__ import lines

__all__ = ["lines"]
