"""The runtime against itself: caches, groups and batches give what a plain prefill gives."""

from __future__ import annotations

import gc
import itertools
import re
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.unit.random_sessions import check_together, random_states
from whisper_npu.backends.opening import numpy_machine, numpy_model
from whisper_npu.model import builders
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.model.graph_builder import CacheRoom
from whisper_npu.model.precision import PRECISIONS, Precision
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
        assert session.positions.tolist() == [i, i]
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
    with pytest.raises(ValueError, match="same window"):
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
    n_windows = n_members = 0
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
        if n_audio > n_windows:
            # More are added by eights.
            n_windows = 8 if n_windows else n_audio
        n_members = max(n_members, group)
        assert model._decoder.room == (n_windows, n_members)
        expected = (30 * cross + scales + 16 * own * n_members) * n_windows
        # Integers lie at multiples of 64 bytes.
        assert expected <= cache_bytes(model) <= expected + (64 * 12 if integers else 0)


def cache_bytes(model: Model) -> int:
    """All that the plans that are kept have as keys and values: the caches as they are now."""
    arrays = {}
    decoder = model._decoder
    steps = [plans.step for plans in decoder._steps._made.values()]
    cross = [plan for plan in decoder._cross._plans if plan is not None]
    for plan in (*steps, *decoder._prefills._made.values(), *cross):
        for array in (plan._arrays[t.name] for t in plan.graph.role("state")):
            base = array if array.base is None else array.base
            arrays[id(base)] = base.nbytes
    return sum(arrays.values())


def test_only_a_few_plans_are_kept(model: Model, states: np.ndarray) -> None:
    model._decoder.reserve(2, 20)
    for group in range(20, 0, -1):
        model.decoder(states, group).step([1] * 2 * group)
    made = model._decoder._steps._made
    assert list(made) == [(2, group) for group in range(16, 0, -1)]
    # Those used last are kept.
    kept = made[2, 16]
    for group in (16, 17):
        model.decoder(states, group).step([1] * 2 * group)
    assert made[2, 16] is kept
    assert (2, 15) not in made
    for n_tokens in range(1, 13):
        model.decoder(states).prefill(TOKENS[:, :n_tokens], [0])
    prefills = model._decoder._prefills._made
    assert list(prefills) == [(2, n_tokens, 1) for n_tokens in range(5, 13)]


def test_the_cross_cache_of_a_window_is_computed_once(model: Model, states: np.ndarray) -> None:
    runs = model.machine.usage.counts.runs
    for group in (1, 2, 1):
        model.decoder(states, group)
    # Window by window.
    assert runs["cross_kv"] == 2
    # Known alone, and in another order: each where it lies.
    for of, slots in (([0], [0]), ([1], [1]), ([1, 0], [1, 0])):
        session = model.decoder([states[window] for window in of])
        assert session._slots.tolist() == slots
        check_cross_keys(model, session, states[of])
        del session
    assert runs["cross_kv"] == 2
    same = states.copy()
    model.decoder(same)
    model.decoder(same)
    assert runs["cross_kv"] == 4
    # An observer is to see all of it.
    model.decoder(same, observe=lambda name, array: None)
    assert runs["cross_kv"] == 6
    # The places of these were taken.
    model.decoder(states)
    assert runs["cross_kv"] == 8
    assert model._decoder.room == (2, 2)


def test_a_window_that_is_known_keeps_its_slot(model: Model, states: np.ndarray) -> None:
    """Also when another one comes before it, whichever slot is the next to be given away."""
    runs = model.machine.usage.counts.runs
    for known in range(2):
        model.decoder(states)
        before = runs["cross_kv"]
        model.decoder([states[0].copy(), states[known]])
        assert runs["cross_kv"] == before + 1


