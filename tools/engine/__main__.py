"""What it brings to transcribe recordings side by side, on this machine.

    python -m tools.engine throughput base            # 64 recordings of 10 s, one of 30 minutes
    python -m tools.engine batch base                 # a step of 1, 2, 4, 8 windows
    python -m tools.engine single OLD NEW --old_home DIR --new_home DIR

MODEL is tiny.en or base, which are fetched once, or a folder. Sides take turns.

``throughput`` transcribes real speech, each recording of other content, one after the other and at
once, from the threads of a pool; with and without ``batch_size`` for the long one, and for all of
them in a loop. Every side is a process of its own. It prints the seconds of it all, those of short
recordings that are asked for one at a time, alone and beside the long one, peak memory, the seconds
of each phase, and what windows side by side could bring at most. Results must not depend on what
is beside them: those that do are named.

``batch`` measures a step and the choice of a token, and what no step can be faster than: the bytes
that it reads, the multiply-adds in it, each at a rate that is measured here.

``single`` transcribes a short recording in two checkouts, as ``tools.compare_checkouts`` does:
pairs of runs, the median of their ratios and its 95 % bootstrap interval, peak memory.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tools.compare_checkouts import MODES, Side, WorkerError, checkout_folder
from tools.measuring import REPOSITORY

JFK = REPOSITORY / "samples" / "jfk.flac"


def _throughput(args: argparse.Namespace) -> None:
    from tools.engine.material import model_folder, write_material
    from tools.engine.throughput import measure, report, task_of

    model = model_folder(args.model, args.precision)
    with tempfile.TemporaryDirectory() as folder:
        material = write_material(Path(folder), args.short, args.minutes)
        task = task_of(
            str(model), args.precision, material, args.batch_size, args.pool, args.threads
        )
        runs = measure(task, args.repeats)
        seconds = material.seconds
    print(
        f"{args.model}, {args.precision}: {args.short} recordings of 10 s and one of "
        f"{args.minutes:g} minutes, {args.repeats} times; {args.pool} threads at once, "
        f"batch_size {args.batch_size}.\n"
    )
    print("\n".join(report(runs, seconds, args.batch_size)))


def _batch(args: argparse.Namespace) -> None:
    from tools.engine.batch import lines, measure
    from tools.engine.material import model_folder, write_material
    from whisper_npu import Transcriber

    model = model_folder(args.model, args.precision)
    with (
        tempfile.TemporaryDirectory() as folder,
        Transcriber(model, precision=args.precision, threads=args.threads) as transcriber,
    ):
        audio = write_material(Path(folder), 0, 4).long
        reports = measure(transcriber, audio, args.rounds)
    print(f"{args.model}, {args.rounds} rounds by turns:\n")
    print("\n".join(lines(reports)))


def _single(args: argparse.Namespace) -> None:
    from tools.engine.material import model_folder
    from tools.engine.single import lines, measure

    threads = args.threads or len(os.sched_getaffinity(0))
    python = Path(sys.executable)
    old = Side("old", args.old, args.old_home.resolve(), python, threads)
    new = Side("new", args.new, args.new_home.resolve(), python, threads)
    model = model_folder(args.model, args.mode.partition("-")[0])
    audio = args.audio.resolve()
    seconds, peaks = measure(old, new, model, args.mode, audio, args.pairs)
    print(f"{args.model}, {args.mode}, {threads} threads\n")
    print("\n".join(lines(audio.name, seconds, peaks)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--threads", type=int, help="of the kernels (default: the product's)")
    of_model = argparse.ArgumentParser(add_help=False)
    of_model.add_argument("model", metavar="MODEL")
    of_model.add_argument("--precision", choices=("int8", "float32"), default="int8")

    whole = commands.add_parser("throughput", parents=[of_model, shared])
    whole.add_argument("--short", type=int, default=64, help="recordings of 10 s (default 64)")
    whole.add_argument("--minutes", type=float, default=30, help="of the long one (default 30)")
    whole.add_argument("--repeats", type=int, default=3, help="default 3")
    whole.add_argument("--pool", type=int, default=16, help="recordings at once (default 16)")
    whole.add_argument("--batch_size", type=int, default=8, help="default 8")
    whole.set_defaults(run=_throughput)

    steps = commands.add_parser("batch", parents=[of_model, shared])
    steps.add_argument("--rounds", type=int, default=15, help="default 15")
    steps.set_defaults(run=_batch)

    single = commands.add_parser("single", parents=[shared])
    single.add_argument("old", type=checkout_folder, metavar="OLD", help="the checkout before")
    single.add_argument("new", type=checkout_folder, metavar="NEW", help="the checkout after")
    single.add_argument("--old_home", type=Path, required=True, help="its WHISPER_NPU_HOME")
    single.add_argument("--new_home", type=Path, required=True, help="its WHISPER_NPU_HOME")
    single.add_argument("--model", default="tiny.en", help="default tiny.en")
    single.add_argument("--mode", choices=MODES, default="int8-kernels", help="default %(default)s")
    single.add_argument("--audio", type=Path, default=JFK, help="default samples/jfk.flac")
    single.add_argument("--pairs", type=int, default=30, help="default 30")
    single.set_defaults(run=_single)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    try:
        args.run(args)
    except (ValueError, WorkerError) as error:
        raise SystemExit(f"engine: {error}") from error


if __name__ == "__main__":
    main()
