"""``KernelManager``: kernels, what is known of them, and their verification."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import whisper_npu.backends.npu.manager as module
from tests.support.npu.entries import entry, write_registry
from tests.support.npu.gemm_kernels import LARGE, SMALL, gemm_json
from whisper_npu.backends.npu.device import BufferRefused
from whisper_npu.backends.npu.kernel_evidence import NpuEvidence, NpuEvidenceStore
from whisper_npu.backends.npu.manager import FAILED, UNVERIFIED, VERIFIED, KernelManager
from whisper_npu.backends.npu.registry import built_in_folder, read_folder
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.errors import KernelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A kernel of one shape, one without a model, and both GEMMs."""
    silent = entry(name="silent", model=None)
    return write_registry(tmp_path / "own", entry(), silent, gemm_json(64), gemm_json(16))


def test_all_kernels_are_listed(folder: Path) -> None:
    names = [kernel.name for kernel in KernelManager(folders=[folder]).list()]
    built_in = [e.contract.name for e in read_folder(built_in_folder())]
    assert names[: len(built_in)] == built_in
    assert {"mine", "silent", LARGE, SMALL} <= set(names)
    assert len(names) == len(set(names))


def test_without_a_device(folder: Path) -> None:
    manager = KernelManager(folders=[folder])
    status = manager.status("mine")
    assert (status.state, status.evidence) == (UNVERIFIED, None)
    assert status.files == {"xclbin": "absent", "instructions": "absent"}
    for use in (lambda: manager.load("mine"), lambda: manager.verify("mine")):
        with pytest.raises(KernelError, match="no device: open one first"):
            use()


def test_an_unknown_name(folder: Path) -> None:
    manager = KernelManager(SoftwareDevice(), [folder])
    for use in (manager.load, manager.status, manager.verify):
        with pytest.raises(KernelError, match="yours: no such kernel; there are "):
            use("yours")


def test_a_kernel_is_loaded_verified_or_not(folder: Path) -> None:
    kernel = KernelManager(SoftwareDevice(), [folder]).load("mine")
    assert kernel.contract.name == "mine"
    assert kernel.buffer(3, 512).array.nbytes == 512


def test_verification_is_remembered(folder: Path) -> None:
    manager = KernelManager(SoftwareDevice(), [folder])
    assert manager.status("mine").state == UNVERIFIED
    found = manager.verify("mine")
    assert list(found) == ["mine"]
    assert isinstance(found["mine"], NpuEvidence)
    status = KernelManager(SoftwareDevice(), [folder]).status("mine")
    assert (status.state, status.evidence) == (VERIFIED, found["mine"])
    assert manager.status(SMALL).state == UNVERIFIED


def test_a_failure_is_remembered_until_the_kernel_passes(folder: Path) -> None:
    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        outputs[0][0] ^= 1

    bad = KernelManager(SoftwareDevice(corrupt=corrupt), [folder])
    bad.verify("mine")
    status = bad.status("mine")
    assert status.state == FAILED
    assert status.evidence is not None
    assert status.evidence.failure is not None
    good = KernelManager(SoftwareDevice(), [folder])
    assert good.status("mine").state == FAILED
    good.verify("mine")
    assert good.status("mine").state == VERIFIED


def test_evidence_of_a_contract_that_was_changed_does_not_count(folder: Path) -> None:
    manager = KernelManager(SoftwareDevice(), [folder])
    manager.verify("mine")
    write_registry(folder, entry(version=4))
    assert KernelManager(SoftwareDevice(), [folder]).status("mine").state == UNVERIFIED


def test_a_kernel_that_cannot_be_tried_stops_no_other(folder: Path) -> None:
    manager = KernelManager(SoftwareDevice(), [folder])
    found = manager.verify("silent", "mine")
    assert isinstance(found["silent"], KernelError)
    assert isinstance(found["mine"], NpuEvidence)
    assert len(manager.evidence.all()) == 1


def test_all_kernels_are_verified_if_none_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    others = {}

    def verify(device: object, entry, between) -> NpuEvidence:  # type: ignore[no-untyped-def]
        asked.append(entry.contract.name)
        others[entry.contract.name] = {other.contract.name for other in between}
        raise BufferRefused("not today")

    monkeypatch.setattr(module, "verify", verify)
    manager = KernelManager(SoftwareDevice(), [folder])
    found = manager.verify()
    assert list(found) == asked == [kernel.name for kernel in manager.list()]
    assert others["mine"] == {LARGE, SMALL}
    assert others[LARGE] == {SMALL}


def test_evidence_may_be_elsewhere(folder: Path, tmp_path: Path, cache_home: Path) -> None:
    store = NpuEvidenceStore(tmp_path / "elsewhere.json")
    manager = KernelManager(SoftwareDevice(), [folder], store)
    manager.verify("mine")
    assert manager.status("mine").state == VERIFIED
    assert not (cache_home / "evidence.json").exists()
    assert KernelManager(SoftwareDevice(), [folder]).status("mine").state == UNVERIFIED


def test_a_status_is_of_one_device(folder: Path) -> None:
    class Newer(SoftwareDevice):
        @property
        def identity(self):  # type: ignore[no-untyped-def]
            return dataclasses.replace(super().identity, firmware="2")

    KernelManager(SoftwareDevice(), [folder]).verify("mine")
    assert KernelManager(Newer(), [folder]).status("mine").state == UNVERIFIED
