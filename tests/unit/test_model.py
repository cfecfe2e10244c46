"""The runtime against itself: caches, groups and batches give what a plain prefill gives."""

from __future__ import annotations

import numpy as np
import pytest

from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.runtime.model import Model

TOKENS = np.random.RandomState(5).randint(0, 50, (2, 12))
# float32 rounding of a few dozen operations on values of order 1 to 10.
TOLERANCE = 2e-5


@pytest.fixture
def model(small_checkpoint: Checkpoint) -> Model:
    return Model(small_checkpoint)


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
        np.testing.assert_allclose(alone[0], states[index], atol=TOLERANCE)


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
    np.testing.assert_allclose(rows, expected[:, [0, 4]], atol=TOLERANCE)
    for i in range(5, 12):
        assert session.position == i
        np.testing.assert_allclose(session.step(TOKENS[:, i]), expected[:, i], atol=TOLERANCE)


def test_a_group_shares_its_audio_and_prompt(model: Model, states: np.ndarray) -> None:
    session = model.decoder(states, group=3)
    session.prefill(TOKENS[:, :5], [4])
    nexts = np.array([1, 2, 3, 4, 5, 6])
    logits = session.step(nexts).copy()
    for sequence, token in enumerate(nexts):
        audio = sequence // 3
        tokens = np.append(TOKENS[audio, :5], token)[None]
        expected = full_logits(model, states[audio : audio + 1].copy(), tokens)
        np.testing.assert_allclose(logits[sequence], expected[0, -1], atol=TOLERANCE)


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
        np.testing.assert_allclose(logits[sequence], expected[0, -1], atol=TOLERANCE)


def test_reorder_across_audios_is_refused(model: Model, states: np.ndarray) -> None:
    session = model.decoder(states, group=2)
    session.prefill(TOKENS[:, :5], [4])
    with pytest.raises(ValueError, match="same audio"):
        session.reorder([2, 1, 0, 3])


def test_align_gives_all_logits_and_chosen_scores(model: Model, states: np.ndarray) -> None:
    one = states[:1].copy()
    expected = full_logits(model, one, TOKENS[:1])
    logits, scores = model.decoder(one).align(TOKENS[0], [(2, 1), (0, 0), (2, 0)])
    np.testing.assert_allclose(logits, expected[0], atol=TOLERANCE)
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
    three = np.concatenate([states, states[:1] * np.float32(0.5)])
    tokens = np.random.RandomState(6).randint(0, 50, (3, 5))
    # Keys and values of one position in 3 layers of 24.
    row = 2 * 3 * 24 * 4
    n_windows = n_sequences = 0
    # Grown are the sequences, the windows, both; then nothing.
    for shape in [(1, 1), (1, 4), (3, 1), (1, 4), (3, 2), (2, 1), (2, 3), (1, 1), (3, 2)]:
        n_audio, group = shape
        found = []
        three = three * np.float32(0.9)
        for of in (model, Model(small_checkpoint)):
            session = of.decoder(three[:n_audio], group)
            found.append(session.prefill(tokens[:n_audio], [4]).copy())
            found.append(session.step(np.arange(n_audio * group)).copy())
        np.testing.assert_array_equal(found[0], found[2])
        np.testing.assert_array_equal(found[1], found[3])
        n_windows = max(n_windows, n_audio)
        n_sequences = max(n_sequences, n_audio * group)
        assert cache_bytes(model) == row * (30 * n_windows + 16 * n_sequences)


def cache_bytes(model: Model) -> int:
    """All that the sessions that are kept have as keys and values."""
    arrays = {}
    for session in model._sessions._made.values():
        for cache in (*session._caches.values(), *session._cross.values()):
            base = cache if cache.base is None else cache.base
            arrays[id(base)] = base.nbytes
    return sum(arrays.values())


def test_only_a_few_sessions_are_kept(model: Model, states: np.ndarray) -> None:
    sessions = [model.decoder(states, group) for group in range(11, 0, -1)]
    assert list(model._sessions._made.values()) == sessions[-4:]
    assert model.decoder(states, 4) is sessions[-4]
    # Those used last are kept.
    model.decoder(states, 5)
    assert model.decoder(states, 4) is sessions[-4]


def test_the_cross_cache_of_states_is_computed_once(model: Model, states: np.ndarray) -> None:
    runs = model.machine.usage.runs
    for group in (1, 2, 1):
        model.decoder(states, group)
    # Window by window.
    assert runs["cross_kv"] == 2
    model.decoder(states[:1])
    model.decoder(states)
    assert runs["cross_kv"] == 5


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


def test_observer_sees_every_op(model: Model) -> None:
    seen: dict[str, tuple[int, ...]] = {}
    model.encode(
        np.zeros((1, 80, 60), np.float32), lambda name, array: seen.update({name: array.shape})
    )
    assert list(seen)[:3] == ["frames", "conv1", "conv1.gelu"]
    assert seen["encoder.1.residual"] == (1, 30, 24)
    assert list(seen)[-1] == "states"


def test_the_arena_is_hardly_larger_than_what_is_alive_at_once(model: Model) -> None:
    model.encode(np.zeros((1, 80, 60), np.float32))
    plan = model._encoder[1]
    blocks = plan._blocks().values()
    peak = max(
        sum(b.nbytes for b in blocks if b.first <= index <= b.last)
        for index in range(len(plan.graph.ops))
    )
    assert peak <= plan.arena_bytes < 1.1 * peak
