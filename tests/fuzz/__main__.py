"""Fuzz what reads what others made: only errors of this package may come out of any input.

    python -m tests.fuzz audio --runs 100000
    python -m tests.fuzz audio --first 4711 --runs 1 --seed 3
    python -m tests.fuzz audio --input tests/fuzz/corpus/audio/NAME

A target is a module of tests.fuzz.targets. Input number i depends on the seed and i alone, so that
one can be made again. What fails is kept in --keep, as --input takes it: any other exception, a
crash, more memory or time than the target allows.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Before NumPy is imported: inputs are small, and threads do not survive a fork.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.fuzz.runner import TARGETS, load_target, run


def main() -> int:
    """Run inputs of a target; the exit code says whether one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=1 << 60, help="how many inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="for what fails")
    parser.add_argument("--input", type=Path, nargs="+", help="run these files and nothing else")
    args = parser.parse_args()
    target = load_target(args.target)
    if args.input:
        inputs = [file.read_bytes() for file in args.input]
        report = run(target, len(inputs), make=inputs.__getitem__, keep=args.keep)
    else:
        report = run(
            target, args.runs, first=args.first, seed=args.seed, seconds=args.seconds,
            keep=args.keep,
        )  # fmt: skip
    print(report, flush=True)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
