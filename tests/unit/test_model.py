"""The runtime against itself: caches, groups and batches give what a plain prefill gives."""

from __future__ import annotations

import gc
import itertools
import re
import weakref
from pathlib import Path

import numpy as np
import pytest

from whisper_npu.backends.opening import numpy_machine, numpy_model
from whisper_npu.model import builders
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.model.precision import PRECISIONS, Precision
from whisper_npu.ops.fixed import FRACTION
from whisper_npu.ops.probabilities import INTEGERS
from whisper_npu.runtime.caches import CrossCache, OwnCache
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.network import Network
from whisper_npu.runtime.session import DecoderSession
from whisper_npu.runtime.weights import Weights

TOKENS = np.random.RandomState(5).randint(0, 50, (2, 12))
# float32 rounding of a few dozen operations on values of order 1 to 10. Integers have none.
TOLERANCE = 2e-5


@pytest.fixture(params=PRECISIONS)
def model(small_checkpoint: Checkpoint, request: pytest.FixtureRequest) -> Model:
    return numpy_model(small_checkpoint, request.param)


def same(model: Model, found: np.ndarray, expected: np.ndarray) -> None:
    tolerance = 0 if model.precision == "int8" else TOLERANCE
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def random_states(model: Model, random: np.random.RandomState, n: int) -> np.ndarray:
    """States of ``n`` windows that no encoder made."""
    states = random.standard_normal((n, 30, 24)).astype(np.float32)
    return states if model.precision == "float32" else fixed(states)


def fixed(x: np.ndarray) -> np.ndarray:
    """Fixed-point numbers with FRACTION fraction bits."""
    return np.rint(x * 2.0**FRACTION).astype(np.int32)


@pytest.fixture
def states(model: Model) -> np.ndarray:
    return model.encode(np.random.RandomState(4).standard_normal((2, 80, 60)).astype(np.float32))


