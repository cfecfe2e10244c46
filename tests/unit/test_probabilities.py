"""Probabilities in floats and in integers: the same functions, and integers have the same bits."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.accelerated import CHECKPOINT, DIMS
from tests.unit.decoding_fakes import FakeModel, FakeSession, small_tokenizer
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.decoding.options import DecodingOptions
from whisper_npu.decoding.task import decode
from whisper_npu.decoding.timing import attention_matrix, find_alignment
from whisper_npu.model.precision import PRECISIONS
from whisper_npu.ops.choice import top_logprobs_int32
from whisper_npu.ops.exponentials import LOGPROB_STEP, log_of_sum, weights_below
from whisper_npu.ops.probabilities import FLOATS, INTEGERS, Probabilities
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import Model

ROOT = Path(__file__).parents[2]
TOKENIZER = small_tokenizer()

# Lengths and hundredths of a length penalty.
POWERS = [
    (53, 51),
    (63, 24),
    (72, 20),
    (90, 2),
    (90, 52),
    (96, 31),
    (104, 58),
    (131, 40),
    (136, 48),
    (180, 95),
    (192, 25),
    (195, 6),
]

both = pytest.mark.parametrize("probabilities", [FLOATS, INTEGERS], ids=["floats", "integers"])


@both
def test_softmax(probabilities: Probabilities) -> None:
    logits = np.float32([[1000, 1000, -np.inf], [0, 1, 2]])
    expected = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    wanted = np.array([[0.5, 0.5, 0], expected])
    assert probabilities.softmax(logits) == pytest.approx(wanted, abs=3e-6)
    assert np.array_equal(probabilities.softmax(logits[None, 1]), probabilities.softmax(logits)[1:])


@both
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_makes_nan_of_its_row(
    probabilities: Probabilities, value: float
) -> None:
    logits = np.float32([[1, value, 3], [0, 1, 2], [-np.inf] * 3])
    with np.errstate(invalid="ignore"):
        found = probabilities.softmax(logits)
        assert np.isnan(found[[0, 2]]).all()
        assert np.isfinite(found[1]).all()
        for row in logits[[0, 2]]:
            assert np.isnan(probabilities.cumulative(row)[-1])
            assert np.isnan(probabilities.token_logprobs(row, np.array([0]))).all()
            assert not probabilities.outweigh(row, 0.0)


def test_integers_give_what_floats_give() -> None:
    rng = np.random.default_rng(0)
    logits = (np.rint(rng.standard_normal((5, 3000)) * 12_000) / 4096).astype(np.float32)
    logits[:, ::7] = -np.inf
    assert abs(INTEGERS.softmax(logits) - FLOATS.softmax(logits)).max() < 1e-5
    for row in logits:
        ours, theirs = INTEGERS.cumulative(row), FLOATS.cumulative(row)
        assert abs(ours / ours[-1] - theirs / theirs[-1]).max() < 1e-5
        log_sum = float(np.log(np.exp(row.astype(np.float64)).sum()))
        for probabilities in (FLOATS, INTEGERS):
            assert probabilities.outweigh(row, log_sum - 2e-5)
            assert not probabilities.outweigh(row, log_sum + 2e-5)
    for exponent in (0.0, 0.6, 1.0):
        assert INTEGERS.power(11 / 6, exponent) == pytest.approx(pow(11 / 6, exponent), rel=1e-15)


def test_what_integers_outweigh_is_known_to_a_step() -> None:
    for row in chance((20, 300), 6):
        step = log_of_sum(int(weights_below(row, row.max()).sum())) * LOGPROB_STEP
        exact = float(row.max()) + step
        assert INTEGERS.outweigh(row, exact - LOGPROB_STEP / 2)
        assert not INTEGERS.outweigh(row, exact)


class IntegerSession(FakeSession):
    """Logits of chance, multiples of 2**-12, by integers that are the same everywhere."""

    probabilities = INTEGERS

    def _logits(self, window: int, context: tuple[int, ...]) -> np.ndarray:
        return chance((self.model.dims.n_vocab,), window, *context)

    def likeliest(self, logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.empty((len(logits), k), np.int64)
        logprobs = np.empty((len(logits), k), np.float32)
        top_logprobs_int32(logits, tokens, logprobs)
        return tokens, logprobs

    def align(
        self, tokens: np.ndarray, heads: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        return chance((len(tokens), self.model.dims.n_vocab), 1), chance(
            (len(heads), len(tokens), 1500), 2
        )


class IntegerModel(FakeModel):
    def decoder(self, states: Sequence[np.ndarray], group: int = 1) -> FakeSession:
        return IntegerSession(self, list(range(len(states))), group)


def chance(shape: tuple[int, ...], *key: int) -> np.ndarray:
    """Sums of eight bytes, as floats of a deviation of 3.7."""
    digest = hashlib.sha256(repr(key).encode()).digest()[:16]
    raw = np.random.Philox(key=np.frombuffer(digest, "<u8")).random_raw(int(np.prod(shape)))
    sums = raw.astype("<u8").view(np.int8).reshape(*shape, 8).sum(axis=-1, dtype=np.int32)
    return sums.astype(np.float32) * np.float32(73 / 4096)


def decisions() -> list[Any]:
    """Tokens and probabilities of all ways to decode, and words with their times."""
    model = IntegerModel(lambda window, context: {})
    windows = [np.zeros((1, 1), np.float32)] * 3
    found: list[Any] = []
    options: list[Mapping[str, Any]] = [
        {"language": None},
        {"language": "en", "beam_size": 3, "length_penalty": 0.6},
        {"language": "en", "temperature": 0.7, "best_of": 2, "length_penalty": 0.3},
        {"language": "en", "temperature": 1.0, "without_timestamps": True},
    ]
    for each in options:
        for result in decode(model, TOKENIZER, windows, DecodingOptions(**each)):  # type: ignore[arg-type]
            languages = result.language_probs and dict(result.language_probs)
            found.append((result.tokens, result.avg_logprob, result.no_speech_prob, languages))
    text = TOKENIZER.encode(" the water and the water, the.")
    (session,) = [model.decoder(windows[:1])]
    heads = [(2, 0), (3, 1), (3, 0)]
    found += find_alignment(session, TOKENIZER, text, 900, heads)  # type: ignore[arg-type]
    # What decisions show only where they are close.
    logits, scores = chance((1, 5000), 3), chance((2, 9, 300), 4)
    found.append(INTEGERS.cumulative(logits[0] / np.float32(0.7)).tolist())
    found.append(attention_matrix(scores, INTEGERS.softmax).tolist())
    # Powers of which the C library has more than one result.
    found.append([INTEGERS.power((5 + n) / 6, k / 100) for n, k in POWERS])
    return found


def test_decisions_have_the_same_bits_without_instructions_of_the_processor() -> None:
    """NumPy, OpenBLAS and the C library each choose functions by what the processor has."""
    try:
        from numpy._core._multiarray_umath import __cpu_dispatch__ as dispatched
    except ImportError:
        from numpy.core._multiarray_umath import (  # type: ignore[no-redef]
            __cpu_dispatch__ as dispatched,
        )
    plain = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(dispatched),
        "OPENBLAS_CORETYPE": "Nehalem",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F,-AVX2_Usable,-FMA_Usable",
    }
    here = repr(decisions())
    code = "from tests.unit.test_probabilities import decisions; print(repr(decisions()))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    environment = {**os.environ, **plain}
    there = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert hashlib.sha256(there.strip().encode()).hexdigest() == (
        hashlib.sha256(here.encode()).hexdigest()
    )


def test_the_precision_chooses_the_arithmetic() -> None:
    for precision in PRECISIONS:
        model = Model(CHECKPOINT, precision, Machine(numpy_backends()))
        session = model.decoder([np.zeros((DIMS.n_audio_ctx, DIMS.n_audio_state), np.float32)])
        in_integers = precision == "int8"
        assert session.probabilities is (INTEGERS if in_integers else FLOATS)
        session.prefill([[0]], [0])
        logits = session.step([0])
        logits[:] = -np.inf
        logits[0, :2] = 0
        _, ((logprob, _),) = session.likeliest(logits, 2)
        # Of two that are alike: ln 2 in steps of 2**-18.
        assert logprob == (-181704 / 2**18 if in_integers else np.float32(-np.log(2)))
