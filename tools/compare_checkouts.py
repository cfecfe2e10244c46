"""Compare two checkouts of whisper-npu, before and after a change: same bits? same speed?

    python -m tools.compare_checkouts bits --old DIR --new DIR --old_home DIR --new_home DIR \
        --models M [M ...] --audio A [A ...]
    python -m tools.compare_checkouts speed (the same options) --pairs 30

Each checkout runs in worker processes of its own, with the same interpreter, environment and
number of threads; the homes are values of WHISPER_NPU_HOME, each with the CPU kernels that its
checkout built (``PYTHONPATH=DIR WHISPER_NPU_HOME=HOME python -m whisper_npu kernels build``).
Every model runs in all modes: float32 and int8, each on NumPy and on the CPU kernels.

``bits`` compares SHA-256 of the log-mel spectrum, of encoder states, of logits of prompts and
steps (one sequence, five beams, three windows), of the likeliest tokens with their
log-probabilities, and of all of the result of ``transcribe()`` but its placement: greedy, with
beams, with words, in batches, and sampled with a seed. It ends with 1 if any differs. Which ops ran
on which kernel is compared too, for information: an op that falls back may have the same bits.

``speed`` measures stages in pairs, old and new by turns and in alternating order, both processes
alive and one of them idle. It prints the medians of both, and the median of the ratio new / old of
the pairs with its 95 % bootstrap interval. ``import`` (without NumPy's own) and ``load`` are of
new processes. The others' processes are replaced every few pairs, as some of the speed is decided
when a process lays out its memory. Compare a checkout with a copy of itself to see the noise: few
pairs give intervals that are too narrow.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from unittest import mock

import numpy as np

Hashes = dict[str, str]

# By name: the precision, and whether with CPU kernels.
MODES = {
    "float32-numpy": ("float32", False),
    "float32-kernels": ("float32", True),
    "int8-numpy": ("int8", False),
    "int8-kernels": ("int8", True),
}
# The ways to transcribe that are compared; the first with all defaults, so that it detects the
# language and may fall back to other temperatures.
TRANSCRIPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"beam_size": 5, "temperature": 0.0},
    "words": {"word_timestamps": True, "temperature": 0.0},
    "batch": {"batch_size": 4, "temperature": 0.0},
    "sampled": {"temperature": 0.8, "best_of": 3, "seed": 1},
}
FRESH_STAGES = ("import", "load")  # of new processes
FILE_STAGE = "transcribe"
STAGES = (
    *FRESH_STAGES,
    "log_mel",
    "encode",
    "cross",
    "prefill",
    "step",
    "step_beams",
    "likeliest",
    "likeliest_beams",
    FILE_STAGE,
)

WINDOW_SAMPLES = 2999 * 160 + 400  # of 3000 frames
N_WINDOWS = 3
BEAMS = 5
PROMPT, STEPS, FEW_STEPS = 4, 20, 8  # tokens whose logits are compared
TIMED_STEPS = 32

# A short stage is run for so long, and the median of its calls counts.
AT_LEAST_SECONDS = 0.15
MOST_CALLS = 50
# Until the threads of the process that has answered sleep: OpenBLAS's spin for some 30 ms.
SETTLE_SECONDS = 0.06
RESAMPLES = 10_000
_HASH_DIGITS = 16


# The worker. It may use only what both checkouts have.


def network_of(transcriber: Any) -> Any:
    """The network of a Transcriber: the one private name that this tool relies on."""
    return transcriber._model


class Digest:
    """SHA-256 of arrays, with their types and shapes."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def add(self, array: Any) -> None:
        array = np.ascontiguousarray(array)
        self._sha.update(f"{array.dtype.str} {array.shape}\n".encode())
        self._sha.update(array.tobytes())

    def __str__(self) -> str:
        return self._sha.hexdigest()


def digest(*arrays: Any) -> str:
    """SHA-256 of arrays."""
    result = Digest()
    for array in arrays:
        result.add(array)
    return str(result)


def windows(audio: str) -> list[np.ndarray]:
    """Windows of 30 s of a recording, which is repeated if it is shorter."""
    from whisper_npu import load_audio

    samples = np.resize(load_audio(audio), N_WINDOWS * WINDOW_SAMPLES).astype(np.float32)
    return list(samples.reshape(N_WINDOWS, WINDOW_SAMPLES))