def full_logits(model: Model, states: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    session = model.decoder(states)
    return session.prefill(tokens, range(tokens.shape[1])).copy()


def test_a_batch_of_windows_is_each_window_alone(model: Model, states: np.ndarray) -> None:
    features = np.random.RandomState(4).standard_normal((2, 80, 60)).astype(np.float32)
    for index in range(2):
        alone = model.encode(features[index : index + 1])
        same(model, alone[0], states[index])


def test_encode_returns_a_fresh_array(model: Model) -> None:
    features = np.zeros((1, 80, 60), np.float32)
    first = model.encode(features)
    kept = first.copy()
    model.encode(features + 1)
    np.testing.assert_array_equal(first, kept)


def test_steps_continue_a_prefill(model: Model, states: np.ndarray) -> None:
    expected = full_logits(model, states, TOKENS)
    session = model.decoder(states)
    rows = session.prefill(TOKENS[:, :5], [0, 4])
    same(model, rows, expected[:, [0, 4]])
    for i in range(5, 12):
        assert session.position == i
        same(model, session.step(TOKENS[:, i]), expected[:, i])


@pytest.mark.parametrize("k", [1, 3])
def test_the_likeliest_tokens(model: Model, states: np.ndarray, k: int) -> None:
    session = model.decoder(states)
    opening = session.prefill(TOKENS[:, :5], [0, 4])[:, 1].copy()
    # What a prompt gave, what a step gave and a rule then changed, and that again in fewer windows.
    check_likeliest(session, opening, k)
    logits = session.step(TOKENS[:, 5])
    logits[:, 7:40] = -np.inf
    check_likeliest(session, logits, k)
    session.keep(np.array([1]))
    check_likeliest(session, session.step(TOKENS[1:, 6]), k)


def check_likeliest(session: DecoderSession, logits: np.ndarray, k: int) -> None:
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    wide = logits.astype(np.float64)
    tokens, logprobs = session.likeliest(logits, k)
    np.testing.assert_array_equal(tokens, expected)
    log_sums = np.log(np.exp(wide).sum(axis=1, keepdims=True))
    exact = np.take_along_axis(wide, expected, axis=1) - log_sums
    # That of integers is what ops.exponentials promises for a row of few tokens.
    tolerance = 8.4e-6 if session.probabilities is INTEGERS else 2e-6
    np.testing.assert_allclose(logprobs, exact, atol=tolerance)


def test_a_group_shares_its_audio_and_prompt(model: Model, states: np.ndarray) -> None:
    session = model.decoder(states, group=3)
    session.prefill(TOKENS[:, :5], [4])
    nexts = np.array([1, 2, 3, 4, 5, 6])
    logits = session.step(nexts).copy()
    for sequence, token in enumerate(nexts):
        audio = sequence // 3
        tokens = np.append(TOKENS[audio, :5], token)[None]
        expected = full_logits(model, states[audio : audio + 1].copy(), tokens)
        same(model, logits[sequence], expected[0, -1])


def test_reorder_moves_the_cache(model: Model, states: np.ndarray) -> None:
    session = model.decoder(states, group=3)
    session.prefill(TOKENS[:, :5], [4])
    session.step([1, 2, 3, 4, 5, 6])
    session.reorder([2, 0, 0, 5, 4, 3])
    logits = session.step([7] * 6).copy()
    for sequence, parent in enumerate([3, 1, 1, 6, 5, 4]):
        audio = sequence // 3
        tokens = np.concatenate([TOKENS[audio, :5], [parent, 7]])[None]
        expected = full_logits(model, states[audio : audio + 1].copy(), tokens)
        same(model, logits[sequence], expected[0, -1])


def test_reorder_across_audios_is_refused(model: Model, states: np.ndarray) -> None:
    session = model.decoder(states, group=2)
    session.prefill(TOKENS[:, :5], [4])
    with pytest.raises(ValueError, match="same audio"):
        session.reorder([2, 1, 0, 3])


def test_align_gives_all_logits_and_chosen_scores(model: Model, states: np.ndarray) -> None:
    one = states[:1].copy()
    expected = full_logits(model, one, TOKENS[:1])
    logits, scores = model.decoder(one).align(TOKENS[0], [(2, 1), (0, 0), (2, 0)])
    same(model, logits, expected[0])
    assert scores.shape == (3, 12, 30)
    _, single = model.decoder(one).align(TOKENS[0], [(2, 0)])
    np.testing.assert_array_equal(scores[2], single[0])
    _, other = model.decoder(one).align(TOKENS[0], [(2, 1)])
    np.testing.assert_array_equal(scores[0], other[0])


def test_new_states_replace_the_cross_cache(model: Model, states: np.ndarray) -> None:
    first = full_logits(model, states[:1].copy(), TOKENS[:1])
    second = full_logits(model, states[1:].copy(), TOKENS[:1])
    assert np.abs(first - second).max() > 100 * TOLERANCE
    again = full_logits(model, states[:1].copy(), TOKENS[:1])
    np.testing.assert_array_equal(first, again)


def test_batches_of_all_sizes_share_memory(
    model: Model, states: np.ndarray, small_checkpoint: Checkpoint
) -> None:
    """Each is what it is in a model of its own, whatever was decoded before."""
    three = np.concatenate([states, states[:1] // 2])
    tokens = np.random.RandomState(6).randint(0, 50, (3, 5))
    # Keys and values of one position in 3 layers of 24: bytes of the audio's, which BLAS reads as
    # floats, of the tokens'; and scales of all positions.
    integers, row = model.precision == "int8", 2 * 3 * 24
    cross, own, scales = (4 * row, 2 * row, 4 * row) if integers else (4 * row, 4 * row, 0)
    n_windows = n_sequences = 0
    # Grown are the sequences, the windows, both; then nothing.
    for shape in [(1, 1), (1, 4), (3, 1), (1, 4), (3, 2), (2, 1), (2, 3), (1, 1), (3, 2)]:
        n_audio, group = shape
        found = []
        three = (three * 0.9).astype(states.dtype)
        for of in (model, numpy_model(small_checkpoint, model.precision)):
            session = of.decoder(three[:n_audio], group)
            found.append(session.prefill(tokens[:n_audio], [4]).copy())
            found.append(session.step(np.arange(n_audio * group)).copy())
        np.testing.assert_array_equal(found[0], found[2])
        np.testing.assert_array_equal(found[1], found[3])
        n_windows = max(n_windows, n_audio)
        n_sequences = max(n_sequences, n_audio * group)
        expected = (30 * cross + scales) * n_windows + 16 * own * n_sequences
        # Integers lie at multiples of 64 bytes.
        assert expected <= cache_bytes(model) <= expected + (64 * 12 if integers else 0)


def cache_bytes(model: Model) -> int:
    """All that the plans that are kept have as keys and values."""
    arrays = {}
    for plans in model._decoder._made.values():
        states = [t.name for t in plans.step.graph.role("state")]
        for array in (plans.step._arrays[name] for name in states):
            base = array if array.base is None else array.base
            arrays[id(base)] = base.nbytes
    return sum(arrays.values())


def test_only_a_few_plans_are_kept(model: Model, states: np.ndarray) -> None:
    for group in range(15, 0, -1):
        model.decoder(states, group)
    made = model._decoder._made
    assert list(made) == [(2, group) for group in range(8, 0, -1)]
    # Those used last are kept.
    kept = made[2, 8]
    model.decoder(states, 8)
    model.decoder(states, 9)
    assert made[2, 8] is kept
    assert (2, 7) not in made


def test_the_cross_cache_of_a_window_is_computed_once(model: Model, states: np.ndarray) -> None:
    runs = model.machine.usage.runs
    for group in (1, 2, 1):
        model.decoder(states, group)
    # Window by window.
    assert runs["cross_kv"] == 2
    # Known alone, and in another place: then it is moved.
    model.decoder(states[:1])
    model.decoder([states[1]])
    assert runs["cross_kv"] == 2
    np.testing.assert_array_equal(model._cross.states["cross.0.k"][0], cross_keys(model, states[1]))
    # The other one's place is taken.
    model.decoder([states[1], states[0]])
    assert runs["cross_kv"] == 3
    np.testing.assert_array_equal(model._cross.states["cross.0.k"][1], cross_keys(model, states[0]))
    same = states.copy()
    model.decoder(same)
    model.decoder(same)
    assert runs["cross_kv"] == 5
    # An observer is to see all of it.
    model.decoder(same, observe=lambda name, array: None)
    assert runs["cross_kv"] == 7


def test_cross_keys_and_values_lie_side_by_side(model: Model, states: np.ndarray) -> None:
    model.decoder(states)
    caches = list(model._cross.states.values())
    # Of integers, with their scales.
    parts = 2 if model.precision == "float32" else 4
    assert len(caches) == parts * model.dims.n_text_layer
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(caches, 2))


def cross_keys(model: Model, window: np.ndarray) -> np.ndarray:
    """Keys of the first layer, computed anew."""
    network = model._network
    fresh = CrossCache(network, 1)
    before = network.machine.usage.runs["cross_kv"]
    fresh.fill([window.copy()])
    network.machine.usage.runs["cross_kv"] = before
    return fresh.states["cross.0.k"][0]


@pytest.mark.parametrize("kept", [[0], [1], [3], [0, 2], [1, 3], [0, 1, 3], [2, 3]])
def test_some_windows_of_a_batch_go_on(
    small_checkpoint: Checkpoint, model: Model, kept: list[int]
) -> None:
    random = np.random.RandomState(2)
    states = random_states(model, random, 4)
    n, group = len(kept), 3
    tokens = random.randint(0, 50, (4, 5))
    nexts = random.randint(0, 50, (4, 4, group))
    order = np.array([[1, 0, 2], [0, 0, 0], [2, 1, 1], [2, 0, 1]])

    session = model.decoder(states, group)
    session.prefill(tokens, [4])
    session.step(nexts[0].ravel())
    session.reorder((order + 3 * np.arange(4)[:, None]).ravel())
    session.step(nexts[1].ravel())
    session.keep(np.array(kept))
    assert (session.n_audio, session.group, session.position) == (n, group, 7)
    found = [session.step(nexts[2, kept].ravel()).copy()]
    session.reorder((order[kept] + 3 * np.arange(n)[:, None]).ravel())
    found.append(session.step(nexts[3, kept].ravel()).copy())

    other = numpy_model(small_checkpoint, model.precision)
    alone = other.decoder(states[kept].copy(), group)
    alone.prefill(tokens[kept], [4])
    alone.step(nexts[0, kept].ravel())
    alone.reorder((order[kept] + 3 * np.arange(n)[:, None]).ravel())
    alone.step(nexts[1, kept].ravel())
    expected = [alone.step(nexts[2, kept].ravel()).copy()]
    alone.reorder((order[kept] + 3 * np.arange(n)[:, None]).ravel())
    expected.append(alone.step(nexts[3, kept].ravel()).copy())
    # Rows of float32 products are added up in an order that depends on how many there are.
    same(model, np.array(found), np.array(expected))
    # Windows that left are computed again when they are asked for.
    again = model.decoder(states, 1)
    other = numpy_model(small_checkpoint, model.precision)
    expected_logits = other.decoder(states.copy(), 1).prefill(tokens, [4])
    np.testing.assert_array_equal(again.prefill(tokens, [4]), expected_logits)


def test_what_sequences_have_in_common_is_not_copied(
    model: Model, states: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[tuple[list[int], list[int], int, int]] = []
    copy = OwnCache.copy

    def keep_account(
        self: OwnCache, source: np.ndarray, target: np.ndarray, start: int, stop: int
    ) -> None:
        copied.append((source.tolist(), target.tolist(), start, stop))
        copy(self, source, target, start, stop)

    session = model.decoder(states, group=2)
    session.prefill(TOKENS[:, :5], [4])
    monkeypatch.setattr(OwnCache, "copy", keep_account)
    session.reorder([1, 0, 2, 3])  # still the same
    assert copied == []
    session.step([1, 2, 3, 4])
    session.reorder([0, 0, 3, 2])
    assert copied == [([0], [1], 5, 6), ([3, 2], [2, 3], 5, 6)]
    copied.clear()
    session.step([1, 2, 3, 4])
    session.step([1, 2, 3, 4])
    session.reorder([1, 0, 3, 3])
    # The first two were one until then, the others were not.
    assert copied == [([1, 0], [0, 1], 6, 8), ([3], [2], 5, 8)]


@pytest.mark.parametrize("group", [1, 2, 5])
def test_any_order_any_time(model: Model, group: int) -> None:
    """Caches after many reorderings are those of sequences that were fed all tokens one by one."""
    random = np.random.RandomState(group)
    states = random_states(model, random, 2)
    for _ in range(6):
        session = model.decoder(states, group)
        prompt = random.randint(0, 50, (2, 3))
        session.prefill(prompt, [2])
        said = [list(prompt[i // group]) for i in range(2 * group)]
        for _ in range(9):
            if random.rand() < 0.7:
                order = random.randint(0, group, 2 * group) + np.repeat([0, group], group)
                session.reorder(order)
                said = [list(said[i]) for i in order]
            tokens = random.randint(0, 50, 2 * group)
            logits = session.step(tokens).copy()
            said = [[*s, t] for s, t in zip(said, tokens, strict=True)]
        for sequence, fed in enumerate(said):
            window = states[sequence // group][None].copy()
            expected = full_logits(model, window, np.array([fed]))
            same(model, logits[sequence], expected[0, -1])


def test_memory_is_given_back_without_the_garbage_collector(
    small_checkpoint: Checkpoint,
) -> None:
    model = numpy_model(small_checkpoint)
    model.log_mel(np.zeros(560, np.float32))
    states = model.encode(np.zeros((2, 80, 60), np.float32))
    session = model.decoder(states, 2)
    session.prefill(TOKENS[:, :5], [4])
    session.step([1, 2, 3, 4])
    session.keep(np.array([1]))
    kept = [model, model._network, model._cross, model._own, session, session._plans]
    kept += [session._plans.step, model._encoder._made[2], model._cross.states["cross.0.k"]]
    alive = [weakref.ref(thing) for thing in kept]
    del kept
    gc.collect()
    gc.disable()
    try:
        del model
        # A session is enough to go on.
        session.step([1, 2])
        del session
        assert [ref() for ref in alive] == [None] * len(alive)
    finally:
        gc.enable()


@pytest.mark.parametrize("tokens", [[[50]], [[-1]]])
def test_token_ids_outside_the_vocabulary(
    model: Model, states: np.ndarray, tokens: list[list[int]]
) -> None:
    with pytest.raises(ValueError, match="token id"):
        model.decoder(states[:1]).prefill(tokens, [0])


def test_a_full_context_is_an_error(model: Model, states: np.ndarray) -> None:
    session = model.decoder(states[:1])
    session.prefill(np.zeros((1, 16), int), [15])
    with pytest.raises(ValueError, match="full"):
        session.step([1])
    with pytest.raises(ValueError, match="does not fit"):
        session.prefill(np.zeros((1, 17), int), [0])


def test_observer_sees_every_op(small_checkpoint: Checkpoint) -> None:
    model = numpy_model(small_checkpoint)
    seen: dict[str, tuple[int, ...]] = {}
    model.encode(
        np.zeros((1, 80, 60), np.float32), lambda name, array: seen.update({name: array.shape})
    )
    assert list(seen)[:3] == ["frames", "conv1", "conv1.gelu"]
    assert seen["encoder.1.residual"] == (1, 30, 24)
    assert list(seen)[-1] == "states"


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0])


def tiny(precision: Precision) -> Network:
    """A network of which nothing is run."""
    return Network(KNOWN_DIMENSIONS["tiny"], precision, Weights({}), {}, numpy_machine())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_cache_takes_memory_as_texts_grow(precision: Precision) -> None:
    network = tiny(precision)
    builders.build_step(network.dims, precision=precision)
    before = resident_bytes()
    cache = OwnCache(network, 8)
    assert len(cache.states) == 8
    for array in cache.states.values():
        assert not array.any(axis=(0, 1, 3))[:1]
        array[:, :, :16] = 1
    # A position takes 256 bytes of a head, or 128, and a page has 16 of them, or 32.
    assert resident_bytes() - before < cache._all.nbytes / 8
    assert cache._all.shape == (8, 8, 6, 448, 64)


def test_a_cache_is_written_anywhere_and_copied() -> None:
    cache = OwnCache(tiny("float32"), 3)
    cache._all[:] = np.arange(3, dtype=np.float32)[None, :, None, None, None]
    cache.copy(np.array([2]), np.array([0]), 5, 7)
    values = cache.states["self.0.k"][0, 0, :, 0]
    assert values[4:8].tolist() == [0, 2, 2, 0]
