"""Evidence: bound to everything that it depends on, and never half written."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.npu.entries import contract
from tests.support.npu.gemm_kernels import evidence_of, gemm_entry
from whisper_npu.backends import evidence as module
from whisper_npu.backends.npu.contract import KernelContract, KernelFile
from whisper_npu.backends.npu.device import DeviceIdentity
from whisper_npu.backends.npu.families import gemm
from whisper_npu.backends.npu.kernel_evidence import (
    NpuEvidence,
    NpuEvidenceStore,
    contract_hash,
    evidence_key,
    file_hashes,
)
from whisper_npu.backends.npu.registry import (
    KernelEntry,
    built_in_folder,
    inventory_folder,
    read_folder,
)
from whisper_npu.errors import KernelError, OutputError

DATA = Path(__file__).parents[2] / "data"
IDENTITY = DeviceIdentity("npu1", "1022:1502 rev 00", "1.5.5.391", "amdxdna 0.1", "2.20.0")


@pytest.fixture
def entry(tmp_path: Path) -> KernelEntry:
    """A kernel of one shape with its files."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mine.xclbin").write_bytes(b"xclbin")
    (tmp_path / "mine/insts.bin").write_bytes(b"instructions")
    return KernelEntry(contract(), tmp_path)


@pytest.fixture
def store(tmp_path: Path, entry: KernelEntry) -> NpuEvidenceStore:
    """With evidence for ``entry``."""
    made = NpuEvidenceStore(tmp_path / "home" / "evidence.json")
    made.record(evidence_of(IDENTITY, entry))
    return made


def test_an_exact_match_is_found(store: NpuEvidenceStore, entry: KernelEntry) -> None:
    found = store.find(IDENTITY, entry)
    assert found == evidence_of(IDENTITY, entry)
    assert found is not None
    assert found.passed
    assert not replace(found, failure="wrong").passed


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DeviceIdentity)])
def test_another_device_is_unverified(
    store: NpuEvidenceStore, entry: KernelEntry, field: str
) -> None:
    other = replace(IDENTITY, **{field: getattr(IDENTITY, field) + "1"})
    assert store.find(other, entry) is None


# Every field with a value that differs; a field without one is missed by the test below.
CHANGED: dict[str, Any] = {
    "name": "other",
    "family": "gelu",
    "op": None,
    "version": 4,
    "tile": {"m": 16, "k": 16, "n": 32},
    "dtypes": {"a": "int8", "b": "int8", "c": "int32"},
    "layout": "columns",
    "arithmetic": replace(contract().arithmetic, shift=8),
    "arguments": contract().arguments[:-1],
    "instructions": KernelFile("mine/insts.bin", 301),
    "xclbin": KernelFile("mine/mine.xclbin", 6),
    "kernel": "OTHER",
    "provenance": replace(contract().provenance, commit="fedc"),
    "known_issues": ("slow", "wrong"),
    "model": "matmul.packed_32x32",
    "exactness": "not known",
    "device": replace(contract().device, columns=1),
    "stack": None,
    "listed": ("a",),
    "unnamed_files": 1,
}


def test_every_field_of_the_contract_is_changed() -> None:
    assert CHANGED.keys() == {field.name for field in dataclasses.fields(KernelContract)}
    assert all(getattr(contract(), name) != value for name, value in CHANGED.items())


@pytest.mark.parametrize("field", CHANGED)
def test_another_contract_is_unverified(
    store: NpuEvidenceStore, entry: KernelEntry, field: str
) -> None:
    other = replace(entry.contract, **{field: CHANGED[field]})
    assert store.find(IDENTITY, replace(entry, contract=other)) is None


@pytest.mark.parametrize("file", ["mine/mine.xclbin", "mine/insts.bin"])
def test_other_bytes_are_unverified(store: NpuEvidenceStore, entry: KernelEntry, file: str) -> None:
    path = entry.folder / file
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    assert store.find(IDENTITY, entry) is None
    path.unlink()
    assert store.find(IDENTITY, entry) is None
    path.write_bytes(content)
    assert store.find(IDENTITY, entry) is not None


def test_another_folder_with_the_same_bytes_is_verified(
    store: NpuEvidenceStore, entry: KernelEntry, tmp_path: Path
) -> None:
    os.rename(entry.folder / "mine", tmp_path / "home" / "mine")
    assert store.find(IDENTITY, replace(entry, folder=tmp_path / "home")) is not None


def test_generated_instructions_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = gemm_entry(64)
    before = file_hashes(entry)
    assert before["xclbin"] == "absent"
    generate = gemm.gemm_int8_stream
    monkeypatch.setattr(gemm, "gemm_int8_stream", lambda *a: generate(*a) + b"\0")
    assert file_hashes(entry)["instructions"] != before["instructions"]


