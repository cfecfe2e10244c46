"""Small recordings in every format that the libraries here can write, made when they are needed."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import soundfile

# Extension, container and encoder of FFmpeg, rate, channels.
_FFMPEG = (
    *(("m4a", "ipod", "aac", 44100, 2), ("m4a", "ipod", "alac", 16000, 1)),
    *(("mp4", "mp4", "aac", 16000, 1), ("mp4", "mp4", "libopus", 48000, 1)),
    *(("mp4", "mp4", "flac", 16000, 1), ("mp4", "mp4", "ac3", 48000, 6)),
    *(("mp4", "mp4", "aac", 48000, 8), ("mkv", "matroska", "libopus", 48000, 8)),
    *(("mov", "mov", "pcm_s16le", 16000, 1), ("3gp", "3gp", "aac", 8000, 1)),
    *(("mkv", "matroska", "aac", 16000, 1), ("mkv", "matroska", "flac", 16000, 2)),
    *(("mkv", "matroska", "pcm_f32le", 8000, 1), ("mkv", "matroska", "vorbis", 22050, 2)),
    *(("webm", "webm", "libopus", 48000, 1), ("webm", "webm", "vorbis", 16000, 2)),
    *(("ts", "mpegts", "mp2", 48000, 2), ("ts", "mpegts", "aac", 44100, 1)),
    *(("mpg", "mpeg", "mp2", 44100, 1), ("aac", "adts", "aac", 16000, 1)),
    *(("ac3", "ac3", "ac3", 48000, 2), ("eac3", "eac3", "eac3", 48000, 6)),
    *(("wma", "asf", "wmav2", 44100, 1), ("wma", "asf", "wmav1", 16000, 1)),
    *(("avi", "avi", "libmp3lame", 16000, 1), ("flv", "flv", "aac", 44100, 1)),
    *(("tta", "tta", "tta", 16000, 1), ("wv", "wv", "wavpack", 16000, 1)),
    *(("amr", "amr", "libopencore_amrnb", 8000, 1), ("mp2", "mp2", "mp2", 16000, 1)),
    *(("oga", "oga", "flac", 16000, 1), ("opus", "opus", "libopus", 48000, 2)),
    ("wav", "wav", "adpcm_ima_wav", 16000, 1),
    *(("nut", "nut", "libmp3lame", 16000, 1), ("g722", "g722", "g722", 16000, 1)),
    *(("ul", "mulaw", "pcm_mulaw", 8000, 1), ("al", "alaw", "pcm_alaw", 8000, 1)),
    *(("aptx", "aptx", "aptx", 48000, 2), ("sbc", "sbc", "sbc", 16000, 1)),
    *(("rm", "rm", "ac3", 44100, 2), ("sox", "sox", "pcm_s32le", 16000, 1)),
)
# Of libsndfile: the subtypes of a WAV, and other formats in their usual subtype.
_WAV = (
    *("PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"),
    *("MS_ADPCM", "GSM610", "G721_32", "NMS_ADPCM_16", "MPEG_LAYER_III"),
)
_OTHERS = (
    *(("WAVEX", "PCM_16"), ("W64", "PCM_16"), ("W64", "FLOAT"), ("RF64", "PCM_16")),
    *(("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AIFF", "IMA_ADPCM"), ("AU", "PCM_16")),
    *(("AU", "ULAW"), ("AU", "G723_24"), ("CAF", "PCM_16"), ("CAF", "ALAC_16")),
    *(("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS")),
    *(("MP3", "MPEG_LAYER_III"), ("NIST", "PCM_16"), ("VOC", "PCM_16"), ("IRCAM", "PCM_16")),
    *(("SVX", "PCM_16"), ("PAF", "PCM_16"), ("MAT4", "PCM_16"), ("MAT5", "FLOAT")),
    *(("PVF", "PCM_16"), ("XI", "DPCM_16"), ("HTK", "PCM_16"), ("SDS", "PCM_16")),
    *(("AVR", "PCM_16"), ("WVE", "ALAW"), ("MPC2K", "PCM_16")),
)
_SECONDS = 0.2


@cache
def audio_seeds() -> dict[str, bytes]:
    """Files by a name with its extension; formats that cannot be written here are missing."""
    found = {}
    for kind, subtype in (*(("WAV", subtype) for subtype in _WAV), *_OTHERS):
        file = io.BytesIO()
        rate = 8000 if subtype in ("GSM610", "ALAW", "ULAW") else 16000
        try:
            soundfile.write(file, _sound(rate, 1).T, rate, format=kind, subtype=subtype)
        except (soundfile.LibsndfileError, ValueError):
            continue
        found[f"{kind}-{subtype}.{kind.lower()}"] = file.getvalue()
    for extension, container, encoder, rate, channels in _FFMPEG:
        content = _encode(container, encoder, rate, channels)
        if content:
            found[f"{container}-{encoder}-{channels}.{extension}"] = content
    return found


def _sound(rate: int, channels: int) -> np.ndarray:  # -> [channels, n]
    t = np.arange(int(_SECONDS * rate)) / rate
    tones = [0.3 * np.sin(2 * np.pi * 220 * (i + 1) * t) for i in range(channels)]
    return np.array(tones, np.float32)


def _encode(container: str, encoder: str, rate: int, channels: int) -> bytes:
    """A file that FFmpeg wrote, nothing if it cannot."""
    try:
        import av
    except ImportError:
        return b""
    file = io.BytesIO()
    try:
        with av.open(file, "w", format=container) as output:
            layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[channels]
            stream = output.add_stream(encoder, rate=rate, options={"strict": "-2"})
            stream.layout = layout
            stream.bit_rate = 64000
            stream.codec_context.open()
            size = stream.codec_context.frame_size or 1024
            resampler = av.AudioResampler(stream.format.name, layout, rate, frame_size=size)
            packed = _sound(rate, channels).T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, "flt", layout)
            frame.sample_rate, frame.pts = rate, 0
            for converted in (*resampler.resample(frame), *resampler.resample(None)):
                output.mux(stream.encode(converted))
            output.mux(stream.encode(None))
    except (av.error.FFmpegError, ValueError, KeyError):
        return b""
    return file.getvalue()
