"""Families of kernels: what one needs to be packed for, launched, checked and predicted.

To add one, write a class after ``family.Family`` and enter it here under the name that contracts
have for it.
"""

from __future__ import annotations

from whisper_npu.backends.npu.families.family import Family
from whisper_npu.backends.npu.families.fixed import FixedShape
from whisper_npu.backends.npu.families.gemm import GemmInt8
from whisper_npu.backends.npu.registry import KernelEntry

FAMILIES: dict[str, type[Family]] = {
    "gemm_int8": GemmInt8,
}


def family_of(entry: KernelEntry) -> Family:
    """A kernel by its family; one whose family is not known is taken to be of a fixed shape."""
    return FAMILIES.get(entry.contract.family, FixedShape)(entry)
