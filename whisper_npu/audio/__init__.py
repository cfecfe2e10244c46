"""Audio in: decoded, resampled, and as log-mel spectrograms. Constants are openai-whisper's."""

from __future__ import annotations

from whisper_npu.audio.sources import AudioSource
from whisper_npu.audio.stream import load_audio, stream_audio
from whisper_npu.ops.mel import HOP_LENGTH, N_FFT, SAMPLE_RATE

CHUNK_LENGTH = 30
N_SAMPLES = CHUNK_LENGTH * SAMPLE_RATE  # 480000 samples in 30 s
N_FRAMES = N_SAMPLES // HOP_LENGTH  # 3000 mel frames in 30 s
N_SAMPLES_PER_TOKEN = HOP_LENGTH * 2  # the second convolution has stride 2
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH  # 10 ms each
TOKENS_PER_SECOND = SAMPLE_RATE // N_SAMPLES_PER_TOKEN  # 20 ms each

__all__ = [
    "CHUNK_LENGTH",
    "FRAMES_PER_SECOND",
    "HOP_LENGTH",
    "N_FFT",
    "N_FRAMES",
    "N_SAMPLES",
    "N_SAMPLES_PER_TOKEN",
    "SAMPLE_RATE",
    "TOKENS_PER_SECOND",
    "AudioSource",
    "load_audio",
    "stream_audio",
]
