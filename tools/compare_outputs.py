"""Transcribe clean files of all formats with two checkouts: are the written outputs the same?

    python -m tools.compare_outputs --old DIR --new DIR --model MODEL [--files 200]

The files are pieces of the recordings in samples/, of 1 to 20 seconds, in every format and codec
that the libraries here write, mono and stereo, at several rates; they depend on nothing else. Each
checkout transcribes all of them in one call with the same interpreter, in every output format.
Where a file written by the two is not the same to the byte, but for the placement in JSON, the
lines that differ are printed. Ends with 1 if any differs.
"""

from __future__ import annotations

import argparse
import difflib
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

ROOT = Path(__file__).parents[1]

# Name of the extension, of the container and of the codec: libsndfile's, then FFmpeg's.
_BY_LIBSNDFILE = (
    *(("wav", "WAV", subtype) for subtype in soundfile.available_subtypes("WAV")),
    ("wav", "WAVEX", "PCM_24"),
    ("wav", "RF64", "PCM_16"),
    ("w64", "W64", "PCM_16"),
    ("aiff", "AIFF", "PCM_16"),
    ("au", "AU", "PCM_16"),
    ("caf", "CAF", "PCM_24"),
    ("flac", "FLAC", "PCM_16"),
    ("flac", "FLAC", "PCM_24"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
)
_BY_FFMPEG = (
    ("m4a", "ipod", "aac"),
    ("mp4", "mp4", "aac"),
    ("m4a", "ipod", "alac"),
    ("mov", "mov", "pcm_s16le"),
    ("mkv", "matroska", "libopus"),
    ("webm", "webm", "libopus"),
    ("ts", "mpegts", "aac"),
    ("aac", "adts", "aac"),
    ("ac3", "ac3", "ac3"),
    ("avi", "avi", "libmp3lame"),
    ("flv", "flv", "aac"),
    ("mp2", "mp2", "mp2"),
    ("wv", "wv", "wavpack"),
    ("tta", "tta", "tta"),
)
# What some codecs cannot do without.
_RATES = {"libopus": 48000, "OPUS": 48000, "GSM610": 8000, "flv": 44100, "ac3": 48000}
_MONO_ONLY = ("GSM610", "G721_32", "NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32")
# Of a piece, in samples at 16 kHz.
_SHORTEST, _LONGEST = 16000, 20 * 16000
_USUAL_RATES = (16000, 44100, 48000, 32000)


def clean_files(folder: Path, count: int) -> list[Path]:
    """Write ``count`` files, of each format in turn, and give their paths.

    Formats that these versions of the libraries do not write are left out, and named on stderr.
    """
    speech = _speech()
    formats = [*((False, f) for f in _BY_LIBSNDFILE), *((True, f) for f in _BY_FFMPEG)]
    chance = np.random.default_rng(1)
    written: list[Path] = []
    refused: Counter[str] = Counter()
    for number, (by_ffmpeg, (extension, container, codec)) in enumerate(itertools.cycle(formats)):
        if len(written) == count or number > 2 * count:
            break
        rate = _RATES.get(codec) or _RATES.get(container) or _USUAL_RATES[number % 4]
        channels = 1 if codec in _MONO_ONLY or number % 3 else 2
        piece = _piece(speech, chance, rate, channels)
        path = folder / f"{number:03d}-{container}-{codec}.{extension}".lower()
        try:
            if by_ffmpeg:
                path.write_bytes(_encode_with_av(piece, rate, container, codec))
            else:
                soundfile.write(path, piece, rate, format=container, subtype=codec)
        except (av.error.FFmpegError, soundfile.LibsndfileError, ValueError) as error:
            path.unlink(missing_ok=True)
            refused[f"{container} {codec}: {error}"] += 1
        else:
            written.append(path)
    for reason in refused:
        print(f"left out: {reason}", file=sys.stderr)
    return written


def _speech() -> np.ndarray:
    """All recordings of samples/ one after the other, at 16 kHz."""
    parts = []
    for path in sorted((ROOT / "samples").rglob("*.flac")):
        samples, rate = soundfile.read(path, dtype="float32")
        parts.append(soxr.resample(samples, rate, 16000))
    return np.concatenate(parts)


def _piece(
    speech: np.ndarray, chance: np.random.Generator, rate: int, channels: int
) -> np.ndarray:  # [n] -> [m, channels]
    start = chance.integers(0, len(speech) - _LONGEST)
    length = chance.integers(_SHORTEST, _LONGEST)
    piece = soxr.resample(speech[start : start + length], 16000, rate)
    # Two channels that differ, as those of a microphone do.
    return np.stack([piece * gain for gain in (0.9, 0.6)[:channels]], axis=1)


def _encode_with_av(samples: np.ndarray, rate: int, container: str, codec: str) -> bytes:
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.T, np.float32), format="fltp", layout=layout
        )
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return file.getvalue()


def _transcribe(checkout: Path, files: list[Path], output: Path, model: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "whisper_npu", "transcribe", *map(str, files)]
    options = ["--model", model, "--output_dir", str(output), "--quiet", "--temperature", "0"]
    # Where it is run, so that the checkout of this tool is not found before the other.
    subprocess.run([*command, *options], env=environment, cwd=output.parent, check=True)


def _differences(old: Path, new: Path) -> Iterator[tuple[str, list[str]]]:
    """The names of files that are not the same in both folders, with the lines that differ."""
    for name in sorted({path.name for folder in (old, new) for path in folder.iterdir()}):
        texts = [_content(folder / name) for folder in (old, new)]
        if texts[0] != texts[1]:
            lines = [text.splitlines() for text in texts]
            changed = difflib.unified_diff(*lines, lineterm="", n=0)
            yield name, [line for line in changed if not line.startswith(("---", "+++", "@@"))]


def _content(path: Path) -> str:
    """What a checkout wrote, "" for no file; JSON without the placement, which holds run times."""
    if not path.exists():
        return ""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return text
    result = json.loads(text)
    result.pop("placement")
    return json.dumps(result, indent=1, ensure_ascii=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--old", type=Path, required=True, help="a checkout")
    parser.add_argument("--new", type=Path, required=True, help="another")
    parser.add_argument("--model", default="demo", help="as in whisper-npu transcribe")
    parser.add_argument("--files", type=int, default=200, help="how many to make")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, name) for name in ("audio", "old", "new")]
        for folder in folders:
            folder.mkdir()
        files = clean_files(folders[0], args.files)
        for checkout, output in zip((args.old, args.new), folders[1:], strict=True):
            _transcribe(checkout.resolve(), files, output, args.model)
        differing = list(_differences(*folders[1:]))
    formats = Counter(path.stem.partition("-")[2] for path in files)
    print(f"{len(files)} files of {len(formats)} formats: {', '.join(sorted(formats))}")
    for name, lines in differing:
        print(name)
        print("\n".join(f"    {line}" for line in lines))
    print(f"{len(differing)} written files differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
