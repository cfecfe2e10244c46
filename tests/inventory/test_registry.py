"""The inventory as a kernel folder: all that was published has a place in it."""

from __future__ import annotations

import numpy as np

from kernels.inventory.models import MODELS
from tests.inventory.seed_inventory import (
    AMD_FILES,
    COUNTED,
    ENCODER_FILES,
    MEL_FILES,
    TEST_FILES,
)
from whisper_npu.backends.npu.contract import EXACT
from whisper_npu.backends.npu.dtypes import numpy_dtype
from whisper_npu.backends.npu.families import family_of
from whisper_npu.backends.npu.families.fixed import FixedShape
from whisper_npu.backends.npu.families.gemm import GemmInt8
from whisper_npu.backends.npu.kernel_models import run_model
from whisper_npu.backends.npu.registry import inventory_folder, load_registry, read_folder
from whisper_npu.model.kinds import KINDS


def test_every_file_that_the_inventory_names_has_one_place() -> None:
    listed = [name for kernel in load_registry(inventory=True) for name in kernel.contract.listed]
    assert len(listed) == len(set(listed))
    assert {*ENCODER_FILES, *MEL_FILES, *TEST_FILES, *AMD_FILES} <= set(listed)


def test_every_file_that_the_inventory_counts_has_a_place() -> None:
    counts = {"encoder": 0, "mel": 0, "test": 0, "validation": 0}
    sections = {"mel": "mel", "passthrough": "test", "validation": "validation"}
    for kernel in load_registry(inventory=True):
        contract = kernel.contract
        if contract.family != "amd_gemm":
            section = sections.get(contract.family, "encoder")
            counts[section] += len(contract.listed) + contract.unnamed_files
    assert counts == COUNTED
    assert sum(counts.values()) == 69


def test_entries_are_consistent() -> None:
    for kernel in load_registry(inventory=True):
        contract = kernel.contract
        assert contract.op is None or contract.op in KINDS, contract.name
        assert contract.model is None or (contract.model in MODELS) != contract.model.startswith(
            "gemm."
        ), contract.name
        assert (contract.model is not None) or contract.exactness != EXACT, contract.name
        for argument in contract.arguments:
            if argument.direction is not None:
                assert argument.group == argument.index, contract.name
        for argument in (*contract.inputs, *contract.outputs):
            if isinstance(family_of(kernel), GemmInt8):
                # Whatever size a launch has.
                assert (argument.shape, argument.bytes) == (None, None), contract.name
                continue
            assert argument.shape is not None
            size = {"int8": 1, "uint8": 1, "bfloat16": 2}[argument.dtype or ""]
            for length in argument.shape:
                size *= length
            assert argument.bytes == size, contract.name


def test_all_are_of_a_fixed_shape() -> None:
    assert all(type(family_of(kernel)) is FixedShape for kernel in read_folder(inventory_folder()))


def test_every_model_runs_on_the_buffers_of_its_contract() -> None:
    ran = set()
    for kernel in read_folder(inventory_folder()):
        made = kernel.contract
        if made.model is None:
            continue
        inputs = [
            np.ones((2, a.bytes // numpy_dtype(a.dtype).itemsize), numpy_dtype(a.dtype))
            for a in made.inputs
            if a.dtype is not None and a.bytes is not None
        ]
        outputs = run_model(kernel, *inputs)
        assert [(o.shape[0], o[0].nbytes) for o in outputs] == [(2, a.bytes) for a in made.outputs]
        ran.add(made.model)
    assert ran == set(MODELS)