class Subject:
    """A Transcriber in one mode, and what is measured of it."""

    def __init__(self, model: str, mode: str) -> None:
        precision, kernels = MODES[mode]
        start = time.perf_counter()
        from whisper_npu.transcriber import Transcriber

        self.transcriber: Any = Transcriber(Path(model), precision=precision, cpu_kernels=kernels)
        self.load_seconds = time.perf_counter() - start
        self.network = network_of(self.transcriber)
        self.stages: dict[str, Callable[[], float]] = {}

    def features(self, samples: np.ndarray) -> np.ndarray:
        """What the encoder gets of a window: floats or integers, by the checkout."""
        windows: list[np.ndarray] = []
        with self._encoded(windows.append):
            self.transcriber.transcribe(samples, language="en", temperature=0.0)
        return windows[0][0]

    def _prompt(self, n_tokens: int, n_windows: int = 1) -> np.ndarray:
        """Arbitrary tokens, others in each window."""
        numbers = np.arange(n_windows * n_tokens, dtype=np.int64).reshape(n_windows, n_tokens)
        prompt: np.ndarray = (numbers * 7919 + 50) % self.transcriber.dims.n_vocab
        return prompt

    def _decode(self, states: Any, prompt: np.ndarray, group: int, n_steps: int) -> Hashes:
        """Prompt and steps, each token among the likeliest of the step before."""
        session = self.network.decoder(states, group)
        rows = [0] if prompt.shape[1] == 1 else [0, prompt.shape[1] - 1]
        prefilled = session.prefill(prompt, rows)
        name = f"{len(states)} x {group}"
        hashes = {f"prefill of {prompt.shape[1]}, {name}": digest(prefilled)}
        best = np.argsort(-prefilled[:, -1], axis=-1, kind="stable")
        tokens = best[:, :group].reshape(-1)
        steps, choices = Digest(), Digest()
        for _ in range(n_steps):
            logits = session.step(tokens)
            steps.add(logits)
            for k in (1, group + 1):
                found, logprobs = session.likeliest(logits, k)
                choices.add(found)
                choices.add(logprobs)
            members = np.arange(len(tokens))
            tokens = np.array(found)[members, members % group]
        if n_steps:
            hashes[f"{n_steps} steps, {name}"] = str(steps)
            hashes[f"likeliest, {name}"] = str(choices)
        return hashes

    def bits(self, recordings: Sequence[str]) -> tuple[Hashes, dict[str, Any]]:
        """Hashes of all results, and the ops of the transcriptions by kind and backend."""
        hashes: Hashes = {}
        samples = windows(recordings[0])
        hashes["log_mel"] = digest(*map(self.network.log_mel, samples))
        features = np.stack([self.features(window) for window in samples])
        one = self.network.encode(features[:1])
        hashes["states of 1"] = digest(one)
        states = self.network.encode(features)
        hashes[f"states of {N_WINDOWS}"] = digest(states)
        hashes |= self._decode(one, self._prompt(PROMPT), 1, STEPS)
        hashes |= self._decode(one, self._prompt(1), 1, 0)
        hashes |= self._decode(one, self._prompt(PROMPT), BEAMS, FEW_STEPS)
        batch = self._prompt(PROMPT, N_WINDOWS)
        hashes |= self._decode(states, batch, 1, FEW_STEPS)
        hashes |= self._decode(states, batch, BEAMS, FEW_STEPS)
        ops: dict[str, Any] = {}
        for recording in recordings:
            for name, options in TRANSCRIPTIONS.items():
                label = f"{Path(recording).name}, {name}"
                seen = Digest()
                with self._encoded(seen.add, seen.add):
                    result = self.transcriber.transcribe(recording, **options)
                content = result.to_dict()
                ops[label] = content.pop("placement")["ops"]
                content["duration"] = result.duration
                text = json.dumps(content, sort_keys=True, default=float)
                hashes[f"features, states of {label}"] = str(seen)
                hashes[f"result of {label}"] = hashlib.sha256(text.encode()).hexdigest()
        return hashes, ops

    @contextlib.contextmanager
    def _encoded(
        self, features_seen: Callable[[Any], None], states_seen: Callable[[Any], None] | None = None
    ) -> Iterator[None]:
        """Pass on the features and the states of all windows that are encoded."""
        encode = self.network.encode

        def observed(features: Any, *rest: Any, **named: Any) -> Any:
            features_seen(features)
            states = encode(features, *rest, **named)
            if states_seen is not None:
                states_seen(states)
            return states

        with mock.patch.object(self.network, "encode", observed):
            yield

    def prepare(self, recording: str) -> None:
        """Make the stages: each gives the seconds of one call."""
        samples = windows(recording)[0]
        features = self.features(samples)[None]
        states = self.network.encode(features)
        self.stages = {
            "log_mel": partial(_seconds, lambda: self.network.log_mel(samples)),
            "encode": partial(_seconds, lambda: self.network.encode(features)),
            "cross": lambda: self._cross(states),
            "prefill": lambda: self._prefill(states),
            "step": lambda: self._steps(states, 1),
            "step_beams": lambda: self._steps(states, BEAMS),
            "likeliest": lambda: self._likeliest(states, 1, 1),
            "likeliest_beams": lambda: self._likeliest(states, BEAMS, BEAMS + 1),
            FILE_STAGE: partial(
                _seconds,
                lambda: self.transcriber.transcribe(recording, language="en", temperature=0.0),
            ),
        }

    def _cross(self, states: np.ndarray) -> float:
        """A session on a new window, with a prompt of one token in case it waits for that."""
        # What was computed for a window is kept for as long as it stays where it is in memory.
        new, prompt = states.copy(), self._prompt(1)
        return _seconds(lambda: self.network.decoder(new, 1).prefill(prompt, [0]))

    def _prefill(self, states: np.ndarray) -> float:
        session, prompt = self.network.decoder(states, 1), self._prompt(PROMPT)
        return _seconds(lambda: session.prefill(prompt, [0, PROMPT - 1]))

    def _steps(self, states: np.ndarray, group: int) -> float:
        """The mean of some steps after a prompt."""
        session = self.network.decoder(states, group)
        session.prefill(self._prompt(PROMPT), [PROMPT - 1])
        tokens = self._prompt(group)[0]

        def run() -> None:
            for _ in range(TIMED_STEPS):
                session.step(tokens)

        return _seconds(run) / TIMED_STEPS

    def _likeliest(self, states: np.ndarray, group: int, k: int) -> float:
        session = self.network.decoder(states, group)
        session.prefill(self._prompt(PROMPT), [PROMPT - 1])
        logits = session.step(self._prompt(group)[0])
        session.likeliest(logits, k)

        def run() -> None:
            for _ in range(TIMED_STEPS):
                session.likeliest(logits, k)

        return _seconds(run) / TIMED_STEPS

    def measure(self, stage: str) -> float:
        """Seconds of a stage: the median of some calls after one that does not count."""
        call = self.stages[stage]
        if stage == FILE_STAGE:
            return call()
        call()
        start = time.perf_counter()
        times = [call()]
        while time.perf_counter() - start < AT_LEAST_SECONDS and len(times) < MOST_CALLS:
            times.append(call())
        return statistics.median(times)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_memory() -> float:
    """The most memory this process ever had resident, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def check_modules(checkout: Path) -> None:
    """Raise RuntimeError if a module of whisper_npu is not the checkout's.

    An editable installation of another checkout stands in for modules that are missing from this
    one: an import of an old name would go on to work, with the old code.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "whisper_npu":
            continue
        file = getattr(module, "__file__", None)
        for place in [file] if file else list(module.__path__):
            if not Path(place).resolve().is_relative_to(checkout):
                raise RuntimeError(f"{name} is {place}, which is not in {checkout}")


