from __future__ import annotations

import hashlib
import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.npu import xclbin_builder as builder
from whisper_npu.backends.npu.binaries.xclbin import XclbinError, parse_xclbin, read_xclbin

DATA = Path(__file__).parents[2] / "data" / "npu"
NAMES = ("one_column", "four_columns", "two_pdis")
DUMPS: dict[str, Any] = json.loads((DATA / "xclbinutil.json").read_text())
PARTITION = builder.partition(b"image" * 100)
# The array of PDIs in the partition: their number, then its offset.
PDIS = 120
PDI_AT = struct.unpack_from("<I", PARTITION, PDIS + 4)[0]
FILES = {name: (DATA / f"{name}.xclbin").read_bytes() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_reads_what_xclbinutil_reads(name: str) -> None:
    file, dump = read_xclbin(DATA / f"{name}.xclbin"), DUMPS[name]
    assert str(file.uuid) == dump["uuid"]
    assert file.version == dump["version"]
    for memories, section in (
        (file.memories, "mem_topology"),
        (file.group_memories, "group_topology"),
    ):
        assert [
            {
                "m_type": f"MEM_{memory.type}",
                "m_used": str(int(memory.used)),
                "m_sizeKB": hex(memory.size // 1024),
                "m_tag": memory.tag,
                "m_base_address": hex(memory.base_address),
            }
            for memory in memories
        ] == dump[section]["m_mem_data"]
    for connections, section in (
        (file.connections, "connectivity"),
        (file.group_connections, "group_connectivity"),
    ):
        assert [
            {
                "arg_index": str(connection.argument),
                "m_ip_layout_index": str(connection.ip),
                "mem_data_index": str(connection.memory),
            }
            for connection in connections
        ] == dump[section]["m_connection"]
    assert [(f"IP_{ip.type}", ip.subtype, hex(ip.kernel_id or 0), ip.name) for ip in file.ips] == [
        (ip["m_type"], ip["m_subtype"], ip["m_kernel_id"], ip["m_name"])
        for ip in dump["ip_layout"]["m_ip_data"]
    ]


@pytest.mark.parametrize("name", NAMES)
def test_reads_the_partition_that_xclbinutil_reads(name: str) -> None:
    partition, dump = read_xclbin(DATA / f"{name}.xclbin").partition, DUMPS[name]["aie_partition"]
    assert partition is not None
    assert {
        "name": partition.name,
        "operations_per_cycle": str(partition.operations_per_cycle),
        "inference_fingerprint": str(partition.inference_fingerprint),
        "pre_post_fingerprint": str(partition.pre_post_fingerprint),
        "kernel_commit_id": partition.kernel_commit_id,
        "partition": {
            "column_width": str(partition.column_width),
            "start_columns": [str(column) for column in partition.start_columns],
        },
        "PDIs": [
            {
                "uuid": str(pdi.uuid),
                "cdo_groups": [
                    {
                        "name": group.name,
                        "type": group.type,
                        "pdi_id": hex(group.pdi_id),
                        "dpu_kernel_ids": [hex(number) for number in group.dpu_kernel_ids],
                        "pre_cdo_groups": [hex(number) for number in group.pre_cdo_groups],
                    }
                    for group in pdi.cdo_groups
                ],
                "sha256": pdi.sha256,
            }
            for pdi in partition.pdis
        ],
    } == dump
    for pdi in partition.pdis:
        image = FILES[name][pdi.offset : pdi.offset + pdi.size]
        assert hashlib.sha256(image).hexdigest() == pdi.sha256


def test_kernels_and_their_arguments() -> None:
    file = read_xclbin(DATA / "two_pdis.xclbin")
    assert [(k.name, k.type, k.dpu_kernel_id, k.instances) for k in file.kernels] == [
        ("GEMM", "dpu", 0x901, ("first",)),
        ("GELU", "dpu", 0x902, ("second",)),
    ]
    # Argument 1 is the instructions; those from 3 on are the buffers.
    assert [
        (a.name, a.index, a.offset, a.size, a.qualifier, a.type, a.memory)
        for a in file.kernels[1].arguments
    ] == [
        ("opcode", 0, 0, 8, "scalar", "uint64_t", None),
        ("instr", 1, 8, 8, "global", "char *", 1),
        ("ninstr", 2, 16, 4, "scalar", "uint32_t", None),
        ("bo0", 3, 0x14, 8, "global", "void*", 0),
        ("bo1", 4, 0x1C, 8, "global", "void*", 0),
    ]
    assert [memory.tag for memory in file.memories] == ["HOST", "SRAM"]
    assert file.timestamp == 1795420076
    assert not file.signed
    assert file.sha256 == hashlib.sha256(FILES["two_pdis"]).hexdigest()


WHOLE = (
    (builder.MEM_TOPOLOGY, builder.memories("HOST", "SRAM")),
    (builder.IP_LAYOUT, builder.ips("K:one")),
    (builder.CONNECTIVITY, builder.connections((3, 0, 1))),
    (builder.AIE_PARTITION, builder.partition(b"image")),
    (builder.EMBEDDED_METADATA, builder.KERNEL_XML.encode()),
)


def test_reads_what_the_tests_write() -> None:
    file = parse_xclbin(builder.xclbin(*WHOLE), "x")
    assert file.partition is not None
    assert file.partition.name == "QoS"
    assert file.partition.pdis[0].sha256 == hashlib.sha256(b"image").hexdigest()
    assert file.partition.pdis[0].uuid == UUID(bytes=bytes(range(16)))
    assert file.kernels[0].arguments[0].memory == 1
    assert file.kernels[0].dpu_kernel_id == 0x901


def test_a_string_that_is_not_there() -> None:
    # Schema version 1 in byte 0, which the commit id's offset 0 does not mean.
    changed = b"\1" + PARTITION[1:]
    file = parse_xclbin(builder.xclbin((builder.AIE_PARTITION, changed)), "x")
    assert file.partition is not None
    assert (file.partition.schema_version, file.partition.kernel_commit_id) == (1, "")


def test_xml_with_zero_bytes_behind_it() -> None:
    xml = builder.KERNEL_XML.encode() + b"\0\0"
    file = parse_xclbin(builder.xclbin((builder.EMBEDDED_METADATA, xml)), "x")
    assert [kernel.name for kernel in file.kernels] == ["K"]


def test_a_file_without_sections() -> None:
    file = parse_xclbin(builder.xclbin(), "x")
    assert (file.sections, file.kernels, file.partition) == ((), (), None)


def fails(data: bytes, offset: int, reason: str) -> None:
    with pytest.raises(XclbinError) as caught:
        parse_xclbin(data, "bad.xclbin")
    message = str(caught.value)
    assert message.startswith(f"bad.xclbin: byte {offset} (0x{offset:x}): ")
    assert reason in message
    assert "\n" not in message
    assert caught.value.exit_code == 5


def put(data: bytes, form: str, at: int, *values: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, at, *values)
    return bytes(changed)


def test_not_an_xclbin() -> None:
    fails(b"", 0, "this does not")
    fails(b"\x7fELF" + bytes(600), 0, "this does not")


def test_a_header_cut_off() -> None:
    fails(builder.xclbin()[:300], 304, "the header of 32 bytes does not fit")


def test_a_file_of_another_length_than_it_says() -> None:
    data = builder.xclbin(*WHOLE)
    fails(data[:-1], 304, f"written with {len(data)} bytes and has {len(data) - 1}")
    fails(data + b"\0", 304, f"has {len(data) + 1}")


def test_a_signature_counts_in_the_length() -> None:
    signed = put(builder.xclbin(), "<i", 8, 7) + b"1234567"
    assert parse_xclbin(signed, "x").signed


def test_too_many_sections() -> None:
    fails(put(builder.xclbin(), "<I", 448, 1 << 30), 448, "1073741824 sections")
    fails(put(builder.xclbin(), "<I", 448, 3), 456, "the table of sections of 120 bytes")


def test_a_section_outside_of_the_file() -> None:
    data = builder.xclbin(WHOLE[0])
    fails(put(data, "<Q", 456 + 24, len(data) + 1), 456, "is outside")
    fails(put(data, "<Q", 456 + 24, 8), 456, "is outside")
    fails(put(data, "<Q", 456 + 32, 1 << 63), 456, "is outside")


def table(kind: int, data: bytes, offset: int, reason: str) -> None:
    """``offset`` is within the section."""
    fails(builder.xclbin((kind, data)), 496 + offset, reason)


def test_counts_beyond_their_section() -> None:
    memories = put(builder.memories("HOST"), "<i", 0, 2)
    table(builder.MEM_TOPOLOGY, memories, 8, "a table of 2 memories of 80 bytes does not fit")
    table(builder.IP_LAYOUT, put(builder.ips("K:one"), "<i", 0, -1), 0, "-1 IPs")
    big = put(builder.connections(), "<i", 0, 1 << 28)
    table(builder.CONNECTIVITY, big, 0, "268435456 connections")
    table(builder.CONNECTIVITY, b"\1", 0, "the number of connections of 4 bytes does not fit")
    table(builder.CONNECTIVITY, builder.connections((3, -1, 0)), 4, "negative index")


def test_arrays_outside_of_the_partition() -> None:
    outside = put(PARTITION, "<II", PDIS, 1, len(PARTITION) - 95)
    table(builder.AIE_PARTITION, outside, len(PARTITION) - 95, "an array of 1 PDIs of 96 bytes")
    many = builder.partition(b"image", starts=range(16_385))
    table(builder.AIE_PARTITION, many, 192, "16385 start columns, at most 16384")
    image = put(PARTITION, "<II", PDI_AT + 16, 1 << 31, 4)
    table(builder.AIE_PARTITION, image, 4, "an array of 2147483648 PDI image")
    name = put(PARTITION, "<I", 4, 1 << 31)
    table(builder.AIE_PARTITION, name, 1 << 31, "the partition's name")
    endless = put(PARTITION[:-1] + b"x", "<I", 4, len(PARTITION) - 1)
    table(builder.AIE_PARTITION, endless, len(PARTITION) - 1, "has no end")


def test_arrays_that_overlap() -> None:
    # Ten PDIs in the place of one, each naming the same large image.
    many = PARTITION + PARTITION[PDI_AT : PDI_AT + 96] * 10
    many = put(many, "<II", PDIS, 10, len(PARTITION))
    image_at = struct.unpack_from("<I", PARTITION, PDI_AT + 20)[0]
    table(builder.AIE_PARTITION, many, image_at, "overlaps others")


def xml(text: str, reason: str) -> None:
    with pytest.raises(XclbinError, match=reason):
        parse_xclbin(builder.xclbin((builder.EMBEDDED_METADATA, text.encode())), "x")


def test_xml_with_entities() -> None:
    xml('<!DOCTYPE a [<!ENTITY b "cc">]><a>&b;</a>', "document type declaration")
    xml('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type declaration")


def test_bad_xml() -> None:
    xml("<a>", "not well-formed")
    xml("", "not well-formed")
    xml("<kernel><kernel/></kernel>", "a kernel within a kernel")
    xml('<kernel><arg id="x"/></kernel>', "attribute id is 'x'")
    xml('<kernel><arg id="-1"/></kernel>', "attribute id is '-1'")
    xml('<kernel><arg id="1"/></kernel>', "attribute offset is ''")
    xml("<kernel>" + "<instance/>" * 20_000 + "</kernel>", "more than 16384")
    xml("<a>" + " " * (4 << 20) + "</a>", "4194311 bytes of XML")


def test_other_encodings_of_xml_are_not_followed() -> None:
    head = '<?xml version="1.0" encoding="utf-7"?>'
    data = builder.xclbin((builder.EMBEDDED_METADATA, (head + builder.KERNEL_XML).encode()))
    assert parse_xclbin(data, "x").kernels[0].name == "K"


def test_deep_xml() -> None:
    deep = "<a>" * 100_000 + "</a>" * 100_000
    assert not parse_xclbin(builder.xclbin((builder.EMBEDDED_METADATA, deep.encode())), "x").kernels


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(XclbinError, match=r"nowhere: no such file"):
        read_xclbin(tmp_path / "nowhere")
    with pytest.raises(XclbinError, match="cannot be read"):
        read_xclbin(tmp_path)


@settings(deadline=None)
@given(
    st.sampled_from([*FILES.values(), builder.xclbin(*WHOLE)]),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=4),
    st.floats(0, 1),
)
def test_whatever_happens_to_a_file_only_the_error_comes_out(
    data: bytes, patches: list[tuple[float, bytes]], end: float
) -> None:
    changed = bytearray(data)
    for where, patch in patches:
        at = int(where * len(changed))
        changed[at : at + len(patch)] = patch
    if end < 0.5:
        del changed[int(2 * end * len(changed)) :]
    if len(changed) >= 312:
        struct.pack_into("<Q", changed, 304, len(changed))
    with suppress(XclbinError):
        parse_xclbin(bytes(changed), "x")
