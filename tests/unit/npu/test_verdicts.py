from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.npu import xclbin_builder
from tests.support.npu.entries import entry, write_registry
from whisper_npu.backends.npu import models
from whisper_npu.backends.npu.registry import KernelEntry, built_in_folder, read_folder
from whisper_npu.backends.npu.verdicts import Verdict, judge

DATA = Path(__file__).parents[2] / "data/npu"


@pytest.fixture(scope="module")
def verdicts() -> Mapping[str, Verdict]:
    """Of all built-in kernels."""
    return {e.contract.name: judge(e) for e in read_folder(built_in_folder())}


def _value(verdict: Verdict, case: str, quantity: str) -> float:
    (found,) = (
        m.value for m in verdict.measures if m.case == case and m.quantity.startswith(quantity)
    )
    return found


# The built-in kernels


def test_only_our_own_are_usable(verdicts: Mapping[str, Verdict]) -> None:
    usable = [name for name, verdict in verdicts.items() if verdict.usable]
    assert usable == ["gemm_int8_64x64x64", "gemm_int8_16x64x64"]
    assert all(verdict.reasons for name, verdict in verdicts.items() if name not in usable)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("matmul_16x16", ["requantises before K is summed"]),
        ("matmul_32x32", ["4,096 bytes of a stack of 1,024", "requantises"]),
        ("gelu_2048", ["represents only [-1, 1]"]),
        ("layernorm_simple", ["an integer square root"]),
        ("layernorm_nosqrt", ["has no gain and no bias"]),
        ("attention_simple", ["sees no further than its tile"]),
        ("attention_64x64", ["4,352 bytes of a stack", "sees no further"]),
        ("attention_multicore", ["needs 8 buffers where its metadata declares 5", "sees no"]),
        ("mel_fixed_v3", ["4,096 bytes of a stack", "no logarithm"]),
        ("mel_int8_final", ["no model of what it computes"]),
        ("mel_minimal", ["serves no op of Whisper"]),
        ("driver_validation", ["no model of what it computes"]),
        ("amd_gemm_17f0_10", ["1022:17f0, not 1022:1502", "no model"]),
    ],
)
def test_the_reasons_are_those(
    verdicts: Mapping[str, Verdict], name: str, reasons: list[str]
) -> None:
    found = verdicts[name].reasons
    assert len(found) == len(reasons)
    for reason, part in zip(found, reasons, strict=True):
        assert part in reason
    assert verdicts[name].reason == "; ".join(found)


def test_numbers_that_follow_by_hand(verdicts: Mapping[str, Verdict]) -> None:
    # Of 256 products of 127 * 127, each 16 become 127, which stands for 127 * 128.
    lost = 1 - 16 * 127 * 128 / (256 * 127 * 127)
    matmul = verdicts["matmul_16x16"]
    assert _value(matmul, "all 127", "error of accumulated") == pytest.approx(lost)
    assert _value(matmul, "all 127", "largest error") == 256 * 127 * 127 - 16 * 127 * 128
    assert _value(matmul, "all 127", "saturated") == 1
    # gelu(8) is 8; the table ends at 107 / 127.
    gelu = verdicts["gelu_simple"]
    assert _value(gelu, "-8 to 8", "largest error") == pytest.approx(8 - 107 / 127, abs=1e-5)
    assert _value(gelu, "-8 to 8", "inputs beyond 1") == 0.875
    assert _value(gelu, "-1 to 1", "error of the largest") < 2 / 127


def test_mel_loses_quiet_speech(verdicts: Mapping[str, Verdict]) -> None:
    mel = verdicts["mel_fixed_v3"]
    assert _value(mel, "speech-like, 40 dB less", "outputs of 0") > 0.99
    assert _value(mel, "speech-like", "outputs of 0") < 0.8
    # A feature is judged against a span of 2, and no worse than guessing the mean can count.
    assert 0.1 < _value(mel, "speech-like", "error of features") < 2


def test_a_wider_tile_loses_more_to_saturation(verdicts: Mapping[str, Verdict]) -> None:
    shares = [
        _value(verdicts[f"matmul_{size}x{size}"], "speech-like, K = 256", "saturated")
        for size in (16, 32, 64)
    ]
    assert 0 < shares[0] < shares[1] < shares[2]


def test_the_verdict_is_the_same_again(verdicts: Mapping[str, Verdict]) -> None:
    for kernel in read_folder(built_in_folder()):
        if kernel.contract.family in ("gelu", "layer_norm"):
            assert judge(kernel) == verdicts[kernel.contract.name]


# Kernels that could be


def _judged(tmp_path: Path, **changes: Any) -> Verdict:
    (made,) = read_folder(write_registry(tmp_path, entry(**changes)))
    return judge(made)


def _int32_entry() -> dict[str, Any]:
    made = entry(model="test.sums", arithmetic={"text": "int32 sums"})
    made["arguments"][4] |= {"bytes": 1024, "dtype": "int32"}
    return made


def _sums(packed: np.ndarray) -> np.ndarray:
    a, b = packed[..., :256], packed[..., 256:]
    a, b = (x.reshape(*x.shape[:-1], 16, 16).astype(np.int32) for x in (a, b))
    return (a @ b).reshape(*packed.shape[:-1], 256)


def _with_model(monkeypatch: pytest.MonkeyPatch, model: Callable[[np.ndarray], np.ndarray]) -> None:
    with_it = {**models.MODELS, "test.sums": model}
    monkeypatch.setattr(models, "MODELS", with_it)
    monkeypatch.setattr("whisper_npu.backends.npu.verdicts.MODELS", with_it)


