"""A whole backend: it runs GELU, and a product that only a GELU reads as one region with it."""

from functools import partial

import numpy as np

from whisper_npu.model.graph import Graph
from whisper_npu.ops.activation import gelu
from whisper_npu.runtime.backend import Backend, Bound, Form, Offer, Refusal, chain, name_of


def run_gelu(x: np.ndarray, out: np.ndarray) -> None:  # [...] -> [...]
    gelu(x, out)


def run_linear_gelu(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray, out: np.ndarray
) -> None:  # [..., k], [n, k], [n] -> [..., n]
    gelu(x.reshape(-1, x.shape[-1]) @ w.T + bias, out.reshape(-1, out.shape[-1]))


def bind(function: object, bound: Bound) -> partial[None]:
    return partial(function, *bound.inputs, *bound.outputs)  # type: ignore[arg-type, type-var]


class Toy(Backend):
    name = "toy"

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        fused = chain(graph, index, "linear", "gelu")
        single = chain(graph, index, "gelu")
        if fused is None and single is None:
            return Refusal(self.name, f"the toy has no {graph.ops[index].kind}")
        function = run_gelu if fused is None else run_linear_gelu
        weight = {} if fused is None else {fused[0].inputs[1]: (Form("float32", "F"),)}
        return Offer(
            self.name, function.__name__, name_of(function), fused or single or (),
            partial(bind, function), forms=weight, note="always",
        )  # fmt: skip
