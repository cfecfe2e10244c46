from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.npu.entries import entry, write_registry
from whisper_npu.backends.npu import registry
from whisper_npu.backends.npu.registry import inventory_folder, load_registry, read_folder
from whisper_npu.errors import KernelError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(registry.KERNELS_ENVIRONMENT, raising=False)


# The built-in registry


def test_built_in_are_our_own_and_the_inventory_is_asked_for() -> None:
    own = [kernel.contract.name for kernel in load_registry()]
    assert own == ["gemm_int8_64x64x64", "gemm_int8_16x64x64"]
    both = load_registry(inventory=True)
    assert [kernel.contract.name for kernel in both][:2] == own
    assert len(both) == 34
    assert not both.notices


# Folders of the user


def test_a_folder_adds_its_kernels(tmp_path: Path) -> None:
    loaded = load_registry(write_registry(tmp_path, entry()))
    assert loaded["mine"].folder == tmp_path
    assert "gemm_int8_64x64x64" in loaded
    assert not loaded.notices


def test_the_environment_names_several_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write_registry(tmp_path / "one", entry(name="one"))
    two = write_registry(tmp_path / "two", entry(name="two"))
    monkeypatch.setenv(registry.KERNELS_ENVIRONMENT, f"{one}{os.pathsep}{os.pathsep}{two}")
    loaded = load_registry()
    assert loaded["one"].folder == one
    assert loaded["two"].folder == two


def test_a_later_folder_wins_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_registry(tmp_path / "first", entry(name="matmul_16x16", version=5))
    second = write_registry(tmp_path / "second", entry(name="matmul_16x16", version=6))
    monkeypatch.setenv(registry.KERNELS_ENVIRONMENT, str(first))
    before = len(load_registry(inventory=True))
    loaded = load_registry(second, inventory=True)
    assert len(loaded) == before
    assert loaded["matmul_16x16"].contract.version == 6
    assert [notice.split(" replaces ")[0] for notice in loaded.notices] == [
        f"kernel matmul_16x16 of {first}",
        f"kernel matmul_16x16 of {second}",
    ]


def test_a_folder_that_is_named_twice_replaces_nothing(tmp_path: Path) -> None:
    folder = write_registry(tmp_path, entry())
    twice = load_registry(folder, folder / ".." / folder.name, inventory_folder(), inventory=True)
    assert len(twice) == 35
    assert not twice.notices


def test_a_kernel_of_the_inventory_by_a_name_of_ones_own(tmp_path: Path) -> None:
    """Without the inventory it is a kernel like any other, and replaces nothing."""
    loaded = load_registry(write_registry(tmp_path, entry(name="matmul_16x16", version=5)))
    assert loaded["matmul_16x16"].contract.version == 5
    assert not loaded.notices


def test_an_unknown_kernel_is_named(tmp_path: Path) -> None:
    with pytest.raises(KernelError) as caught:
        load_registry()["matmul_17"]
    known = "gemm_int8_16x64x64, gemm_int8_64x64x64"
    assert str(caught.value) == f"matmul_17: no such kernel; there are {known}"


def test_an_unknown_kernel_of_the_inventory_has_its_folder_named() -> None:
    with pytest.raises(KernelError) as caught:
        load_registry()["matmul_16x16"]
    advice = f"; matmul_16x16 is one of the inventory: add --kernels {inventory_folder()}"
    assert str(caught.value).startswith("matmul_16x16: no such kernel; there are gemm_int8_16")
    assert str(caught.value).endswith(advice)
    assert "matmul_16x16" in load_registry(inventory_folder())


def test_a_damaged_inventory_is_no_reason_to_fail_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "inventory_folder", lambda: tmp_path / "nowhere")
    with pytest.raises(KernelError, match=r"^matmul_16x16: no such kernel; there are [^;]*$"):
        load_registry()["matmul_16x16"]


# The state of files


