"""The streamed spectrogram against one computed at once, and against openai-whisper's windows."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.signals import noise
from whisper_npu.audio import features
from whisper_npu.audio.features import LogMel, compute_log_mel, compute_log_mels
from whisper_npu.errors import OutputError
from whisper_npu.ops import mel, mel_int
from whisper_npu.ops.mel_tables import mel_tables

# Where something changes: a frame, half a frame, the mirrored samples, a block with the part of a
# frame that reaches into the next. The last frame of 481600 reaches beyond the end.
LENGTHS = (0, 1, 2, 159, 160, 161, 199, 200, 201, 320, 399, 400, 401, 4000, 480000)
LENGTHS += (481600, 480039, 480040, 480041, 960039, 960040, 960041)
FILTERS = mel.mel_filters(80)


def log_mel(samples: np.ndarray) -> np.ndarray:
    assert samples.shape in {(480240,), (560,)}
    return mel.mel_log10(mel.stft_power(samples), FILTERS)


def cut(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def compute(samples: np.ndarray, size: int = 480000) -> LogMel:
    return compute_log_mel(cut(samples, size), 80, log_mel)


def whole(samples: np.ndarray) -> np.ndarray:
    """Normalised frames of the samples and of the 30 s of silence that openai-whisper appends."""
    padded = np.pad(np.pad(samples, (0, 480000)), 200, mode="reflect")
    n_frames = len(samples) // 160 + 3000
    power = mel.stft_power(padded[: 160 * (n_frames - 1) + 400])
    result = mel.mel_log10(power, FILTERS)
    return mel.normalise(result, float(result.max()))


@pytest.mark.parametrize("n", LENGTHS)
def test_windows(n: int) -> None:
    # Loud at the end: frames after the last whole one hold the maximum.
    samples = noise(n)
    samples[-100:] *= 10
    expected = whole(samples)
    with compute(samples) as result:
        assert result.n_frames == n // 160
        assert result.duration == n / 16000
        for seek in {0, 1, result.n_frames // 2, max(result.n_frames - 3000, 0)}:
            for size in (None, 7, 3000):
                window = result.window(seek, size)
                assert window.shape == (80, 3000)
                assert window.dtype == np.float32
                end = min(result.n_frames, seek + (3000 if size is None else size))
                kept = max(end - seek, 0)
                np.testing.assert_allclose(
                    window[:, :kept], expected[:, seek:end], rtol=0, atol=1e-6
                )
                assert not window[:, kept:].any()
        np.testing.assert_allclose(result.full_window(0), expected[:, :3000], rtol=0, atol=1e-6)


@pytest.mark.parametrize("n", [479800, 479801, 479961, 480000, 480039, 480040, 960000])
def test_the_maximum_is_that_of_all_frames_that_reach_into_the_audio(n: int) -> None:
    # Silence shows it: that is clamped to 8 below. The last frame of all is the loudest.
    samples = np.zeros(n, np.float32)
    samples[-40:] = noise(40)
    with compute(samples) as result:
        kept = min(result.n_frames, 3000)
        np.testing.assert_allclose(
            result.window(0)[:, :kept], whole(samples)[:, :kept], rtol=0, atol=1e-6
        )


def test_windows_beyond_the_audio_are_empty() -> None:
    with compute(noise(16000)) as result:
        for seek, size in ((100, None), (101, 5), (5000, None), (10, 0), (10, -3)):
            assert not result.window(seek, size).any()


@pytest.mark.parametrize("n", [1, 300, 480041, 1000000])
def test_the_cut_does_not_matter(n: int) -> None:
    samples = noise(n)
    with compute(samples, n) as once:
        for size in (16384, 160001, 479999) if n > 1000 else (1, 7):
            with compute(samples, size) as cut_up:
                assert cut_up.maximum == once.maximum
                assert cut_up.n_frames == once.n_frames
                for seek in (0, 2990, 5000):
                    np.testing.assert_array_equal(cut_up.window(seek), once.window(seek))


def test_the_clamp_is_that_of_the_whole_file() -> None:
    faint, loud = noise(480000, level=1e-4), noise(160000, 1, level=0.5)
    with compute(np.concatenate([faint, loud])) as result, compute(faint) as alone:
        assert result.maximum > alone.maximum + 4
        lowest = (result.maximum - 8 + 4) / 4
        assert result.window(0).min() == pytest.approx(lowest, abs=1e-6)
        assert alone.window(0).min() < lowest - 0.5


def test_silence() -> None:
    with compute(np.zeros(320, np.float32)) as result:
        assert result.maximum == pytest.approx(-10)
        np.testing.assert_allclose(result.window(0)[:, :2], -1.5, rtol=1e-6)


def test_spilled_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = noise(1000000)
    with compute(samples) as in_memory:
        expected = in_memory.window(3000)
    monkeypatch.setattr(features, "_SPILL_BYTES", 1000)
    with compute(samples) as spilled:
        np.testing.assert_array_equal(spilled.window(3000), expected)


@pytest.mark.filterwarnings("error")
def test_the_temporary_file_is_closed() -> None:
    result = compute(noise(1000))
    file = result._file
    del result
    gc.collect()
    assert file.closed
    with compute(noise(1000)) as result:
        assert not result._file.closed
    assert result._file.closed
    result.close()


def test_the_temporary_file_is_closed_on_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    original = tempfile.SpooledTemporaryFile

    def spooled(**options: int) -> tempfile.SpooledTemporaryFile[bytes]:
        files.append(original(**options))
        return files[-1]

    monkeypatch.setattr(features.tempfile, "SpooledTemporaryFile", spooled)

    def broken() -> Iterator[np.ndarray]:
        yield noise(500000)
        raise RuntimeError("the disk went away")

    with pytest.raises(RuntimeError, match="the disk went away") as caught:
        compute_log_mel(broken(), 80, log_mel)
    # As long as the traceback is there, so is the object, and no finalizer closes the file.
    assert caught.tb is not None
    assert [file.closed for file in files] == [True]


class TestChannels:
    SAMPLES = noise(3 * 500000).reshape(-1, 3) * np.array([1, 0, 0.1], np.float32)

    @pytest.mark.parametrize("size", [480000, 7001])
    def test_each_is_what_it_is_alone(self, size: int) -> None:
        found = compute_log_mels(cut(self.SAMPLES, size), 80, log_mel)
        assert [result.is_silent for result in found] == [False, True, False]
        for samples, result in zip(self.SAMPLES.T, found, strict=True):
            with compute(samples) as alone, result:
                assert (result.n_samples, result.maximum) == (500000, alone.maximum)
                for seek in (0, 1000, 2900):
                    np.testing.assert_array_equal(result.window(seek), alone.window(seek))

    def test_without_any_samples(self) -> None:
        (result,) = compute_log_mels([], 80, log_mel)
        with result:
            assert (result.n_samples, result.is_silent) == (0, True)

    def test_they_share_the_memory_of_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(features, "_SPILL_BYTES", 1_500_000)
        (alone,) = compute_log_mels([self.SAMPLES[:, :1]], 80, log_mel)
        found = compute_log_mels([self.SAMPLES], 80, log_mel)
        assert [result._file._rolled for result in (alone, *found)] == [False, True, True, True]
        for result in (alone, *found):
            result.close()

    def test_all_are_closed_on_an_error(self) -> None:
        made: list[LogMel] = []

        def broken() -> Iterator[np.ndarray]:
            yield self.SAMPLES
            made.extend(each for each in gc.get_objects() if isinstance(each, LogMel))
            raise RuntimeError("the disk went away")

        gc.collect()
        with pytest.raises(RuntimeError, match="the disk went away"):
            compute_log_mels(broken(), 80, log_mel)
        assert len(made) == 3
        assert all(result._file.closed for result in made)


class TestIntegers:
    """Precision int8: the same windows, in integers, equal however the samples were cut."""

    TABLES = mel_tables(80)

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        assert samples.shape in {(480240,), (560,)}
        return mel_int.log_mel_int16(samples, self.TABLES)

    def compute(self, samples: np.ndarray, size: int = 480000) -> LogMel:
        return compute_log_mel(cut(samples, size), 80, self.log_mel, "int8")

    def whole(self, samples: np.ndarray) -> np.ndarray:
        padded = np.pad(np.pad(samples, (0, 480000)), 200, mode="reflect")
        n_frames = len(samples) // 160 + 3000
        result = mel_int.log_mel_int16(padded[: 160 * (n_frames - 1) + 400], self.TABLES)
        return mel_int.normalise_int16(result, int(result.max()))

    @pytest.mark.parametrize("n", [1, 161, 4000, 480000, 480041, 960039])
    def test_windows(self, n: int) -> None:
        samples = noise(n)
        samples[-100:] *= 1000
        samples[200 : n // 2] = 0
        expected = self.whole(samples)
        with self.compute(samples) as result:
            for seek in {0, 1, result.n_frames // 2, max(result.n_frames - 3000, 0)}:
                for size in (None, 7, 3000):
                    window = result.window(seek, size)
                    assert window.dtype == np.int16
                    kept = max(min(result.n_frames - seek, 3000 if size is None else size), 0)
                    kept = min(kept, 3000)
                    np.testing.assert_array_equal(window[:, :kept], expected[:, seek : seek + kept])
                    assert not window[:, kept:].any()
            np.testing.assert_array_equal(result.full_window(0), expected[:, :3000])

    @pytest.mark.parametrize("size", [16384, 160001, 479999])
    def test_the_cut_does_not_matter(self, size: int) -> None:
        samples = noise(1000000)
        samples[:300000] *= np.float32(1e-4)
        with self.compute(samples) as once, self.compute(samples, size) as cut_up:
            assert cut_up.maximum == once.maximum
            for seek in (0, 2990, 5000):
                np.testing.assert_array_equal(cut_up.window(seek), once.window(seek))

    def test_close_to_floats(self) -> None:
        samples = noise(480000)
        with self.compute(samples) as integers, compute(samples) as floats:
            assert integers.maximum / 2048 == pytest.approx(floats.maximum, abs=5e-4)
            np.testing.assert_allclose(
                integers.window(0) / 8192, floats.window(0), rtol=0, atol=1e-4
            )

    def test_frames_of_the_other_precision_are_refused(self) -> None:
        for function, precision in ((self.log_mel, "float32"), (log_mel, "int8")):
            with pytest.raises(TypeError, match=r"^frames are .*, not "):
                compute_log_mel([noise(1000)], 80, function, precision)  # type: ignore[arg-type]

    def test_silence(self) -> None:
        samples = np.stack([noise(480000, level=1e-5), np.zeros(480000)], axis=1)
        found = compute_log_mels([samples.astype(np.float32)], 80, self.log_mel, "int8")
        assert [each.is_silent for each in found] == [False, True]
        assert (found[1].full_window(0) == -12288).all()
        (nothing,) = compute_log_mels([], 80, self.log_mel, "int8")
        assert nothing.window(0).dtype == np.int16
        assert nothing.is_silent
        for each in (*found, nothing):
            each.close()


def test_no_room_for_the_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", full)
    with pytest.raises(OutputError, match=r"No space left on device\); set TMPDIR"):
        compute(noise(1000))


def test_memory_of_an_hour() -> None:
    """The peak for an hour is that for half a minute and at most twice the spill limit."""
    script = textwrap.dedent(
        """
        import resource, sys
        import numpy as np
        from whisper_npu.audio.features import compute_log_mel
        from whisper_npu.ops import mel
        filters = mel.mel_filters(80)
        def log_mel(samples):
            return mel.mel_log10(mel.stft_power(samples), filters)
        block = np.random.RandomState(0).standard_normal(480000).astype(np.float32)
        with compute_log_mel((block for _ in range(int(sys.argv[1]))), 80, log_mel) as result:
            result.window(result.n_frames - 3000)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """
    )
    peaks = [
        int(
            subprocess.run(
                [sys.executable, "-c", script, n], capture_output=True, check=True
            ).stdout
        )
        for n in ("1", "120")
    ]
    # In KiB. All the frames of an hour would take 110 MiB.
    assert peaks[1] - peaks[0] < 70 * 1024


@pytest.mark.reference
@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("n", [1, 200, 201, 16000, 479999, 480041, 700000])
def test_openai_whisper(n: int, n_mels: int) -> None:
    whisper = pytest.importorskip("whisper.audio")
    samples = noise(n)
    reference = whisper.log_mel_spectrogram(samples, n_mels, padding=480000).numpy()
    content_frames = reference.shape[-1] - 3000
    filters = mel.mel_filters(n_mels)
    result = compute_log_mel(
        cut(samples, 100000), n_mels, lambda s: mel.mel_log10(mel.stft_power(s), filters)
    )
    with result:
        assert result.n_frames == content_frames
        for seek, size in ((0, 3000), (20, 3000), (content_frames - 10, 3000), (0, 5)):
            if 0 <= seek <= content_frames:
                size = min(size, content_frames - seek)
                expected = whisper.pad_or_trim(reference[:, seek : seek + size], 3000)
                np.testing.assert_allclose(result.window(seek, size), expected, rtol=0, atol=1e-5)
        opening = whisper.pad_or_trim(reference, 3000)
        np.testing.assert_allclose(result.full_window(0), opening, rtol=0, atol=1e-5)
