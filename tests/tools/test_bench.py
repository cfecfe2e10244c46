"""The benchmark: its statistics, its rule of disturbance, its protocol; no runtime is measured."""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.support.real.speech import Recording
from tools.bench import conductor as conducting
from tools.bench import speech
from tools.bench.client import REPOSITORY, Worker, WorkerError, WorkerRefusal, variables
from tools.bench.conductor import Conductor, calmest, differences
from tools.bench.criteria import verdicts
from tools.bench.machine import Load, Meter, choose_cpus, peak_memory_mb
from tools.bench.models import REAL, silence_ends
from tools.bench.registry import BY_DEFAULT, OURS, PEERS, SEQUENTIAL, SPEECH, Spec, capped, select
from tools.bench.report import tables
from tools.bench.results import Results, Sample
from tools.bench.runtime import Runtime
from tools.bench.worker import MOST_CALLS, Material, run
from whisper_npu.model.weight_shapes import TOKEN_EMBEDDING

OTHER, OWN = "openai-whisper float32", "ours float32, NumPy"


def sample(
    value: float, number: int = 0, disturbed: bool = False, runtime: str = OWN, stage: str = "mel"
) -> Sample:
    return Sample(runtime, stage, number, value, disturbed, {})


def load(**changes: float) -> Load:
    calm = {"wall": 1.0, "cpu": 1.9, "waited": 0.0, "foreign": 0.0, "stolen": 0.0}
    return Load(**{**calm, **changes}, n_cpus=2)


# Statistics


def test_median_and_half_the_distance_of_the_quartiles() -> None:
    results = Results(sample(value, i) for i, value in enumerate((5.0, 1.0, 2.0, 9.0, 3.0)))
    summary = results.summary(OWN, "mel")
    assert summary is not None
    assert (summary.median, summary.spread) == (3.0, 1.5)
    assert (summary.lowest, summary.highest, summary.n, summary.n_disturbed) == (1.0, 9.0, 5, 0)


def test_disturbed_samples_count_only_if_there_are_no_others() -> None:
    results = Results([sample(1.0), sample(50.0, 1, disturbed=True)])
    summary = results.summary(OWN, "mel")
    assert summary is not None
    assert (summary.median, summary.n, summary.n_disturbed) == (1.0, 1, 1)
    only = Results([sample(50.0, disturbed=True)]).summary(OWN, "mel")
    assert only is not None
    assert (only.median, only.spread, only.n_disturbed) == (50.0, 0.0, 1)


def test_what_was_not_measured_has_no_summary() -> None:
    assert Results([sample(1.0)]).summary(OWN, "beam") is None


def test_ratios_are_taken_within_rounds() -> None:
    # The machine is three times slower in the second round, and ours misses the fourth.
    mine, theirs = (1.0, 3.0, 1.2), (2.0, 6.0, 2.0, 90.0)
    results = Results(sample(value, i) for i, value in enumerate(mine))
    for i, value in enumerate(theirs):
        results.add(sample(value, i, runtime=OTHER))
    assert results.ratio(OWN, OTHER, "mel") == 0.5
    assert results.ratio(OTHER, OWN, "mel") == 2.0
    assert results.ratio(OWN, OTHER, "beam") is None


def test_ratios_leave_out_disturbed_rounds() -> None:
    results = Results([sample(1.0), sample(9.0, 1, disturbed=True), sample(9.0, 2)])
    for i, disturbed in enumerate((False, False, True)):
        results.add(sample(2.0, i, disturbed, OTHER))
    assert results.ratio(OWN, OTHER, "mel") == 0.5


# Disturbance


def test_a_calm_measurement() -> None:
    assert not load().disturbed
    # A few ticks of something else, on a machine that counts in ticks.
    assert not load(wall=0.01, cpu=0.01, foreign=0.03).disturbed
    assert not load(foreign=-0.02).disturbed


def test_others_that_are_busy_disturb() -> None:
    assert load(foreign=0.2).disturbed
    assert not load(wall=10.0, foreign=0.2).disturbed


def test_waiting_while_others_run_disturbs() -> None:
    assert load(waited=0.06, foreign=0.06).disturbed
    # Its own threads, more of them than CPUs, wait for each other.
    assert not load(waited=0.8, foreign=0.0).disturbed


