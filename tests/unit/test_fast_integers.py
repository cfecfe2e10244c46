"""Every fast op of the integer network against its specification: the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.unit.ops_int.inputs import halves, numbers, scales
from whisper_npu.backends.numpy import fast as fast_ops
from whisper_npu.backends.numpy import fast_attention_int, fast_products, fast_rows
from whisper_npu.backends.numpy.specification import specify
from whisper_npu.model.graph import Attr, Graph, Op, Tensor
from whisper_npu.ops import rows
from whisper_npu.ops.arrays import F32, I32
from whisper_npu.ops.fixed import LARGEST
from whisper_npu.runtime.backend import Bound, Offer
from whisper_npu.runtime.workers import Workers, find_blas

TEAMS = [Workers(1, None), Workers(3, find_blas())]
each_team = pytest.mark.parametrize("team", TEAMS, ids=lambda team: f"{team.threads} threads")
Array = np.ndarray[Any, Any]
Shapes = tuple[tuple[int, ...], ...]


def make_op(kind: str, inputs: int, outputs: int, **attrs: Attr) -> Op:
    ins, outs = (tuple(f"{of}{i}" for i in range(n)) for of, n in (("x", inputs), ("y", outputs)))
    return Op("op", kind, ins, outs, tuple(sorted(attrs.items())))


def offer_of(
    kind: str,
    inputs: list[tuple[tuple[int, ...], str]],
    outputs: list[tuple[tuple[int, ...], str]],
    **attrs: Attr,
) -> Offer | None:
    """What fast NumPy offers for an op of tensors of these shapes and types."""
    op = make_op(kind, len(inputs), len(outputs), **attrs)
    tensors = [
        *(Tensor(n, *each, "input") for n, each in zip(op.inputs, inputs, strict=True)),
        *(Tensor(n, *each, "output") for n, each in zip(op.outputs, outputs, strict=True)),
    ]
    offer = fast_ops.FastNumPy().offer(Graph("g", tuple(tensors), (op,)), 0)
    return offer if isinstance(offer, Offer) else None


def check(
    kind: str,
    inputs: list[Array],
    outputs: list[Array],
    team: Workers,
    monkeypatch: pytest.MonkeyPatch,
    **attrs: Attr,
) -> None:
    """The fast op is offered and gives the bits of the specification, twice."""
    monkeypatch.setattr(fast_ops, "workers", lambda: team)
    described = ([(x.shape, str(x.dtype)) for x in arrays] for arrays in (inputs, outputs))
    offer = offer_of(kind, *described, **attrs)
    assert offer is not None
    memory = None if offer.scratch is None else np.full(offer.scratch, np.nan, np.float32)
    expected = [np.zeros_like(x) for x in outputs]
    specify(Bound.of(offer.ops[0], inputs, expected))()
    step = offer.bind(Bound.of(offer.ops[0], inputs, outputs, memory))
    for _ in range(2):  # nothing may be left behind that changes the second run
        for output in outputs:
            output.fill(77)
        step()
        for output, right in zip(outputs, expected, strict=True):
            assert np.array_equal(output, right)


def product_inputs(
    rng: np.random.Generator, m: int, k: int, n: int, bits: int
) -> tuple[Array, Array]:
    """Rows and weights, one of each as large as they get."""
    largest = rows.limit(bits, k)
    x = rng.integers(-largest, largest + 1, (m, k)).astype(f"int{bits}")
    w = rng.integers(-127, 128, (n, k)).astype(np.float32)
    w[0] = rng.choice([-127, 127])
    x[rng.integers(m)] = largest
    # A sum that is odd.
    w[0, -1] = 126
    return x, w


@each_team
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("m", [1, 5, 8, 9, 40, 63, 64, 700])
@pytest.mark.parametrize(
    ("k", "n", "form"),
    [
        (7, 5, "int8"),
        (384, 70, "F"),
        (1024, 33, "C"),
        (1030, 20, "F"),
        (3000, 9, "C"),
        (5, 9000, "F"),
    ],
)
def test_product(
    m: int, k: int, n: int, form: str, bits: int, team: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(m + k)
    x, w = product_inputs(rng, m, k, n, bits)
    held: Array = w.astype(np.int8) if form == "int8" else np.asarray(w, order=form)  # type: ignore[call-overload]
    x_scale, w_scale = scales(rng, m, 8, -25, -15), scales(rng, n, 14, -25, -20)
    bias = numbers(rng, (n,), 20)
    for rest in ([], [bias]):
        inputs = [x[None], x_scale[None], held, w_scale, *rest]
        check("product_int8", inputs, [np.empty((1, m, n), np.int32)], team, monkeypatch)


@each_team
@pytest.mark.parametrize("m", [1, 40, 70])
def test_product_that_saturates(m: int, team: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(m)
    x, w = product_inputs(rng, m, 300, 40, 16)
    x_scale, w_scale = scales(rng, m, 8, -20, 3), scales(rng, 40, 14, -25, -8)
    bias = numbers(rng, (40,))
    out = np.empty((m, 40), np.int32)
    check("product_int8", [x, x_scale, w, w_scale, bias], [out], team, monkeypatch)
    assert (np.abs(out) == LARGEST).any()
    assert (np.abs(out) < LARGEST).any()


def test_a_product_whose_bias_saturates(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = np.ones((70, 4), np.int16), np.ones((3, 4), np.float32)
    one = np.full(70, 2.0**-12, np.float32)
    bias = np.array([LARGEST, LARGEST - 3, -LARGEST], np.int32)
    for m in (1, 70):
        out = np.empty((m, 3), np.int32)
        inputs = [x[:m], one[:m], w, one[:3] * 2**12, bias]
        check("product_int8", inputs, [out], TEAMS[0], monkeypatch)
        assert out[0].tolist() == [LARGEST, LARGEST, 4 - LARGEST]


@each_team
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("m", "k"), [(1, 384), (8, 16), (3, 5120), (400, 384), (9, 9000)])
def test_rows(m: int, k: int, bits: int, team: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(m)
    for x in (numbers(rng, (m, k)), halves(rng, m, k, bits), numbers(rng, (m, k), 14)):
        values, scale = np.empty((1, m, k), f"int{bits}"), np.empty((1, m), np.float32)
        for kind, attrs in (("quantize_int32", {"fraction": 16}), ("rms_norm", {})):
            check(kind, [x[None]], [values, scale], team, monkeypatch, bits=bits, **attrs)


@each_team
def test_gelu(team: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    near = np.arange(-20000, 20000, dtype=np.int32)
    x = np.concatenate([near, numbers(np.random.default_rng(0), (300, 300)).ravel()])
    check("gelu_int32", [x], [np.empty_like(x)], team, monkeypatch)
    apart, over = np.empty_like(x), x.copy()
    for target, out in ((x, apart), (over, over)):
        fast_rows.gelu_part(target, out, slice(0, x.size))
    assert np.array_equal(apart, over)


@each_team
@pytest.mark.parametrize("bits", [20, 31])
def test_add(bits: int, team: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(bits)
    x, y = (numbers(rng, (2, 200, 300), bits) for _ in range(2))
    # The first block saturates and the second does not, or none does.
    x[1] >>= 4
    out, cut = np.empty_like(x), np.empty((), np.int32)
    check("add_int32", [x, y], [out, cut], team, monkeypatch)
    assert (np.abs(out) == LARGEST).any() == (bits == 31) == cut


@each_team
@pytest.mark.parametrize("place", [0, 70_000, 119_999])
def test_a_sum_of_which_one_element_is_cut(
    place: int, team: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.ones(120_000, np.int32)
    y, out, cut = x.copy(), x.copy(), np.empty((), np.int32)
    for less in (0, 1):
        y[place] = LARGEST - 1 - less
        check("add_int32", [x, y], [out, cut], team, monkeypatch)
        assert cut == 1 - less


def heads(rng: np.random.Generator, bits: float, shape: tuple[int, ...]) -> I32:
    """As a model has them, rows of several sizes."""
    size = 2.0 ** rng.uniform(bits - 3, bits, (*shape[:-1], 1))
    wide = np.rint(size * rng.standard_normal(shape))
    return wide.clip(-LARGEST, LARGEST).astype(np.int32)


@each_team
@pytest.mark.parametrize("kind", ["attention_int32", "attention_int8"])
@pytest.mark.parametrize("bits", [(13, 14), (9, 12), (24, 20), (31, 31)])
@pytest.mark.parametrize(
    ("b", "t", "n_head", "d_head"), [(1, 300, 2, 64), (2, 97, 3, 20), (1, 1, 1, 4)]
)
def test_window_attention(
    kind: str,
    b: int,
    t: int,
    n_head: int,
    d_head: int,
    bits: tuple[int, int],
    team: Workers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(t)
    shape = (b, t, n_head * d_head)
    q, k, v = heads(rng, bits[0], shape), heads(rng, bits[1], shape), numbers(rng, shape)
    out = np.empty(shape, np.int32)
    check(kind, [q, k, v], [out], team, monkeypatch, n_head=n_head)
    largest = [np.full(shape, LARGEST, np.int32)] * 3
    largest[0] = largest[0] * rng.choice([-1, 1], shape).astype(np.int32)
    check(kind, largest, [out], team, monkeypatch, n_head=n_head)


@each_team
def test_window_attention_in_bytes_over_many_keys(
    team: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of weighted values that float32 holds of 512 keys, and not of all."""
    t = 1101
    q, k = np.ones((2, 1, t, 4), np.int32)
    v = np.full((1, t, 4), 127, np.int32) << 15
    v[0, ::7, 1], v[0, 3, 2], v[..., 3] = -126 << 15, 126 << 15, -v[..., 3]
    # Each sum is odd, and one more of it is one more of the output at least.
    sums = 255 * (v[0].astype(np.int64) >> 15).sum(axis=0)
    assert (np.abs(sums[[0, 2, 3]]) > 2**25).all()
    assert 255 * t < 2 ** (15 + 4)
    check("attention_int8", [q, k, v], [np.empty_like(v)], team, monkeypatch, n_head=1)