def work(checkout: Path) -> None:
    """Answer requests, lines of JSON, until there are no more. What libraries print is sent to
    stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    start = time.perf_counter()
    import whisper_npu.transcriber  # noqa: F401

    seconds = time.perf_counter() - start
    subject: Subject | None = None

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal subject
        kind = request["kind"]
        if kind == "start":
            return {"import": seconds}
        if kind == "open":
            subject = None  # so that there is never more than one in memory
            subject = Subject(request["model"], request["mode"])
            return {"load": subject.load_seconds}
        assert subject is not None
        if kind == "bits":
            hashes, ops = subject.bits(request["audio"])
            return {"hashes": hashes, "ops": ops}
        if kind == "prepare":
            subject.prepare(request["audio"])
            return {}
        if kind == "peak":
            subject.transcriber.transcribe(request["audio"], language="en", temperature=0.0)
            return {"mib": peak_memory()}
        return {"seconds": subject.measure(request["stage"])}

    for line in sys.stdin:
        try:
            answer = handle(json.loads(line))
            check_modules(checkout)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


# The other side.


class WorkerError(Exception):
    """A worker ended, or could not do what it was asked for."""


@dataclass(frozen=True)
class Side:
    """A checkout, and how its workers are started."""

    name: str
    checkout: Path
    home: Path
    python: Path
    threads: int

    def start(self) -> Worker:
        """A new process."""
        return Worker(self)


class Worker:
    """A process that has imported a checkout. Leaving its context ends it."""

    def __init__(self, side: Side) -> None:
        self._side = side
        limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {
            **os.environ,
            **dict.fromkeys(limits, str(side.threads)),
            "PYTHONPATH": str(side.checkout),
            "PYTHONHASHSEED": "0",
            "WHISPER_NPU_HOME": str(side.home),
        }
        # The first start leaves bytecode for those that are measured.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._process = subprocess.Popen(
            [str(side.python), __file__, "worker", str(side.checkout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.import_seconds: float = self.ask("start")["import"]

    def ask(self, kind: str, **content: Any) -> dict[str, Any]:
        """Request and answer. Raises WorkerError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"kind": kind, **content}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the process ended"}
        if "error" in answer:
            raise WorkerError(f"{self._side.name} ({self._side.checkout}): {answer['error']}")
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._process.kill()
        pipes: list[IO[str] | None] = [self._process.stdin, self._process.stdout]
        for pipe in pipes:
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()