def test_a_kernel_that_returns_int32_sums_is_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_model(monkeypatch, _sums)
    verdict = _judged(tmp_path, **_int32_entry())
    assert verdict.usable
    assert verdict.reasons == ()
    assert verdict.reason == "within all limits"
    assert all(measure.value == 0 for measure in verdict.measures)


def test_one_wrong_sum_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(packed: np.ndarray) -> np.ndarray:
        out = _sums(packed)
        out.reshape(-1)[7] += 1
        return out

    _with_model(monkeypatch, lying)
    assert not _judged(tmp_path, **_int32_entry()).usable


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": {"name": "x", "pci_id": "1022:17f0"}}, "x is 1022:17f0, not 1022:1502"),
        ({"device": {"name": "x", "pci_id": "1022:1502", "columns": 8}}, "takes 8 columns of 4"),
        ({"stack": {"needed": 1025, "reserved": 1024}}, "take 1,025 bytes of a stack of 1,024"),
    ],
)
def test_a_right_kernel_of_another_device_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str
) -> None:
    _with_model(monkeypatch, _sums)
    verdict = _judged(tmp_path, **{**_int32_entry(), **changes})
    assert not verdict.usable
    (only,) = verdict.reasons
    assert reason in only


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tile": {}}, "its tile has 0 for m"),
        ({"tile": {"m": 16, "k": 2**31, "n": 16}}, "its tile has 2147483648 for k"),
        ({"tile": {"m": 16, "k": 3, "n": 16}}, "do not divide"),
        ({"tile": {"m": 32, "k": 32, "n": 32}}, "bo0 has 512 bytes, not 2048"),
        ({"family": "other"}, "no measures for the family other"),
        ({"family": "gelu", "tile": {"n": 2**32 - 1}}, "its tile has 4294967295 for n"),
        ({"family": "layer_norm", "tile": {"d": 10**9}}, "its tile has 1000000000 for d"),
        ({"family": "attention", "tile": {"t": 16, "d_head": 16}}, "no scale of scores"),
        ({"family": "mel"}, "bo0 has 512 bytes, not 800"),
        ({"model": "matmul.unheard_of"}, "no model"),
    ],
)
def test_a_contract_that_cannot_be_measured_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    verdict = _judged(tmp_path, **changes)
    assert not verdict.usable
    assert reason in verdict.reason


# Files


def _with_xclbin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[KernelEntry, Path]:
    _with_model(monkeypatch, _sums)
    folder = write_registry(tmp_path, _int32_entry())
    (folder / "mine").mkdir()
    (made,) = read_folder(folder)
    return made, folder / "mine/mine.xclbin"


def test_an_xclbin_that_fits_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, file = _with_xclbin(tmp_path, monkeypatch)
    shutil.copy(DATA / "four_columns.xclbin", file)
    assert judge(made).reasons == ()


def _file(width: int, *, kernel: str = "MLIR_AIE", kernel_id: str = "0x901") -> bytes:
    partition = bytearray(xclbin_builder.partition(b"pdi"))
    partition[32:34] = width.to_bytes(2, "little")
    arguments = "".join(
        f'<arg name="a{i}" addressQualifier="1" id="{i}" size="0x8" offset="0x0" type="void*"/>'
        for i in range(5)
    )
    xml = xclbin_builder.KERNEL_XML.replace('name="K"', f'name="{kernel}"')
    xml = xml.replace('id="3"', 'id="9"').replace("0x901", kernel_id)
    xml = xml.replace("<instance", arguments + "<instance")
    sections = [
        (xclbin_builder.EMBEDDED_METADATA, xml.encode()),
        (xclbin_builder.AIE_PARTITION, bytes(partition)),
    ]
    return xclbin_builder.xclbin(*sections)


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        (_file(4), []),
        (_file(8), ["partition is 8 columns wide, the device 4"]),
        (_file(1), ["partition is 1 columns wide, not 4"]),
        (_file(4, kernel="OTHER"), ["no kernel of the name MLIR_AIE"]),
        (_file(4, kernel_id="0x902"), ["no PDI of its xclbin configures kernel id 0x902"]),
        (b"xclbin1", ['begins with "xclbin2"']),
        (
            xclbin_builder.xclbin(),
            ["has no AIE partition", "no kernel of the name MLIR_AIE"],
        ),
    ],
    ids=["fits", "wide", "narrow", "kernel", "id", "magic", "empty"],
)
def test_an_xclbin_is_judged_by_its_own_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, reasons: list[str]
) -> None:
    made, file = _with_xclbin(tmp_path, monkeypatch)
    file.write_bytes(data)
    found = judge(made).reasons
    assert len(found) == len(reasons), found
    for reason, part in zip(found, reasons, strict=True):
        assert part in reason


def test_an_xclbin_that_declares_too_few_arguments_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, file = _with_xclbin(tmp_path, monkeypatch)
    file.write_bytes(_file(4).replace(b'id="4"', b'id="7"'))
    assert judge(made).reasons == ("its xclbin does not declare bo1",)


def test_a_wrong_hash_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_model(monkeypatch, _sums)
    made = _int32_entry() | {"instructions": {"path": "insts.bin", "sha256": "0" * 64}}
    write_registry(tmp_path, made)
    (tmp_path / "insts.bin").write_bytes(b"x")
    (read,) = read_folder(tmp_path)
    assert judge(read).reasons == ("insts.bin is not the file of the contract (hash)",)