def test_a_window_in_use_is_copied_to_another_slot(model: Model, states: np.ndarray) -> None:
    session = model.decoder(states)
    expected = session.prefill(TOKENS[:, :5], range(5)).copy()
    other = model.decoder([states[1], states[0], states[1]])
    assert model.machine.usage.counts.runs["cross_kv"] == 2
    assert len({*session._slots.tolist(), *other._slots.tolist()}) == 5
    check_cross_keys(model, other, states[[1, 0, 1]])
    found = other.prefill(TOKENS[[1, 0, 1], :5], range(5))
    same(model, found, expected[[1, 0, 1]])
    # Where it is free, it is not copied from where it is in use.
    del session
    assert model.decoder(states)._slots.tolist() == [0, 1]
    # Known where it was copied to, too.
    del other
    again = [model.decoder([states[1]]) for _ in range(3)]
    assert model.machine.usage.counts.runs["cross_kv"] == 2
    assert sorted(int(each._slots[0]) for each in again) == sorted(
        index
        for index, source in enumerate(model._decoder._cross._sources)
        if source is not None and source.ctypes.data == states[1].ctypes.data
    )


def test_a_slot_that_was_given_back_is_used_again(model: Model) -> None:
    windows = random_states(model, np.random.RandomState(3), 5)
    runs, cross = model.machine.usage.counts.runs, model._decoder._cross
    model._decoder.reserve(3, 1)
    held = [model.decoder(windows[i : i + 1]) for i in range(3)]
    assert [each._slots.tolist() for each in held] == [[0], [1], [2]]
    assert (runs["cross_kv"], cross.n_free) == (3, 0)
    # A window that was in a slot that is free has that slot again.
    del held[2]
    del held[0]
    assert cross.n_free == 2
    first = model.decoder(windows[:1])
    assert (first._slots.tolist(), runs["cross_kv"]) == ([0], 3)
    del first
    # Others have the one that was given back first.
    for window, slot in ((3, 2), (4, 0)):
        held.append(model.decoder(windows[window : window + 1]))
        assert held[-1]._slots.tolist() == [slot]
        check_cross_keys(model, held[-1], windows[window : window + 1])
    assert (runs["cross_kv"], cross.n_free, cross.slots) == (5, 0, 3)
    # The one in the middle stayed what it was.
    check_cross_keys(model, held[0], windows[1:2])
    # What ``keep`` leaves behind is free at once; what a session has joined is not.
    held[0].join(held.pop())
    held[0].join(held.pop())
    assert (held[0]._slots.tolist(), cross.n_free) == ([1, 0, 2], 0)
    held[0].keep(np.array([2, 0]))
    assert (held[0]._slots.tolist(), cross._free) == ([2, 1], [0])


@pytest.mark.parametrize("asked", ["the old windows", "the new ones"])
def test_a_slot_in_which_a_part_was_computed_has_no_window(
    model: Model, states: np.ndarray, asked: str
) -> None:
    """An error gives the slot back, and neither the new nor the old window is known there."""
    other = (states * 0.5).astype(states.dtype)
    windows = states if asked == "the old windows" else other
    expected = full_logits(model, windows.copy(), TOKENS)
    model.decoder(states)
    seen: list[str] = []

    def fail(name: str, array: np.ndarray) -> None:
        seen.append(name)
        if name.startswith("cross.1"):
            raise KeyboardInterrupt

    for count in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            model.decoder(other, observe=fail)
        assert sum(name.startswith("cross.0") for name in seen) >= 2 * count
        assert model._decoder._cross.n_free == 2
    same(model, full_logits(model, windows, TOKENS), expected)


def test_cross_keys_and_values_lie_side_by_side(model: Model, states: np.ndarray) -> None:
    model.decoder(states)
    caches = list(model._decoder._cross.states.values())
    # Of integers, with their scales.
    parts = 2 if model.precision == "float32" else 4
    assert len(caches) == parts * model.dims.n_text_layer
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(caches, 2))


def check_cross_keys(model: Model, session: DecoderSession, windows: np.ndarray) -> None:
    """Keys, values and scales of a session's windows are those that are computed anew."""
    network = model._network
    before = network.machine.usage.counts.runs["cross_kv"]
    for slot, window in zip(session._slots.tolist(), windows, strict=True):
        fresh = CrossCache(network)
        fresh.grow(1)
        fresh.claim(window.copy())
        for name, cache in model._decoder._cross.states.items():
            np.testing.assert_array_equal(cache[slot], fresh.states[name][0])
    network.machine.usage.counts.runs["cross_kv"] = before


