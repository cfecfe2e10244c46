"""The precisions of products with weights, which commands name before they need a graph."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["float32", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
