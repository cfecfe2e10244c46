"""The pickle in a torch checkpoint, read without running anything that it says.

A pickle is a program for a stack machine that can call any function. This machine has the opcodes
that torch's pickles use and knows a handful of names; a "call" of one of them makes a description
of a tensor. What a pickle makes is limited by its length: every opcode adds one value at most.
Opcodes: Python's ``pickletools``. Names: ``torch.save`` of tensors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from whisper_npu.errors import ModelError
from whisper_npu.model.stored import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, StoredType

# A large-v3 takes 300 kB. The smallest opcodes make values of 64 bytes and more.
LARGEST_PICKLE = 4 << 20

_LARGEST_RANK = 4
_LARGEST_SIZE = 1 << 48

_STORAGES: Mapping[str, StoredType] = {
    "torch DoubleStorage": FLOAT64,
    "torch FloatStorage": FLOAT32,
    "torch HalfStorage": FLOAT16,
    "torch BFloat16Storage": BFLOAT16,
}
_ORDERED_DICT = "collections OrderedDict"
_REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
# With attributes, if there are any: they are dropped.
_REBUILD_PARAMETER = (
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
)


class _Mark:
    """Where the arguments of an opcode begin on the stack."""


_MARK = _Mark()


@dataclass(frozen=True)
class _Name:
    """A name that the pickle looks up; it stands for nothing but itself."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A run of ``count`` numbers in the member ``key``; ``stored`` is None if they are no floats
    that are read, ``type_name`` what they are."""

    key: str
    count: int
    type_name: str
    stored: StoredType | None


@dataclass(frozen=True)
class PickledTensor:
    """A view of a storage: ``offset`` and ``strides`` count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pickle(data: bytes, source: str) -> Any:
    """The value of a torch pickle: dicts, lists, tuples, numbers, strings, and PickledTensors.

    Raises ModelError, naming ``source``, for any other pickle. What comes back can hold the same
    value at many places, and itself: do not walk or print it.
    """
    if len(data) > LARGEST_PICKLE:
        raise ModelError(f"{source}: its pickle has {len(data)} bytes; no Whisper needs that many")
    return _Machine(data, source).run()


