"""Builds an xclbin for the emulator, with AMD's own xclbinutil.

    tools/npu_emulator/build_xclbin.py gemm_int8 64x64x64 OUT.xclbin

The container is what mlir-aie makes: kernel ``MLIR_AIE``, arguments opcode, instr, ninstr, bo0 to
bo4. In place of a PDI that configures the array it holds the name of the kernel and its tile, which
is all that the emulated core needs to know.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ARGUMENT_BYTES = (0x14, 0x1C, 0x24, 0x2C, 0x34)
PDI_UUID = "00000000-0000-0000-0000-000000000901"

# Where xclbinutil puts what differs from run to run, in the header of the container (struct axlf).
UNIQUE_ID = slice(296, 304)
TIME_STAMP = slice(312, 320)
UUID = slice(416, 432)


def identity(kernel: str, tile: tuple[int, int, int]) -> bytes:
    """The PDI: magic, kernel name, tile, 16 bytes for later, all little endian."""
    name = kernel.encode("ascii")
    if not 0 < len(name) < 32:
        raise ValueError(f"kernel name {kernel!r}: 1 to 31 characters")
    return struct.pack("<8s32s3I4I", b"WNPUEMU1", name, *tile, 0, 0, 0, 0)


def _sections(pdi: Path, columns: int) -> dict[str, object]:
    memories = [
        {
            "m_type": "MEM_DRAM",
            "m_used": "1",
            "m_sizeKB": size,
            "m_tag": tag,
            "m_base_address": "0x4000000",
        }
        for tag, size in (("HOST", "0x10000"), ("SRAM", "0xc000"))
    ]

    def buffer(name: str, kind: str, offset: int, memory: str) -> dict[str, str]:
        return {
            "name": name,
            "memory-connection": memory,
            "address-qualifier": "GLOBAL",
            "type": kind,
            "offset": hex(offset),
        }

    def scalar(name: str, kind: str, offset: int) -> dict[str, str]:
        return {"name": name, "address-qualifier": "SCALAR", "type": kind, "offset": hex(offset)}

    arguments = [
        scalar("opcode", "uint64_t", 0x00),
        buffer("instr", "char *", 0x08, "SRAM"),
        scalar("ninstr", "uint32_t", 0x10),
        *(buffer(f"bo{i}", "void*", at, "HOST") for i, at in enumerate(ARGUMENT_BYTES)),
    ]
    kernel = {
        "name": "MLIR_AIE",
        "type": "dpu",
        "extended-data": {"subtype": "DPU", "functional": "0", "dpu_kernel_id": "0x901"},
        "arguments": arguments,
        "instances": [{"name": "MLIRAIE"}],
    }
    partition = {
        "name": "QoS",
        "operations_per_cycle": "2048",
        "inference_fingerprint": "23423",
        "pre_post_fingerprint": "12345",
        "partition": {"column_width": columns, "start_columns": [1, 2, 3, 4][: 5 - columns]},
        "PDIs": [
            {
                "uuid": PDI_UUID,
                "file_name": str(pdi),
                "cdo_groups": [
                    {
                        "name": "DPU",
                        "type": "PRIMARY",
                        "pdi_id": "0x01",
                        "dpu_kernel_ids": ["0x901"],
                        "pre_cdo_groups": ["0xC1"],
                    }
                ],
            }
        ],
    }
    return {
        "memory": {"mem_topology": {"m_count": "2", "m_mem_data": memories}},
        "kernels": {"ps-kernels": {"kernels": [kernel]}},
        "partition": {"aie_partition": partition},
    }


def _fixed(content: bytes) -> bytes:
    """The same container with the time and the random UUID replaced by what its content gives."""
    old = content[UUID]
    out = bytearray(content)
    out[UNIQUE_ID] = bytes(8)
    out[TIME_STAMP] = bytes(8)
    out[UUID] = bytes(16)
    # A copy of the header as JSON is appended; it is for xclbinutil only and may go.
    mirror = out.find(b"XCLBIN_MIRROR_DATA_START")
    if mirror >= 0:
        del out[mirror:]
        out[304:312] = struct.pack("<Q", len(out))
    digest = hashlib.sha256(out).digest()[:16]
    if old in out:
        raise ValueError("the xclbin's UUID is elsewhere in the file too")
    out[UUID] = digest
    return bytes(out)


def build_xclbin(path: Path, kernel: str, tile: tuple[int, int, int], columns: int = 1) -> None:
    """Writes the xclbin of a kernel that the emulator knows. Same arguments, same bytes.

    kernel, tile: of a core program in ``src/core.c``; columns: width of the partition, 1 to 5.
    Raises RuntimeError with xclbinutil's words when it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        pdi = Path(folder, "kernel.pdi")
        pdi.write_bytes(identity(kernel, tile))
        for name, content in _sections(pdi, columns).items():
            Path(folder, f"{name}.json").write_text(json.dumps(content))
        done = subprocess.run(
            [
                "xclbinutil",
                "--add-replace-section",
                "MEM_TOPOLOGY:JSON:memory.json",
                "--add-kernel",
                "kernels.json",
                "--add-replace-section",
                "AIE_PARTITION:JSON:partition.json",
                "--force",
                "--quiet",
                "--output",
                "out.xclbin",
            ],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"xclbinutil failed for {path}: {done.stdout.strip()}")
        content = _fixed(Path(folder, "out.xclbin").read_bytes())
    partial = path.with_name(path.name + f".{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="build an xclbin for the NPU emulator")
    parser.add_argument("kernel", help="gemm_int8")
    parser.add_argument("tile", help="64x64x64 or 16x64x64 (m x k x n)")
    parser.add_argument("path", type=Path, help="file to write")
    parser.add_argument("--columns", type=int, default=1, help="width of the partition (1)")
    arguments = parser.parse_args()
    tile = tuple(int(size) for size in arguments.tile.split("x"))
    if len(tile) != 3:
        parser.error(f"tile {arguments.tile}: three sizes, like 64x64x64")
    # Outside the wrapper the programs of the set-up are not on the path: go through it.
    if "WNE_LIBRARY" not in os.environ:
        os.execv(HERE / "run", [str(HERE / "run"), "python", __file__, *sys.argv[1:]])
    build_xclbin(arguments.path, arguments.kernel, tile, arguments.columns)


if __name__ == "__main__":
    main()
