"""``whisper-npu plan`` prints what runs: five models in six modes, op by op."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import Recipe
from tests.support.cpu_library import cpu_home as cpu_home
from tests.support.npu.gemm_kernels import evidence_of, gemm_folder
from whisper_npu.backends.npu.kernel_evidence import NpuEvidenceStore
from whisper_npu.backends.npu.registry import read_folder
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.cli import main
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.plan import Plan
from whisper_npu.transcriber import Transcriber

MODELS = ("nano", "odd", "uneven", "tiny", "base")
MODES = {
    "float32 on NumPy": {"precision": "float32", "cpu_kernels": False},
    "float32 on CPU kernels": {"precision": "float32", "cpu_kernels": True},
    "int8 on NumPy": {"precision": "int8", "cpu_kernels": False},
    "int8 on CPU kernels": {"precision": "int8", "cpu_kernels": True},
    "int8 on a device": {"device": "software", "cpu_kernels": False},
    "int8 on a device and CPU kernels": {"device": "software", "cpu_kernels": True},
}


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """A folder of kernels that are verified on the software device."""
    folder = gemm_folder(tmp_path / "kernels")
    for entry in read_folder(folder):
        NpuEvidenceStore().record(evidence_of(SoftwareDevice().identity, entry))
    return folder


def run_phases(model: Model) -> Iterator[Plan]:
    """A plan of each phase that has run, with the shapes that ``plan`` is for."""
    dims = model.dims
    random = np.random.default_rng(0)
    model.log_mel(random.standard_normal(160 * (dims.n_frames - 1) + 400).astype(np.float32))
    yield from model._mel._made.values()
    features = random.standard_normal((1, dims.n_mels, dims.n_frames)).astype(np.float32)
    states = model.encode(features)
    yield from model._encoder._made.values()
    session = model.decoder(states)
    decoder = model._decoder
    (cross,) = decoder._cross._plans
    assert cross is not None
    yield cross
    session.prefill([[1, 2, 3, 4]], [3])
    yield decoder.prefill(1, 4, 1)
    logits = session.step([5])
    yield decoder.step(1, 1).step
    session.likeliest(logits, 1)
    yield decoder.step(1, 1).choice(1)


def called(plan: Plan) -> dict[str, str]:
    """The function that computed each op in the last run, as the steps recorded it."""
    return {
        op.name: function
        for region, function in zip(plan.regions, plan.functions, strict=True)
        for op in region.ops
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_what_is_printed_is_what_was_called(
    name: str, mode: str, cpu_home: Path, kernels: Path,
    seeded_directory: Callable[[Recipe], Path], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, options = seeded_directory(Recipe(name, seed=1)), MODES[mode]
    arguments = [f"--{option}={value}" for option, value in options.items()]
    arguments += [f"--kernels={kernels}", "--policy=npu", "--format=json"]
    assert main(["plan", f"--model={folder}", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    printed: dict[str, dict[str, Any]] = {}
    for row in report["ops"]:
        printed.setdefault(row["phase"], {})[row["op"]] = row
    transcriber = Transcriber(folder, kernels=[kernels], **options)
    phases = set()
    for plan in run_phases(transcriber._model):
        rows = printed[plan.graph.name]
        assert called(plan) == {op: row["function"] for op, row in rows.items()}
        assert [op.name for op in plan.graph.ops] == list(rows)
        phases.add(plan.graph.name)
    assert phases == printed.keys()
    check_counts(transcriber._model, printed)
    check_weights(transcriber._model, report)


def check_counts(model: Model, printed: dict[str, dict[str, Any]]) -> None:
    """Results count the kernels that are printed."""
    counted: dict[tuple[str, str], int] = {}
    for rows in printed.values():
        for row in rows.values():
            key = row["kind"], row["backend"]
            counted[key] = counted.get(key, 0) + 1
    assert +model.machine.usage.counts.ops == counted
    assert model.machine.usage.fallbacks == []


def check_weights(model: Model, report: dict[str, Any]) -> None:
    """Weights are held in the forms that are printed, and in no others."""
    held: dict[str, int] = {}
    for (_, form), array in model._weights._held.items():
        held[str(form)] = held.get(str(form), 0) + array.nbytes
    assert held == report["weights"]["bytes"]
    several = {name for name, forms in model._weights.forms.items() if len(forms) > 1}
    assert several == report["weights"]["in_several_forms"].keys()
    # Nothing is held twice but where a policy of costs divides the ops of a weight.
    assert several == set()
