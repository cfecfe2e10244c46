"""The reader of api.h takes what it knows and nothing else."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from whisper_npu.backends.cpu.api import Api, read_api
from whisper_npu.backends.cpu.build import source_folder
from whisper_npu.errors import KernelError

GOOD = """\
// A comment with struct Not { in it;
#pragma once
#include <stdint.h>
extern "C" {
struct First {
  const float *x, *y;  // two
  int8_t *values;
  int64_t m, k;
  float scale;
};

struct Second {
  int32_t (*kernel)(const void *args);
  const First
      *first;
};

int32_t cpu_first(const First *args);
int64_t cpu_size(const First *args, int64_t threads);
const char *cpu_name();
int32_t cpu_has(const char *kernel, const char *isa);
void cpu_set(int32_t threads);
}
"""


def _read(tmp_path: Path, text: str) -> Api:
    (tmp_path / "api.h").write_text(text)
    return read_api(tmp_path)


def test_structures_and_functions(tmp_path: Path) -> None:
    api = _read(tmp_path, GOOD)
    assert list(api.structures) == ["First", "Second"]
    first = api.structures["First"]
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    assert first._fields_ == [
        ("x", pointer), ("y", pointer), ("values", pointer), ("m", number), ("k", number),
        ("scale", ctypes.c_float),
    ]  # fmt: skip
    assert first.__name__ == "First"
    assert api.structures["Second"]._fields_ == [("kernel", pointer), ("first", pointer)]
    found = {name: (f.result, f.parameters, f.structure) for name, f in api.functions.items()}
    text, small = ctypes.c_char_p, ctypes.c_int32
    assert found == {
        "cpu_first": (small, (pointer,), "First"),
        "cpu_size": (number, (pointer, number), None),
        "cpu_name": (text, (), None),
        "cpu_has": (small, (text, text), None),
        "cpu_set": (None, (small,), None),
    }


@pytest.mark.parametrize(
    ("right", "wrong", "line"),
    [
        ("  float scale;", "  double scale;", 9),
        ("  int8_t *values;", "  Other *values;", 7),
        ("  int8_t *values;", "  int8_t values[4];", 7),
        ("  int64_t m, k;", "  int64_t m : 3;", 8),
        ("  const float *x, *y;", "  const float **x;", 6),
        ("  float scale;\n", "  float scale\n", 9),
        ("const First\n", "const Third\n", 14),
        ("struct Second {", "union Second {", 12),
        ("int32_t cpu_first(const First *args);", "int32_t cpu_first(First args);", 18),
        ("int32_t cpu_first(const First *args);", "int32_t cpu_first(const Third *args);", 18),
        ("int32_t cpu_first(const First *args);", "double cpu_first(const First *args);", 18),
        ("void cpu_set(int32_t threads);", "void cpu_set(int32_t threads = 1);", 22),
        ("void cpu_set(int32_t threads);", "extern int threads;", 22),
    ],
)
def test_what_is_not_understood_is_named_with_its_line(
    tmp_path: Path, right: str, wrong: str, line: int
) -> None:
    assert GOOD.count(right) == 1
    with pytest.raises(KernelError, match=rf"api\.h:{line}: .* is not understood in "):
        _read(tmp_path, GOOD.replace(right, wrong))


def test_a_structure_without_an_end(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"api\.h: structure First has no end$"):
        _read(tmp_path, "struct First {\n  float x;\n")


def test_an_attention_of_the_library_by_its_fields() -> None:
    """By hand, once: what binds and what computes must mean the same bytes."""
    structure = read_api(source_folder()).structures["Attention"]
    names = ["q", "k", "v", "out", "b", "t", "n_head", "d_head", "scale", "scratch"]
    assert [(name, getattr(structure, name).offset) for name in names] == [
        (name, 8 * place) for place, name in enumerate(names)
    ]
    assert structure.scale.size == 4
    assert ctypes.sizeof(structure) == 80
