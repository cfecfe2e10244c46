"""Write whisper_npu/convert/speech/: the recordings that conversions to INT8 are calibrated on.

python -m tools.calibration_speech --out whisper_npu/convert/speech

flite and espeak-ng read sentences that were written for this. A recording has one language and
several voices; some have noise or the band of a telephone, as real ones do. ``texts.json`` says
what is said in each, in segments with their times in seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from whisper_npu.ops.mel import SAMPLE_RATE

F32 = NDArray[np.float32]

# Of Ogg Vorbis, from 0 (most bytes) to 1.
COMPRESSION = 0.7
LONGEST = 29.5
FLITE = ("kal16", "awb", "rms", "slt")

# File: language, what is done to the sound, (voice, text) one after the other.
RECORDINGS: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "en-journey.ogg": (
        "en",
        "clean",
        [
            ("slt", "The train to Newcastle leaves at nine forty from platform three."),
            (
                "awb",
                "We had been walking for two hours when the rain began, so we sheltered under an "
                "old stone bridge and shared the last of the bread.",
            ),
            ("en-us+m3", "How much does a return ticket cost, and can I pay by card?"),
            ("rms", "In nineteen eighty-seven the harbour was closed, and the village grew quiet."),
            ("en-gb+f2", "Never mind, she said; there will be another boat on Thursday."),
            ("slt", "My luggage weighs twenty-three kilograms."),
        ],
    ),
    "en-work.ogg": (
        "en",
        "noise",
        [
            (
                "rms",
                "Good morning everyone. Let's start with the budget for the second quarter, which "
                "is about twelve percent below what we expected.",
            ),
            ("en-us+f3", "I've sent you the figures; the third table still has a mistake in it."),
            ("awb", "Could somebody explain why the server restarts every night at two?"),
            (
                "kal16",
                "The software reads a file, checks every line, and writes a report that nobody "
                "looks at.",
            ),
            ("slt", "Okay, um, I think we should ask Dr. Patel before we decide."),
        ],
    ),
    "en-nature.ogg": (
        "en",
        "clean",
        [
            (
                "awb",
                "Bees visit several thousand flowers a day. They remember colours and scents, and "
                "tell each other by a dance where the best ones grow.",
            ),
            ("en-gb-x-rp+m4", "Granite cools slowly, deep below the surface of the earth."),
            (
                "slt",
                "The forecast for the northern islands: strong winds from the west, heavy showers, "
                "and temperatures between four and nine degrees.",
            ),
            ("rms", "Whales sing for hours, and their songs change from year to year."),
            ("en-us+f1", "What a beautiful evening!"),
        ],
    ),
    "en-kitchen.ogg": (
        "en",
        "telephone",
        [
            (
                "slt",
                "First chop two onions and fry them in butter until they are golden. Then add half "
                "a litre of stock, some pepper, and a spoonful of mustard.",
            ),
            ("en-us+m5", "Hello? Yes, this is Jonathan speaking. Who's calling, please?"),
            ("rms", "The number is oh one six three two, nine six oh, double four seven."),
            ("kal16", "Turn the oven down and wait for a quarter of an hour."),
            ("en-gb+f4", "I would rather have the soup, thank you, without any cheese."),
        ],
    ),
    "de-alltag.ogg": (
        "de",
        "clean",
        [
            (
                "de+m3",
                "Gestern habe ich lange auf den Bus gewartet, und als er endlich kam, war er voll.",
            ),
            ("de+f2", "Können Sie mir bitte sagen, wie ich zum Bahnhof komme?"),
            (
                "de+m7",
                "Die Bibliothek öffnet um zehn Uhr; am Mittwoch bleibt sie wegen Bauarbeiten "
                "geschlossen.",
            ),
            ("de+f4", "Das Wetter soll schöner werden, sagte die Nachbarin über den Zaun."),
        ],
    ),
    "fr-ville.ogg": (
        "fr",
        "noise",
        [
            (
                "fr-fr+f2",
                "Le marché commence à sept heures, et les meilleurs légumes sont vendus avant neuf "
                "heures.",
            ),
            ("fr-fr+m3", "Je voudrais deux baguettes et un café, s'il vous plaît."),
            (
                "fr-fr+m7",
                "L'année dernière, nous avons traversé la France à vélo, de Lille jusqu'à la mer.",
            ),
            ("fr-fr+f4", "Est-ce que vous avez trouvé les clés de la voiture ?"),
        ],
    ),
    "es-casa.ogg": (
        "es",
        "clean",
        [
            (
                "es+m3",
                "Mi abuela vivía en una casa pequeña cerca del río, con un jardín lleno de "
                "naranjos.",
            ),
            ("es+f2", "¿A qué hora empieza la película esta noche?"),
            (
                "es+m1",
                "El médico me dijo que descansara tres días y que bebiera mucha agua caliente.",
            ),
            ("es+f4", "Mañana saldremos temprano, porque el camino es largo."),
        ],
    ),
    "ru-zima.ogg": (
        "ru",
        "clean",
        [
            ("ru+m3", "Зимой здесь темнеет рано, и в окнах уже в четыре часа зажигается свет."),
            ("ru+f2", "Скажите, пожалуйста, где находится ближайшая аптека?"),
            ("ru+m7", "Мой брат работает инженером на заводе и каждый день ездит туда на поезде."),
        ],
    ),
}


def speak(text: str, voice: str, rng: random.Random, scratch: Path) -> F32:
    """One sentence as samples at 16 kHz, without the silence around it, of a peak of 0.5."""
    if voice in FLITE:
        stretch = f"duration_stretch={rng.uniform(0.95, 1.1):.3f}"
        command = ["flite", "-voice", voice, "--setf", stretch, "-t", text, "-o", str(scratch)]
    else:
        speed, pitch = str(rng.randint(150, 180)), str(rng.randint(35, 65))
        command = ["espeak-ng", "-v", voice, "-s", speed, "-p", pitch, "-w", str(scratch), text]
    subprocess.run(command, check=True, capture_output=True)
    samples, rate = soundfile.read(scratch, dtype="float32")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    spoken: F32 = samples * np.float32(0.5 / np.abs(samples).max())
    return spoken


def altered(samples: F32, how: str, rng: np.random.Generator) -> F32:
    """With noise that falls by 3 dB an octave, 30 dB below the voice; or only what a telephone
    leaves."""
    if how == "clean":
        return samples
    spectrum = np.fft.rfft(samples)
    frequency = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    if how == "telephone":
        spectrum[(frequency < 300) | (frequency > 3400)] = 0
        return np.fft.irfft(spectrum, len(samples)).astype(np.float32)
    noise = np.fft.rfft(rng.standard_normal(len(samples))) / np.sqrt(np.maximum(frequency, 20))
    noise = np.fft.irfft(noise, len(samples))
    noise *= 10 ** (-30 / 20) * samples.std() / noise.std()
    return (samples + noise).astype(np.float32)


def record(name: str, folder: Path) -> list[list[float | str]]:
    """Write one recording; its segments as start, end and text."""
    _, how, spoken = RECORDINGS[name]
    rng = random.Random(name)
    silence = np.zeros(int(0.3 * SAMPLE_RATE), np.float32)
    parts, segments = [silence], []
    with tempfile.TemporaryDirectory() as scratch:
        for voice, text in spoken:
            start = sum(map(len, parts)) / SAMPLE_RATE
            parts.append(speak(text, voice, rng, Path(scratch, "speech.wav")))
            end = sum(map(len, parts)) / SAMPLE_RATE
            segments.append([round(start, 2), round(end, 2), text])
            parts.append(np.zeros(int(rng.uniform(0.3, 0.8) * SAMPLE_RATE), np.float32))
    samples = altered(np.concatenate(parts), how, np.random.default_rng(len(name)))
    if len(samples) > LONGEST * SAMPLE_RATE:
        raise ValueError(f"{name} takes {len(samples) / SAMPLE_RATE:.1f} s")
    path = folder / name
    soundfile.write(path, samples, SAMPLE_RATE, format="OGG", subtype="VORBIS",
                    compression_level=COMPRESSION)  # fmt: skip
    print(f"{name}: {len(samples) / SAMPLE_RATE:.1f} s, {path.stat().st_size} bytes")
    return segments


def main() -> None:
    """Write all recordings and texts.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        name: {"language": language, "segments": record(name, folder)}
        for name, (language, _, _) in RECORDINGS.items()
    }
    text = json.dumps(texts, indent=1, ensure_ascii=False) + "\n"
    (folder / "texts.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
