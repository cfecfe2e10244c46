"""What this program keeps for itself and others may damage: evidence, records, registries, packed
weights. Damage is an error of the package, or as good as nothing there.

An input is the name of a file in the home folder, a line, and the content that it has; of packed
weights that is the beginning of the file.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from tests.fuzz.json_mutations import mutate_json
from tests.fuzz.mutations import mutate as mutate_bytes
from tests.fuzz.targets.readers import check_message
from whisper_npu.backends.cpu.build import find_build, source_hash, why_no_build
from whisper_npu.backends.cpu.library import open_library
from whisper_npu.backends.cpu.library_evidence import CpuEvidenceStore
from whisper_npu.backends.npu.kernel_evidence import NpuEvidenceStore
from whisper_npu.backends.npu.registry import load_registry
from whisper_npu.backends.npu.verdicts import judge, read_verdicts
from whisper_npu.errors import KernelError, ModelError
from whisper_npu.hub.store import Store
from whisper_npu.runtime.packed import PackedFile, PackedTensor, sweep

SECONDS = 10.0

ROOT = Path(__file__).parents[3]
_TENSORS = [PackedTensor("a", "float32", (3, 5), "F"), PackedTensor("b", "int8", (7,), "C")]
_CPU, _NPU, _LIBRARY = "cpu/evidence.json", "evidence.json", "cpu/library.json"
_REGISTRY, _VERDICTS = "kernels/registry.json", "kernels/verdicts.json"
_STORED, _PACKED = "models/openai--whisper-tiny/whisper-npu.json", "packed"


@cache
def seeds() -> dict[str, bytes]:
    """The content of each file; of packed weights none, as that depends on the home folder."""
    library = {
        "library": f"kernels-{'0' * 16}.so",
        "sources": source_hash(),
        "compiler": "c++: c++ 12",
        "flags": "[]",
        "sha256": "0" * 64,
    }
    stored = {
        "repository": "openai/whisper-tiny",
        "revision": "main",
        "commit": "0" * 40,
        "dtype": "int8",
        "pulled": "2026-01-01T00:00:00.000000Z",
        "packages": "",
        "files": {"model.safetensors": {"size": 0, "sha256": "0" * 64}},
    }
    return {
        _CPU: (ROOT / "tests/data/evidence/cpu.json").read_bytes(),
        _NPU: (ROOT / "tests/data/evidence/npu.json").read_bytes(),
        _LIBRARY: json.dumps(library).encode(),
        _REGISTRY: (ROOT / "kernels/registry.json").read_bytes(),
        _VERDICTS: (ROOT / "kernels/verdicts.json").read_bytes(),
        _STORED: json.dumps(stored).encode(),
        _PACKED: b"",
    }


def mutate(chance: Random) -> bytes:
    """One of the files, changed."""
    name = chance.choice(list(seeds()))
    content = seeds()[name]
    if name == _PACKED:
        # What is to be changed in the file that there is then.
        content = str(chance.getrandbits(32)).encode()
    elif chance.random() < 0.7:
        content = mutate_json(content, chance)
    else:
        content = mutate_bytes(content, chance)
    return f"{name}\n".encode() + content


def check(data: bytes, folder: Path) -> str:
    """Read the file as the program does."""
    name, _, content = data.partition(b"\n")
    os.environ["WHISPER_NPU_HOME"] = str(folder)
    if name == _PACKED.encode():
        return _check_packed(folder, Random(content))
    path = folder / name.decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        found = read(name.decode(), path.parent)
    except (KernelError, ModelError) as error:
        check_message(error)
        return "refused"
    finally:
        path.unlink()
    return "read" if found else "nothing"


def read(name: str, folder: Path) -> bool:
    """Read a file of the home folder, ``folder`` of it. Whether there was anything in it."""
    if name == _CPU:
        return bool(CpuEvidenceStore().all())
    if name == _NPU:
        return bool(NpuEvidenceStore().all())
    if name == _LIBRARY:
        build = find_build()
        if build is not None and build.folder == folder:
            open_library(build)
        return bool(why_no_build())
    if name == _STORED:
        return all(model.is_whole() or model.size >= 0 for model in Store().all())
    # Files of the same folder that were not changed.
    for other in (_REGISTRY, _VERDICTS):
        if other != name:
            (folder / Path(other).name).write_bytes(seeds()[other])
    recorded = read_verdicts(folder)
    return all(judge(entry, recorded.get(entry.contract.name)) for entry in load_registry(folder))


def _check_packed(folder: Path, chance: Random) -> str:
    model = folder / "model"
    model.write_bytes(b"weights")
    packed = PackedFile({model: model.stat()}, _TENSORS, "float32")
    with packed.writer() as writer:
        for tensor in _TENSORS:
            writer.write(tensor, np.ones(tensor.shape, tensor.dtype))
    with packed.path.open("r+b") as file:
        content = file.read()
        end = len(content.rstrip(b"\0")) if chance.random() < 0.2 else 2_000
        if chance.random() < 0.5:
            at = content.index(b"{")
            header = mutate_json(content[at : content.index(b"\0", at)], chance)
            changed = content[: at - 8] + len(header).to_bytes(8, "little") + header
        else:
            changed = mutate_bytes(content[:end], chance, 1 << 22)
        file.seek(0)
        file.write(changed)
        if chance.random() < 0.2:
            file.truncate()
    opened = packed.open()
    if opened is not None:
        assert all((array == 1).all() for array in opened.values()), opened
    sweep()
    return "nothing" if opened is None else "read"
