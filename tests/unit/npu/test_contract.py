from __future__ import annotations

import dataclasses

import pytest

from tests.support.npu.entries import contract, entry
from whisper_npu.backends.npu.contract import contract_from_json
from whisper_npu.errors import KernelError


def test_everything_of_the_entry_is_in_the_contract() -> None:
    made = contract(
        arithmetic={"text": "t", "accumulator": "int32", "saturation": [-8, 7], "scale": 0.5}
    )
    assert made.name == "mine"
    assert made.version == 3
    assert made.tile == {"m": 16, "k": 16, "n": 16}
    assert made.arithmetic.saturation == (-8, 7)
    assert made.arithmetic.scale == 0.5
    assert made.arithmetic.shift is None
    assert made.provenance.paths == ("mine.cc",)
    assert made.device.columns == 4
    assert made.stack is not None
    assert made.stack.needed == 1024


def test_buffers_by_role_and_direction() -> None:
    made = contract()
    assert [a.index for a in made.inputs] == [3]
    assert [a.index for a in made.outputs] == [4]
    assert [a.direction for a in made.arguments] == [
        None,
        "to device",
        None,
        "to device",
        "from device",
    ]


def test_files_are_those_that_are_named() -> None:
    assert list(contract().files) == ["xclbin", "instructions"]
    assert list(contract(instructions=None).files) == ["xclbin"]
    assert not contract(instructions=None, xclbin=None).files


def test_a_contract_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        contract().version = 4  # type: ignore[misc]


def test_arguments_out_of_order_are_refused() -> None:
    wrong = entry()
    wrong["arguments"][3]["index"] = 4
    with pytest.raises(KernelError, match=r"^here\.arguments\[3\]: index is 4"):
        contract_from_json(wrong, "here")


@pytest.mark.parametrize(("position", "group"), [(0, 0), (3, None)])
def test_a_scalar_has_no_group_and_a_buffer_has_one(position: int, group: int | None) -> None:
    wrong = entry()
    wrong["arguments"][position]["group"] = group
    with pytest.raises(KernelError, match=rf"^here\.arguments\[{position}\]: a buffer has a group"):
        contract_from_json(wrong, "here")