def test_time_that_the_host_keeps_disturbs() -> None:
    assert load(stolen=0.2).disturbed


def test_loads_add_up() -> None:
    total = Load.total([load(foreign=-0.01), load(wall=2.0, foreign=0.03, waited=0.5)])
    assert total == load(wall=3.0, cpu=3.8, foreign=pytest.approx(0.02), waited=0.5)


def test_the_meter_knows_own_time_from_that_of_others() -> None:
    meter = Meter()
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    measured = meter.stop()
    # The two clocks are read one after the other.
    assert measured.wall + 0.01 >= measured.cpu >= 0.1
    busy = measured.foreign + measured.cpu
    assert -0.05 <= busy <= (measured.wall + 0.05) * measured.n_cpus


def test_peak_memory_is_of_this_process() -> None:
    before = peak_memory_mb()
    block = np.ones(2**20 + int(before) * 2**17)
    assert peak_memory_mb() >= block.nbytes / 2**20


def test_cpus_are_of_different_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = {0: "0,1", 1: "0,1", 2: "2,3", 3: "2,3"}
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 1, 2, 0})
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: siblings[int(path.parts[5][3:])])
    assert choose_cpus(2) == [0, 2]
    assert choose_cpus(3) == [0, 2, 1]
    with pytest.raises(ValueError, match="5 threads"):
        choose_cpus(5)


def test_the_first_calm_measurement_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conducting, "PAUSE_SECONDS", 0)
    loads = [load(foreign=0.5), load(), load(foreign=0.1)]
    said: list[Load] = []
    taken = iter([({"mel": float(i)}, each) for i, each in enumerate(loads)])
    assert calmest(lambda: next(taken), said.append) == ({"mel": 1.0}, loads[1])
    assert said == loads[:1]


def test_of_disturbed_measurements_the_calmest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conducting, "PAUSE_SECONDS", 0)
    loads = [load(foreign=0.5), load(wall=4.0, foreign=0.9), load(foreign=0.4), load()]
    taken = iter([({"mel": float(i)}, each) for i, each in enumerate(loads)])
    assert calmest(lambda: next(taken), lambda _: None) == ({"mel": 1.0}, loads[1])


# The same work


def test_tokens_are_compared() -> None:
    decoded = {"a": [[1, 2, 3]], "b": [[1, 2, 3]], "c": [[1, 5, 6]], "int8": [[7, 8, 9]]}
    windows = {"a": [[1, 2, 3], [4, 5, 6]], "b": [[1, 2], [4, 5, 6]]}
    found = differences({"decode": decoded, "batch": windows}, ["a", "b", "c"], 3)
    assert found == [
        "b: batch: [2, 3] tokens in a window, not 3",
        "c: token 1 is another than that of a",
    ]
    assert differences({"decode": decoded}, ["a", "b"], 3) == []


def test_the_end_of_text_does_not_come() -> None:
    """Its row, and those of timestamps, are the start's; prompts have all others."""
    rows = np.random.default_rng(1).standard_normal((20, 4))
    table = rows.copy()
    ids = {"eos_token_id": 10, "decoder_start_token_id": 11, "no_timestamps_token_id": 15}
    silence_ends({TOKEN_EMBEDDING: table}, ids)
    assert np.flatnonzero((table != rows).any(axis=1)).tolist() == [10, 16, 17, 18, 19]
    assert (table[[10, 16, 17, 18, 19]] == rows[11]).all()


# The worker


