"""Running quantised products on a device's kernels, and on NumPy when a kernel lets them down.

Whatever goes wrong with a launch, the op is computed by NumPy instead, at once, from the same
integers: the result is the same, and the event is recorded. The op then stays on NumPy.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from whisper_npu.backends.npu.device import Device, DeviceLost, KernelLied, NoContext
from whisper_npu.backends.npu.families.gemm import Gemm, GemmShape, gemm_shape
from whisper_npu.backends.npu.families.packing import GemmTile
from whisper_npu.backends.npu.registry import Entry
from whisper_npu.backends.numpy.specification import Bound, Step
from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Graph, Op
from whisper_npu.ops.arrays import I32
from whisper_npu.ops.quant import integer_product, scale_product
from whisper_npu.results import Fallback
from whisper_npu.runtime.usage import Usage

log = logging.getLogger("whisper_npu")

# The kinds of op that are launched; for all others the host is where they belong.
KINDS = ("linear_int8",)


def product_shape(graph: Graph, op: Op) -> tuple[int, int, int]:
    """(m, k, n) of a ``linear_int8`` op."""
    *rows, k = graph[op.inputs[0]].shape
    return math.prod(rows), k, graph[op.inputs[2]].shape[0]


# Which kernel an op should run on; None for NumPy.
Chooser = Callable[[Graph, Op], "Entry | None"]


@dataclass
class _Product:
    """An op on a kernel, and what it takes to run it."""

    phase: str
    op: Op
    shape: GemmShape
    bound: Bound
    numpy: Step

    @property
    def name(self) -> tuple[str, str]:
        """Of the op in all plans of its phase."""
        return self.phase, self.op.name


class Accelerator:
    """Kernels of one device for the plans of one model.

    ``choose`` decides which kernel an op is for; ``check_rate`` is the share of launches that are
    recomputed on NumPy and compared. A kernel found to lie is not used again, nor is one for which
    there was no context: each op of it would wait for one as long.
    """

    def __init__(
        self,
        device: Device,
        choose: Chooser,
        usage: Usage,
        check_rate: float = 1e-3,
        seed: int | None = None,
    ) -> None:
        self.device, self.usage = device, usage
        self._choose, self._check_rate = choose, check_rate
        self._random = random.Random(seed)
        self._gemms: dict[str, Gemm] = {}
        self._unusable: dict[str, KernelError] = {}
        self._lost: DeviceLost | None = None
        # Plans come and go with the lengths of prompts; an op that failed in one has failed.
        self._failed: set[tuple[str, str]] = set()

    def bind(self, graph: Graph, bound: Bound, numpy: Step) -> Step:
        """The step that runs an op: on its kernel, or ``numpy``, which is its other choice."""
        op = bound.op
        entry = self._choose(graph, op) if op.kind in KINDS else None
        if entry is None or (graph.name, op.name) in self._failed:
            return numpy
        name = entry.contract.name
        shape = gemm_shape(GemmTile(**entry.contract.tile), *product_shape(graph, op))
        product = _Product(graph.name, op, shape, bound, numpy)
        try:
            gemm = self._open(entry)
            if not gemm.has_weights(op.inputs[2]):
                gemm.load_weights(op.inputs[2], bound.inputs[2].astype(np.int8))
                self.usage.resident_bytes += shape.resident_bytes
            gemm.prepare(shape)
        except KernelError as error:
            self._fall_back(product, name, error)
            return numpy
        return self._step(gemm, product)

    def open(self, entries: Iterable[Entry]) -> None:
        """Open kernels now, not with the first op that is for them. Raises KernelError."""
        for entry in entries:
            self._open(entry)

    def close(self) -> None:
        """Give back contexts and buffers. What runs afterwards runs on NumPy."""
        if self._lost is None:
            self._lost = DeviceLost("the NPU was given back")
        for gemm in self._gemms.values():
            gemm.close()
        self._gemms.clear()

    def _open(self, entry: Entry) -> Gemm:
        name = entry.contract.name
        self._check_usable(name)
        if name not in self._gemms:
            self._gemms[name] = Gemm(self.device.open(entry))
        return self._gemms[name]

    def _check_usable(self, name: str) -> None:
        """Raises what ended the use of the device, or of this kernel."""
        error = self._lost or self._unusable.get(name)
        if error is not None:
            raise error

    def _step(self, gemm: Gemm, product: _Product) -> Step:
        name = gemm.kernel.contract.name
        x, x_scale, _, w_scale, *rest = product.bound.inputs
        bias = rest[0] if rest else None
        weight = product.op.inputs[2]
        rows = x.reshape(product.shape.m, product.shape.k)
        scales = x_scale.reshape(-1)
        out = product.bound.outputs[0].reshape(product.shape.m, product.shape.n)

        def step() -> None:
            if product.name in self._failed:
                product.numpy()
                return
            try:
                self._check_usable(name)
                sums = gemm.product(rows, weight, product.shape)
                self._count(product)
                if self._random.random() < self._check_rate:
                    self._check(name, product, sums)
            except KernelError as error:
                self._fall_back(product, name, error)
                product.numpy()
                return
            np.copyto(out, sums, casting="same_kind")
            scale_product(out, scales, w_scale, bias)
            self.usage.kernel_ops[product.op.kind, name] += 1

        return step

    def _count(self, product: _Product) -> None:
        usage = self.usage
        usage.launches += 1
        usage.bytes_to_device += product.shape.bytes_in
        usage.bytes_from_device += product.shape.bytes_out

    def _check(self, name: str, product: _Product, sums: I32) -> None:
        """Compare sums with those of NumPy. Raises KernelLied."""
        self.usage.checks += 1
        x, _, w, *_ = product.bound.inputs
        expected = integer_product(x.reshape(-1, x.shape[-1]).astype(np.float32), w)
        wrong = int(np.count_nonzero(sums.astype(np.float32) != expected))
        if wrong:
            raise KernelLied(
                f"{name}: {wrong} of {sums.size} sums of {product.op.name} were wrong; the kernel "
                "is not used any more"
            )

    def _fall_back(self, product: _Product, name: str, error: KernelError) -> None:
        self._failed.add(product.name)
        # A line for what ends the use of a kernel, not for each of its ops.
        known = error is self._lost or error is self._unusable.get(name)
        if isinstance(error, (KernelLied, NoContext)):
            self._unusable[name] = error
        if isinstance(error, DeviceLost):
            self._lost = error
        event = Fallback(product.phase, product.op.name, name, error.reason, str(error))
        self.usage.fallbacks.append(event)
        level = logging.INFO if known else logging.WARNING
        log.log(level, "%s: %s on NumPy from now on: %s", event.phase, event.op, event.detail)
