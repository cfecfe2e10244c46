"""``whisper-npu plan``: text and JSON for the CPU, a described device and the software device."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import Recipe
from tests.support.cpu_library import cpu_home as cpu_home
from tests.support.cpu_library import no_cpu_kernels as no_cpu_kernels
from tests.support.npu.gemm_kernels import LARGE, SMALL, evidence_of, gemm_folder
from tests.support.signals import noise
from whisper_npu.backends.npu.kernel_evidence import NpuEvidenceStore
from whisper_npu.backends.npu.registry import KERNELS_ENVIRONMENT, read_folder
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.backends.numpy import host_rates as cost
from whisper_npu.backends.numpy.host_rates import HostRates
from whisper_npu.cli import main
from whisper_npu.model.builders import PHASES, build_phase
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.model.precision import Precision
from whisper_npu.transcriber import Transcriber

TINY = KNOWN_DIMENSIONS["tiny"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNELS_ENVIRONMENT, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return gemm_folder(tmp_path / "kernels")


def plan(capsys: Capture, folder: Path, *arguments: str, model: str = "tiny") -> dict[str, Any]:
    """The report as JSON."""
    options = ["--model", model, "--kernels", str(folder), "--format", "json"]
    assert main(["plan", *options, *arguments]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def names(precision: Precision) -> list[tuple[str, str]]:
    graphs = [build_phase(phase, TINY, precision=precision) for phase in PHASES]
    return [(graph.name, op.name) for graph in graphs for op in graph.ops]


def check_totals(report: dict[str, Any]) -> None:
    for what, phases in (("window", PHASES[:-2]), ("token", PHASES[-2:])):
        ops = [op for op in report["ops"] if op["phase"] in phases]
        totals = report["totals"][what]
        assert totals["ops"] == len(ops)
        for field in ("launches", "bytes_in", "bytes_out", "seconds"):
            assert totals[field] == pytest.approx(sum(op[field] for op in ops), rel=1e-12)
    resident = {(op["backend"], op["weight"]): op["resident_bytes"] for op in report["ops"]}
    assert report["resident_bytes"] == sum(resident.values())


def test_the_cpu(capsys: Capture, folder: Path) -> None:
    report = plan(capsys, folder)
    assert (report["model"], report["device"], report["precision"]) == ("tiny", "cpu", "float32")
    assert [(op["phase"], op["op"]) for op in report["ops"]] == names("float32")
    assert {op["backend"] for op in report["ops"]} == {"numpy"}
    assert all(op["seconds"] > 0 and op["reason"] for op in report["ops"])
    assert report["resident_bytes"] == 0
    check_totals(report)
    assert len(report["rates"]) == 1


def test_a_described_phoenix(capsys: Capture, folder: Path) -> None:
    report = plan(capsys, folder, "--device", "phoenix", "--policy", "npu")
    assert [(op["phase"], op["op"]) for op in report["ops"]] == names("int8")
    for op in report["ops"]:
        assert (op["kind"] == "product_int8") == (op["backend"] in (LARGE, SMALL))
    check_totals(report)
    step = [op for op in report["ops"] if op["phase"] == "step" and op["launches"]]
    assert report["totals"]["token"]["launches"] == len(step) == 4 * 8 + 1
    # One row padded to a tile, and sums: no weight moves with a token.
    assert {op["backend"] for op in step} == {SMALL}
    widths = {"fc2": 1536}
    assert report["totals"]["token"]["bytes_in"] == 16 * sum(
        widths.get(op["op"].split(".")[-1], 384) for op in step
    )
    assert any("no such device was measured" in line for line in report["rates"])
    assert set(report["limits"]) == {
        "products of a window at 6.76 TOPS",
        "weights of a token at 17 GB/s",
    }


def test_the_software_device_before_and_after_verification(capsys: Capture, folder: Path) -> None:
    arguments = ("--device", "software", "--policy", "npu", "--phase", "step")
    before = plan(capsys, folder, *arguments)
    products = [op for op in before["ops"] if op["kind"] == "product_int8"]
    assert {op["backend"] for op in products} == {"numpy"}
    assert {op["reason"] for op in products} == {
        f"{LARGE} is unverified, its xclbin absent; {SMALL} is unverified, its xclbin absent"
    }
    for entry in read_folder(folder):
        NpuEvidenceStore().record(evidence_of(SoftwareDevice().identity, entry))
    after = plan(capsys, folder, *arguments)
    products = [op for op in after["ops"] if op["kind"] == "product_int8"]
    assert {op["backend"] for op in products} == {SMALL}
    assert all(op["reason"].startswith("verified; ") for op in products)
    assert {op["phase"] for op in after["ops"]} == {"step"}
    assert after["totals"]["window"]["ops"] == 0


def test_text(capsys: Capture, folder: Path) -> None:
    arguments = ["plan", "--model", "tiny", "--kernels", str(folder), "--device", "phoenix"]
    assert main([*arguments, "--policy", "npu", "--phase", "step"]) == 0
    out = capsys.readouterr().out.splitlines()
    graph = build_phase("step", TINY, precision="int8")
    assert out[0].split()[:4] == ["phase", "op", "kind", "placement"]
    for op, line in zip(graph.ops, out[1:], strict=False):
        backend = SMALL if op.kind == "product_int8" else "numpy"
        assert line.split()[:4] == ["step", op.name, op.kind, backend]
    logits = next(line for line in out if line.startswith("step       fixed_logits "))
    assert logits.split()[4:8] == ["1", "6,144", f"{4 * 16 * 51904:,}", f"{384 * 51904:,}"]
    rest = out[1 + len(graph.ops) :]
    assert rest[0].startswith("per window: 0 ops, 0 launches, 0 bytes in")
    assert rest[1].startswith(f"per token: {len(graph.ops)} ops, 33 launches, ")
    assert rest[1].endswith(" ms")
    assert rest[2].startswith("resident weights: ")
    assert rest[3] == "precision: int8 (the NPU's products are int8)"
    assert rest[4].startswith("NumPy here: ")
    assert [line.split(":")[0] for line in rest[5:7]] == [LARGE, SMALL]
    assert all(line.startswith("limit, ") for line in rest[7:])
    assert len(rest[7:]) == 2


def test_int8_on_the_cpu(capsys: Capture, folder: Path) -> None:
    report = plan(capsys, folder, "--precision", "int8")
    assert report["precision"] == "int8"
    assert [(op["phase"], op["op"]) for op in report["ops"]] == names("int8")
    error = "--precision 'float32' does not go with an NPU"
    arguments = ["--model", "tiny", "--device", "software", "--precision", "float32"]
    assert main(["plan", *arguments]) == 2
    assert error in capsys.readouterr().err


def test_cpu_kernels_that_are_not_there(no_cpu_kernels: Path, capsys: Capture) -> None:
    assert main(["plan", "--model", "tiny", "--cpu_kernels", "True"]) == 5
    assert "CPU kernels are not built: run whisper-npu kernels build" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_cpu_kernels_are_placed_as_a_transcription_places_them(
    cpu_home: Path,
    capsys: Capture,
    folder: Path,
    precision: str,
    seeded_directory: Callable[[Recipe], Path],
) -> None:
    model = seeded_directory(Recipe("nano"))
    arguments = ("--precision", precision)
    without = plan(capsys, folder, *arguments, "--cpu_kernels", "False", model=str(model))
    assert {op["backend"] for op in without["ops"]} == {"numpy"}
    report = plan(capsys, folder, *arguments, model=str(model))
    planned: dict[str, set[str]] = {}
    for op in report["ops"]:
        planned.setdefault(op["kind"], set()).add(op["backend"])
    gelu = "gelu_int32" if precision == "int8" else "gelu"
    assert planned[gelu] == {f"cpu_{gelu}"}
    transcriber = Transcriber(model, precision=precision)
    placement = transcriber.transcribe(noise(16000), language="en", temperature=0.0).placement
    assert placement is not None
    assert {kind: set(ops) for kind, ops in placement.ops.items()} == planned
    assert report["rates"][-1].startswith("CPU kernels: ")
    check_totals(report)


def test_larger_models_cost_more(
    capsys: Capture, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As measured, it would be another for each of them.
    monkeypatch.setattr(cost, "measure_host", lambda: HostRates(1e11, 1e10))
    totals = [
        plan(capsys, folder, "--device", "phoenix", "--policy", "npu", model=model)["totals"]
        for model in ("tiny", "base", "small")
    ]
    for what in ("window", "token"):
        for field in ("launches", "bytes_in", "bytes_out", "seconds"):
            values = [total[what][field] for total in totals]
            assert values == sorted(values)
            assert values[0] < values[-1]


def test_a_model_folder(capsys: Capture, folder: Path, tmp_path: Path) -> None:
    config = {
        "num_mel_bins": 80, "max_source_positions": 1500, "d_model": 384,
        "encoder_attention_heads": 6, "encoder_layers": 4, "vocab_size": 51865,
        "max_target_positions": 448, "decoder_attention_heads": 6, "decoder_layers": 4,
    }  # fmt: skip
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    report = plan(capsys, folder, model=str(tmp_path / "model"))
    assert [(op["phase"], op["op"]) for op in report["ops"]] == names("float32")


@pytest.mark.parametrize("name", ["nowhere", "x" * 300])
def test_a_model_that_does_not_exist(capsys: Capture, folder: Path, name: str) -> None:
    assert main(["plan", "--model", name, "--kernels", str(folder)]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"whisper-npu: error: {name}: neither a model folder nor one of tiny, ")
    assert error.count("\n") == 1


def test_no_npu(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyxrt", None)
    assert main(["plan", "--model", "tiny", "--device", "npu"]) == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("whisper-npu: error: ")
    assert captured.err.endswith("run: whisper-npu doctor\n")
    assert captured.err.count("\n") == 1