class Fake(Runtime):
    """Decodes 1, 2, 3, ... and notes what it was asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def version(self) -> str:
        return "fake 1"

    def features(self, values: array[float], n_mels: int) -> Any:
        return ("features", len(values))

    def mel(self, samples: array[float]) -> Any:
        return ("mel", len(samples))

    def encode(self, windows: Sequence[Any]) -> Any:
        self.calls.append("encode")
        return list(windows)

    def decode(self, states: Any, n_tokens: int, beam_size: int = 1) -> list[list[int]]:
        self.calls.append(f"decode {states[0]} {beam_size}")
        return [list(range(1, n_tokens + 1)) for _ in states]

    def seconds_of(self, stage: str, elapsed: float) -> float:
        return 7.0 if stage == "beam" else elapsed

    def prepare_file(self, path: Path) -> Any:
        return path

    def file(self, recording: Any, n_tokens: int, batch_size: int) -> int:
        return n_tokens * batch_size

    def transcribe(
        self, path: Path, language: str, batch_size: int = 1, fallback: bool = True
    ) -> str:
        return f"{path} in {language} by {batch_size}, fallback {fallback}"


@pytest.fixture
def material(tmp_path: Path) -> Material:
    np.zeros(8 * 480000, np.float32).tofile(tmp_path / "windows.f32")
    np.zeros((80, 3000), np.float32).tofile(tmp_path / "features-80.f32")
    return Material(tmp_path, 80)


def test_stages_of_a_worker(material: Material) -> None:
    runtime = Fake()

    def ask(stage: str, **more: Any) -> Any:
        return run(runtime, material, {"stage": stage, "n_tokens": 3, "at_least": 0, **more})

    assert ask("decode")["result"] == [[1, 2, 3]]
    assert runtime.calls == ["encode", "decode ('features', 240000) 1"]
    runtime.calls.clear()
    beam = ask("beam")
    assert (beam["seconds"], runtime.calls[-1]) == ([7.0], "decode ('features', 240000) 5")
    assert ask("window")["result"] == [[1, 2, 3]]
    assert runtime.calls[-1] == "decode ('mel', 480000) 1"
    assert ask("batch")["result"] == [[1, 2, 3]] * 8
    assert ask("mel")["result"] is None
    assert ask("speech", path="a.wav", batch_size=8)["result"] == "a.wav in en by 8, fallback True"
    with pytest.raises(ValueError, match="no stage 'file_'"):
        ask("file_")


def test_short_stages_are_run_more_than_once(material: Material) -> None:
    answer = run(Fake(), material, {"stage": "encoder", "n_tokens": 3, "at_least": 0.2})
    assert 1 < len(answer["seconds"]) == len(answer["loads"]) <= MOST_CALLS
    assert answer["peak_mb"] > 1


# A worker as a process of its own: that of a module which is only here.

MODULE = """
import time
from tools.bench.runtime import Unsupported
from tests.tools.test_bench import Fake

class Loud(Fake):
    def batch(self, windows, n_tokens):
        raise Unsupported("one at a time")

    def encode(self, windows):
        print("noise on stdout")
        return super().encode(windows)

def load(model, threads, refuse=False):
    print("more noise")
    if refuse:
        raise Unsupported("not here")
    return Loud()
