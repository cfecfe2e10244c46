"""What ``api.h`` declares: the structures and functions of the library, as ctypes has them.

The reader is small and strict: structures of pointers, int64_t and float, and functions of these.
It raises KernelError for all else. A library and ``api.h`` belong together by the hash of the
sources.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from whisper_npu.errors import KernelError

FILE_NAME = "api.h"

CType = type[Any]

_SCALARS: Mapping[str, CType] = {
    "float": ctypes.c_float, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64
}  # fmt: skip
# What else pointers point to, besides structures.
_POINTED = {"void", "int8_t", "uint8_t", "int16_t", *_SCALARS}

_STRUCTURE = re.compile(r"struct (\w+) \{")
_MEMBERS = re.compile(r"(?:const )?(\w+) (\*?\w+(?:, \*?\w+)*);")
_FUNCTION_POINTER = re.compile(r"\w+ \(\*(\w+)\)\([^()]*\);")
_FUNCTION = re.compile(r"(void|int32_t|int64_t|const char \*) ?(\w+)\(([^()]*)\);")
_PARAMETER = re.compile(r"(?:const )?(\w+) (\*?)\w+")
# Lines that declare nothing.
_AROUND = re.compile(r'#(?:pragma|include)\b.*|extern "C" \{|\}')


class Function(NamedTuple):
    """A function's result and parameters. ``structure`` is what its only parameter points to."""

    result: CType | None
    parameters: tuple[CType, ...]
    structure: str | None = None


class Api(NamedTuple):
    """Structures and functions by name."""

    structures: Mapping[str, type[ctypes.Structure]]
    functions: Mapping[str, Function]


def read_api(folder: Path) -> Api:
    """What ``api.h`` in a folder declares. Raises KernelError that names a line it cannot read."""
    file = folder / FILE_NAME
    structures: dict[str, type[ctypes.Structure]] = {}
    functions: dict[str, Function] = {}
    name, fields = "", list[tuple[str, CType]]()
    for number, text in _statements(file):
        try:
            if name and text == "};":
                structures[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
                name = ""
            elif name:
                fields += _members(text, structures)
            elif (opened := _STRUCTURE.fullmatch(text)) is not None:
                name, fields = opened[1], []
            elif (declared := _FUNCTION.fullmatch(text)) is not None:
                functions[declared[2]] = _function(declared[1], declared[3], structures)
            elif _AROUND.fullmatch(text) is None:
                raise KeyError(text)
        except KeyError as error:
            raise KernelError(
                f"{file}:{number}: {error.args[0]!r} is not understood in {text!r}"
            ) from None
    if name:
        raise KernelError(f"{file}: structure {name} has no end")
    return Api(structures, functions)


def _statements(file: Path) -> Iterator[tuple[int, str]]:
    """Statements without comments, each with the number of its first line."""
    start, text = 0, ""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        code = line.split("//")[0].strip()
        if not code:
            continue
        start, text = (start, f"{text} {code}") if text else (number, code)
        if text.startswith("#") or text.endswith((";", "{", "}")):
            yield start, text
            text = ""
    if text:
        yield start, text


def _members(text: str, structures: Mapping[str, Any]) -> Iterator[tuple[str, CType]]:
    """The fields that a line declares. Raises KeyError for what is not understood."""
    pointer = _FUNCTION_POINTER.fullmatch(text)
    if pointer is not None:
        yield pointer[1], ctypes.c_void_p
        return
    members = _MEMBERS.fullmatch(text)
    if members is None:
        raise KeyError(text)
    for declarator in members[2].split(", "):
        star = "*" if declarator.startswith("*") else ""
        yield declarator.removeprefix("*"), _type(members[1], star, structures)


def _function(result: str, parameters: str, structures: Mapping[str, Any]) -> Function:
    types: list[CType] = []
    pointed: list[str] = []
    for parameter in parameters.split(", ") if parameters else ():
        match = _PARAMETER.fullmatch(parameter)
        if match is None:
            raise KeyError(parameter)
        text = match[1] == "char" and match[2] == "*"
        types.append(ctypes.c_char_p if text else _type(match[1], match[2], structures))
        pointed.append(match[1] if match[2] and match[1] in structures else "")
    of_result = {"void": None, "const char *": ctypes.c_char_p}
    found = of_result[result] if result in of_result else _SCALARS[result]
    return Function(found, tuple(types), pointed[0] or None if len(pointed) == 1 else None)


def _type(name: str, star: str, structures: Mapping[str, Any]) -> CType:
    """Raises KeyError for a type that is not known."""
    if not star:
        return _SCALARS[name]
    if name not in _POINTED and name not in structures:
        raise KeyError(name)
    return ctypes.c_void_p
