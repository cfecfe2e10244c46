"""The verdicts on the inventory, and how they are computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kernels.inventory.update import compute
from tests.support.npu.entries import entry, write_registry
from whisper_npu.backends.npu.registry import built_in_folder, inventory_folder, read_folder
from whisper_npu.backends.npu.verdicts import RecordedVerdict, read_verdicts


@pytest.fixture(scope="module")
def verdicts() -> Mapping[str, RecordedVerdict]:
    """As they are recorded: test_update holds that they are those that are computed."""
    return read_verdicts(built_in_folder()) | read_verdicts(inventory_folder())


def _value(verdict: RecordedVerdict, case: str, quantity: str) -> float:
    (found,) = (
        m.value for m in verdict.measures if m.case == case and m.quantity.startswith(quantity)
    )
    return found


# The built-in kernels


def test_only_our_own_are_usable(verdicts: Mapping[str, RecordedVerdict]) -> None:
    usable = [name for name, verdict in verdicts.items() if not verdict.reasons]
    assert usable == ["gemm_int8_64x64x64", "gemm_int8_16x64x64"]
    assert len(verdicts) == 34


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
    verdicts: Mapping[str, RecordedVerdict], name: str, reasons: list[str]
) -> None:
    found = verdicts[name].reasons
    assert len(found) == len(reasons)
    for reason, part in zip(found, reasons, strict=True):
        assert part in reason


def test_numbers_that_follow_by_hand(verdicts: Mapping[str, RecordedVerdict]) -> None:
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


def test_mel_loses_quiet_speech(verdicts: Mapping[str, RecordedVerdict]) -> None:
    mel = verdicts["mel_fixed_v3"]
    assert _value(mel, "speech-like, 40 dB less", "outputs of 0") > 0.99
    assert _value(mel, "speech-like", "outputs of 0") < 0.8
    # A feature is judged against a span of 2, and no worse than guessing the mean can count.
    assert 0.1 < _value(mel, "speech-like", "error of features") < 2


def test_a_wider_tile_loses_more_to_saturation(verdicts: Mapping[str, RecordedVerdict]) -> None:
    shares = [
        _value(verdicts[f"matmul_{size}x{size}"], "speech-like, K = 256", "saturated")
        for size in (16, 32, 64)
    ]
    assert 0 < shares[0] < shares[1] < shares[2]


# Kernels that could be


def _computed(tmp_path: Path, models: str | None = None, **changes: Any) -> RecordedVerdict:
    (made,) = read_folder(write_registry(tmp_path, entry(**changes), models=models))
    return compute(made)


def _int32_entry() -> dict[str, Any]:
    made = entry(model="test.sums", arithmetic={"text": "int32 sums"})
    made["arguments"][4] |= {"bytes": 1024, "dtype": "int32"}
    return made


SUMS = """
import numpy as np

def sums(packed):
    a, b = packed[..., :256], packed[..., 256:]
    a, b = (x.reshape(*x.shape[:-1], 16, 16).astype(np.int32) for x in (a, b))
    return (a @ b).reshape(*packed.shape[:-1], 256)

def lying(packed):
    out = sums(packed)
    out.reshape(-1)[7] += 1
    return out
"""


def test_a_kernel_that_returns_int32_sums_is_usable(tmp_path: Path) -> None:
    verdict = _computed(tmp_path, f"{SUMS}\nMODELS = {{'test.sums': sums}}", **_int32_entry())
    assert verdict.reasons == ()
    assert verdict.measures
    assert all(measure.value == 0 for measure in verdict.measures)


def test_one_wrong_sum_is_enough(tmp_path: Path) -> None:
    models = f"{SUMS}\nMODELS = {{'test.sums': lying}}"
    assert _computed(tmp_path, models, **_int32_entry()).reasons


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
    (only,) = _computed(tmp_path, **changes).reasons
    assert reason in only
