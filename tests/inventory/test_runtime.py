"""The runtime imports nothing of the inventory, and no folder's models where none has to run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.audio_samples import encode
from tests.support.checkpoints import Recipe
from tests.support.npu.entries import entry, write_registry
from tests.support.npu.gemm_kernels import evidence_of, gemm_json
from tests.support.signals import noise
from tests.unit.test_layers import PACKAGE, imported
from whisper_npu.backends.npu.kernel_evidence import NpuEvidenceStore
from whisper_npu.backends.npu.registry import built_in_folder, inventory_folder, read_folder
from whisper_npu.backends.npu.software import SoftwareDevice

# Runs a command and prints the file of every module that is loaded then.
SCRIPT = """
import contextlib, io, json, sys
from whisper_npu.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(sys.argv[1:]) == 0
print(json.dumps([file for file in (getattr(m, "__file__", None) for m in sys.modules.values())
                  if file]))
"""

TRANSCRIBE = ["transcribe", "a.wav", "--quiet", "--model", "MODEL", "--precision", "int8"]
COMMANDS = {
    "transcribe": TRANSCRIBE,
    "transcribe on the device": [*TRANSCRIBE, "--device", "software", "--kernels", "OWN"],
    "list": ["kernels", "list"],
    "list --all": ["kernels", "list", "--all", "--device", "software"],
    "list the folder": ["kernels", "list", "--kernels", str(inventory_folder())],
    "status": ["kernels", "status", "--kernels", str(inventory_folder()), "--device", "software"],
    "verify our own": ["kernels", "verify", "gemm_int8_16x64x64", "--device", "software"],
}
VERIFY = ["kernels", "verify", "passthrough_minimal", "--device", "software", "--kernels"]


def loaded(folder: Path, *arguments: str) -> list[Path]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Path(file).resolve() for file in json.loads(done.stdout)]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_model_is_imported(
    command: list[str], seeded_directory: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    own = write_registry(tmp_path / "own", entry(), gemm_json(64), gemm_json(16))
    store = NpuEvidenceStore()
    for kernel in read_folder(own):
        store.record(evidence_of(SoftwareDevice().identity, kernel))
    (tmp_path / "a.wav").write_bytes(encode(noise(16000), 16000, "WAV"))
    names = {"MODEL": str(seeded_directory(Recipe("nano", seed=1))), "OWN": str(own)}
    files = loaded(tmp_path, *(names.get(argument, argument) for argument in command))
    assert PACKAGE / "cli/__init__.py" in files
    places = (built_in_folder().resolve(), own.resolve())
    assert not [file for file in files if any(map(file.is_relative_to, places))]


def test_a_model_that_has_to_run_is(tmp_path: Path) -> None:
    """Or the test above would see nothing."""
    files = loaded(tmp_path, *VERIFY, str(inventory_folder()))
    assert inventory_folder().resolve() / "models/passthrough.py" in files


def test_no_file_of_the_runtime_names_the_folder() -> None:
    found = [(path, name) for path, name in imported(PACKAGE) if "kernels.inventory" in name]
    assert not found
    assert not [path for path, name in imported(PACKAGE) if name.split(".")[0] == "kernels"]
