"""NumPy models of kernels of a fixed shape, in Python that a kernel folder brings along.

``models`` of a ``registry.json`` names a Python file or package of its folder. It is imported when
the model of a kernel of that folder has to run, for verification or on the software device. It has

* ``MODELS``: functions by the names that contracts give as ``model``;
* ``BOUNDS``, where outputs are floats: by the same names, a function of the inputs that gives what
  each output is added up from without regard to signs, and the share of it by which a kernel may
  differ.

A model takes one flat array for each input argument of its contract, in order, of the argument's
dtype, and returns the same for each output: an array if there is one, else a tuple. Leading axes
are separate launches. bfloat16 is uint16 here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.backends.npu.contract import Argument, KernelContract
from whisper_npu.backends.npu.dtypes import numpy_dtype
from whisper_npu.backends.npu.registry import FILE_NAME, KernelEntry, is_inside
from whisper_npu.errors import KernelError

Array = NDArray[Any]
KernelModel = Callable[..., Any]
FloatBound = tuple[KernelModel, float]


def run_model(entry: KernelEntry, *inputs: Array) -> tuple[Array, ...]:
    """The outputs of one launch (or of several, by leading axes) according to the model.

    Raises KernelError if the kernel has no model, if the model cannot be loaded or raises, or if
    an input or an output is not what the contract says.
    """
    contract = entry.contract
    model = _model(entry)
    _check(contract, contract.inputs, inputs)
    try:
        result = model(*inputs)
        outputs = tuple(map(np.asarray, result if isinstance(result, tuple) else (result,)))
    # The folder's own code, which may raise anything.
    except Exception as error:
        raise _failed(entry, f"model {contract.model}", error) from error
    _check(contract, contract.outputs, outputs)
    return outputs


def bound_of(entry: KernelEntry) -> FloatBound | None:
    """The bound on errors of a model whose outputs are floats. Raises KernelError, and so does its
    function."""
    _model(entry)
    bound = getattr(_module(entry), "BOUNDS", {}).get(entry.contract.model)
    if bound is None:
        return None
    try:
        function, share = bound
        share = float(share)
    except (TypeError, ValueError) as error:
        raise _failed(entry, f"BOUNDS of {entry.contract.model}", error) from error

    def magnitude(*inputs: Array) -> Array:
        try:
            return np.asarray(function(*inputs), np.float64)
        # The folder's own code, which may raise anything.
        except Exception as error:
            raise _failed(entry, f"BOUNDS of {entry.contract.model}", error) from error

    return magnitude, share


def _failed(entry: KernelEntry, what: str, error: Exception) -> KernelError:
    return KernelError(
        f"{entry.contract.name}: {_module(entry).__file__}: {what} failed: "
        f"{type(error).__name__}: {error}"
    )


def _model(entry: KernelEntry) -> KernelModel:
    contract = entry.contract
    if contract.model is None:
        raise KernelError(f"{contract.name}: has no model that could stand in for it")
    module = _module(entry)
    models: Mapping[str, KernelModel] = module.MODELS
    if contract.model not in models:
        raise KernelError(
            f"{contract.name}: {module.__file__}: MODELS has no model {contract.model}"
        )
    return models[contract.model]


def _module(entry: KernelEntry) -> ModuleType:
    registry = entry.folder / FILE_NAME
    if entry.models is None:
        raise KernelError(
            f"{entry.contract.name}: has no model that could stand in for it: {registry} does not "
            'name the Python that has its models ("models")'
        )
    named = entry.folder / entry.models
    file = named / "__init__.py" if named.is_dir() else named
    # A link may have been put there since the registry was read.
    if not file.is_file() or not is_inside(file, entry.folder):
        raise KernelError(
            f"{registry}: models: {entry.models} is no Python file or package of {entry.folder}"
        )
    return _imported(file.resolve())


@cache
def _imported(file: Path) -> ModuleType:
    """The module of a file; an ``__init__.py`` is a package, which may import its own modules by
    relative imports. Raises KernelError."""
    # A name for each file: folders may call their models alike.
    name = f"kernel_models_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    package = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=package)
    if spec is None or spec.loader is None:
        raise KernelError(f"{file}: is no Python file, which the models of a kernel folder are")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        for what, default in (("MODELS", None), ("BOUNDS", {})):
            if not isinstance(getattr(module, what, default), Mapping):
                raise TypeError(f"{what} is to be a mapping by the names of models")
    except (Exception, SystemExit) as error:
        for part in [part for part in sys.modules if part.partition(".")[0] == name]:
            del sys.modules[part]
        raise KernelError(
            f"{file}: the models of the kernel folder cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    return module


def _check(
    contract: KernelContract, arguments: tuple[Argument, ...], arrays: tuple[Array, ...]
) -> None:
    if len(arguments) != len(arrays):
        raise KernelError(f"{contract.name}: {len(arrays)} arrays for {len(arguments)} buffers")
    for argument, array in zip(arguments, arrays, strict=True):
        size = array.shape[-1] * array.itemsize if array.ndim else 0
        if argument.dtype is None or array.dtype != numpy_dtype(argument.dtype):
            raise KernelError(
                f"{contract.name}: {argument.name} is {argument.dtype}, not {array.dtype}"
            )
        if argument.bytes not in (None, size):
            raise KernelError(
                f"{contract.name}: {argument.name} has {argument.bytes} bytes, not {size}"
            )