# Of the contract, of the sample of generated instructions if there is one, and the key on
# ``IDENTITY`` without files: as released. Where they change, all users have to verify again.
KNOWN = {
    "gemm_int8_64x64x64": (
        "4ecaa1664fbfa76013dc4146393a480756357157b8ec5c41cf1b9482acc3a91b",
        "c50925f896ea1796d4e852306fa826fb03a2aa9b284df48cfc569d250aae8adf",
        "af0839bdda0d4de00a8cd35b7a0f64d1d050239f3f2034520875e58a936c2eb2",
    ),
    "gemm_int8_16x64x64": (
        "8a4ced8f6ae1ae27d56c9f16ac3d7fb70eff8a76ae8c468817ada4ac67ba6dcb",
        "f3747c001303c0755e41a252d48207ea89da2c85d6aa1c31f63382b89f816137",
        "92f4c56bc5d31c985f57e9768842e1b9c8273da49f79bf5a8cc10b001fd9dc6d",
    ),
    "matmul_16x16": (
        "34069818a4a69713c692fbf15fa30f88590cec924b26c8947bbca03938e086b3",
        "absent",
        "4fe495dccae74130c3a890abbee41f5e63035040d1eb6a01a2062adfb181f294",
    ),
    "layernorm_nosqrt": (
        "a6ca5a641100dbe723c9fd771d68167b6a32ce5b97dfb98783d20beff2125cf9",
        "absent",
        "250acada2f3aedffbf66b224cb32470911a473ac11cbf3833c631fdfbfb4da7b",
    ),
}
# The same of kernels of tests.
OWN = {
    "gemm_int8_64x64x64": (
        "94d7dd4c74d30ef3c348caa60d407412ddcd597f7a4f3a837941b14e5ce97301",
        "c50925f896ea1796d4e852306fa826fb03a2aa9b284df48cfc569d250aae8adf",
        "36e22292b6c77dd13b9f4688f2ca07457795250b9db12a07a86436de8aec0a6c",
    ),
    "gemm_int8_16x64x64": (
        "c847f7cf1f9c68a4d22f419c70a37193c5e62dee7e0f48a43dd2bcebd379dce5",
        "f3747c001303c0755e41a252d48207ea89da2c85d6aa1c31f63382b89f816137",
        "88d53dd86d7bdacfc8bfcacad079c4767220cdbe9329fee9b1a4abe6f68b92b3",
    ),
    "mine": (
        "de7f073346dc9d7eb755b5404fc881c74b72e9c0290492bc35c4f1e96161bab9",
        "absent",
        "99a9cd77f9b057e42d8e2d90eb320e53e5a93440ad0148e6766a953562ec7136",
    ),
}


def _found(entry: KernelEntry) -> tuple[str, str, str]:
    hashes = file_hashes(entry)
    assert hashes["xclbin"] == "absent"
    return contract_hash(entry), hashes["instructions"], evidence_key(IDENTITY, entry)


@pytest.mark.parametrize("name", KNOWN)
def test_evidence_of_earlier_versions_is_found(name: str) -> None:
    folders = (built_in_folder(), inventory_folder())
    entries = {e.contract.name: e for folder in folders for e in read_folder(folder)}
    assert _found(entries[name]) == KNOWN[name]


@pytest.mark.parametrize("name", OWN)
def test_evidence_of_earlier_versions_is_found_for_other_kernels(name: str) -> None:
    entries = [gemm_entry(64), gemm_entry(16), KernelEntry(contract(), Path("nowhere"))]
    assert _found({e.contract.name: e for e in entries}[name]) == OWN[name]


def test_a_file_of_an_earlier_version() -> None:
    """As released, of the kernels in ``OWN``. It is read, and another verification made it."""
    store = NpuEvidenceStore(DATA / "evidence" / "npu.json")
    assert [found.passed for found in store.all().values()] == [True, False]
    for rows in (64, 16):
        assert store.find(IDENTITY, gemm_entry(rows)) is None


def test_the_file_of_a_gemm_that_has_one_is_part_of_the_key(tmp_path: Path) -> None:
    entry = gemm_entry(64, tmp_path, instructions={"path": "insts.bin"})
    (tmp_path / "insts.bin").write_bytes(b"1")
    before = file_hashes(entry)
    (tmp_path / "insts.bin").write_bytes(b"2")
    assert file_hashes(entry) != before


def test_records_are_added_and_replaced(store: NpuEvidenceStore, entry: KernelEntry) -> None:
    other = replace(IDENTITY, firmware="9")
    store.record(evidence_of(other, entry))
    store.record(evidence_of(IDENTITY, entry, failure="wrong", worst_error=3.0))
    assert len(store.all()) == 2
    found = store.find(IDENTITY, entry)
    assert found is not None
    assert (found.failure, found.worst_error) == ("wrong", 3.0)
    again = NpuEvidenceStore(store.path).find(other, entry)
    assert again is not None
    assert again.passed


def test_without_a_file_there_is_no_evidence(tmp_path: Path, entry: KernelEntry) -> None:
    assert NpuEvidenceStore(tmp_path / "none.json").find(IDENTITY, entry) is None


