"""Every fast op against its specification, with errors measured in what rounding may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisper_npu.backends.numpy import fast as fast_ops
from whisper_npu.backends.numpy.specification import specify
from whisper_npu.backends.opening import numpy_model
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.model.graph import Attr, Graph, Op, Tensor
from whisper_npu.model.precision import PRECISIONS, Precision
from whisper_npu.ops.linear import conv_matrix
from whisper_npu.runtime import weights
from whisper_npu.runtime.backend import Bound, Offer
from whisper_npu.runtime.weights import by_columns
from whisper_npu.runtime.workers import Workers, find_blas

EPS = float(np.finfo(np.float32).eps)
TEAMS = [Workers(1, None), Workers(2, find_blas()), Workers(3, find_blas())]
each_team = pytest.mark.parametrize("team", TEAMS, ids=lambda team: f"{team.threads} threads")


def randn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def op_of(kind: str, inputs: int, outputs: int = 1, **attrs: Attr) -> Op:
    ins = tuple(f"x{i}" for i in range(inputs))
    outs = tuple(f"y{i}" for i in range(outputs))
    return Op("op", kind, ins, outs, tuple(attrs.items()))


def both(
    kind: str,
    inputs: tuple[np.ndarray, ...],
    shapes: tuple[tuple[int, ...], ...],
    team: Workers,
    scratch: tuple[int, ...] | None = None,
    **attrs: Attr,
) -> tuple[Any, Any]:
    """The first output of the fast op and of the specification."""
    op = op_of(kind, len(inputs), len(shapes), **attrs)
    results = []
    for bind in (lambda b: fast_ops.FAST[kind].bind(b, team), specify):
        outputs = tuple(np.full(shape, np.nan, np.float32) for shape in shapes)
        memory = None if scratch is None else np.full(scratch, np.nan, np.float32)
        step = bind(Bound.of(op, inputs, outputs, memory))
        for _ in range(2):  # nothing may be left behind that changes the second run
            step()
        results.append(outputs[0])
    return results[0], results[1]


def is_offered(
    kind: str,
    inputs: tuple[tuple[int, ...], ...],
    out: tuple[int, ...],
    team: Workers,
    monkeypatch: pytest.MonkeyPatch,
    **attrs: Attr,
) -> bool:
    """Whether there is a faster way for an op of these shapes."""
    op = op_of(kind, len(inputs), **attrs)
    tensors = [Tensor(n, s, "float32", "input") for n, s in zip(op.inputs, inputs, strict=True)]
    graph = Graph("g", (*tensors, Tensor("y0", out, "float32", "output")), (op,))
    monkeypatch.setattr(fast_ops, "workers", lambda: team)
    return isinstance(fast_ops.FastNumPy().offer(graph, 0), Offer)


def products_agree(fast: np.ndarray, spec: np.ndarray, magnitude: np.ndarray, k: int) -> None:
    """``magnitude`` is the product of absolute values, of which rounding is a share."""
    assert np.all(np.abs(fast - spec) <= EPS * (2 + np.sqrt(k)) * magnitude)


@each_team
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(2, 24, 24), (3, 7, 5), (5, 33, 8200), (8, 64, 4096), (64, 17, 23), (301, 40, 31)],
)
def test_linear(m: int, k: int, n: int, columns: bool, bias: bool, team: Workers) -> None:
    x, w, b = randn(1, m, k), randn(n, k, seed=1), randn(n, seed=2)
    held = by_columns(w.shape, w.__getitem__) if columns else w
    fast, spec = both("linear", (x, held, b) if bias else (x, held), ((1, m, n),), team)
    products_agree(fast, spec, np.abs(x) @ np.abs(w).T + np.abs(b), k)


@each_team
def test_linear_of_several_sequences(team: Workers) -> None:
    x, plain = randn(4, 1, 24), randn(90, 24, seed=1)
    w = by_columns(plain.shape, plain.__getitem__)
    fast, spec = both("linear", (x, w), ((4, 1, 90),), team)
    products_agree(fast, spec, np.abs(x) @ np.abs(w).T, 24)


@pytest.mark.parametrize("m", [1, 2, 8, 9, 63, 64])
@pytest.mark.parametrize("team", TEAMS[:2], ids=lambda team: f"{team.threads} threads")
def test_linear_leaves_other_shapes_to_the_specification(
    m: int, team: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = is_offered("linear", ((1, m, 8), (6, 8)), (1, m, 6), team, monkeypatch)
    assert offered == (m in (2, 8) or (m == 64 and team.threads > 1))


@pytest.mark.parametrize("t", [63, 64])
@pytest.mark.parametrize("team", TEAMS[:2], ids=lambda team: f"{team.threads} threads")
def test_conv1d_leaves_short_windows_and_single_threads(
    t: int, team: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = ((1, t, 5), (7, 15), (7,))
    offered = is_offered("conv1d", shapes, (1, t, 7), team, monkeypatch, stride=1)
    assert offered == (t == 64 and team.threads > 1)


@each_team
@pytest.mark.parametrize(("b", "t", "stride"), [(1, 200, 1), (2, 300, 2)])
def test_conv1d(b: int, t: int, stride: int, team: Workers) -> None:
    c, n, steps = 5, 7, t // stride
    x, bias = randn(b, t, c), randn(n, seed=2)
    w = conv_matrix(randn(n, c, 3, seed=1))
    shape = ((b, steps, n),)
    fast, spec = both("conv1d", (x, w, bias), shape, team, (steps, 3 * c), stride=stride)
    magnitude = np.full(1, np.abs(x).max() * np.abs(w).sum(1).max())
    products_agree(fast, spec, magnitude, 3 * c)


@each_team
@pytest.mark.parametrize("shape", [(1, 1, 7), (1, 8, 24), (2, 3, 17), (1, 1, 384), (3, 1, 5)])
def test_layer_norm(shape: tuple[int, ...], team: Workers) -> None:
    d = shape[-1]
    x = 3 * randn(*shape) + 10
    gain, bias = randn(d, seed=1), randn(d, seed=2)
    fast, spec = both("layer_norm", (x, gain, bias), (shape,), team)
    # The mean is rounded on the scale of x, which the division by the deviation passes on.
    scale = np.abs(x).max() / x.std(-1, keepdims=True)
    assert np.all(np.abs(fast - spec) <= 8 * EPS * scale * (np.abs(gain) + np.abs(bias)))


@each_team
def test_layer_norm_of_a_constant_row_is_the_bias(team: Workers) -> None:
    bias = randn(16, seed=2)
    fast, _ = both("layer_norm", (np.full((1, 7, 16), 3, "f"), bias, bias), ((1, 7, 16),), team)
    assert np.abs(fast - bias).max() < 1e-3  # 3 is subtracted from 3 up to rounding


@each_team
@pytest.mark.parametrize("size", [fast_ops._BLOCK + 1, 3 * fast_ops._BLOCK + 11])
def test_gelu(size: int, team: Workers) -> None:
    x = np.linspace(-12, 12, size, dtype=np.float32)
    fast, spec = both("gelu", (x,), ((size,),), team)
    # Each is within 6e-7 of the erf form on [-8, 8]; beyond, both are x or 0 but for rounding.
    assert np.all(np.abs(fast - spec) <= 1.2e-6 + EPS * np.abs(x))


def test_gelu_in_place() -> None:
    x = randn(5000) * 3
    apart = np.empty_like(x)
    fast_ops._gelu_block(x, apart)
    fast_ops._gelu_block(x, x)
    np.testing.assert_array_equal(x, apart)


def test_gelu_of_the_largest_and_smallest_numbers() -> None:
    x = np.array([-3e38, -1e19, -40, -0.0, 0, 1e-38, 40, 1e19, 3e38, np.inf, np.nan], np.float32)
    out = np.full_like(x, 7)
    fast_ops._gelu_block(x, out)
    expected = [0, 0, 0, 0, 0, 5e-39, 40, 1e19, 3e38, np.inf, np.nan]
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "inputs", "offered"),
    [
        ("layer_norm", ((1, 8, 6), (6,), (6,)), True),
        ("layer_norm", ((1, 9, 6), (6,), (6,)), False),
        ("gelu", ((fast_ops._BLOCK + 1,),), True),
        ("gelu", ((fast_ops._BLOCK,),), False),
    ],
)
def test_other_sizes_are_left_to_the_specification(
    kind: str, inputs: Any, offered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_offered(kind, inputs, inputs[0], TEAMS[1], monkeypatch) == offered


def both_attentions(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, n_head: int, team: Workers
) -> tuple[Any, Any]:
    t = q.shape[1]
    scratch = (min(t, 125), t)
    return both("attention", (q, k, v), (q.shape,), team, scratch, n_head=n_head)


def attention(scale: float, shape: tuple[int, int, int], n_head: int, team: Workers) -> float:
    """The largest error of attention over the largest value, with queries that much larger."""
    q, k, v = (randn(*shape, seed=i) for i in range(3))
    fast, spec = both_attentions(q * np.float32(scale), k, v, n_head, team)
    return float(np.abs(fast - spec).max() / np.abs(v).max())


@each_team
@pytest.mark.parametrize(
    ("shape", "n_head"), [((1, 30, 24), 3), ((2, 97, 15), 5), ((1, 500, 20), 2), ((1, 1, 8), 1)]
)
def test_attention(shape: tuple[int, int, int], n_head: int, team: Workers) -> None:
    # Scores are rounded on a scale of about 10, and weights sum to one.
    assert attention(1, shape, n_head, team) < 20 * EPS


@each_team
@pytest.mark.parametrize("scale", [40, 100, 1000])
def test_attention_with_scores_beyond_the_range_of_exponentials(
    scale: float, team: Workers
) -> None:
    # exp of the largest score is not finite, or that of a whole row nothing: the exact way is
    # taken. Errors are those of scores, which grow with them.
    assert attention(scale, (1, 130, 16), 2, team) < 20 * scale * EPS


def test_attention_gives_nan_where_the_specification_does() -> None:
    x = randn(1, 20, 8)
    x[0, 3, 2] = np.nan
    fast, spec = both_attentions(x, x, x, 2, TEAMS[1])
    assert np.isnan(spec).any()
    assert np.array_equal(np.isnan(fast), np.isnan(spec))


@each_team
@pytest.mark.parametrize("columns", [True, False])
def test_embed(columns: bool, team: Workers) -> None:
    table, positions = randn(50, 12), randn(16, 12, seed=1)
    tokens = np.array([[3, 49], [0, 3], [7, 7], [49, 1]])
    held = by_columns(table.shape, table.__getitem__) if columns else table
    # Of all sequences as one window, and of two windows.
    for position, places in (([5], [[5, 6]] * 4), ([9, 2], [[9, 10]] * 2 + [[2, 3]] * 2)):
        inputs = (tokens, held, positions, np.array(position))
        fast, spec = both("embed", inputs, ((4, 2, 12),), team)
        assert np.array_equal(fast, spec)
        assert np.array_equal(fast, table[tokens] + positions[np.array(places)])


@each_team
@pytest.mark.parametrize("slots", [[0], [2, 0, 3], [4], [1, 0]])
@pytest.mark.parametrize(("group", "n"), [(5, 1), (2, 1), (1, 4), (2, 3)])
def test_cross_attention(slots: list[int], group: int, n: int, team: Workers) -> None:
    h, t, dh = 3, 50, 8
    q = randn(len(slots) * group, n, h * dh)
    k, v = randn(5, h, t, dh, seed=1), randn(5, h, t, dh, seed=2)
    inputs, scratch = (q, k, v, np.array(slots)), (group * h * n * t,)
    fast, spec = both("cross_attention", inputs, (q.shape,), team, scratch, heads=())
    assert np.abs(fast - spec).max() < 20 * EPS * np.abs(v).max()


@pytest.mark.parametrize("group", [1, 2, 8, 9])
@pytest.mark.parametrize("heads", [(), (1,)])
def test_cross_attention_leaves_other_numbers_of_rows(
    group: int, heads: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each window, wherever it lies: in one slot of one, and two in some of twelve."""
    for windows, slots in ((1, 1), (2, 12)):
        q, k = (windows * group, 1, 8), (slots, 2, 10, 4)
        args = ("cross_attention", (q, k, k, (windows,)), q, TEAMS[0], monkeypatch)
        assert is_offered(*args, heads=heads) == (group in (2, 8) and not heads)


