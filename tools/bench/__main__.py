"""The speed and memory of ours beside openai-whisper's, transformers', faster-whisper's and
whisper.cpp's, on this machine, with the same weights.

    python -m tools.bench --speech 5                  # five minutes, as a user transcribes them
    python -m tools.bench --model base --json base.json
    python -m tools.bench --lengths 1,10,60,180

``--speech`` lets each runtime transcribe a recording of English prompts, in a new process each
time: seconds until the model is loaded, seconds of the transcription, peak memory, word errors.
Ours is there as it is without an option, eight windows at a time, and in float32 on NumPy.

The first run fetches weights and speech, and makes an environment of its own, with the peers and a
whisper.cpp compiled for this CPU, in a cache folder (some gigabytes; needs a C++ compiler). Needs
Linux.

Every runtime is a process with as many threads as the others, on the same CPUs, that stays while
they take turns, stage by stage; those whose turn it is not are stopped. A measurement during which
other processes were busy, or kept it waiting, is repeated. Stages, of which each does the same in
every runtime, ``--tokens`` tokens for each window, without timestamps, nothing suppressed, with
weights that are real but for the end of text, which never comes:

    mel      samples of 30 s to features
    encoder  features to states (whisper.cpp's with the cross keys and values of the decoder)
    decode   states to tokens, greedy
    beam     the same with five beams
    window   samples to tokens, greedy
    batch    samples of eight windows to tokens, greedy
    file     a recording of ten minutes, by the runtime's own transcription
    cold     a new process: until the model is loaded, until the text of a window; its memory

Tables have the median of all rounds with half the distance of the quartiles, ``!`` where every
round was disturbed, and ratios of ours to theirs within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from tests.support.real.data import MODELS
from tools.bench import lengths, speech
from tools.bench.client import WorkerError
from tools.bench.conductor import STAGES, Conductor, Setting
from tools.bench.criteria import verdicts
from tools.bench.environment import DEFAULT_CACHE, Environment
from tools.bench.machine import choose_cpus, describe
from tools.bench.registry import OURS, PEERS, SPEECH, Spec, capped, select
from tools.bench.report import tables

SHORT_STAGES = tuple(stage for stage in STAGES if stage != "file")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--rounds", type=int, default=7, help="default 7")
    parser.add_argument("--tokens", type=int, default=100, help="for each window (default 100)")
    parser.add_argument("--threads", type=int, help="default: as many as there are CPUs")
    parser.add_argument(
        "--stages", type=_list, default=SHORT_STAGES, help="default: all but file, with commas"
    )
    parser.add_argument(
        "--runtimes", nargs="+", default=["*"], help="names, as 'ours*' 'whisper.cpp q8_0'"
    )
    parser.add_argument(
        "--isa", type=_list, default=(), help="also ours with no more than: avx2,avx512_vnni,..."
    )
    parser.add_argument("--lengths", type=_numbers, help="minutes: only ours, cost against length")
    parser.add_argument("--speech", type=float, help="minutes: whole transcriptions of speech")
    parser.add_argument("--json", type=Path, help="where to write all samples")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="default: %(default)s")
    args = parser.parse_args()
    unknown = [stage for stage in args.stages if stage not in STAGES]
    if unknown:
        parser.error(f"--stages: there is no {unknown[0]}; there are {', '.join(STAGES)}")
    if args.rounds < 1 or args.tokens < 2:
        parser.error("--rounds must be 1 or more, --tokens 2 or more")
    return args


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def chosen(args: argparse.Namespace) -> list[Spec]:
    """The runtimes asked for; with ``--lengths`` only ours among them."""
    if args.speech:
        return select(SPEECH, args.runtimes)
    specs = select((*PEERS, *OURS, *capped(args.isa)), args.runtimes)
    return [spec for spec in specs if spec.ours] if args.lengths else specs


def prepare(args: argparse.Namespace) -> Setting:
    """Make the environment, the models and the audio, as far as they are missing."""
    cpus = choose_cpus(args.threads or len(os.sched_getaffinity(0)))
    environment = Environment(args.cache)
    environment.ensure()
    models = environment.models(args.model)
    return Setting(
        environment=environment,
        models=models,
        n_mels=80,
        cpus=cpus,
        n_tokens=args.tokens,
    )


def about(args: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """What a reader must know of a run."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe(),
        "threads": setting.threads,
        "model": args.model,
        "tokens": args.tokens,
    }


def compare(args: argparse.Namespace, setting: Setting, specs: list[Spec]) -> dict[str, Any]:
    """Run and print the comparison. Returns what goes into the JSON file."""
    facts = about(args, setting)
    with Conductor(setting, specs) as conductor:
        conductor.start()
        warnings = conductor.rehearse(args.stages)
        try:
            conductor.play(args.stages, args.rounds)
        except KeyboardInterrupt:
            print("bench: interrupted: what follows is of fewer rounds", file=sys.stderr)
        warnings += conductor.unequal_files()
        results, names = conductor.results, conductor.names
    facts |= {"versions": conductor.versions, "warnings": warnings}
    ours = [spec.name for spec in specs if spec.ours and spec.name in names]
    peers = [spec.name for spec in specs if not spec.ours and spec.name in names]
    print(json.dumps(facts, indent=2))
    for warning in warnings:
        print(f"bench: not the same work: {warning}", file=sys.stderr)
    print("\n".join(tables(results, ours, peers, args.tokens)))
    print("", *verdicts(results, ours, peers), sep="\n")
    return {**facts, "samples": results.to_list()}


def run(args: argparse.Namespace) -> dict[str, Any]:
    specs = chosen(args)
    setting = prepare(args)
    if args.speech:
        facts = about(args, setting)
        results, facts["versions"] = speech.measure(setting, specs, args.speech, args.rounds)
        print(json.dumps(facts, indent=2))
        print("\n".join((*speech.table(results), "", *speech.verdicts(results, args.model))))
        return {**facts, "samples": results.to_list()}
    if args.lengths:
        return {**about(args, setting), "lengths": lengths.measure(setting, specs, args.lengths)}
    return compare(args, setting, specs)


def main() -> None:
    args = arguments()
    try:
        found = run(args)
    except (ValueError, WorkerError, CalledProcessError) as error:
        raise SystemExit(f"bench: {error}") from error
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
