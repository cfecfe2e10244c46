"""Rounding by calibration: the network that it runs is the model, and all that it has is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.micro import micro_model, write_huggingface, write_tokenizer
from whisper_npu.backends.opening import numpy_model
from whisper_npu.convert import rounding as module
from whisper_npu.convert.calibration import SPEECH, Window, shipped_windows
from whisper_npu.convert.compensated import inputs_of
from whisper_npu.convert.rounding import Rounded, round_calibrated
from whisper_npu.model.checkpoint import Checkpoint, load_checkpoint
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.integer_weights import LOGITS, Folding
from whisper_npu.model.weight_shapes import weight_specification
from whisper_npu.text.tokenizer import Tokenizer

F32 = NDArray[np.float32]
DIMS = ModelDimensions(5, 12, 24, 2, 2, 50, 16, 24, 6, 2)


@pytest.fixture
def weights() -> dict[str, F32]:
    rng = np.random.default_rng(1)
    return {
        name: (rng.standard_normal(shape) / 3).astype(np.float32)
        for name, shape in weight_specification(DIMS).items()
    }


@pytest.fixture
def folding(weights: dict[str, F32]) -> Folding:
    return Folding(lambda name, part: weights[name][part or slice(None)], DIMS)


@pytest.fixture
def windows() -> list[Window]:
    rng = np.random.default_rng(2)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, DIMS.n_vocab, n).tolist())

    return [
        Window(
            rng.standard_normal((DIMS.n_mels, DIMS.n_frames)).astype(np.float32),
            (tokens(9), tokens(16)),
        )
        for _ in range(2)
    ]


def test_products_have_the_inputs_of_the_model(
    weights: dict[str, F32],
    folding: Folding,
    windows: list[Window],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[F32] = []

    def watched(x: F32) -> module.Inputs:
        seen.append(x.copy())
        return inputs_of(x)

    monkeypatch.setattr(module, "inputs_of", watched)
    monkeypatch.setattr(module, "_QUERIES", 5)
    round_calibrated(folding, DIMS, windows, lambda rounded: None)
    logits = seen[-1] @ folding.matrix(LOGITS).T + folding.bias(LOGITS)
    model = numpy_model(Checkpoint(Path(), DIMS, {}, {}, weights))
    expected = []
    for window in windows:
        states = model.encode(window.features[None])
        for tokens in window.sequences:
            rows = range(len(tokens))
            expected.append(model.decoder(states).prefill([list(tokens)], rows)[0].copy())
    found = np.concatenate(expected)
    found -= found.mean(axis=1, keepdims=True)
    assert np.allclose(logits, found, atol=2e-4)
    # Convolutions, four places in each layer of the encoder, its end, six in each of the decoder.
    assert len(seen) == 2 + 4 * DIMS.n_audio_layer + 1 + 6 * DIMS.n_text_layer + 1


def test_every_matrix_is_given_once_and_whole(folding: Folding, windows: list[Window]) -> None:
    given: dict[str, list[Rounded]] = {}
    round_calibrated(folding, DIMS, windows, lambda r: given.setdefault(r.name, []).append(r))
    assert set(given) == set(folding.products)
    for name, parts in given.items():
        rows = [row for part in parts for row in range(part.rows.start, part.rows.stop)]
        assert rows == list(range(folding.products[name].shape[0]))
        matrix = np.concatenate([part.matrix for part in parts])
        assert np.array_equal(matrix, folding.matrix(name))
        for part in parts:
            assert part.values.shape == part.matrix.shape
            error = part.matrix - part.values * part.scale[:, None].astype(np.float64)
            assert (np.abs(error) <= 40 * part.scale[:, None] + 1e-30).all()


def test_the_recordings_that_ship(tmp_path: Path) -> None:
    model = micro_model(whole_windows=True)
    write_huggingface(model, tmp_path)
    write_tokenizer(model, tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    tokenizer = Tokenizer.from_dir(tmp_path, model.dims.n_vocab, checkpoint.generation)
    windows = shipped_windows(model.dims, tokenizer)
    # The model has English only.
    assert len(windows) == len(list(SPEECH.glob("en-*.ogg"))) == 4
    for window in windows:
        assert window.features.shape == (80, 3000)
        assert window.features.any()
        plain, timed = window.sequences
        assert len(plain) == len(timed) == model.dims.n_text_ctx
        assert plain[: len(tokenizer.sot_sequence) + 1] == (
            tokenizer.sot_sequence_including_notimestamps
        )
        assert timed[0] == tokenizer.sot_prev


def test_windows_of_another_length(tmp_path: Path) -> None:
    model = micro_model(timestamps=1)
    write_huggingface(model, tmp_path)
    write_tokenizer(model, tmp_path)
    generation = load_checkpoint(tmp_path).generation
    tokenizer = Tokenizer.from_dir(tmp_path, model.dims.n_vocab, generation)
    for window in shipped_windows(model.dims, tokenizer):
        assert window.features.shape == (model.dims.n_mels, model.dims.n_frames)
        assert all(0 <= t < model.dims.n_vocab for tokens in window.sequences for t in tokens)
