"""Runs the systems over the speech, and keeps what was found.

A result is kept under a hash of the runtime's version, of its options, of the published weights, of
the audio and of what was asked, so that a run that was broken off goes on where it was, and nothing
stale is used: our version has the code that computes in it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests.support.real import data
from tests.support.real.speech import RATE, Recording
from tests.support.real.word_errors import normalize
from tools.accuracy.corpora import Corpus
from tools.accuracy.systems import REFERENCE, System
from tools.bench.client import Worker, variables
from tools.measuring import REPOSITORY
from whisper_npu.files.whole import file_sha256, hash_file

# Our code that decides what is computed.
OUR_CODE = (
    *(
        REPOSITORY / "whisper_npu" / name
        for name in ("audio", "backends", "convert", "decoding", "model", "ops", "runtime", "text")
    ),
    REPOSITORY / "kernels" / "src" / "cpu",
)
SOURCES = (".py", ".cc", ".h")


@dataclass(frozen=True)
class Words:
    """What is said in a recording and what each system made of it, in words."""

    recording: Recording
    reference: list[str]
    found: dict[str, list[str]]


@dataclass
class Found:
    """Of one corpus: the words, and by system the sums of ``worker.compare``."""

    corpus: Corpus
    words: list[Words] = field(default_factory=list)
    forced: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """``python`` runs ours, ``peers`` the others; each with one thread, as several are at work."""

    cache: Path
    python: Path
    peers: Path

    def worker(self, system: System, weights: Path) -> Worker:
        task = {
            "module": system.module,
            "model": str(weights),
            "threads": 1,
            "options": dict(system.options),
        }
        python = self.python if system.ours else self.peers
        logs = self.cache / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        return Worker(
            [str(python), "-m", "tools.accuracy.worker", json.dumps(task)],
            variables(1, {}),
            logs / f"{system.name}.log",
        )


class Ready:
    """A system whose worker is there; stopped while it is not asked."""

    def __init__(
        self, system: System, model: str, published: str, setting: Setting, stack: ExitStack
    ) -> None:
        """``published`` is the hash of the model's published weights."""
        self._results = setting.cache / "results"
        self._worker = stack.enter_context(setting.worker(system, system.weights(model)))
        self.version = self._worker.ready()
        self._worker.pause()
        code = sources_digest(OUR_CODE) if system.ours else ""
        #: What its results depend on: files of other formats have exactly the published weights.
        self.key = [system.name, dict(system.options), self.version, code, published]

    def request(self, ask: str, audio: Audio, **more: Any) -> dict[str, Any]:
        """The answer of the worker."""
        self._worker.resume()
        try:
            return self._worker.request(
                ask=ask, path=str(audio.path), language=audio.language, **more
            )
        finally:
            self._worker.pause()

    def kept(
        self, what: list[Any], audio: Audio, compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """What ``compute`` gives, or gave in an earlier run; ``what`` it depends on as well."""
        path = self._path(what, audio)
        if path.is_file():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        answer = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(answer), encoding="utf-8")
        new.replace(path)
        return answer

    def has(self, what: list[Any], audio: Audio) -> bool:
        """Whether that was kept."""
        return self._path(what, audio).is_file()

    def _path(self, what: list[Any], audio: Audio) -> Path:
        wanted = json.dumps([self.key, what, audio.digest, audio.language])
        name = hashlib.sha256(wanted.encode()).hexdigest()
        return self._results / name[:2] / f"{name}.json"

    def ask(self, ask: str, audio: Audio) -> dict[str, Any]:
        """The answer of the worker, or that of an earlier run."""
        return self.kept([ask], audio, lambda: self.request(ask, audio))


class Audio:
    """A recording as a wav file."""

    def __init__(self, recording: Recording, folder: Path) -> None:
        self.language = recording.language
        samples = np.rint(recording.samples() * 32767).clip(-32768, 32767).astype("<i2")
        self.digest = hashlib.sha256(samples.tobytes()).hexdigest()
        self.path = folder / "audio.wav"
        soundfile.write(self.path, samples, RATE)


@contextmanager
def started(systems: Sequence[System], model: str, setting: Setting) -> Iterator[dict[str, Ready]]:
    """The systems, with this model, by name. Raises WorkerError where one does not start."""
    published = file_sha256(data.weights(model) / "model.bin")
    with ExitStack() as stack:
        yield {system.name: Ready(system, model, published, setting, stack) for system in systems}


def measure(ready: dict[str, Ready], corpus: Corpus, jobs: int) -> Found:
    """Run all systems over a corpus, ``jobs`` of them at a time. Interrupted, it gives what is
    complete by then."""
    found = Found(corpus)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        try:
            for number, recording in enumerate(corpus.recordings, 1):
                _say(f"{corpus.name}: {number} of {len(corpus.recordings)}")
                audio = Audio(recording, Path(folder))
                words = _transcribe(ready, pool, recording, audio)
                forced = _force(ready, pool, audio) if number <= corpus.forced else {}
                found.words.append(words)
                for name, counts in forced.items():
                    sums = found.forced.setdefault(name, dict.fromkeys(counts, 0.0))
                    for what, count in counts.items():
                        sums[what] += count
        except KeyboardInterrupt:
            _say(f"interrupted: what follows is of {len(found.words)} recordings")
    return found


def _transcribe(
    ready: dict[str, Ready], pool: Executor, recording: Recording, audio: Audio
) -> Words:
    answers = pool.map(lambda each: each.ask("text", audio), ready.values())
    words = [normalize(answer["text"], audio.language) for answer in answers]
    reference = normalize(recording.text, audio.language)
    return Words(recording, reference, dict(zip(ready, words, strict=True)))


def _force(ready: dict[str, Ready], pool: Executor, audio: Audio) -> dict[str, dict[str, float]]:
    """What ``worker.compare`` finds for every system but the reference, whose tokens are fed."""
    reference = ready[REFERENCE.name]
    others = {name: each for name, each in ready.items() if each is not reference}
    tokens = reference.ask("tokens", audio)
    logits = audio.path.with_name("logits.npy")
    what = ["compare", reference.key]
    if not all(each.has(what, audio) for each in others.values()):
        reference.request("logits", audio, **tokens, to=str(logits))

    def compared(other: Ready) -> dict[str, Any]:
        return other.kept(
            what,
            audio,
            lambda: other.request("compare", audio, **tokens, reference=str(logits)),
        )

    return dict(zip(others, pool.map(compared, others.values()), strict=True))


def sources_digest(folders: Iterable[Path]) -> str:
    """Of the sources in folders."""
    found = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.suffix in SOURCES:
                hash_file(file, found)
    return found.hexdigest()


def _say(text: str) -> None:
    print(f"accuracy: {text}", file=sys.stderr, flush=True)