@pytest.mark.parametrize(
    "kept", [[0], [1], [3], [0, 2], [1, 3], [0, 1, 3], [2, 3], [3, 1], [2, 0, 3]]
)
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
    assert (session.n_audio, session.group) == (n, group)
    assert session.positions.tolist() == [7] * n
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
    # Windows that left are known when they are asked for, and those that did not are copied.
    before = model.machine.usage.counts.runs["cross_kv"]
    again = model.decoder(states, 1)
    assert model.machine.usage.counts.runs["cross_kv"] == before == 4
    other = numpy_model(small_checkpoint, model.precision)
    expected_logits = other.decoder(states.copy(), 1).prefill(tokens, [4])
    np.testing.assert_array_equal(again.prefill(tokens, [4]), expected_logits)


@pytest.mark.parametrize("group", [1, 3])
def test_sessions_join(model: Model, small_checkpoint: Checkpoint, group: int) -> None:
    """At positions of their own, with what their sequences have in common."""
    random = np.random.RandomState(8)
    states = random_states(model, random, 3)
    prompts = [random.randint(0, 50, (2, 3)), random.randint(0, 50, (1, 6))]
    nexts = random.randint(0, 50, (4, 3, group))
    order = random.randint(0, group, (4, 3, group))

    def begin(of: Model, windows: list[int], prompt: np.ndarray) -> DecoderSession:
        session = of.decoder([states[window] for window in windows], group)
        session.prefill(prompt, [0])
        return session

    def go_on(session: DecoderSession, at: int, windows: list[int]) -> np.ndarray:
        places = np.arange(len(windows))[:, None]
        session.reorder((order[at, windows] + group * places).ravel())
        logits: np.ndarray = session.step(nexts[at, windows].ravel()).copy()
        return logits.reshape(len(windows), group, -1)

    session, one = begin(model, [0, 1], prompts[0]), begin(model, [2], prompts[1])
    go_on(session, 0, [0, 1])
    go_on(one, 0, [2])
    go_on(session, 1, [0, 1])
    session.join(one)
    del one
    assert (session.n_audio, session.positions.tolist()) == (3, [5, 5, 7])
    all_three = go_on(session, 2, [0, 1, 2])
    session.keep(np.array([2, 0]))
    assert (session.n_audio, session.positions.tolist()) == (2, [8, 6])
    the_last, the_first = go_on(session, 3, [2, 0])

    other = numpy_model(small_checkpoint, model.precision)
    for window, prompt in ((0, prompts[0][:1]), (1, prompts[0][1:]), (2, prompts[1])):
        alone = begin(other, [window], prompt)
        for at in (0, 1, 2) if window < 2 else (0, 2):
            expected = go_on(alone, at, [window])
        same(model, all_three[window], expected[0])
        if window != 1:
            found = the_first if window == 0 else the_last
            same(model, found, go_on(alone, 3, [window])[0])


@pytest.mark.parametrize("group", [1, 3])
def test_sessions_that_join_at_random(
    model: Model, small_checkpoint: Checkpoint, group: int
) -> None:
    other = numpy_model(small_checkpoint, model.precision)
    tolerance = 0 if model.precision == "int8" else TOLERANCE
    check_together(model, other, np.random.RandomState(20 + group), group, tolerance)


def test_another_group_cannot_join(model: Model, states: np.ndarray) -> None:
    sessions = [model.decoder(states[:1], 2), model.decoder(states[1:], 3)]
    for session, row in zip(sessions, TOKENS, strict=True):
        session.prefill(row[None, :5], [4])
    for a, b in (sessions, sessions[::-1]):
        with pytest.raises(ValueError, match=f"{b.group} sequences cannot join one of {a.group}"):
            a.join(b)
    # Both are what they were.
    for window, session in enumerate(sessions):
        assert (session.n_audio, session.positions.tolist()) == (1, [5])
        logits = session.step(TOKENS[window, [5] * session.group]).copy()
        expected = full_logits(model, states[[window]], TOKENS[[window], :6])
        same(model, logits, expected[0, [-1] * session.group])