def test_the_default_file_is_in_the_home(cache_home: Path, entry: KernelEntry) -> None:
    NpuEvidenceStore().record(evidence_of(IDENTITY, entry))
    assert json.loads((cache_home / "evidence.json").read_text())["evidence"][0]["kernel"] == "mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(
    store: NpuEvidenceStore,
    entry: KernelEntry,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    error: BaseException,
) -> None:
    before = store.path.read_bytes()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as raised:
        store.record(evidence_of(IDENTITY, entry, failure="x"))
    monkeypatch.undo()
    if expected is OutputError:
        assert str(raised.value) == f"{store.path}: cannot be written: No space left on device"
    assert store.path.read_bytes() == before
    assert os.listdir(store.path.parent) == [store.path.name]


def record(**changes: Any) -> str:
    made = dataclasses.asdict(evidence_of(IDENTITY, gemm_entry(64)))
    return json.dumps({"evidence": [{**made, **changes}]})


DAMAGED = {
    "empty": "",
    "cut": record()[:-20],
    "not json": "evidence",
    "list": "[]",
    "null": "null",
    "no list": '{"evidence": null}',
    "no records": '{"evidence": [1]}',
    "other": '{"proof": []}',
    "field missing": '{"evidence": [{"key": "x"}]}',
    "number as text": record(cases="20"),
    "text as number": record(kernel=3),
    "failure of another type": record(failure=False),
    "deep": '{"evidence": ' + "[" * 100_000,
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named(tmp_path: Path, entry: KernelEntry, text: str) -> None:
    store = NpuEvidenceStore(tmp_path / "evidence.json")
    store.path.write_text(text)
    for use in (
        lambda: store.find(IDENTITY, entry),
        lambda: store.record(evidence_of(IDENTITY, entry)),
    ):
        with pytest.raises(KernelError) as raised:
            use()
        message = str(raised.value)
        assert message.startswith(f"{store.path}: is damaged (")
        assert message.endswith("); remove it and run kernels verify again")
        assert "\n" not in message
    assert store.path.read_text() == text


def test_whole_numbers_and_what_a_later_version_adds_are_understood(tmp_path: Path) -> None:
    store = NpuEvidenceStore(tmp_path / "evidence.json")
    store.path.write_text(record(worst_error=3, rate=200, more="text"))
    (found,) = store.all().values()
    assert (found.worst_error, found.rate) == (3, 200)


def test_a_file_that_is_too_large_is_not_read(
    store: NpuEvidenceStore, entry: KernelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", store.path.stat().st_size - 1)
    with pytest.raises(KernelError, match="bytes that are read; remove it"):
        store.find(IDENTITY, entry)


def test_a_report_has_what_was_given(
    store: NpuEvidenceStore, entry: KernelEntry, tmp_path: Path
) -> None:
    before = store.path.read_bytes()
    evidence = evidence_of(IDENTITY, entry, rate=None, failure="wrong")
    store.export(tmp_path / "deep" / "report.json", [evidence])
    (found,) = json.loads((tmp_path / "deep" / "report.json").read_text())["evidence"]
    assert NpuEvidence(**found) == evidence
    assert store.path.read_bytes() == before


def test_a_report_that_cannot_be_written(store: NpuEvidenceStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/report\.json: cannot be written: "):
        store.export(tmp_path / "file" / "report.json", [])


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners here")
@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_others_may_write_is_no_evidence(
    store: NpuEvidenceStore, entry: KernelEntry, which: str
) -> None:
    path = store.path if which == "file" else store.path.parent
    path.chmod(path.stat().st_mode | 0o002)
    expected = rf"^{path}: can be written by anybody; run chmod go-w {path}; remove it and"
    with pytest.raises(KernelError, match=expected):
        store.find(IDENTITY, entry)
    path.chmod(path.stat().st_mode & ~0o002)
    assert store.find(IDENTITY, entry) is not None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners here")
def test_evidence_of_somebody_else(
    store: NpuEvidenceStore, entry: KernelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(store.path, 12345, -1)
    with pytest.raises(KernelError, match="belongs to user 12345"):
        store.find(IDENTITY, entry)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_evidence_is_written_for_its_owner_whatever_the_umask(
    tmp_path: Path, entry: KernelEntry, umask: int
) -> None:
    store = NpuEvidenceStore(tmp_path / "home" / "evidence.json")
    before = os.umask(umask)
    try:
        store.record(evidence_of(IDENTITY, entry))
    finally:
        os.umask(before)
    for path in (store.path, store.path.parent):
        assert path.stat().st_mode & 0o022 == 0
    assert store.find(IDENTITY, entry) is not None


def test_evidence_that_cannot_be_looked_at(store: NpuEvidenceStore, entry: KernelEntry) -> None:
    store.path.unlink()
    store.path.symlink_to(store.path)
    with pytest.raises(KernelError, match=r"cannot be read: .*; remove it and run"):
        store.find(IDENTITY, entry)


def test_evidence_that_is_no_file(store: NpuEvidenceStore, entry: KernelEntry) -> None:
    store.path.unlink()
    os.mkfifo(store.path)
    with pytest.raises(KernelError, match="is not a regular file; remove it and run"):
        store.find(IDENTITY, entry)
