"""How well the model does: the figures of weights/demo/README.md, as JSON.

    python -m weights.demo.recipe.evaluate --work-dir DIR [--model DIR] [--beam-size N] [...]

Sentences that were never in the training text, in the training voices and in voices held out; and a
long recording with pauses and half a minute of silence. Every recording goes through a complete
transcription, with the default options of Python but for the language and those given.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from weights.demo.recipe import synth, wer
from whisper_npu import Transcriber
from whisper_npu.ops.mel import SAMPLE_RATE

# (start, end, text) of each segment
Segments = list[tuple[float, float, str]]
Transcribe = Callable[[np.ndarray], Segments]
Items = list[tuple[np.ndarray, synth.Utterance]]


def sentence_wer(run: Transcribe, items: Items) -> dict[str, Any]:
    """Corpus WER of single sentences, in all and by voice."""
    errors: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for samples, info in items:
        text = "".join(t for *_, t in run(samples.astype(np.float32) / 32768))
        found, number = wer.word_errors(info.text, text)
        errors[info.voice] += found
        words[info.voice] += number
    return {
        "wer": errors.total() / words.total(),
        "sentences": len(items),
        "words": words.total(),
        "by_voice": {voice: round(errors[voice] / words[voice], 3) for voice in sorted(words)},
    }


def long_recording(
    items: Items, seed: int, seconds: float = 600.0
) -> tuple[np.ndarray, list[tuple[float, str]], tuple[float, float]]:
    """Sentences with pauses, and 30 s of silence about the middle; the true starts; the silence."""
    rng = random.Random(seed)
    items = rng.sample(items, len(items))
    parts = [np.zeros(int(0.3 * SAMPLE_RATE), dtype=np.float32)]
    truth: list[tuple[float, str]] = []
    at, silence = 0.3, (0.0, 0.0)
    for samples, info in items:
        if at > seconds / 2 and silence[1] == 0:
            parts.append(np.zeros(30 * SAMPLE_RATE, dtype=np.float32))
            silence = (at, at + 30)
            at += 30
        clip = samples.astype(np.float32) / 32768
        pause = int(rng.choice([rng.uniform(0.25, 0.8), rng.uniform(0.6, 2.0)]) * SAMPLE_RATE)
        truth.append((at, info.text))
        parts += [clip, np.zeros(pause, dtype=np.float32)]
        at += (len(clip) + pause) / SAMPLE_RATE
        if at > seconds:
            break
    return np.concatenate(parts), truth, silence


def long_figures(run: Transcribe, items: Items, seed: int) -> dict[str, Any]:
    """WER, median distance of a segment's start from the nearest true one, text in the silence."""
    audio, truth, silence = long_recording(items, seed)
    segments = [s for s in run(audio) if s[2].strip()]
    errors, words = wer.word_errors(
        " ".join(text for _, text in truth), " ".join(text for *_, text in segments)
    )
    starts = np.array([at for at, _ in truth])
    distances = [float(np.abs(starts - start).min()) for start, *_ in segments]
    inside = [
        text
        for start, end, text in segments
        if start > silence[0] + 1 and min(end, silence[1]) - start > 1 and end < silence[1] - 1
    ]
    return {
        "seconds": len(audio) / SAMPLE_RATE,
        "wer": errors / words,
        "segments": len(segments),
        "utterances": len(truth),
        "median_start_error": statistics.median(distances) if distances else None,
        "text_in_silence": inside,
    }


def main() -> None:
    """Command line; the figures go to standard output as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m weights.demo.recipe.evaluate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--precision", choices=["float32", "int8"], default="float32")
    parser.add_argument("--limit", type=int, default=600, help="sentences of each part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--beam-size", type=int, help="greedy if not given")
    parser.add_argument("--batch-size", type=int, help="windows at a time")
    parser.add_argument("--no-previous-text", action="store_true")
    options = parser.parse_args()
    transcriber = Transcriber(options.model, precision=options.precision)

    def run(audio: np.ndarray) -> Segments:
        result = transcriber.transcribe(
            audio,
            language="en",
            beam_size=options.beam_size,
            batch_size=options.batch_size,
            condition_on_previous_text=not options.no_previous_text,
        )
        return [(s.start, s.end, s.text) for s in result.segments]

    speech = options.work_dir / "speech"
    held_out = synth.load(speech, "heldout")
    figures = {
        "training_voices": sentence_wer(run, held_out[: options.limit]),
        "held_out_voices": sentence_wer(run, synth.load(speech, "newvoice")[: options.limit]),
        "long": long_figures(run, held_out, options.seed),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
