"""The pickle machine: the same values as Python's for plain data, and nothing runs."""

from __future__ import annotations

import collections
import os
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_npu.convert.pickle_reader import (
    LARGEST_PICKLE,
    PickledTensor,
    Storage,
    read_pickle,
)
from whisper_npu.errors import ModelError
from whisper_npu.model.stored import FLOAT16

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES, st.sampled_from([2, 4]))
@settings(max_examples=100, deadline=None)
def test_plain_values_are_what_python_reads(value: object, protocol: int) -> None:
    assert repr(read_pickle(pickle.dumps(value, protocol), "x")) == repr(value)


def test_shared_and_large_values() -> None:
    shared = ["x"] * 3
    value = {"many": [[shared, index] for index in range(300)], "again": shared}
    for protocol in (2, 4):
        read = read_pickle(pickle.dumps(value, protocol), "x")
        assert read == value
        assert read["many"][0][0] is read["again"]


STORAGE = b"X\7\0\0\0storagectorch\nHalfStorage\nX\1\0\0\x007X\3\0\0\0cpuK\x18tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n((" + STORAGE


def test_a_tensor() -> None:
    data = b"\x80\2" + TENSOR + b"K\4K\2K\3\x86K\6K\1\x86\x89ccollections\nOrderedDict\n)RtR."
    storage = Storage("7", 24, "torch HalfStorage", FLOAT16)
    assert read_pickle(data, "x") == PickledTensor(storage, 4, (2, 3), (6, 1))


@pytest.mark.parametrize("name", ["_rebuild_parameter", "_rebuild_parameter_with_state"])
def test_a_parameter_is_its_tensor(name: str) -> None:
    tensor = TENSOR + b"K\4K\2K\3\x86K\6K\1\x86\x89ccollections\nOrderedDict\n)RtR"
    after = b"\x88}" + (b"}" if name.endswith("state") else b"")
    data = b"\x80\2ctorch._utils\n" + name.encode() + b"\n(" + tensor + after + b"tR."
    assert isinstance(read_pickle(data, "x"), PickledTensor)


def test_attributes_of_an_ordered_dict_are_dropped() -> None:
    value: collections.OrderedDict[str, int] = collections.OrderedDict(a=1)
    value._metadata = {"version": 1}  # type: ignore[attr-defined]
    assert read_pickle(pickle.dumps(value, 2), "x") == {"a": 1}


class Trap:
    def __init__(self, function: object, *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self._call  # type: ignore[return-value]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_nothing_runs(tmp_path: Path, protocol: int) -> None:
    made = tmp_path / "made"
    data = pickle.dumps({"dims": Trap(os.mkdir, str(made))}, protocol)
    with pytest.raises(ModelError, match=r"^model\.pt: its pickle "):
        read_pickle(data, "model.pt")
    assert not made.exists()
    pickle.loads(data)
    assert made.exists()  # the trap works


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cos\nsystem\n.", "names 'os system'"),
        (b"cbuiltins\neval\n.", "names 'builtins eval'"),
        (b"ctorch\nload\n.", "names 'torch load'"),
        (b"ctorch.storage\nFloatStorage\n.", "names 'torch.storage FloatStorage'"),
        (b"X\2\0\0\0osX\6\0\0\0system\x93.", "names 'os system'"),
        (b"ctorch\nFloatStorage\n)R.", "calls 'torch FloatStorage'"),
        (b"ccollections\nOrderedDict\n]\x85R.", "calls 'collections OrderedDict'"),
        (b"})R.", "has a dict where none may be"),
        (b"ccollections\nOrderedDict\n}b.", "has a _Name where none may be"),
        (b"]}b.", "has a list where none may be"),
        (b"]K\1K\2s.", "has a list where none may be"),
        (b"}(K\1u.", "has a key without a value"),
        (b"})Ns.", "has a tuple as a key"),
        (b"}NNs.", "has a NoneType as a key"),
        (b"}\x88Ns.", "has a bool as a key"),
        (b"K", "ends too early"),
        (b"X\xff\xff\xff\xffabc.", "ends too early"),
        (b"\x8a\xff\1.", "ends too early"),
        (b"N", "ends too early"),
        (b"", "ends too early"),
        (b".", "takes more values than it has made"),
        (b"(.", "takes more values than it has made"),
        (b"(q\0.", "takes more values than it has made"),
        (b"0.", "takes more values"),
        (b"Nt.", "from a mark that it has not made"),
        (b"h\0.", "recalls a value that it has not kept"),
        (b"j\xff\xff\xff\x7f.", "recalls a value"),
        (b"c" + b"a" * 300, "has a name that does not end"),
        (b"K\1Q.", "has a int where none may be"),
        (b")Q.", "refers to something that is not a storage"),
        (TENSOR + b"K\4K\2K\3\x86K\6\x85\x89NtR.", "impossible strides"),
        (TENSOR + b"K\4NK\6\x85\x89NtR.", "a tensor of nothing"),
        (TENSOR + b"J\xff\xff\xff\xffK\2\x85K\6\x85\x89NtR.", "impossible size"),
        (TENSOR + b"K\4J\xff\xff\xff\xff\x85K\6\x85\x89NtR.", "impossible size"),
        (TENSOR + b"K\4\x88\x85K\6\x85\x89NtR.", "impossible size"),
        (TENSOR + b"K\4\x8a\x08" + b"\x7f" * 8 + b"\x85K\6\x85\x89NtR.", "impossible size"),
        (TENSOR + b"K\4(K\1K\1K\1K\1K\1t(K\1K\1K\1K\1K\1t\x89NtR.", "impossible strides"),
        (b"ctorch._utils\n_rebuild_parameter\nK\1\x85R.", "describes a parameter of no tensor"),
        (b"ctorch._utils\n_rebuild_parameter\n)R.", "calls 'torch._utils _rebuild_parameter'"),
        (b"K\1)R.", "has a int where none may be"),
        (b"S'text'\n.", r"has the opcode b'S' at byte 0"),
        (b"\x82\1.", "has the opcode"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "has the opcode"),
        (b"ios\nsystem\n.", "has the opcode b'i'"),
        (b"N" * (LARGEST_PICKLE + 1), "no Whisper needs that many"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=rf"^x: its pickle .*({message})"):
        read_pickle(data, "x")


def test_nesting_costs_no_stack() -> None:
    # A million lists in each other, and a dict that holds itself.
    read_pickle(b"]" * 1_000_000 + b"a" * 999_999 + b".", "x")
    assert len(read_pickle(b"}q\0K\1h\0s.", "x")) == 1


def test_a_memo_index_allocates_nothing() -> None:
    assert read_pickle(b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff\x86.", "x") == (None, None)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_value_or_an_error(data: bytes) -> None:
    with suppress(ModelError):
        read_pickle(data + b".", "x")
