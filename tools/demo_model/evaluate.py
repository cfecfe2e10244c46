"""How well an exported model does: the figures of weights/demo/README.md.

Sentences that were never in the training text, in the training voices and in voices held out; a
long recording with pauses and half a minute of silence; and any other recording with its text.
Every recording goes through a complete transcribe() of this project's runtime or of openai-whisper,
with its default options but for the language, and without the fallback to higher temperatures if
asked so.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import synth
import vocab
import wer

RATE = synth.RATE
PARTS = ("training_voices", "held_out_voices", "long")
# (start, end, text) of each segment
Segments = list[tuple[float, float, str]]
Transcribe = Callable[[np.ndarray], Segments]


def own_runtime(model: Path, precision: str, **keywords: Any) -> Transcribe:
    """This project's transcriber."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from whisper_npu import Transcriber

    transcriber = Transcriber(model, precision=precision)

    def run(audio: np.ndarray) -> Segments:
        result = transcriber.transcribe(audio, language="en", **keywords)
        return [(s.start, s.end, s.text) for s in result.segments]

    return run


def openai_whisper(model: Path) -> Any:
    """The exported weights in openai-whisper, whose vocabulary is replaced by the exported one."""
    import export
    import tiktoken
    import torch
    import whisper
    import whisper.tokenizer
    from model import Dims
    from model import Whisper as Ours
    from safetensors.torch import load_file

    class Small(whisper.model.Whisper):
        """The multilingual layout, which whisper would recognise by the size of its own."""

        is_multilingual = True
        num_languages = len(vocab.LANGUAGES)

    specials = vocab.CONTROL_TOKENS + vocab.TIMESTAMP_TOKENS
    encoding = tiktoken.Encoding(
        "demo",
        pat_str=r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        mergeable_ranks=vocab.tiktoken_ranks(model / "tokenizer.json"),
        special_tokens={token: vocab.BASE_SIZE + i for i, token in enumerate(specials)},
    )
    whisper.tokenizer.get_encoding = lambda name="", num_languages=99: encoding
    dims = Dims(n_vocab=vocab.VOCAB_SIZE)
    loaded = Small(whisper.ModelDimensions(**dims.as_dict()))
    tensors = load_file(model / "model.safetensors")
    names = [n for n in Ours(dims, 1).state_dict() if not n.startswith("ctc")]
    state = {name: tensors[export.hugging_face_name(name)].float() for name in names}
    loaded.load_state_dict(state)
    heads = json.loads((model / "generation_config.json").read_text())["alignment_heads"]
    mask = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
    for layer, head in heads:
        mask[layer, head] = True
    loaded.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    return loaded.eval()


def openai_runtime(model: Path, precision: str, **keywords: Any) -> Transcribe:
    """openai-whisper's transcribe(), of weights that are not INT8."""
    loaded = openai_whisper(model)

    def run(audio: np.ndarray) -> Segments:
        result = loaded.transcribe(audio, language="en", fp16=False, **keywords)
        return [(s["start"], s["end"], s["text"]) for s in result["segments"]]

    return run


def sentence_wer(run: Transcribe, items: list[Any], show: int = 0) -> dict[str, Any]:
    """Corpus WER of single sentences, in all and by voice."""
    errors: dict[str, int] = {}
    words: dict[str, int] = {}
    for number, (samples, info) in enumerate(items):
        text = "".join(t for *_, t in run(samples.astype(np.float32) / 32768))
        e, n = wer.word_errors(info.text, text)
        errors[info.voice] = errors.get(info.voice, 0) + e
        words[info.voice] = words.get(info.voice, 0) + n
        if number < show:
            print(f"  {info.voice}: {info.text} | {text.strip()}", flush=True)
    return {
        "wer": sum(errors.values()) / sum(words.values()),
        "sentences": len(items),
        "words": sum(words.values()),
        "by_voice": {v: round(errors[v] / words[v], 3) for v in sorted(words)},
    }


def long_recording(
    items: list[Any], seed: int, seconds: float = 600.0
) -> tuple[np.ndarray, list[tuple[float, str]], tuple[float, float]]:
    """Sentences with pauses, and 30 s of silence about the middle; the true starts; the silence."""
    rng = random.Random(seed)
    items = rng.sample(items, len(items))
    parts: list[np.ndarray] = []
    truth: list[tuple[float, str]] = []
    at, silence = 0.3, (0.0, 0.0)
    parts.append(np.zeros(int(0.3 * RATE), dtype=np.float32))
    for samples, info in items:
        if at > seconds / 2 and silence[1] == 0:
            parts.append(np.zeros(30 * RATE, dtype=np.float32))
            silence = (at, at + 30)
            at += 30
        clip = samples.astype(np.float32) / 32768
        pause = int(rng.choice([rng.uniform(0.25, 0.8), rng.uniform(0.6, 2.0)]) * RATE)
        truth.append((at, info.text))
        parts += [clip, np.zeros(pause, dtype=np.float32)]
        at += (len(clip) + pause) / RATE
        if at > seconds:
            break
    return np.concatenate(parts), truth, silence


def long_figures(run: Transcribe, items: list[Any], seed: int) -> dict[str, Any]:
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
        "seconds": len(audio) / RATE,
        "wer": errors / words,
        "segments": len(segments),
        "utterances": len(truth),
        "median_start_error": statistics.median(distances) if distances else None,
        "text_in_silence": inside,
    }


def main() -> None:
    """Command line; the figures go to standard output as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", choices=["own", "openai"], default="own")
    parser.add_argument("--precision", choices=["float32", "int8"], default="float32")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all of them"
    )
    parser.add_argument("--limit", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--beam-size", type=int, help="greedy if not given")
    parser.add_argument("--no-fallback", action="store_true", help="temperature 0 only")
    parser.add_argument("--batch-size", type=int, help="windows at a time (backend own)")
    parser.add_argument("--no-previous-text", action="store_true")
    parser.add_argument("--recording", type=Path, help="another recording ...")
    parser.add_argument("--text", default="", help="... and what is said in it")
    options = parser.parse_args()
    keywords: dict[str, Any] = {"temperature": 0.0} if options.no_fallback else {}
    if options.beam_size is not None:
        keywords["beam_size"] = options.beam_size
    if options.batch_size is not None:
        keywords["batch_size"] = options.batch_size
    if options.no_previous_text:
        keywords["condition_on_previous_text"] = False
    backend = own_runtime if options.backend == "own" else openai_runtime
    run = backend(options.model, options.precision, **keywords)
    speech = options.work_dir / "speech"
    result: dict[str, Any] = {
        "backend": options.backend, "precision": options.precision, **keywords,
    }  # fmt: skip
    held = synth.load(speech, "heldout")
    for name, items in (
        ("training_voices", held[: options.limit]),
        ("held_out_voices", synth.load(speech, "newvoice")[: options.limit]),
    ):
        if name not in options.parts:
            continue
        began = time.perf_counter()
        result[name] = sentence_wer(run, items, options.show)
        result[name]["seconds_each"] = (time.perf_counter() - began) / len(items)
    if "long" in options.parts:
        result["long"] = long_figures(run, held, options.seed)
    if options.recording:
        audio, rate = soundfile.read(options.recording, dtype="float32", always_2d=True)
        if rate != RATE:
            raise SystemExit(f"{options.recording}: 16 kHz, please")
        text = "".join(t for *_, t in run(audio.mean(axis=1)))
        errors, words = wer.word_errors(options.text, text)
        result["recording"] = {"text": text.strip(), "wer": errors / max(1, words)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