@each_team
def test_window_attention_in_bytes_of_wide_heads(
    team: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of products that float32 just holds; a wider head is left to the specification."""
    width = fast_attention_int.WIDEST_INT8
    assert 127**2 * width < 2**24 <= 127**2 * (width + 1)
    assert 255 * 127 * fast_attention_int._EXACT_KEYS < 2**24
    for d_head, offered in ((width, True), (width + 1, False)):
        x: list[tuple[tuple[int, ...], str]] = [((1, 40, 2 * d_head), "int32")]
        assert (offer_of("attention_int8", x * 3, x, n_head=2) is not None) == offered
    # The first key is eight units of log2 ahead of the others, for all queries.
    rng = np.random.default_rng(0)
    k = np.full((1, 40, width), 127, np.int32)
    k[0, 1:] -= rng.integers(0, 3, (39, width)).astype(np.int32)
    q, k, v = k << 6, k << 4, numbers(rng, k.shape)
    check("attention_int8", [q, k, v], [np.empty_like(q)], team, monkeypatch, n_head=1)


def cached(
    rng: np.random.Generator, audios: int, h: int, t: int, dh: int
) -> tuple[F32, F32, list[F32]]:
    """Keys and values of the audio as floats hold them, and their scales."""
    k, v = rng.integers(-127, 128, (2, audios, h, t, dh)).astype(np.float32)
    k[0, 0, 0], v[0, 0] = 127, 127
    exponents = rng.integers(-12, 3, (2, audios, h, dh))
    return k, v, list(np.ldexp(1.0, exponents).astype(np.float32))


@pytest.mark.parametrize("bits", [9, 13, 31])
@pytest.mark.parametrize(
    ("slots", "group", "n", "t", "dh"),
    [
        ([0], 1, 1, 1500, 64),
        ([0], 5, 1, 90, 64),
        ([2, 0, 3], 2, 1, 50, 8),
        ([0], 1, 4, 2064, 8),
        ([1, 0], 2, 3, 9, 512),
    ],
)
def test_attention_to_the_audio(
    slots: list[int],
    group: int,
    n: int,
    t: int,
    dh: int,
    bits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng, h, slot = np.random.default_rng(t), 3, np.array(slots)
    q = heads(rng, bits, (len(slots) * group, n, h * dh))
    k, v, found = cached(rng, max(slots) + 1, h, t, dh)
    out = np.empty_like(q)
    inputs = [q, k, v, *found, slot]
    check("cross_attention_int32", inputs, [out], TEAMS[0], monkeypatch, heads=())
    # All queries, keys, weights and values as large as they get.
    ones = [np.full_like(x, 1) for x in found]
    q[:], k[:], v[:] = LARGEST, 127, 127
    inputs = [q, k, v, *ones, slot]
    check("cross_attention_int32", inputs, [out], TEAMS[0], monkeypatch, heads=())


@each_team
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_columns(dtype: str, team: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = np.ascontiguousarray(numbers(rng, (2, 5 * 8, 1000)).transpose(0, 2, 1))
    outputs = [np.empty((2, 5, 1000, 8), dtype), np.empty((2, 5, 8), np.float32)]
    check("quantize_columns", [x], outputs, team, monkeypatch, n_head=5)


def test_attention_to_the_audio_leaves_what_float32_does_not_hold() -> None:
    def offered(n: int, t: int, dh: int, heads: tuple[int, ...] = (), slots: int = 1) -> bool:
        q, states, found = (1, n, 2 * dh), (slots, 2, t, dh), (slots, 2, dh)
        inputs = [q, states, states, found, found, (1,)]
        types = ["int32", "int8", "int8", "float32", "float32", "int64"]
        described = list(zip(inputs, types, strict=True))
        return offer_of("cross_attention_int32", described, [(q, "int32")], heads=heads) is not None

    assert offered(8, 2064, 512)
    assert not offered(9, 2064, 512)
    assert offered(8, 2064, 512, slots=4)
    assert not offered(9, 2064, 512, slots=4)
    assert not offered(8, 2065, 512)
    assert not offered(8, 2064, 513)
    assert not offered(8, 2064, 512, (0,))
    # Every sum of products is below 2**24, and of none larger can that be said.
    radix = int(fast_attention_int._RADIX)
    assert (
        64 * 127 * fast_attention_int.LONGEST < 2**24 <= 64 * 127 * (fast_attention_int.LONGEST + 1)
    )
    assert 2**15 // radix * 127 * fast_attention_int.WIDEST < 2**24
    assert 128 * 127 * fast_products._EXACT_K < 2**24


def test_small_tensors_are_left_to_the_specification() -> None:
    side = fast_rows.BLOCK // 8

    def rows_offered(m: int, k: int) -> bool:
        described = [((m, k), "int32")], [((m, k), "int8"), ((m,), "float32")]
        offers = [
            offer_of("rms_norm", *described, bits=8),
            offer_of("quantize_int32", *described, bits=8, fraction=12),
        ]
        assert (offers[0] is None) == (offers[1] is None)
        return offers[0] is not None

    assert rows_offered(8, 3)
    assert not rows_offered(9, 3)
    assert rows_offered(9, side)
    for m in (8, 9):
        x, one_row = ((m, side), "int32"), ((side,), "int32")
        assert (offer_of("gelu_int32", [x], [x]) is not None) == (m == 9)
        outputs = [x, ((), "int32")]
        assert (offer_of("add_int32", [x, x], outputs) is not None) == (m == 9)
        assert offer_of("add_int32", [x, one_row], outputs) is None
