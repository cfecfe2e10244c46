"""Fuzz the readers of model formats: only a ModelError may come out of any file.

    python -m tests.fuzz.fuzz_readers --runs 100000 --engine random
    python -m tests.fuzz.fuzz_readers --runs 100000 --engine atheris

Every input is one of tests/fuzz/seeds with one file mutated. It is opened, and all of its tensors
are read. A crash (any other exception), a run of more than 10 seconds of processor time, or memory
beyond the limit ends up in --crashes as the model that caused it.

``random`` mutates the seeds. ``atheris`` (``pip install atheris``; there are wheels for Python 3.11
on) also keeps inputs that reach new code, and stops at the first crash.
The tokenizers library does not give back 24 to 35 KB for each vocabulary that encoded something:
give a process no more than 500,000 inputs.
``--write-seeds`` makes the seeds anew.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.fuzz.mutations import SEEDS, Seed, load_seeds, mutate

ROOT = Path(__file__).parents[2]

SECONDS_PER_RUN = 10
REPORT_EVERY = 10_000


class Slow(BaseException):
    """A run took too long. Not an Exception: the readers must not take it for their own."""


class Runner:
    """Runs inputs and counts what comes of them."""

    def __init__(self, seeds: list[Seed], crashes: Path, label: str) -> None:
        # Here, for atheris has to be told of the readers before they are imported.
        from tests.fuzz.check import check

        self._check = check
        self._crashes = crashes
        self._label = label
        # A file system in memory: a million small files are no load for a disk.
        memory = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.started = time.monotonic()
        self.runs: Counter[str] = Counter()
        self.valid: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest = (0.0, "")
        # Mutations change one file of a seed; the others stay.
        for seed in seeds:
            for file, content in seed.files:
                (self._folder / file).parent.mkdir(exist_ok=True)
                (self._folder / file).write_bytes(content)

    def run(self, seed: Seed, index: int, content: bytes) -> bool:
        """Run a seed with its file ``index`` replaced; False if that crashed."""
        file, original = seed.files[index]
        (self._folder / file).write_bytes(content)
        # Time of the processor: a busy machine is no fault of the input.
        started = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_RUN)
        failure = ""
        try:
            self.valid[seed.name] += self._check(self._folder / seed.name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # Slow, and panics of Rust libraries, are no Exceptions
            failure = "".join(traceback.format_exception(error))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        took = time.process_time() - started
        self.runs[seed.name] += 1
        self.slowest = max(self.slowest, (took, f"{seed.name}, {len(content)} bytes"))
        if failure:
            self._keep(seed, failure)
        (self._folder / file).write_bytes(original)
        return not failure

    def _keep(self, seed: Seed, failure: str) -> None:
        kept = self._crashes / f"{self._label}-{len(self.failures):04}"
        self.failures.append(f"{kept}: {failure.splitlines()[-1]}")
        print(failure, f"kept as {kept}", sep="\n", flush=True)
        if len(self.failures) > 100:
            return
        kept.mkdir(parents=True, exist_ok=True)
        source = self._folder / seed.name
        if source.is_dir():
            shutil.copytree(source, kept / seed.name, dirs_exist_ok=True)
        else:
            shutil.copy(source, kept)
        (kept / "traceback.txt").write_text(failure, encoding="utf-8")

    def report(self) -> str:
        seconds = time.monotonic() - self.started
        total = sum(self.runs.values())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        reached = ", ".join(
            f"{n} {self.runs[n]} ({self.valid[n]} valid)" for n in sorted(self.runs)
        )
        return (
            f"{total} runs in {seconds:.0f} s ({total / max(seconds, 1e-9):.0f}/s), "
            f"{len(self.failures)} crashes, slowest {self.slowest[0]:.2f} s ({self.slowest[1]}), "
            f"peak memory {peak:.0f} MiB; {reached}"
        )

    def close(self) -> None:
        shutil.rmtree(self._folder)


def limit_memory(mebibytes: int) -> None:
    """Let the process allocate that much beyond what it has: more is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (mebibytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def fuzz_randomly(runner: Runner, seeds: list[Seed], runs: int, seconds: float, seed: int) -> None:
    chance = random.Random(seed)
    for count in range(1, runs + 1):
        chosen = chance.choice(seeds)
        index = chance.randrange(len(chosen.files))
        runner.run(chosen, index, mutate(chosen.files[index][1], chance))
        if count % REPORT_EVERY == 0:
            print(runner.report(), flush=True)
        if time.monotonic() - runner.started > seconds:
            break


def fuzz_with_atheris(
    runner: Runner, seeds: list[Seed], runs: int, seconds: float, seed: int
) -> None:
    """An input is two bytes, which choose a seed and one of its files, and that file's content."""
    import atheris

    with tempfile.TemporaryDirectory() as corpus:
        for number, one in enumerate(seeds):
            for index, (_, content) in enumerate(one.files):
                Path(corpus, f"{number}-{index}").write_bytes(bytes([number, index]) + content)

        def target(data: bytes) -> None:
            if len(data) < 2 or data[0] >= len(seeds):
                return
            chosen = seeds[data[0]]
            if data[1] >= len(chosen.files):
                return
            if not runner.run(chosen, data[1], data[2:]):
                raise RuntimeError(runner.failures[-1])
            if sum(runner.runs.values()) % REPORT_EVERY == 0:
                print(runner.report(), flush=True)

        def mutator(data: bytes, max_size: int, number: int) -> bytes:
            return data[:2] + mutate(data[2:], random.Random(number), max_size - 2)

        options = [f"-atheris_runs={runs}", f"-max_total_time={int(seconds)}", f"-seed={seed}"]
        options += ["-max_len=131072", "-rss_limit_mb=0"]
        atheris.Setup([sys.argv[0], *options, corpus], target, custom_mutator=mutator)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--only", help="only seeds whose name contains this")
    parser.add_argument("--memory", type=int, default=1024, help="MiB beyond the start (random)")
    parser.add_argument("--crashes", type=Path, default=Path("fuzz-crashes"))
    parser.add_argument("--write-seeds", action="store_true")
    args = parser.parse_args()
    if args.write_seeds:
        from tests.support.micro import write_micro

        shutil.rmtree(SEEDS, ignore_errors=True)
        SEEDS.mkdir()
        write_micro(SEEDS)
        return
    seeds = [seed for seed in load_seeds() if not args.only or args.only in seed.name]
    if args.engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["whisper_npu.convert", "whisper_npu.model"]):
            import whisper_npu.convert.source  # noqa: F401
    runner = Runner(seeds, args.crashes, f"{args.engine}-{args.seed}")
    signal.signal(signal.SIGPROF, _slow)
    try:
        if args.engine == "atheris":
            fuzz_with_atheris(runner, seeds, args.runs, args.seconds, args.seed)
        else:
            limit_memory(args.memory)
            fuzz_randomly(runner, seeds, args.runs, args.seconds, args.seed)
    finally:
        print(runner.report(), *runner.failures, sep="\n", flush=True)
        runner.close()
    raise SystemExit(bool(runner.failures))


def _slow(*_: object) -> None:
    raise Slow(f"more than {SECONDS_PER_RUN} s")


if __name__ == "__main__":
    main()
