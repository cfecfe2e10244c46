"""Evidence: bound to everything that it depends on, and never half written."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.npu.entries import contract
from tests.unit.npu.gemm_kernels import evidence_of, gemm_entry
from whisper_npu.backends.npu import evidence as module
from whisper_npu.backends.npu.contract import KernelContract, KernelFile
from whisper_npu.backends.npu.device import DeviceIdentity
from whisper_npu.backends.npu.evidence import Evidence, EvidenceStore, file_hashes
from whisper_npu.backends.npu.registry import Entry
from whisper_npu.errors import KernelError, OutputError

IDENTITY = DeviceIdentity("npu1", "1022:1502 rev 00", "1.5.5.391", "amdxdna 0.1", "2.20.0")


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    """A kernel of one shape with its files."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mine.xclbin").write_bytes(b"xclbin")
    (tmp_path / "mine/insts.bin").write_bytes(b"instructions")
    return Entry(contract(), tmp_path)


@pytest.fixture
def store(tmp_path: Path, entry: Entry) -> EvidenceStore:
    """With evidence for ``entry``."""
    made = EvidenceStore(tmp_path / "home" / "evidence.json")
    made.record(evidence_of(IDENTITY, entry))
    return made


def test_an_exact_match_is_found(store: EvidenceStore, entry: Entry) -> None:
    found = store.find(IDENTITY, entry)
    assert found == evidence_of(IDENTITY, entry)
    assert found is not None
    assert found.passed
    assert not replace(found, failure="wrong").passed


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DeviceIdentity)])
def test_another_device_is_unverified(store: EvidenceStore, entry: Entry, field: str) -> None:
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
def test_another_contract_is_unverified(store: EvidenceStore, entry: Entry, field: str) -> None:
    other = replace(entry.contract, **{field: CHANGED[field]})
    assert store.find(IDENTITY, replace(entry, contract=other)) is None


@pytest.mark.parametrize("file", ["mine/mine.xclbin", "mine/insts.bin"])
def test_other_bytes_are_unverified(store: EvidenceStore, entry: Entry, file: str) -> None:
    path = entry.folder / file
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    assert store.find(IDENTITY, entry) is None
    path.unlink()
    assert store.find(IDENTITY, entry) is None
    path.write_bytes(content)
    assert store.find(IDENTITY, entry) is not None


def test_another_folder_with_the_same_bytes_is_verified(
    store: EvidenceStore, entry: Entry, tmp_path: Path
) -> None:
    os.rename(entry.folder / "mine", tmp_path / "home" / "mine")
    assert store.find(IDENTITY, replace(entry, folder=tmp_path / "home")) is not None


def test_generated_instructions_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = gemm_entry(64)
    before = file_hashes(entry)
    assert before["xclbin"] == "absent"
    generate = module.gemm_int8_stream
    monkeypatch.setattr(module, "gemm_int8_stream", lambda *a: generate(*a) + b"\0")
    assert file_hashes(entry)["instructions"] != before["instructions"]


def test_the_file_of_a_gemm_that_has_one_is_part_of_the_key(tmp_path: Path) -> None:
    entry = gemm_entry(64, tmp_path, instructions={"path": "insts.bin"})
    (tmp_path / "insts.bin").write_bytes(b"1")
    before = file_hashes(entry)
    (tmp_path / "insts.bin").write_bytes(b"2")
    assert file_hashes(entry) != before


def test_records_are_added_and_replaced(store: EvidenceStore, entry: Entry) -> None:
    other = replace(IDENTITY, firmware="9")
    store.record(evidence_of(other, entry))
    store.record(evidence_of(IDENTITY, entry, failure="wrong", worst_error=3.0))
    assert len(store.all()) == 2
    found = store.find(IDENTITY, entry)
    assert found is not None
    assert (found.failure, found.worst_error) == ("wrong", 3.0)
    again = EvidenceStore(store.path).find(other, entry)
    assert again is not None
    assert again.passed


def test_without_a_file_there_is_no_evidence(tmp_path: Path, entry: Entry) -> None:
    assert EvidenceStore(tmp_path / "none.json").find(IDENTITY, entry) is None


def test_the_default_file_is_in_the_home(cache_home: Path, entry: Entry) -> None:
    EvidenceStore().record(evidence_of(IDENTITY, entry))
    assert json.loads((cache_home / "evidence.json").read_text())["evidence"][0]["kernel"] == "mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(
    store: EvidenceStore,
    entry: Entry,
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
def test_a_damaged_file_is_named(tmp_path: Path, entry: Entry, text: str) -> None:
    store = EvidenceStore(tmp_path / "evidence.json")
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


def test_a_file_that_is_too_large_is_not_read(
    store: EvidenceStore, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", store.path.stat().st_size - 1)
    with pytest.raises(KernelError, match="too large for evidence; remove it"):
        store.find(IDENTITY, entry)


def test_a_report_has_what_was_given(store: EvidenceStore, entry: Entry, tmp_path: Path) -> None:
    before = store.path.read_bytes()
    evidence = evidence_of(IDENTITY, entry, rate=None, failure="wrong")
    store.export(tmp_path / "deep" / "report.json", [evidence])
    (found,) = json.loads((tmp_path / "deep" / "report.json").read_text())["evidence"]
    assert Evidence(**found) == evidence
    assert store.path.read_bytes() == before


def test_a_report_that_cannot_be_written(store: EvidenceStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/report\.json: cannot be written: "):
        store.export(tmp_path / "file" / "report.json", [])
