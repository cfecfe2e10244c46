"""Word error rates on real speech with real weights, and how far each system is from our float32.

    python -m tools.accuracy                          # tiny.en and base; hours
    python -m tools.accuracy --models tiny.en --peers /somewhere/bin/python

Systems are openai-whisper in float32, faster-whisper in float32 and int8, and ours: float32 on
NumPy (the reference) and on CPU kernels, and int8. All decode greedily at temperature 0, windows
not conditioned on each other, the language given. Speech are telephone prompts, joined to
recordings of at most a window (all English ones for tiny.en, 305 of each of five languages for
base), and sentences of a LibriVox reading.

A table has for each system

    word errors               over words of the transcripts, which are informal: an upper bound
    to our float32            the difference in points, with its 95 % interval: a bootstrap over
                              recordings, the same for both
    words changed             against the text of our float32, over its words
    same likeliest token      teacher-forced: all systems are fed the tokens that our float32 chose,
                              in the first recordings
    divergence                Kullback-Leibler, of the distribution from that of our float32

What two runtimes in float32 differ by is noise.

The first run fetches weights and speech, and makes an environment with the peers, unless --peers
names the Python of one with openai-whisper and faster-whisper. Results are kept in the cache: a
run that was broken off (Ctrl-C prints what is complete) goes on where it was. Needs the CPU
kernels, and Linux.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

from tests.support.real import data
from tools.accuracy.corpora import corpora
from tools.accuracy.report import tables
from tools.accuracy.runner import Setting, measure, started
from tools.accuracy.systems import SYSTEMS
from tools.bench.client import WorkerError
from tools.bench.environment import DEFAULT_CACHE, Environment

JOBS = 2


def lines(
    models: tuple[str, ...] = data.MODELS,
    cache: Path = DEFAULT_CACHE,
    peers: Path | None = None,
    jobs: int = JOBS,
) -> Iterator[str]:
    """The tables of all models. Raises WorkerError and CalledProcessError."""
    if peers is None:
        environment = Environment(cache)
        environment.ensure_packages()
        peers = environment.python
    setting = Setting(cache / "accuracy", Path(sys.executable), peers)
    for model in models:
        with started(SYSTEMS, model, setting) as ready:
            versions = sorted({each.version for each in ready.values()})
            yield from (f"**{model}** ({'; '.join(versions)})", "")
            for corpus in corpora(model):
                yield from (*tables(measure(ready, corpus, jobs)), "")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", choices=data.MODELS, default=data.MODELS)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="default: %(default)s")
    parser.add_argument("--peers", type=Path, help="the Python that has the peers")
    parser.add_argument(
        "--jobs", type=int, default=JOBS, help="systems at work, a thread each (%(default)s)"
    )
    args = parser.parse_args()
    try:
        for line in lines(tuple(args.models), args.cache, args.peers, args.jobs):
            print(line, flush=True)
    except (WorkerError, CalledProcessError) as error:
        raise SystemExit(f"accuracy: {error}") from error


if __name__ == "__main__":
    main()
