"""The demo model end to end: sentences, speech, vocabulary, training, export, quantisation.

    python tools/demo_model/run.py --work-dir DIR (--minutes M | --steps N) [--seed S] [--resume]

Needs flite and espeak-ng, and the Python packages of requirements.txt. The seed fixes the
sentences, the voices and the training windows; a run that was stopped goes on with --resume.
Training the decoder alone comes last, and takes DECODER_SHARE of the time or steps in addition.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import export
import synth
import train
import vocab

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))
DECODER_SHARE = 0.3


def ship(work_dir: Path, out: Path) -> None:
    """Export the checkpoint, quantise it and put the four files of the model into ``out``."""
    from whisper_npu.convert import convert

    export.export(work_dir, work_dir / "exported")
    made = convert(work_dir / "exported", work_dir / "int8", origin="tools/demo_model", force=True)
    out.mkdir(parents=True, exist_ok=True)
    for file in made.dest.iterdir():
        shutil.copyfile(file, out / file.name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, required=True, help="speech, checkpoint, log")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="train for this long")
    length.add_argument("--steps", type=int, help="train for this many steps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=40000)
    parser.add_argument("--processes", type=int, default=2, help="one for each core")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "weights" / "demo")
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
    ship(work_dir, options.out)


if __name__ == "__main__":
    main()
