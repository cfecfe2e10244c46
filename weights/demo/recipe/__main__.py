"""The built-in model end to end: sentences, speech, vocabulary, training, export, quantisation.

    python -m weights.demo.recipe --work-dir DIR (--minutes M | --steps N) [--seed S] [--resume]

Needs flite and espeak-ng, and the Python packages of requirements.txt. The seed fixes the
sentences, the voices and the training windows; a run that was stopped goes on with --resume.
Training the decoder alone comes last, and takes DECODER_SHARE of the time or steps in addition.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

from weights.demo.recipe import export, synth, train, vocab

DECODER_SHARE = 0.3


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m weights.demo.recipe", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--work-dir", type=Path, required=True, help="speech, checkpoint, log")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="train for this long")
    length.add_argument("--steps", type=int, help="train for this many steps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=40000)
    parser.add_argument("--processes", type=int, default=2, help="one for each core")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1])
    options = parser.parse_args()
    work_dir = options.work_dir
    synth.make_all(work_dir, options.seed, options.sentences, options.processes)
    if not (work_dir / "tokenizer.json").exists():
        texts = (work_dir / "train.txt").read_text().splitlines()
        vocab.train_tokenizer(texts, work_dir / "tokenizer.json")
    whole = train.Options(
        work_dir=work_dir,
        minutes=options.minutes,
        steps=options.steps,
        seed=options.seed,
        resume=options.resume,
        processes=options.processes,
    )
    begun = options.resume and train.decoder_only_begun(work_dir)
    if not (begun or train.Trainer(whole).run()):
        raise SystemExit("stopped; --resume goes on")
    decoder = replace(
        whole,
        minutes=options.minutes and options.minutes * DECODER_SHARE,
        steps=options.steps and math.ceil(options.steps * DECODER_SHARE),
        seed=options.seed + 1,
        resume=True,
        decoder_only=True,
        muon_rate=0.005,
        adam_rate=7e-4,
        hold=0.35,
        # Smoothing gives timestamps, taken together, 3 % everywhere. Whisper's decoding takes one
        # as soon as their sum is above every text token, in the middle of a doubtful word too.
        smoothing=0.0,
    )
    if not train.Trainer(decoder).run():
        raise SystemExit("stopped; --resume goes on")
    export.ship(work_dir, options.out)


if __name__ == "__main__":
    main()
