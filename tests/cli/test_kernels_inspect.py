from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.npu import xclbin_builder
from tests.support.npu.streams import pack, seed_stream, with_operations
from whisper_npu.cli import main

DATA = Path(__file__).parents[1] / "data" / "npu"
XCLBIN = str(DATA / "two_pdis.xclbin")


@pytest.fixture
def stream(tmp_path: Path) -> str:
    file = tmp_path / "insts.bin"
    file.write_bytes(seed_stream(128, 64))
    return str(file)


def test_an_xclbin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "inspect", XCLBIN]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{XCLBIN}: xclbin, 9,179 bytes, not signed"
    for line in (
        "  uuid 916a6bc3-1d7b-10e4-034d-4a9a5d94f64c, version 2.25.0, "
        "written 2026-11-23 07:47:56 UTC",
        "  section AIE_PARTITION            1,464 bytes at 824",
        "  memory 1: SRAM (DRAM), 50,331,648 bytes",
        "  partition '': columns 1, first column one of [1, 2, 3, 4], 2,048 operations per cycle",
        "    CDO group 'DPU' (PRIMARY): PDI id 0x2, kernels [0x902], after [0xc1]",
        "  kernel GELU (dpu), id 0x902, instances: second",
        "    argument 1: char * instr, 8 bytes at 0x8, global in memory 1 (SRAM)",
    ):
        assert line in lines


def test_a_stream(stream: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "inspect", stream]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{stream}: instruction stream, 300 bytes"
    assert "       112  WRITE32     (0, 0) 0x1d214 = 0x00000001" in lines
    assert "        64  DDR_PATCH   (0, 0) 0x1d024 = address of argument 0 + 0" in lines
    assert "       284  SYNC        S2MM channel 0 of 1 x 1 tiles from (0, 0)" in lines
    assert [line.split()[:8] for line in lines[-3:-1]] == [
        ["112", "0", "MM2S", "0", "1", "0", "0", "511"],
        ["260", "0", "S2MM", "0", "0", "1", "0", "255"],
    ]
    assert lines[-2].endswith("1, waited for")


def test_every_kind_of_operation_has_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "all.bin"
    file.write_bytes(
        with_operations(
            pack(1, 0, 0x200000, 56, *range(10)),
            pack(3, 0, 0x1D200, 0, 0xF00, 0x1F00, 28),
            pack(4, 0, 0x1D220, 0, 1, 3, 28),
            pack(0x00070008, 100, 0x1000, 0),
            pack(5),
        )
    )
    assert main(["kernels", "inspect", str(file)]) == 0
    out = capsys.readouterr().out
    assert "BLOCKWRITE  (0, 2) 0x00000 = 00000000 00000001" in out
    assert "00000007 and 2 more" in out
    assert "MASKWRITE   (0, 0) 0x1d200 = 0x00000f00 in the bits 0x00001f00" in out
    assert "MASKPOLL    (0, 0) 0x1d220 == 0x00000001 in the bits 0x00000003" in out
    assert "LOAD_PDI    id 7, 100 bytes at 0x1000" in out
    assert "NOOP" in out


def test_a_stream_of_another_device_is_shown_without_transfers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = seed_stream(128, 64)
    file = tmp_path / "npu2.bin"
    file.write_bytes(data[:2] + b"\4" + data[3:])
    assert main(["kernels", "inspect", str(file)]) == 0
    out = capsys.readouterr().out
    assert "version 0.1, npu2" in out
    assert f"transfers not interpreted: {file}: made for npu2, not for npu1" in out


def test_json(stream: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "inspect", "--format", "json", XCLBIN, stream]) == 0
    xclbin, transaction = json.loads(capsys.readouterr().out)
    assert (xclbin["file"], xclbin["kind"]) == (XCLBIN, "xclbin")
    assert xclbin["uuid"] == "916a6bc3-1d7b-10e4-034d-4a9a5d94f64c"
    assert xclbin["partition"]["column_width"] == 1
    assert [len(kernel["arguments"]) for kernel in xclbin["kernels"]] == [8, 5]
    assert (transaction["file"], transaction["kind"]) == (stream, "stream")
    operations = transaction["transaction"]["operations"]
    assert operations[2] == {"op": "Write32", "offset": 112, "address": 0x1D214, "value": 1}
    assert [transfer["last"] for transfer in transaction["transfers"]] == [512, 256]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_bad_file_does_not_keep_the_others_from_it(
    form: str, stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.xclbin"
    bad.write_bytes(Path(XCLBIN).read_bytes()[:-1])
    other = tmp_path / "other.txt"
    other.write_text("something else")
    missing = str(tmp_path / "missing")
    files = [str(bad), str(other), missing, stream]
    assert main(["kernels", "inspect", "--format", form, *files]) == 5
    captured = capsys.readouterr()
    errors = captured.err.splitlines()
    assert len(errors) == 3
    assert errors[0].startswith(f"whisper-npu: error: {bad}: byte 304 (0x130): ")
    assert errors[1].startswith(f"whisper-npu: error: {other}: byte 0 (0x0): ")
    assert errors[2] == f"whisper-npu: error: {missing}: no such file"
    if form == "json":
        documents = json.loads(captured.out)
        assert [document["file"] for document in documents] == files
        assert ["error" in document for document in documents] == [True, True, True, False]
    else:
        assert f"{stream}: instruction stream, 300 bytes" in captured.out


def test_names_cannot_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "evil.xclbin"
    evil = xclbin_builder.memories("\x1b[2J\u202eä")
    file.write_bytes(xclbin_builder.xclbin((xclbin_builder.MEM_TOPOLOGY, evil)))
    assert main(["kernels", "inspect", str(file)]) == 0
    out = capsys.readouterr().out
    assert "memory 0: \\x1b[2J\\u202e\\xe4 (DRAM)" in out


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["kernels"], ["kernels", "inspect"], ["kernels", "inspect", "--format", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
