"""The package as it is built and installed: with kernels where there is a compiler, without where
there is none, and with the files that it needs."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.cpu_library import require_compiler
from whisper_npu.backends.cpu.library import ISA_ENVIRONMENT
from whisper_npu.files.whole import file_sha256
from whisper_npu.version import __version__

ROOT = Path(__file__).parents[2]
NONE = {"CXX": "no-such-compiler"}
# Code as slow as it is quickly compiled.
QUICK = {"CXXFLAGS": "-O0"}

pytestmark = pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed")


def _run(
    *command: str | Path, folder: Path, variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    environment.pop(ISA_ENVIRONMENT)
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def _build(target: str, source: Path, dest: Path, variables: Mapping[str, str]) -> Path:
    done = _run("hatchling", "build", "-t", target, "-d", dest, folder=source, variables=variables)
    assert done.returncode == 0, done.stderr
    (made,) = dest.iterdir()
    return made


def _names(wheel: Path) -> set[str]:
    with ZipFile(wheel) as file:
        return {name for name in file.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def pure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built where there is no compiler."""
    return _build("wheel", ROOT, tmp_path_factory.mktemp("pure"), NONE)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with kernels."""
    require_compiler()
    return _build("wheel", ROOT, tmp_path_factory.mktemp("compiled"), QUICK)


def _install(wheel: Path, folder: Path) -> None:
    """Into a folder, as pip does, with the rights that a umask of 002 leaves."""
    pip = ("pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel)
    if find_spec("pip") is None:
        pytest.skip("pip is not installed")
    before = os.umask(0o002)
    try:
        done = _run(*pip, folder=wheel.parent, variables={})
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr


def _transcribe(installed: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """With what is installed, and no other whisper-npu."""
    sample = ROOT / "samples" / "synthetic" / "order.flac"
    arguments = ("transcribe", sample, "--model", "demo", "--language", "en", "-o", folder)
    variables = {"PYTHONPATH": str(installed), "WHISPER_NPU_HOME": str(folder / "home")}
    return _run("whisper_npu", *arguments, *options, folder=folder, variables=variables)


def test_files_of_the_package(pure: Path) -> None:
    assert pure.name == f"whisper_npu-{__version__}-py3-none-any.whl"
    names = _names(pure)
    listed = subprocess.run(
        ["git", "ls-files", "whisper_npu"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
        assert tracked <= names
    sources = {f"whisper_npu/kernels/src/cpu/{file.name}" for file in SOURCES.iterdir()}
    assert sources <= names
    for name in (
        "py.typed",
        "kernels/registry.json",
        "kernels/registry.schema.json",
        "kernels/verdicts.json",
        "kernels/src/gemm_i8.cc",
        "kernels/src/tiles.py",
        "kernels/inventory/README.md",
        "kernels/inventory/registry.json",
        "kernels/inventory/models/gelu.py",
        "weights/demo/model.safetensors",
        "weights/demo/README.md",
        "weights/demo/tokenizer.json",
        "weights/sources.json",
    ):
        assert f"whisper_npu/{name}" in names
    # How these were made is not part of it, nor is what is beside the package.
    assert {name.split("/")[0] for name in names} == {"whisper_npu"}
    assert not [name for name in names if "recipe" in name or "__pycache__" in name]
    scripts = {name for name in names if name.startswith("whisper_npu/kernels/inventory/")}
    assert {name.split("/")[3] for name in scripts if name.endswith(".py")} == {"models"}


SOURCES = ROOT / "kernels" / "src" / "cpu"


def test_a_wheel_of_the_source_distribution_is_the_same(pure: Path, tmp_path: Path) -> None:
    sdist = _build("sdist", ROOT, tmp_path / "sdist", {})
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    wheel = _build("wheel", source, tmp_path / "wheel", NONE)
    assert _names(wheel) == _names(pure)
    assert not (source / "tests").exists()


def test_without_a_compiler_it_says_what_is_missing(pure: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    ZipFile(pure).extractall(installed)
    assert os.listdir(installed / "whisper_npu/kernels/lib") == ["library.json"]
    done = _transcribe(installed, tmp_path, "--cpu_kernels", "True")
    assert done.returncode == 5
    reason = (
        "CPU kernels were not compiled when whisper-npu was installed: no C++ compiler: looked for "
        "no-such-compiler; install g++ or clang++, or name one in CXX; when that is put right, run "
        "whisper-npu kernels build"
    )
    assert done.stderr == f"whisper-npu: error: {reason}\n"
    done = _transcribe(installed, tmp_path)
    assert done.returncode == 0
    assert reason in done.stderr
    assert json.loads((tmp_path / "order.json").read_text())["placement"]["precision"] == "float32"


def test_with_a_compiler_kernels_are_installed_and_verified_at_first_use(
    compiled: Path, tmp_path: Path
) -> None:
    installed = tmp_path / "installed"
    _install(compiled, installed)
    folder = installed / "whisper_npu" / "kernels" / "lib"
    record = json.loads((folder / "library.json").read_text())
    library = folder / record["library"]
    assert sorted(os.listdir(folder)) == sorted([library.name, "library.json"])
    assert record["sha256"] == file_sha256(library)
    assert "-O0" in record["flags"]
    assert library.stat().st_mode & 0o777 == folder.stat().st_mode & 0o777 == 0o775
    first, second = (_transcribe(installed, tmp_path, "--cpu_kernels", "True") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert first.stdout == second.stdout
    assert "are used for the first time: verifying them\n" in first.stderr
    assert "first time" not in second.stderr
    assert os.listdir(tmp_path / "home" / "cpu") == ["evidence.json"]
    placement = json.loads((tmp_path / "order.json").read_text())["placement"]
    assert placement["instruction_set"] in record["flags"]
    for kind in ("attention_int32", "attention_int8"):
        assert any(name.startswith("cpu_") for name in placement["ops"][kind])


def test_a_wheel_with_kernels_is_for_its_platform(compiled: Path, pure: Path) -> None:
    start = f"whisper_npu-{__version__}-py3-none-"
    assert compiled.name.startswith(start)
    assert compiled.name.endswith(f"_{platform.machine()}.whl")
    with ZipFile(compiled) as file:
        (name,) = (name for name in file.namelist() if name.endswith("/WHEEL"))
        text = file.read(name).decode()
    tag = compiled.name.removeprefix(start).removesuffix(".whl")
    assert f"Tag: py3-none-{tag}\n" in text
    assert "Root-Is-Purelib: false\n" in text
    (library,) = _names(compiled) - _names(pure)
    assert library.startswith("whisper_npu/kernels/lib/kernels-")


def test_an_editable_installation_has_the_library_in_the_source_tree(tmp_path: Path) -> None:
    require_compiler()
    source = tmp_path / "source"
    for name in ("whisper_npu", "kernels"):
        ignored = shutil.ignore_patterns("__pycache__", "lib")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source)
    (source / "weights").mkdir()
    script = (
        "from hatchling.build import build_editable; import sys; print(build_editable(sys.argv[1]))"
    )
    program = source / "editable.py"
    program.write_text(script)

    def build(variables: Mapping[str, str]) -> Path:
        done = _run("editable", tmp_path, folder=source, variables=variables)
        assert done.returncode == 0, done.stderr
        return tmp_path / done.stdout.splitlines()[-1]

    wheel = build(QUICK)
    with ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".pth"))
        assert file.read(name).decode().strip() == str(source)
    (library,) = (source / "kernels" / "lib").glob("*.so")
    before = library.stat()
    # Once more, as the environment of the tests is made: what is there is taken.
    build(QUICK)
    assert library.stat().st_ino == before.st_ino
    done = _run("whisper_npu", "doctor", folder=source, variables={})
    assert f"ok     CPU kernels    {library} for " in done.stdout