@pytest.mark.parametrize("group", [1, 3])
def test_sessions_by_turns(model: Model, small_checkpoint: Checkpoint, group: int) -> None:
    """What one does, from prompts to alignments, changes nothing in the other."""
    random = np.random.RandomState(9)
    states = random_states(model, random, 3)
    tokens = random.randint(0, 50, (3, 14, group))
    order = random.randint(0, group, (3, group))

    def run(of: Model, windows: list[int]) -> Iterator[np.ndarray]:
        session = of.decoder([states[window] for window in windows], group)
        places = group * np.arange(len(windows))[:, None]
        for n in (5, 3):  # It starts over with a prompt.
            yield session.prefill(tokens[windows, :n, 0], [0, n - 1]).copy()
            for i in range(n, n + 4):
                yield session.step(tokens[windows, i].ravel()).copy()
                session.reorder((order[windows] + places).ravel())
        if len(windows) == 1:
            yield from (x.copy() for x in session.align(tokens[windows[0], :7, 0], [(1, 0)]))
        yield session.prefill(tokens[windows, :2, 0], [1]).copy()

    plain = numpy_model(small_checkpoint, model.precision)
    expected = [list(run(plain, windows)) for windows in ([0, 2], [1])]
    by_turns = itertools.zip_longest(run(model, [0, 2]), run(model, [1]))
    for found in zip(by_turns, itertools.zip_longest(*expected), strict=True):
        for mine, alone in zip(*found, strict=True):
            assert (mine is None) == (alone is None)
            if mine is not None:
                np.testing.assert_array_equal(mine, alone)


@pytest.mark.parametrize("group", [1, 3])
def test_caches_grow_while_sessions_go_on(
    model: Model, small_checkpoint: Checkpoint, group: int
) -> None:
    """Windows, then members, then both: keys, values and tokens are what they were."""
    random = np.random.RandomState(10)
    states = random_states(model, random, 9)
    prompt, nexts = random.randint(0, 50, (2, 4)), random.randint(0, 50, (7, 2 * group))
    order = random.randint(0, group, (7, 2 * group)) + np.repeat([0, group], group)
    shapes = {1: (1, group), 3: (1, group + 2), 5: (5, group + 3)}

    def run(of: Model, grows: bool) -> Iterator[np.ndarray]:
        session, room, others = of.decoder(states[:2], group), of._decoder.room, []
        session.prefill(prompt, [3])
        for i in range(7):
            if grows and i in shapes:
                count, members = shapes[i]
                others.append(of.decoder(states[-count:], members))
                others[-1].prefill(random.randint(0, 50, (count, 9)), [8])
                others[-1].step(random.randint(0, 50, count * members))
                assert of._decoder.room != room
                room = of._decoder.room
            session.reorder(order[i])
            yield session.step(nexts[i]).copy()
        if grows:
            check_cross_keys(of, session, states[:2])
            # The last window was known; the others were computed when they came.
            assert of.machine.usage.counts.runs["cross_kv"] == 2 + 5

    found = list(run(model, True))
    expected = list(run(numpy_model(small_checkpoint, model.precision), False))
    np.testing.assert_array_equal(found, expected)


def test_room_is_added_by_eights(model: Model) -> None:
    states = random_states(model, np.random.RandomState(0), 20)
    held, rooms = [], []
    for i in range(13):
        held.append(model.decoder(states[i : i + 1]))
        rooms.append(model._decoder.room.slots)
    assert rooms == [1, *[8] * 7, *[16] * 5]
    # More at once than that.
    held.append(model.decoder(states[13:], 2))
    assert model._decoder.room == (24, 2)
    # What is known to be needed is not exceeded.
    model._decoder.reserve(26, 1)
    held.append(model.decoder(states[:6]))
    assert model._decoder.room == (26, 2)
    assert sorted(slot.index for each in held for slot in each._held) == list(range(26))