"""


@pytest.fixture
def task(tmp_path: Path, material: Material) -> dict[str, Any]:
    (tmp_path / "fake_runtime.py").write_text(MODULE)
    return {
        "module": "fake_runtime",
        "model": str(tmp_path),
        "audio": str(tmp_path),
        "n_mels": 80,
        "threads": 1,
        "cpus": choose_cpus(1),
        "options": {},
    }


@pytest.fixture
def worker(
    task: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Worker]:
    task["options"] = getattr(request, "param", {})
    with Worker(launch(task), variables(1, {}), tmp_path / "log") as started:
        yield started


def launch(task: dict[str, Any]) -> list[str]:
    """The command of a worker whose runtime is a module beside its model."""
    code = (
        "import sys, tools.bench\n"
        "tools.bench.__path__.append(sys.argv.pop(1))\n"
        "from tools.bench import worker\n"
        "worker.main()"
    )
    return [sys.executable, "-c", code, task["model"], json.dumps(task)]


def test_a_worker_answers_line_by_line(worker: Worker, tmp_path: Path) -> None:
    assert worker.ready() == "fake 1"
    worker.pause()
    worker.send(stage="decode", n_tokens=2, at_least=0)
    worker.resume()
    assert worker.receive()["result"] == [[1, 2]]
    with pytest.raises(WorkerRefusal, match="one at a time"):
        worker.request(stage="batch", n_tokens=2, at_least=0)
    whole = worker.request(stage="file", n_tokens=2, batch_size=8, path="x", at_least=0)
    assert whole["result"] == 16
    assert worker.end() > 0
    log = (tmp_path / "log").read_text()
    assert "more noise" in log
    assert "noise on stdout" in log


@pytest.mark.parametrize("worker", [{"refuse": True}], indirect=True)
def test_a_runtime_that_cannot_be_had_says_so(worker: Worker) -> None:
    with pytest.raises(WorkerRefusal, match="not here"):
        worker.ready()


@pytest.mark.parametrize("worker", [{"unknown": 1}], indirect=True)
def test_the_last_words_of_a_worker_are_told(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="unexpected keyword argument 'unknown'"):
        worker.ready()


def test_workers_get_threads_and_the_tools() -> None:
    made = variables(3, {"WHISPER_NPU_CPU_ISA": "avx2"})
    assert (made["OMP_NUM_THREADS"], made["OPENBLAS_NUM_THREADS"]) == ("3", "3")
    assert made["WHISPER_NPU_CPU_ISA"] == "avx2"
    assert Path(made["PYTHONPATH"], "tools", "bench", "worker.py").is_file()


# The conductor, with workers that are none


class FakeWorker:
    """Answers at once; the conductor must have no other awake."""

    awake: ClassVar[list[str]] = []

    def __init__(self, name: str, log: list[tuple[str, str]]) -> None:
        self._name, self._log = name, log

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ready(self) -> str:
        if self._name == "absent":
            raise WorkerRefusal("not here")
        self.awake.append(self._name)
        return "fake"

    def pause(self) -> None:
        self.awake.remove(self._name)

    def resume(self) -> None:
        self.awake.append(self._name)

    def request(self, stage: str, n_tokens: int, **_: object) -> dict[str, Any]:
        assert self.awake == [self._name]
        self._log.append((self._name, stage))
        if (self._name, stage) == ("b", "batch"):
            raise WorkerRefusal("one at a time")
        tokens = 70 + ord(self._name) if stage == "file" else [list(range(n_tokens))]
        return {"seconds": [3.0, 1.0, 2.0], "loads": [load().to_dict()] * 3, "result": tokens}


class FakeSetting:
    n_tokens = 4

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []

    def worker(self, spec: Spec) -> FakeWorker:
        return FakeWorker(spec.name, self.log)


def test_runtimes_take_turns() -> None:
    setting = FakeSetting()
    specs = [Spec(name, "", "") for name in ("a", "absent", "b", "c")]
    with Conductor(setting, specs) as conductor:  # type: ignore[arg-type]
        conductor.start()
        assert conductor.names == ["a", "b", "c"]
        assert conductor.rehearse(["decode", "batch"]) == []
        setting.log.clear()
        conductor.play(["decode", "batch"], 2)
        assert conductor.unequal_files() == []
    assert setting.log == [
        *((name, "decode") for name in "abc"),
        *((name, "batch") for name in "ac"),
        *((name, "decode") for name in "bca"),
        *((name, "batch") for name in "ca"),
    ]
    summary = conductor.results.summary("c", "decode")
    assert summary is not None
    assert (summary.median, summary.n) == (2.0, 2)
    assert conductor.results.summary("b", "batch") is None


def test_files_must_be_decoded_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conducting, "FILE_WINDOWS", 42)
    with Conductor(FakeSetting(), [Spec(name, "", "") for name in "ab"]) as conductor:  # type: ignore[arg-type]
        conductor.start()
        conductor.play(["file"], 1)
        assert conductor.unequal_files() == ["a: file: 167 tokens, not 168"]


# Whole transcriptions of speech


class Speaker(FakeWorker):
    """Hears "one two" of "one two three four"."""

    started = 0.0

    def request(self, stage: str, n_tokens: int = 0, **more: object) -> dict[str, Any]:
        if self._name == "crashes":
            raise WorkerError("no answer")
        self._log.append((self._name, f"{stage} {more['batch_size']} {more['path']}"))
        return {"seconds": [2.0], "result": "One, two.", "peak_mb": 50.0 + len(self._log)}

    def end(self) -> float:
        return 0.1


class SpeechSetting(FakeSetting):
    def worker(self, spec: Spec, log: str = "") -> Speaker:
        return Speaker(spec.name, self.log)


def test_speech_is_transcribed_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    def minutes(language: str, length: float) -> Recording:
        files = (REPOSITORY / "samples" / "jfk.flac",)
        return Recording("a", language, "One, two, three, four!", files, 60 * length)

    monkeypatch.setattr(speech, "minutes", minutes)
    monkeypatch.setattr(Load, "disturbed", False)
    sizes = {"absent": 1, SEQUENTIAL: 1, "crashes": 1, BY_DEFAULT: 2}
    specs = [Spec(name, "", "", batch_size=size) for name, size in sizes.items()]
    setting = SpeechSetting()
    results, versions = speech.measure(setting, specs, 5, 2)  # type: ignore[arg-type]
    assert versions == dict.fromkeys((SEQUENTIAL, "crashes", BY_DEFAULT), "fake")
    asked = [(name, what.split()[:2]) for name, what in setting.log]
    first, second = (SEQUENTIAL, ["speech", "1"]), (BY_DEFAULT, ["speech", "2"])
    assert asked == [first, second, second, first]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in speech.table(results)]
    assert cells[0][2:] == [
        "transcription, s",
        "peak memory, MiB",
        "word errors, %",
        f"transcription to {SEQUENTIAL}'s",
        f"peak memory to {SEQUENTIAL}'s",
    ]
    assert cells[3][0] == BY_DEFAULT
    assert cells[3][2:] == ["2.00 ±0.00", "52.5 ±0.25", "50.0 ±0.00", "1.00", "1.00"]
    assert list(speech.verdicts(results, "base")) == [
        f"{BY_DEFAULT}: transcription is 1.00 times that of {SEQUENTIAL}, at most 0.27: NO",
        f"{BY_DEFAULT}: peak memory is 1.00 times that of {SEQUENTIAL}, at most 0.4: NO",
    ]


# What is printed


def results_of(**values: tuple[float, float]) -> Results:
    """One round of ours and of openai-whisper's, stage by stage."""
    return Results(
        sample(value, runtime=name, stage=stage.replace("_", " "))
        for stage, pair in values.items()
        for name, value in zip((OWN, OTHER), pair, strict=True)
    )