@pytest.mark.parametrize("shape", [(1, 1), (64, 3), (1000, 24)])
def test_by_columns_is_the_same_matrix_in_another_order(shape: tuple[int, int]) -> None:
    w = randn(*shape)
    turned = by_columns(w.shape, w.__getitem__)
    assert np.array_equal(turned, w)
    assert turned.T.flags.c_contiguous


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_model_says_the_same_with_fast_ops_and_without(
    precision: Precision, small_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load_checkpoint(small_directory)

    functions: list[tuple[str, ...]] = []

    def logits() -> np.ndarray:
        model = numpy_model(checkpoint, precision)
        session = model.decoder(model.encode(randn(2, 80, 60)), group=3)
        session.prefill([[1, 2, 3]] * 2, [2])
        stepped: np.ndarray = session.step([4, 5, 6, 7, 8, 9])
        copied: np.ndarray = stepped.copy()
        functions.append(model._decoder.step(2, 3).step.functions)
        return copied

    fast = logits()
    monkeypatch.setattr(fast_ops, "FAST", {})
    monkeypatch.setattr(weights, "by_columns", lambda shape, rows: rows(slice(None)))
    specified = logits()
    assert [any(".fast" in name for name in each) for each in functions] == [True, False]
    if precision == "int8":
        assert np.array_equal(fast, specified)
    else:
        assert np.abs(fast - specified).max() < 2e-5 * np.abs(specified).max()