def compare_bits(args: argparse.Namespace, old: Side, new: Side) -> int:
    """Print a line for each result. Returns how many differ."""
    differing = total = 0
    audio = [str(recording) for recording in args.audio]
    with old.start() as before, new.start() as after:
        for model in args.models:
            for mode in args.modes:
                print(f"\n{model.name}, {mode}", flush=True)
                answers = []
                for worker in (before, after):
                    worker.ask("open", model=str(model), mode=mode)
                    answers.append(worker.ask("bits", audio=audio))
                hashes: list[Hashes] = [answer["hashes"] for answer in answers]
                for name in dict.fromkeys([*hashes[0], *hashes[1]]):
                    first, second = (side.get(name, "missing")[:_HASH_DIGITS] for side in hashes)
                    total += 1
                    if hashes[0].get(name) == hashes[1].get(name):
                        print(f"  equal      {first:<{_HASH_DIGITS}}  {name}")
                    else:
                        differing += 1
                        print(f"  DIFFERENT  {first} -> {second}  {name}")
                for line in changed_ops(answers[0]["ops"], answers[1]["ops"]):
                    print(f"  note: {line}")
                sys.stdout.flush()
    print(
        f"\n{differing} of {total} results differ" if differing else f"\n{total} results, all equal"
    )
    return differing


