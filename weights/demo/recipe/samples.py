"""Write samples/synthetic/: a few short recordings of held-out sentences, and their texts.

python -m weights.demo.recipe.samples --out samples/synthetic
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

import numpy as np
import soundfile

from weights.demo.recipe import sentences, synth
from whisper_npu.ops.mel import SAMPLE_RATE

# (file, voice, number of sentences)
WANTED = [
    ("order.flac", "slt", 1),
    ("weather.flac", "en-us+f3", 1),
    ("directions.flac", "rms", 1),
    ("message.flac", "en-gb", 1),
    ("several.flac", "awb", 3),
]
# What each one should be about, so that a listener is not given a list of words.
ABOUT = {
    "order.flac": r"glass of|bill|would like|ticket",
    "weather.flac": r"weather|temperature|chance of",
    "directions.flac": r"turn |street on the|nearest",
    "message.flac": r"call |message|email",
    "several.flac": r"train|flight|birthday|kitchen|meet|alarm",
}


def write(folder: Path, seed: int) -> None:
    """Write the recordings and texts.json."""
    rng = random.Random(seed)
    pool = sentences.generate(3000, seed + 1, held_out=True)[1400:]
    folder.mkdir(parents=True, exist_ok=True)
    texts = {}
    for name, voice, count in WANTED:
        matching = [t for t in pool if re.search(ABOUT[name], t, re.I) and 25 < len(t) < 70]
        chosen = rng.sample(matching, count)
        parts: list[np.ndarray] = [np.zeros(int(0.2 * SAMPLE_RATE), dtype=np.float32)]
        for text in chosen:
            scratch = str(folder / "scratch.wav")
            clip = synth.speak(text, voice, rng, scratch)
            clip *= 0.5 / max(float(np.abs(clip).max()), 1e-4)
            pause = np.zeros(int(rng.uniform(0.5, 1.2) * SAMPLE_RATE), dtype=np.float32)
            parts += [clip, pause]
            Path(scratch).unlink()
        soundfile.write(folder / name, np.concatenate(parts), SAMPLE_RATE, subtype="PCM_16")
        texts[name] = {"voice": voice, "text": " ".join(chosen)}
    (folder / "texts.json").write_text(json.dumps(texts, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    write(options.out, options.seed)
