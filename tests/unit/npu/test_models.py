"""Models of a kernel folder: Python of its own, loaded when it has to run and confined to it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.npu.entries import contract, entry, matmul_entry, write_registry
from tests.support.npu.gemm_kernels import gemm_json
from whisper_npu.backends.npu.contract import contract_from_json
from whisper_npu.backends.npu.families import family_of
from whisper_npu.backends.npu.kernel_models import bound_of, run_model
from whisper_npu.backends.npu.manager import KernelManager
from whisper_npu.backends.npu.packing import GemmTile, pack_gemm_weights
from whisper_npu.backends.npu.registry import (
    KernelEntry,
    built_in_folder,
    load_registry,
    read_folder,
)
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.backends.npu.verify_kernel import verify
from whisper_npu.errors import KernelError

ZEROS = np.zeros(512, np.int8)
# A model in one line, for the kernel of ``entry``.
LINE = "MODELS = {'matmul.packed_16x16': lambda x: x[..., :256] + SHIFT}\n"


@pytest.mark.parametrize("m", [16, 64])
def test_the_model_of_a_gemm_tile(m: int) -> None:
    rng = np.random.default_rng(m)
    x = rng.integers(-128, 128, (2, m, 64)).astype(np.int8)
    w = rng.integers(-128, 128, (64, 64)).astype(np.int8)
    packed = pack_gemm_weights(w, GemmTile(m, 64, 64)).reshape(1, -1)
    kernel = {e.contract.name: e for e in read_folder(built_in_folder())}
    (sums,) = run_model(
        kernel[f"gemm_int8_{m}x64x64"], x.reshape(2, -1), np.repeat(packed, 2, axis=0)
    )
    expected = x.astype(np.int64) @ w.T.astype(np.int64)
    assert np.array_equal(sums.reshape(2, m, 64), expected)


def test_a_kernel_without_a_model_is_refused() -> None:
    with pytest.raises(KernelError, match="mine: has no model"):
        run_model(matmul_entry(model=None, exactness="unknown detail: all"), ZEROS)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ([np.zeros(511, np.int8)], "bo0 has 512 bytes, not 511"),
        ([np.zeros(512, np.uint8)], "bo0 is int8, not uint8"),
        ([np.zeros(256, np.int8)] * 2, "2 arrays for 1 buffers"),
        ([np.int8(0)], "bo0 has 512 bytes, not 0"),
    ],
)
def test_wrong_buffers_are_refused(arrays: list[np.ndarray], reason: str) -> None:
    with pytest.raises(KernelError, match=f"mine: {reason}"):
        run_model(matmul_entry(), *arrays)


def test_a_model_that_does_not_fit_its_contract_is_refused() -> None:
    larger = entry(model="matmul.packed_32x32")
    larger["arguments"][3]["bytes"] = 2048
    with pytest.raises(KernelError, match=r"mine: bo1 has 256 bytes, not 1024"):
        run_model(matmul_entry(**larger), np.zeros(2048, np.int8))
    with pytest.raises(KernelError, match=r"mine: .*: model matmul.packed_64x64 failed: "):
        run_model(matmul_entry(model="matmul.packed_64x64"), ZEROS)


# Folders


def read(folder: Path) -> KernelEntry:
    (only,) = read_folder(folder)
    return only


def test_a_package_imports_its_own_modules(tmp_path: Path) -> None:
    """Two folders may call their packages and modules alike."""
    found = []
    for shift in (1, 2):
        folder = write_registry(tmp_path / str(shift), entry())
        (folder / "kinds").mkdir()
        (folder / "kinds/__init__.py").write_text(f"from .parts import SHIFT\n{LINE}")
        (folder / "kinds/parts.py").write_text(f"SHIFT = {shift}\n")
        text = (folder / "registry.json").read_text().replace("models.py", "kinds")
        (folder / "registry.json").write_text(text)
        found.append(run_model(read(folder), ZEROS)[0])
    assert [set(array.tolist()) for array in found] == [{1}, {2}]
    # And nothing of them can be imported by such a name.
    assert "kinds" not in sys.modules


def test_a_kernel_of_a_folder_is_verified_by_its_model(tmp_path: Path) -> None:
    folder = write_registry(tmp_path, entry(), models=f"SHIFT = 3\n{LINE}")
    assert verify(SoftwareDevice(), read(folder)).passed

    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        outputs[0][0] ^= 1

    assert not verify(SoftwareDevice(corrupt=corrupt), read(folder)).passed


@pytest.mark.parametrize(
    ("models", "reason"),
    [
        ("def (", "cannot be imported: SyntaxError: "),
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("from . import parts", "cannot be imported: ImportError: "),
        ("x = 1", "MODELS is to be a mapping by the names of models"),
        ("MODELS = 7", "MODELS is to be a mapping by the names of models"),
        ("MODELS = {}; BOUNDS = []", "BOUNDS is to be a mapping by the names of models"),
        ("MODELS = {}", "MODELS has no model matmul.packed_16x16"),
    ],
)
def test_models_that_cannot_be_loaded_are_named(tmp_path: Path, models: str, reason: str) -> None:
    kernel = read(write_registry(tmp_path, entry(), models=models))
    before = set(sys.modules)
    # The same again: what was half imported is not taken up.
    for _ in range(2):
        with pytest.raises(KernelError) as caught:
            run_model(kernel, ZEROS)
        assert f"{tmp_path}/models.py: " in str(caught.value)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
    if reason != "MODELS has no model matmul.packed_16x16":
        assert not [name for name in set(sys.modules) - before if "kernel_models" in name]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("lambda x: {}['key']", "/models.py: model matmul.packed_16x16 failed: KeyError: 'key'"),
        ("lambda x: None", "bo1 is int8, not object"),
        ("lambda x: (x[..., :256], x)", "2 arrays for 1 buffers"),
        ("7", "'int' object is not callable"),
    ],
)
def test_models_that_go_wrong_are_named(tmp_path: Path, function: str, reason: str) -> None:
    models = f"MODELS = {{'matmul.packed_16x16': {function}}}"
    with pytest.raises(KernelError, match=r"^mine: ") as caught:
        run_model(read(write_registry(tmp_path, entry(), models=models)), ZEROS)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        ("3", "TypeError: cannot unpack non-iterable int object"),
        ("(abs, 'much')", "ValueError: could not convert string to float: 'much'"),
        ("(lambda x: {}['key'], 0.5)", "KeyError: 'key'"),
    ],
)
def test_bounds_that_go_wrong_are_named(tmp_path: Path, bound: str, reason: str) -> None:
    name = "'matmul.packed_16x16'"
    models = f"MODELS = {{{name}: lambda x: x[..., :256]}}; BOUNDS = {{{name}: {bound}}}"
    kernel = read(write_registry(tmp_path, entry(), models=models))
    with pytest.raises(KernelError) as caught:
        list(family_of(kernel).cases(np.random.default_rng(0)))
    message = f"mine: {tmp_path}/models.py: BOUNDS of matmul.packed_16x16 failed: {reason}"
    assert str(caught.value) == message


def test_models_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = write_registry(tmp_path, entry())
    (folder / "models.py").unlink()
    with pytest.raises(KernelError) as caught:
        run_model(read(folder), ZEROS)
    assert str(caught.value) == (
        f"{folder}/registry.json: models: models.py is no Python file or package of {folder}"
    )
    # A package has an __init__.py.
    (folder / "models.py").mkdir()
    with pytest.raises(KernelError, match=r"models\.py is no Python file or package of "):
        run_model(read(folder), ZEROS)


def test_a_file_that_is_no_python_is_named(tmp_path: Path) -> None:
    folder = write_registry(tmp_path, entry())
    text = (folder / "registry.json").read_text().replace("models.py", "models.txt")
    (folder / "registry.json").write_text(text)
    (folder / "models.txt").touch()
    with pytest.raises(KernelError, match=r"models\.txt: is no Python file"):
        run_model(read(folder), ZEROS)


def test_a_folder_that_names_no_models(tmp_path: Path) -> None:
    kernel = KernelEntry(contract(), tmp_path)
    with pytest.raises(KernelError, match=rf"^mine: has no model .*: {tmp_path}/registry\.json "):
        run_model(kernel, ZEROS)
    with pytest.raises(KernelError, match=r'does not name the Python .* \("models"\)$'):
        bound_of(kernel)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = write_registry(tmp_path / "own", entry())
    kernel = read(folder)
    marker = tmp_path / "ran"
    (tmp_path / "theirs.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (folder / "models.py").unlink()
    (folder / "models.py").symlink_to(tmp_path / "theirs.py")
    with pytest.raises(KernelError, match="is no Python file or package of "):
        run_model(kernel, ZEROS)
    # Once it is there when the registry is read, the whole registry is refused.
    with pytest.raises(KernelError, match=r"registry\.json: models: 'models\.py' is not inside of"):
        read_folder(folder)
    assert not marker.exists()


# When


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that the models of the folder "own" leave when they are loaded."""
    write_registry(
        tmp_path / "own",
        entry(),
        gemm_json(64),
        models=f"open({str(tmp_path / 'ran')!r}, 'w').close()\nSHIFT = 0\n{LINE}",
    )
    return tmp_path / "ran"


QUIET: dict[str, Callable[[KernelManager], Any]] = {
    "list": lambda manager: manager.list(),
    "status": lambda manager: manager.status("mine"),
    "load": lambda manager: manager.load("mine").buffer(3, 512),
    "verify another": lambda manager: manager.verify("gemm_int8_64x64x64"),
}


@pytest.mark.parametrize("use", QUIET.values(), ids=QUIET)
def test_models_are_not_loaded_before_they_run(
    marker: Path, tmp_path: Path, use: Callable[[KernelManager], Any]
) -> None:
    manager = KernelManager(SoftwareDevice(), [tmp_path / "own"])
    use(manager)
    assert not marker.exists()
    manager.verify("mine")
    assert marker.exists()


def test_contracts_do_not_depend_on_where_models_are() -> None:
    made = contract_from_json(entry(), "test")
    assert made == contract()
    assert load_registry()["gemm_int8_64x64x64"].models == "src/tiles.py"