def test_tables_have_medians_and_ratios() -> None:
    results = results_of(decode=(0.5, 1.0), peak_memory=(150.0, 1500.0))
    results.add(sample(0.7, 1, runtime=OWN, stage="decode"))
    lines = list(tables(results, [OWN], [OTHER, "absent"], 100))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line]
    assert cells[0] == ["runtime", "decode, ms per token", "peak memory, MiB"]
    assert cells[2:5] == [
        [OTHER, "10.0", "1,500"],
        ["absent", "-", "-"],
        [OWN, "6.00 ±0.50", "150"],
    ]
    assert cells[5:] == [
        [f"{OWN}, over", "decode", "peak memory"],
        ["-" * len(line) for line in lines[7].strip("|").split("|")],
        [OTHER, "0.50", "0.10"],
        ["absent", "-", "-"],
    ]


def test_disturbed_medians_are_marked() -> None:
    results = Results([sample(0.25, disturbed=True)])
    assert list(tables(results, [OWN], [], 100))[2].split("|")[2].strip() == "250 !"


def test_criteria_are_against_the_fastest_peer() -> None:
    results = results_of(window=(0.9, 2.0), decode=(0.8, 1.0))
    results.add(sample(0.5, runtime="faster-whisper int8", stage="window"))
    results.add(sample(0.8, runtime="whisper.cpp f16", stage="window"))
    peers = [OTHER, "faster-whisper int8", "whisper.cpp f16"]
    # INT8 is no measure for float32.
    assert list(verdicts(results, [OWN], peers)) == [
        f"{OWN}: decode is 0.80 times that of {OTHER}, at most 0.75: NO",
        f"{OWN}: window is 1.12 times that of whisper.cpp f16, at most 1: NO",
    ]
    assert list(verdicts(results_of(window=(2.0, 2.0)), [OWN], [OTHER])) == [
        f"{OWN}: window is 1.00 times that of {OTHER}, at most 1: yes"
    ]


def test_runtimes_are_selected_by_name() -> None:
    specs = (*PEERS, *OURS, *capped(["avx2"]))
    assert len({spec.name for spec in specs}) == len(specs) == 13
    names = [spec.name for spec in select(specs, ["ours int8*", "whisper.cpp*"])]
    assert names == [
        "whisper.cpp f16",
        "whisper.cpp q8_0",
        "ours int8, NumPy",
        "ours int8, kernels",
        "ours int8, kernels avx2",
    ]
    assert specs[-1].environment == {"WHISPER_NPU_CPU_ISA": "avx2"}
    # Every format that they load is written.
    assert {spec.model for spec in SPEECH} == set(REAL)
    with pytest.raises(ValueError, match="'theirs' matches no runtime"):
        select(specs, ["theirs"])