class _Machine:
    def __init__(self, data: bytes, source: str) -> None:
        self._data = data
        self._source = source
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        while (opcode := self._take(1)) != b".":
            action = _ACTIONS.get(opcode)
            if action is None:
                self._refuse(f"has the opcode {opcode!r} at byte {self._at - 1}")
            action(self)
        return self._pop()

    def _refuse(self, problem: str) -> NoReturn:
        raise ModelError(f"{self._source}: its pickle {problem}; only tensors in dicts are read")

    # Operands

    def _take(self, count: int) -> bytes:
        raw = self._data[self._at : self._at + count]
        if len(raw) < count:
            self._refuse("ends too early")
        self._at += count
        return raw

    def _unsigned(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 200)
        if end < 0:
            self._refuse("has a name that does not end")
        line = self._take(end + 1 - self._at)
        return line[:-1].decode("latin-1")

    def _text(self, size: int) -> None:
        raw = self._take(self._unsigned(size))
        self._push(raw.decode("utf-8", errors="replace"))

    # The stack

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self, kind: type | tuple[type, ...] = object) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            self._refuse("takes more values than it has made")
        value = self._stack.pop()
        if not isinstance(value, kind):
            self._refuse(f"has a {type(value).__name__} where none may be")
        return value

    def _pop_to_mark(self) -> list[Any]:
        values = []
        while self._stack and self._stack[-1] is not _MARK:
            values.append(self._stack.pop())
        if not self._stack:
            self._refuse("takes values from a mark that it has not made")
        self._stack.pop()
        return values[::-1]

    def _tuple(self, count: int) -> None:
        self._push(tuple([self._pop() for _ in range(count)][::-1]))

    # The memo

    def _put(self, index: int) -> None:
        self._memo[index] = self._pop()
        self._push(self._memo[index])

    def _get(self, index: int) -> None:
        if index not in self._memo:
            self._refuse("recalls a value that it has not kept")
        self._push(self._memo[index])

    # Containers

    def _set_items(self, items: list[Any]) -> None:
        target = self._pop(dict)
        if len(items) % 2:
            self._refuse("has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Anything else could take for ever to hash: a tuple of tuples of tuples.
            if type(key) not in (str, int):
                self._refuse(f"has a {type(key).__name__} as a key")
            target[key] = value
        self._push(target)

    def _append(self, values: list[Any]) -> None:
        target = self._pop(list)
        target.extend(values)
        self._push(target)

    # Names and what they make

    def _global(self, module: str, name: str) -> None:
        full = f"{module} {name}"
        known = full in (_ORDERED_DICT, _REBUILD_TENSOR, *_REBUILD_PARAMETER)
        if not known and not (module == "torch" and name.endswith("Storage")):
            self._refuse(f"names {full[:100]!r}")
        self._push(_Name(full))

    def _reduce(self) -> None:
        arguments = self._pop(tuple)
        called = self._pop(_Name)
        if called.name == _ORDERED_DICT and not arguments:
            self._push({})
        elif called.name == _REBUILD_TENSOR and len(arguments) >= 4:
            self._push(self._tensor(*arguments[:4]))
        elif called.name in _REBUILD_PARAMETER and arguments:
            if not isinstance(arguments[0], PickledTensor):
                self._refuse("describes a parameter of no tensor")
            self._push(arguments[0])
        else:
            self._refuse(f"calls {called.name[:100]!r}")

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> PickledTensor:
        if not (isinstance(storage, Storage) and isinstance(shape, tuple)):
            self._refuse("describes a tensor of nothing")
        if not isinstance(strides, tuple) or not len(shape) == len(strides) <= _LARGEST_RANK:
            self._refuse("describes a tensor of impossible strides")
        if not all(type(n) is int and 0 <= n <= _LARGEST_SIZE for n in (offset, *shape, *strides)):
            self._refuse("describes a tensor of impossible size")
        return PickledTensor(storage, offset, shape, strides)

    def _persistent(self) -> None:
        """torch's storages: ("storage", type, key, device, number of elements)."""
        match self._pop(tuple):
            case ("storage", _Name(name), str(key), str(), int(count)) if (
                0 <= count <= _LARGEST_SIZE
            ):
                self._push(Storage(key, count, name, _STORAGES.get(name)))
            case _:
                self._refuse("refers to something that is not a storage")

    def _build(self) -> None:
        """The attributes of an OrderedDict (torch keeps versions there) are dropped."""
        self._pop(dict)
        self._push(self._pop(dict))


_ACTIONS: Mapping[bytes, Callable[[_Machine], object]] = {
    # PROTO and FRAME say nothing that matters here.
    b"\x80": lambda m: m._take(1),
    b"\x95": lambda m: m._take(8),
    b"(": lambda m: m._push(_MARK),
    b"0": lambda m: m._pop(),
    b"1": lambda m: m._pop_to_mark(),
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"J": lambda m: m._push(int.from_bytes(m._take(4), "little", signed=True)),
    b"K": lambda m: m._push(m._unsigned(1)),
    b"M": lambda m: m._push(m._unsigned(2)),
    b"\x8a": lambda m: m._push(int.from_bytes(m._take(m._unsigned(1)), "little", signed=True)),
    b"G": lambda m: m._push(struct.unpack(">d", m._take(8))[0]),
    b"X": lambda m: m._text(4),
    b"\x8c": lambda m: m._text(1),
    b"]": lambda m: m._push([]),
    b"a": lambda m: m._append([m._pop()]),
    b"e": lambda m: m._append(m._pop_to_mark()),
    b")": lambda m: m._push(()),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"t": lambda m: m._push(tuple(m._pop_to_mark())),
    b"}": lambda m: m._push({}),
    b"s": lambda m: m._set_items([m._pop(), m._pop()][::-1]),
    b"u": lambda m: m._set_items(m._pop_to_mark()),
    b"q": lambda m: m._put(m._unsigned(1)),
    b"r": lambda m: m._put(m._unsigned(4)),
    b"\x94": lambda m: m._put(len(m._memo)),
    b"h": lambda m: m._get(m._unsigned(1)),
    b"j": lambda m: m._get(m._unsigned(4)),
    b"c": lambda m: m._global(m._line(), m._line()),
    b"\x93": lambda m: m._global(*[m._pop(str), m._pop(str)][::-1]),
    b"R": lambda m: m._reduce(),
    b"Q": lambda m: m._persistent(),
    b"b": lambda m: m._build(),
}