def changed_ops(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """What runs elsewhere than before, once for each kind of op."""
    seen = set()
    for label, kinds in old.items():
        others = new.get(label, {})
        for kind in dict.fromkeys([*kinds, *others]):
            if kinds.get(kind) != others.get(kind) and kind not in seen:
                seen.add(kind)
                yield f"{kind} ran on {kinds.get(kind)} -> {others.get(kind)} ({label})"


Pairs = dict[str, list[tuple[float, float]]]


def by_turns(pair: int, old: Callable[[], float], new: Callable[[], float]) -> tuple[float, float]:
    """Measure both, the new one first in every second pair."""
    if pair % 2:
        second = new()
        return old(), second
    first = old()
    return first, new()


def fresh_processes(args: argparse.Namespace, old: Side, new: Side, task: dict[str, str]) -> Pairs:
    """Seconds of the import and of the load, in new processes."""
    pairs: Pairs = {stage: [] for stage in FRESH_STAGES}
    imported: list[float] = []

    def load(side: Side) -> float:
        with side.start() as worker:
            imported.append(worker.import_seconds)
            seconds: float = worker.ask("open", **task)["load"]
        return seconds

    load(old)
    load(new)
    for pair in range(args.load_pairs):
        imported.clear()
        pairs["load"].append(by_turns(pair, partial(load, old), partial(load, new)))
        first, second = reversed(imported) if pair % 2 else imported
        pairs["import"].append((first, second))
    return pairs


def live_processes(args: argparse.Namespace, old: Side, new: Side, task: dict[str, str]) -> Pairs:
    """Seconds of the other stages, in processes that stay for some pairs."""
    stages = [stage for stage in args.stages if stage not in FRESH_STAGES]
    pairs: Pairs = {stage: [] for stage in stages}

    def measure(worker: Worker, stage: str) -> float:
        seconds: float = worker.ask("measure", stage=stage)["seconds"]
        time.sleep(SETTLE_SECONDS)
        return seconds

    for begin in range(0, args.pairs, args.pairs_per_process):
        with old.start() as before, new.start() as after:
            for worker in (before, after):
                worker.ask("open", **task)
                worker.ask("prepare", audio=str(args.audio[0]))
                for stage in stages:
                    measure(worker, stage)
            for pair in range(begin, min(begin + args.pairs_per_process, args.pairs)):
                for stage in stages:
                    runs = (partial(measure, worker, stage) for worker in (before, after))
                    pairs[stage].append(by_turns(pair, *runs))
    return pairs


def peak_in_new_process(side: Side, task: dict[str, str], audio: Path) -> float:
    """MiB of a process that loads a model and transcribes a recording."""
    with side.start() as worker:
        worker.ask("open", **task)
        found: float = worker.ask("peak", audio=str(audio))["mib"]
    return found


def median_interval(ratios: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of a median."""
    picks = np.random.default_rng(0).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return float(low), float(high)


def compare_speed(args: argparse.Namespace, old: Side, new: Side) -> None:
    """Print a table, mode by mode, and write all samples if asked to."""
    print("| model | mode | stage | pairs | old, ms | new, ms | new / old | 95 % interval |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    samples: dict[str, Pairs] = {}
    for model in args.models:
        for mode in args.modes:
            task = {"model": str(model), "mode": mode}
            pairs: Pairs = {}
            if args.load_pairs and any(stage in FRESH_STAGES for stage in args.stages):
                pairs |= fresh_processes(args, old, new, task)
            if any(stage not in FRESH_STAGES for stage in args.stages):
                pairs |= live_processes(args, old, new, task)
            for stage in args.stages:
                if pairs.get(stage):
                    print(f"| {model.name} | {mode} | {stage} | {row(pairs[stage])} |", flush=True)
            samples[f"{model.name}, {mode}"] = pairs
            if args.json is not None:
                args.json.write_text(json.dumps(samples, indent=1) + "\n", encoding="utf-8")


def row(pairs: Sequence[tuple[float, float]]) -> str:
    """The cells of a stage."""
    seconds = np.array(pairs)
    ratios = seconds[:, 1] / seconds[:, 0]
    first, second = 1e3 * np.median(seconds, axis=0)
    low, high = median_interval(ratios)
    times = f"{first:.4g} | {second:.4g} | {np.median(ratios):.3f}"
    return f"{len(pairs)} | {times} | {low:.3f} to {high:.3f}"


def _folder(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return path


def checkout_folder(text: str) -> Path:
    path = _folder(text)
    if not (path / "whisper_npu" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of whisper-npu")
    return path


def _file(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is no file")
    return path


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_checkouts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--old", type=checkout_folder, required=True, help="the checkout before")
    shared.add_argument("--new", type=checkout_folder, required=True, help="the checkout after")
    shared.add_argument("--old_home", type=_folder, required=True, help="its WHISPER_NPU_HOME")
    shared.add_argument("--new_home", type=_folder, required=True, help="its WHISPER_NPU_HOME")
    # Not resolved: the interpreter of a virtual environment is a link.
    shared.add_argument("--python", type=Path, default=Path(sys.executable), help="of both")
    shared.add_argument("--models", type=_folder, nargs="+", required=True, help="model folders")
    shared.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    shared.add_argument("--threads", type=_count, default=2, help="default 2")
    bits = commands.add_parser("bits", parents=[shared], help="compare results")
    bits.add_argument("--audio", type=_file, nargs="+", required=True, help="recordings")
    speed = commands.add_parser("speed", parents=[shared], help="compare times")
    speed.add_argument("--audio", type=_file, nargs=1, required=True, help="a recording")
    speed.add_argument("--pairs", type=_count, default=30, help="of each stage (default 30)")
    speed.add_argument(
        "--pairs_per_process", type=_count, default=10, help="then new processes (default 10)"
    )
    speed.add_argument("--load_pairs", type=int, default=10, help="new processes (default 10)")
    speed.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    speed.add_argument("--json", type=Path, help="where to write all samples, in seconds")
    # What this file is started as for a checkout; it has no help, as nobody needs to call it.
    commands.add_parser("worker").add_argument("checkout", type=checkout_folder)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.command == "worker":
        work(args.checkout)
        return
    old = Side("old", args.old, args.old_home, args.python, args.threads)
    new = Side("new", args.new, args.new_home, args.python, args.threads)
    try:
        if args.command == "bits":
            raise SystemExit(1 if compare_bits(args, old, new) else 0)
        compare_speed(args, old, new)
    except WorkerError as error:
        raise SystemExit(f"compare_checkouts: {error}") from error


if __name__ == "__main__":
    main()