def test_files_are_absent_present_or_wrong(tmp_path: Path) -> None:
    good, bad = b"right", b"wrong"
    digest = hashlib.sha256(good).hexdigest()
    write_registry(tmp_path, entry(xclbin={"path": "mine/mine.xclbin", "sha256": digest}))
    (mine,) = read_folder(tmp_path)
    assert mine.file_status() == {"xclbin": "absent", "instructions": "absent"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mine.xclbin").write_bytes(good)
    (tmp_path / "mine/insts.bin").write_bytes(bad)
    assert mine.file_status() == {"xclbin": "present", "instructions": "present"}
    (tmp_path / "mine/mine.xclbin").write_bytes(bad)
    assert mine.file_status()["xclbin"] == "wrong hash"


def test_a_link_out_of_the_folder_is_no_file_of_it(tmp_path: Path) -> None:
    folder = write_registry(tmp_path / "folder", entry())
    (mine,) = read_folder(folder)
    (folder / "mine").mkdir()
    (tmp_path / "outside").write_bytes(b"x")
    (folder / "mine/mine.xclbin").symlink_to(tmp_path / "outside")
    assert mine.file_status()["xclbin"] == "absent"
    # Once it is there when the registry is read, the whole registry is refused.
    with pytest.raises(KernelError, match="is not inside of"):
        read_folder(folder)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret", "a/../../b", "c:\\x", "a\\..\\b", "a\0b", "..", "C:x"]
)
@pytest.mark.parametrize("what", ["xclbin", "instructions"])
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, path: str, what: str) -> None:
    write_registry(tmp_path, entry(**{what: {"path": path}}))
    with pytest.raises(KernelError, match=rf"kernels\[0\]\.{what}\.path: .* is not inside of"):
        read_folder(tmp_path)


@pytest.mark.parametrize("models", ["/etc/models.py", "../models.py", "a\\b.py", ".."])
def test_models_out_of_the_folder_are_refused(tmp_path: Path, models: str) -> None:
    write_registry(tmp_path / "own", entry())
    file = tmp_path / "own/registry.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "models": models}))
    with pytest.raises(KernelError) as caught:
        read_folder(tmp_path / "own")
    assert str(caught.value) == f"{file}: models: {models!r} is not inside of {tmp_path / 'own'}"


# What does not fit


def _without(key: str) -> dict[str, Any]:
    made = entry()
    del made[key]
    return made


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        (_without("version"), r"data\.kernels\[0\] must contain .*version"),
        (entry(version="1"), r"data\.kernels\[0\]\.version must be integer"),
        (entry(version=True), r"data\.kernels\[0\]\.version must be integer"),
        (entry(surprise=1), r"data\.kernels\[0\] must not contain .*surprise"),
        (entry(name="a b"), r"data\.kernels\[0\]\.name must match"),
        (entry(name="a\n"), r"data\.kernels\[0\]\.name must match"),
        (entry(exactness="nearly"), r"data\.kernels\[0\]\.exactness must match"),
        (entry(model="os.path.join"), r"data\.kernels\[0\]\.model must match"),
        (entry(tile={"m": -1}), r"data\.kernels\[0\]\.tile\.m must be bigger"),
        (entry(arguments=[{"index": 0}]), r"data\.kernels\[0\]\.arguments\[0\] must contain"),
        (
            entry(xclbin={"path": "a", "sha256": "00"}),
            r"data\.kernels\[0\]\.xclbin\.sha256 must match",
        ),
        (entry(device={"name": "x", "pci_id": "17f0"}), r"device\.pci_id must match"),
        (entry(arguments=[entry()["arguments"][1]]), r"kernels\[0\]\.arguments\[0\]: index is 1"),
    ],
)
def test_the_place_of_a_violation_is_named(
    tmp_path: Path, wrong: dict[str, Any], place: str
) -> None:
    write_registry(tmp_path, wrong)
    with pytest.raises(KernelError, match=place) as caught:
        read_folder(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'registry.json'}: ")
    assert "\n" not in str(caught.value)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    write_registry(tmp_path, entry(), schema=2)
    with pytest.raises(KernelError, match=r"data\.schema must be same as const"):
        read_folder(tmp_path)


def test_a_name_twice_in_one_folder_is_refused(tmp_path: Path) -> None:
    write_registry(tmp_path, entry(), entry())
    with pytest.raises(KernelError, match=r"kernels\[1\]: a second kernel of the name mine"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 200_000, b"null", b'{"schema":1}', b"9" * 5000],
    ids=["empty", "cut", "list", "bytes", "deep", "null", "partial", "digits"],
)
def test_what_is_no_registry_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "registry.json").write_bytes(data)
    with pytest.raises(KernelError, match=r"registry\.json: "):
        read_folder(tmp_path)


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "MAX_BYTES", 100)
    write_registry(tmp_path, entry())
    with pytest.raises(KernelError, match="has more than the 100 bytes that are read"):
        read_folder(tmp_path)


def test_a_folder_without_a_registry_is_named(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="no such file; a kernel folder has one"):
        load_registry(tmp_path / "nowhere")


def test_the_schema_is_one() -> None:
    folder = registry.built_in_folder()
    schema = json.loads((folder / registry.SCHEMA_NAME).read_text())
    kernel = schema["definitions"]["kernel"]
    # Nothing is optional at the top: a contract says of everything that it is not known.
    assert set(kernel["required"]) == set(kernel["properties"])
