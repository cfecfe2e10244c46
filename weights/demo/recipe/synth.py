"""Speech for the sentences: every flite voice and many espeak-ng voices, 16 kHz, silence trimmed.

A window's timestamps are the true ones only if an utterance begins and ends with its sound, so the
silence that the synthesisers add is cut off here, once. The result is a folder of shards: raw int16
samples, and a JSON index of (offset, length, voice, text) beside them; a shard is complete as soon
as its index exists, so that training may begin before the last one is there.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from weights.demo.recipe import sentences
from whisper_npu.ops.mel import SAMPLE_RATE

SHARD = 1000
FLITE_VOICES = {"kal": 0.05, "kal16": 0.09, "awb": 0.1, "rms": 0.1, "slt": 0.12}
ESPEAK_VOICES = [
    "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-us-nyc",
    "en-us+m1", "en-gb+m2", "en-us+m3", "en-gb-x-rp+m4", "en-us+m5", "en-gb+m7", "en-us+f1",
    "en-gb+f2", "en-us+f3", "en-gb-scotland+f4", "en-029+m3", "en-us+f2", "en-gb-x-rp+f1",
    "en-us-nyc+f4",
]  # fmt: skip
# An accent and three variants (m6, m8, f5) that no training sentence is ever spoken in.
HELD_OUT_VOICES = ["en-us+m6", "en-gb+f5", "en-gb-x-gbcwmd+m8"]


@dataclass(frozen=True)
class Utterance:
    """Where one spoken sentence lies in its shard."""

    offset: int
    length: int
    voice: str
    text: str


def pick_voice(rng: random.Random) -> str:
    """A training voice: somewhat under half of the speech is flite's."""
    if rng.random() < sum(FLITE_VOICES.values()):
        return rng.choices(list(FLITE_VOICES), list(FLITE_VOICES.values()))[0]
    return rng.choice(ESPEAK_VOICES)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def speak(text: str, voice: str, rng: random.Random, scratch: str) -> np.ndarray:
    """One sentence as float32 samples at 16 kHz, trimmed, at a level drawn from `rng`."""
    if voice in FLITE_VOICES:
        stretch = rng.uniform(0.8, 1.25)
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}"]
        if voice.startswith("kal"):
            command += ["--setf", f"int_f0_target_mean={rng.uniform(80, 150):.0f}"]
        _run([*command, "-t", text, "-o", scratch])
    else:
        speed, pitch = rng.randint(130, 205), rng.randint(25, 75)
        _run(["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", scratch, text])
    samples, rate = soundfile.read(scratch, dtype="float32")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    samples = trim(samples)
    peak = float(np.abs(samples).max(initial=1e-4))
    return (samples * (10 ** rng.uniform(-1.1, -0.05) / peak)).astype(np.float32)


def trim(samples: np.ndarray, step: int = 80) -> np.ndarray:
    """Cut leading and trailing parts that stay 40 dB below the loudest, in steps of 5 ms."""
    blocks = np.abs(samples[: len(samples) // step * step]).reshape(-1, step).max(axis=1)
    loud = np.flatnonzero(blocks > 0.01 * blocks.max(initial=1e-4))
    if len(loud) == 0:
        return samples
    return samples[loud[0] * step : (loud[-1] + 1) * step]


def _make_shard(job: tuple[str, str, int, list[str], list[str] | None]) -> float:
    folder, name, seed, texts, voices = job
    index_path = Path(folder, f"{name}.json")
    if index_path.exists():
        return 0.0
    rng = random.Random(seed)
    offset, index = 0, []
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with (
        tempfile.TemporaryDirectory(dir=memory) as scratch,
        Path(folder, f"{name}.i16").open("wb") as out,
    ):
        for text in texts:
            voice = rng.choice(voices) if voices else pick_voice(rng)
            samples = speak(text, voice, rng, f"{scratch}/speech.wav")
            out.write((samples * 32767).astype("<i2").tobytes())
            index.append([offset, len(samples), voice, text])
            offset += len(samples)
    partial = index_path.with_suffix(".part")
    partial.write_text(json.dumps(index))
    partial.replace(index_path)
    return offset / SAMPLE_RATE


def synthesise(
    folder: Path,
    name: str,
    texts: list[str],
    seed: int,
    processes: int,
    voices: list[str] | None = None,
) -> None:
    """Speak all `texts` into shards `name-000`, ...; shards that exist are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    salt = zlib.crc32(name.encode())
    jobs = [
        (str(folder), f"{name}-{i:03d}", seed * 1000 + i + salt, texts[at : at + SHARD], voices)
        for i, at in enumerate(range(0, len(texts), SHARD))
    ]
    with multiprocessing.Pool(processes) as pool:
        for done, seconds in enumerate(pool.imap_unordered(_make_shard, jobs), 1):
            print(f"{name}: {done}/{len(jobs)} shards, {seconds / 60:.0f} min more", flush=True)


def load(folder: Path, name: str) -> list[tuple[np.ndarray, Utterance]]:
    """All utterances of the complete shards `name-*`, their samples mapped rather than read."""
    found = []
    for index_path in sorted(folder.glob(f"{name}-*.json")):
        samples = np.memmap(index_path.with_suffix(".i16"), dtype="<i2", mode="r")
        for offset, length, voice, text in json.loads(index_path.read_text()):
            found.append(
                (samples[offset : offset + length], Utterance(offset, length, voice, text))
            )
    return found


def make_all(work_dir: Path, seed: int, count: int, processes: int) -> None:
    """The held-out sets and the training set; training text has no held-out sentence."""
    folder = work_dir / "speech"
    held = sentences.generate(1600, seed + 1, held_out=True)
    synthesise(folder, "heldout", held[:800], seed, processes)
    synthesise(folder, "newvoice", held[800:1400], seed, processes, HELD_OUT_VOICES)
    train = sentences.generate(count, seed)
    (work_dir / "train.txt").write_text("\n".join(train) + "\n")
    synthesise(folder, "train", train, seed, processes)
