"""``whisper-npu bench``: what it reports, not how long things take."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import whisper_npu.bench
import whisper_npu.transcriber
from tests.cli.test_plan_and_run import kernels as kernels
from tests.support.checkpoints import Recipe
from tests.support.cpu_library import cpu_home as cpu_home
from tests.unit.toy_backend import Toy
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.bench import BEAMS, STAGES, TOKENS_PER_WINDOW, measure
from whisper_npu.cli import main
from whisper_npu.cli.machine import THREAD_VARIABLES
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import phase_graphs
from whisper_npu.transcriber import Transcriber

Capture = pytest.CaptureFixture[str]
MODES = {
    "float32 on NumPy": ["--cpu_kernels=False"],
    "int8 on CPU kernels": ["--cpu_kernels=True", "--precision=int8"],
    "int8 on a device": ["--cpu_kernels=False", "--device=software"],
}


@pytest.fixture(autouse=True)
def _few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whisper_npu.bench, "_TOKENS", 3)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*THREAD_VARIABLES, "OPENBLAS_THREAD_TIMEOUT"):
        monkeypatch.setenv(name, "1")


@pytest.fixture(scope="module")
def model(seeded_directory: Callable[[Recipe], Path]) -> Path:
    return seeded_directory(Recipe("nano", seed=1))


def report(capsys: Capture, command: str, *arguments: str) -> dict[str, Any]:
    assert main([command, "--format=json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("mode", MODES)
def test_ops_and_placement_are_those_of_the_plan(
    model: Path, mode: str, cpu_home: Path, kernels: Path, capsys: Capture
) -> None:
    arguments = [f"--model={model}", f"--kernels={kernels}", *MODES[mode]]
    planned = report(capsys, "plan", *arguments, "--policy=npu")["ops"]
    found = report(capsys, "bench", *arguments, "--repeats=1", "--profile")

    counted = {(row["phase"], row["kernel"]): 0 for row in found["placement"]}
    for row in found["placement"]:
        counted[row["phase"], row["kernel"]] += row["ops"]
    assert counted == Counter((op["phase"], op["backend"]) for op in planned)
    assert found["fallbacks"] == []
    assert [phase["phase"] for phase in found["profile"]] == ["encoder", "step"]
    for phase in found["profile"]:
        of_plan = {op["op"]: op for op in planned if op["phase"] == phase["phase"]}
        names = [name for row in phase["ops"] for name in row["ops"]]
        assert sorted(names) == sorted(of_plan)
        for row in phase["ops"]:
            for name in row["ops"]:
                assert of_plan[name]["function"] == row["function"]
                assert of_plan[name]["backend"] == row["kernel"]
                assert of_plan[name]["kind"] in row["kind"]
            regions = {tuple(of_plan[name]["region"]) for name in row["ops"]}
            assert len(regions) == row["regions"]
    device = mode == "int8 on a device"
    assert (found["device"] is not None) == device
    assert found["precision"] == ("float32" if mode == "float32 on NumPy" else "int8")
    assert (found["instruction_set"] is not None) == (mode == "int8 on CPU kernels")


def test_regions_of_several_ops_count_and_are_timed_as_all_of_them(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine((Toy(), *numpy_backends()))
    monkeypatch.setattr(whisper_npu.transcriber, "open_machine", lambda *_, **__: machine)
    found = measure(lambda: Transcriber(model), np.zeros(16000, np.float32), 1, profile=True)
    # Once to warm up, once to measure, once op by op; nothing is taken from the run before.
    runs = machine.usage.counts.runs
    assert runs["encoder"] == runs["cross_kv"] == 3
    assert runs["prefill"] == 2 * 3
    assert runs["step"] == runs["choice"] > 0
    dims = Transcriber(model).dims
    for graph in phase_graphs(dims, "float32"):
        rows = [row for row in found.placement if row.phase == graph.name]
        assert sum(row.ops for row in rows) == len(graph.ops)
        fused = sum(row.ops for row in rows if row.kernel == "run_linear_gelu")
        layers = {"encoder": dims.n_audio_layer, "step": dims.n_text_layer}
        if graph.name in layers:
            (phase,) = (each for each in found.profile if each.phase == graph.name)
            (row,) = (row for row in phase.ops if row.kernel == "run_linear_gelu")
            assert row.kind.startswith("linear [")
            assert row.kind.endswith("] + gelu")
            assert row.regions == layers[graph.name]
            assert len(row.ops) == fused == 2 * row.regions
            names = [name for each in phase.ops for name in each.ops]
            assert sorted(names) == sorted(op.name for op in graph.ops)


def test_times_are_of_every_stage_and_add_up(model: Path, capsys: Capture) -> None:
    found = report(capsys, "bench", f"--model={model}", "--repeats=2", "--profile", "--threads=1")
    assert found["model"] == str(model)
    assert (found["repeats"], found["threads"], found["beams"]) == (2, 1, BEAMS)
    seconds = found["seconds"]
    assert list(seconds) == list(STAGES)
    assert all(value > 0 for value in seconds.values())
    once = sum(seconds[stage] for stage in ("mel", "encoder", "cross_kv", "prefill"))
    for search in ("greedy", "beams"):
        window = once + TOKENS_PER_WINDOW * seconds[f"token_{search}"]
        assert found["real_time"][search] == pytest.approx(30 / window)
    for phase in found["profile"]:
        assert phase["seconds"] > 0
        assert phase["seconds_timed"] > 0
        of_ops = [row["seconds"] for row in phase["ops"]]
        assert of_ops == sorted(of_ops, reverse=True)
        assert sum(of_ops) == pytest.approx(phase["seconds_in_ops"])
        products = [row for row in phase["ops"] if row["kind"].startswith("linear")]
        assert products
        assert all(row["flops"] > 0 and row["bytes"] > 0 for row in products)
    (cached,) = (row for row in found["profile"][1]["ops"] if row["kind"] == "cached_attention")
    assert (cached["flops"], cached["bytes"]) == (None, None)


def test_text_has_the_same(model: Path, capsys: Capture) -> None:
    assert main(["bench", f"--model={model}", "--repeats=1", "--profile"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert lines[0] == f"model: {model}, float32 (the model's weights are not INT8)"
    assert lines[2] == "audio: 30 s of synthetic noise, as no file was given"
    for text in STAGES.values():
        assert sum(line.endswith(f" ms  {text}") for line in lines) == 1
    assert sum("real time" in line for line in lines) == 2
    for phase in ("mel", "encoder", "cross_kv", "prefill", "step", "choice"):
        assert sum(line.startswith(f"  {phase}: ") for line in lines) == 1
    assert sum(line.startswith(("encoder: ", "step: ")) for line in lines) == 2
    assert any("linear [" in line and "GFLOP/s" not in line for line in lines)


def test_without_a_profile_there_is_none(model: Path, capsys: Capture) -> None:
    assert report(capsys, "bench", f"--model={model}", "--repeats=1")["profile"] == []


def test_the_built_in_model_where_none_was_pulled(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    asked = []

    def stop(model: str, machine: object) -> Transcriber:
        asked.append((model, machine))
        assert all(os.environ[name] == "2" for name in THREAD_VARIABLES)
        raise KeyboardInterrupt

    monkeypatch.setattr(Transcriber, "from_options", stop)
    assert main(["bench", "--precision", "int8", "--threads", "2", "--allow-fallback=True"]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("whisper-npu: warning: no --model was given and none was pulled")
    assert captured.err.endswith("whisper-npu: interrupted\n")
    (((name, machine)),) = asked
    assert name == "demo"
    assert vars(machine) == {
        "device": "cpu",
        "precision": "int8",
        "allow_fallback": True,
        "check": "full",
        "check_rate": 1e-3,
        "cpu_kernels": None,
        "kernels": (),
        "threads": 2,
    }


@pytest.mark.parametrize(("seconds", "rate"), [(3, 16000), (65, 16000), (65, 22050)])
def test_at_most_30_seconds_of_a_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture,
    seconds: int, rate: int,
) -> None:  # fmt: skip
    file = tmp_path / "recording.wav"
    soundfile.write(file, 0.1 * np.ones(seconds * rate, np.float32), rate)
    taken = []

    def watched(load: object, audio: Any, *rest: object) -> object:
        taken.append(len(audio) / 16000)
        return measure(load, audio, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(whisper_npu.bench, "measure", watched)
    found = report(capsys, "bench", f"--model={model}", "--repeats=1", str(file))
    assert found["audio"] == str(file)
    assert taken == [min(seconds, 30)]


def test_loads_once_more_than_it_counts_and_one_at_a_time(model: Path) -> None:
    opened: list[Transcriber] = []

    def load() -> Transcriber:
        assert all(not each._give_back.alive for each in opened)
        opened.append(Transcriber(model))
        return opened[-1]

    measure(load, np.zeros(16000, np.float32), 2)
    assert len(opened) == 3
    assert not opened[-1]._give_back.alive


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--repeats", "0"], 2, "--repeats must be 1 or more, not 0"),
        (["--device", "gpu"], 2, "--device must be one of cpu, npu, auto, not 'gpu'"),
        (["--precision", "int4"], 2, "--precision must be one of auto, float32, int8, not 'int4'"),
        (["--model", "nowhere/at/all"], 3, "nowhere/at/all"),
        (["missing.wav"], 1, "missing.wav"),
    ],
)
def test_errors(capsys: Capture, arguments: list[str], code: int, message: str) -> None:
    assert main(["bench", "--model", "demo", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("whisper-npu: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
