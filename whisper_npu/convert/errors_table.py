"""How far stored weights are from those of the source, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisper_npu.model.weight_shapes import Shape

Floats = NDArray[np.float32] | NDArray[np.float64]

_COLUMNS = "{:<52} {:<16} {:<5} {:>12} {:>12} {:>12} {:>8} {:>12}"


@dataclass(frozen=True)
class TensorError:
    """Errors of one tensor.

    ``largest`` is the largest absolute error, in the row (output channel) ``worst_channel``;
    ``steps`` the largest error in units of its row's scale (None for floats), at most 0.5 where
    each weight was rounded by itself; ``relative`` the root mean square error over the root mean
    square of the tensor; ``products`` the same of the products with it in calibration, None where
    there were none. Errors of weights for precision int8 are from what the weights of the source
    are folded into.
    """

    name: str
    shape: Shape
    dtype: str
    largest: float
    steps: float | None
    relative: float
    worst_channel: int
    products: float | None = None


class ErrorMeter:
    """Sums up the errors of a tensor that comes in blocks of rows."""

    def __init__(self, name: str, shape: Shape, dtype: str) -> None:
        self._name, self._shape, self._dtype = name, shape, dtype
        self._largest, self._worst, self._steps = 0.0, 0, 0.0
        self._squares, self._error_squares = 0.0, 0.0
        self._rows = 0
        self._products: tuple[float, float] | None = None

    def add(
        self, block: Floats, restored: Floats, scale: Floats | None
    ) -> None:  # [r, ...], [r, ...], [r]
        """The next rows: as in the source, as they will be read, and the scales of int8 rows."""
        rows = block.shape[0]
        errors = np.abs(restored - block).reshape(rows, -1)
        largest = errors.max(axis=1)
        worst = int(largest.argmax())
        if largest[worst] > self._largest:
            self._largest, self._worst = float(largest[worst]), self._rows + worst
        if scale is not None:
            steps = np.divide(largest, scale, out=np.zeros_like(largest), where=scale > 0)
            self._steps = max(self._steps, float(steps.max()))
        self._squares += float(np.vdot(block, block))
        self._error_squares += float(np.vdot(errors, errors))
        self._rows += rows

    def add_products(self, error: float | None, square: float | None) -> None:
        """Sums of squares of the errors of products, and of products, of the next rows; or none."""
        if error is not None and square is not None:
            errors, squares = self._products or (0.0, 0.0)
            self._products = errors + error, squares + square

    def result(self) -> TensorError:
        """The errors of all blocks."""
        relative = math.sqrt(self._error_squares / self._squares) if self._squares else 0.0
        steps = self._steps if self._dtype in ("I8", "I32") else None
        products = None
        if self._products is not None:
            error, square = self._products
            products = math.sqrt(error / square) if square else 0.0
        return TensorError(
            self._name,
            self._shape,
            self._dtype,
            self._largest,
            steps,
            relative,
            self._worst,
            products,
        )


def table(errors: Iterable[TensorError]) -> Iterator[str]:
    """Lines of text, one for each tensor, below a line of headings."""
    yield _COLUMNS.format(
        "tensor", "shape", "type", "max error", "in steps", "rms, rel.", "channel", "products"
    )
    for error in errors:
        yield _COLUMNS.format(
            error.name,
            "[" + ", ".join(map(str, error.shape)) + "]",
            error.dtype,
            f"{error.largest:.3e}",
            "" if error.steps is None else f"{error.steps:.3f}",
            f"{error.relative:.3e}",
            error.worst_channel,
            "" if error.products is None else f"{error.products:.3e}",
        )