def test_what_sequences_have_in_common_is_not_copied(
    model: Model, states: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[tuple[int, list[int], list[int], int, int]] = []
    copy = OwnCache.copy

    def keep_account(
        self: OwnCache, slots: int, source: np.ndarray, target: np.ndarray, start: int, stop: int
    ) -> None:
        copied.append((slots, source.tolist(), target.tolist(), start, stop))
        copy(self, slots, source, target, start, stop)

    session = model.decoder(states, group=2)
    session.prefill(TOKENS[:, :5], [4])
    monkeypatch.setattr(OwnCache, "copy", keep_account)
    session.reorder([1, 0, 2, 3])  # still the same
    assert copied == []
    session.step([1, 2, 3, 4])
    session.reorder([0, 0, 3, 2])
    assert copied == [(0, [0], [1], 5, 6), (1, [1, 0], [0, 1], 5, 6)]
    copied.clear()
    session.step([1, 2, 3, 4])
    session.step([1, 2, 3, 4])
    session.reorder([1, 0, 3, 3])
    # The first two were one until then, the others were not.
    assert copied == [(0, [1, 0], [0, 1], 6, 8), (1, [1], [0], 5, 8)]
    copied.clear()
    # Windows keep that wherever they go on, and have it up to positions of their own.
    later = model.decoder(states[:1].copy(), group=2)
    later.prefill(TOKENS[:1, :2], [0])
    copied.clear()
    later.step([1, 2])
    later.join(session)
    later.keep(np.array([2, 0]))
    later.step([1, 2, 3, 4])
    later.reorder([1, 0, 3, 3])
    assert copied == [(1, [1, 0], [0, 1], 8, 9), (2, [1], [0], 2, 4)]


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
    decoder = model._decoder
    kept = [model, model._network, decoder, decoder._cross, decoder.own, session]
    kept += [decoder.step(1, 2), decoder.step(1, 2).step, decoder.prefill(2, 5, 1)]
    kept += [model._encoder._made[2], decoder._cross.states["cross.0.k"], *session._held]
    del decoder
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
    cache = OwnCache(network)
    cache.grow(CacheRoom(4, 2))
    assert len(cache.states) == 8
    for array in cache.states.values():
        assert not array.any(axis=(0, 1, 2, 4))[:1]
        array[..., :16, :] = 1
    cache.wrote(np.arange(4), np.full(4, 16))
    # A position takes 256 bytes of a head, or 128, and a page has 16 of them, or 32.
    assert resident_bytes() - before < cache._all.nbytes / 8
    assert cache._all.shape == (8, 4, 2, 6, 448, 64)
    # What grows takes no more of what was not written.
    cache.grow(CacheRoom(8, 3))
    assert resident_bytes() - before < cache._all.nbytes / 8
    assert cache._all.shape == (8, 8, 3, 6, 448, 64)
    assert cache._all[:, :4, :2, :, :16].all()


def test_a_cache_is_written_anywhere_and_copied() -> None:
    cache = OwnCache(tiny("float32"))
    cache.grow(CacheRoom(3, 3))
    slots, members = np.arange(0, 30, 10)[:, None], np.arange(3)
    cache._all[...] = (slots + members)[None, :, :, None, None, None]

    def values() -> list[list[list[int]]]:
        """Of the last layer, of each slot and member, at some positions."""
        found: list[list[list[int]]] = cache.states["self.3.v"][:, :, 5, 4:8, 63].tolist()
        return found

    expected = values()
    cache.copy(1, np.array([2]), np.array([0]), 5, 7)
    expected[1][0] = [10, 12, 12, 10]
    assert values() == expected
    # All are read before any is written.
    cache.copy(2, np.array([1, 0]), np.array([0, 1]), 6, 7)
    expected[2][:2] = [20, 20, 21, 20], [21, 21, 20, 21]
    assert values() == expected
    # Of several slots at once.
    cache.copy(np.array([[2], [0]]), np.array([0, 0]), np.array([1, 2]), 4, 5)
    expected[2][1][0] = expected[2][2][0] = 20
    expected[0][1][0] = expected[0][2][0] = 0
    assert values() == expected


def test_a_cache_that_grows_keeps_what_was_written() -> None:
    cache, random = OwnCache(tiny("int8")), np.random.RandomState(0)
    cache.grow(CacheRoom(2, 1))
    shape, written = (8, 2, 1, 6, 448, 64), np.array([448, 3])
    cache._all[...] = numbers = random.randint(1, 99, shape).astype(np.int16)
    cache.wrote(np.array([0, 1]), written)
    for room in (CacheRoom(2, 3), CacheRoom(5, 3), CacheRoom(6, 4)):
        cache.grow(room)
        assert (cache.room, cache._all.shape[1:3]) == (room, room)
        assert set(cache._written[2:].tolist()) <= {0}
        expected = np.zeros(cache._all.shape, np.int16)
        for slot, count in enumerate(written):
            expected[:, slot, :1, :, :count] = numbers[:, slot, :, :, :count]
        np.testing.assert_array_equal(cache._all, expected)
