"""AIE_PARTITION: which columns of the array a design takes, and the PDIs that configure them."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from uuid import UUID

from whisper_npu.backends.npu.binaries.xclbin.container import MAX_ENTRIES, named
from whisper_npu.files.span import Span


@dataclass(frozen=True)
class CdoGroup:
    """Configuration that is applied together, for the kernels with these ids."""

    name: str
    type: str
    pdi_id: int
    dpu_kernel_ids: tuple[int, ...]
    pre_cdo_groups: tuple[int, ...]


@dataclass(frozen=True)
class Pdi:
    """An image that configures the array: ``size`` bytes at ``offset`` of the file."""

    uuid: UUID
    offset: int
    size: int
    sha256: str
    cdo_groups: tuple[CdoGroup, ...]


@dataclass(frozen=True)
class Partition:
    """``column_width`` columns, from one of ``start_columns`` on."""

    name: str
    schema_version: int
    operations_per_cycle: int
    inference_fingerprint: int
    pre_post_fingerprint: int
    column_width: int
    start_columns: tuple[int, ...]
    kernel_commit_id: str
    pdis: tuple[Pdi, ...]


_CDO_TYPES = {0: "UNKNOWN", 1: "PRIMARY", 2: "LITE", 3: "PREPOST"}

_MAX_STRING = 4096

# Arrays and strings are named by offsets from the start of the section; an array by (size, offset).
_PARTITION = struct.Struct("<B3xII4xQQH6xII72xIII52x")
_PDI = struct.Struct("<16xIIII64x")
_CDO_GROUP = struct.Struct("<IB3xQIIII64x")
_U16, _U32, _U64, _BYTE = (struct.Struct(f"<{code}") for code in "HIQB")


def parse_partition(section: Span) -> Partition:
    """Section AIE_PARTITION. Raises XclbinError."""
    return _PartitionParser(section).partition()


class _PartitionParser:
    """Reads the arrays of a section.

    They do not overlap, so together they fit into it. Holding files to that keeps small ones from
    describing much: every PDI naming all groups, every group all ids.
    """

    def __init__(self, section: Span) -> None:
        self._section = section
        self._left = section.size

    def partition(self) -> Partition:
        (
            schema,
            name,
            operations,
            inference,
            pre_post,
            width,
            n_starts,
            starts,
            n_pdis,
            pdis,
            commit,
        ) = self._section.unpack(_PARTITION, 0, "the partition")
        self._left -= _PARTITION.size
        return Partition(
            name=self._string(name, "the partition's name"),
            schema_version=schema,
            operations_per_cycle=operations,
            inference_fingerprint=inference,
            pre_post_fingerprint=pre_post,
            column_width=width,
            start_columns=self._integers(_U16, n_starts, starts, "start columns"),
            kernel_commit_id=self._string(commit, "the commit id"),
            pdis=tuple(self._pdi(at) for at in self._array(_PDI, n_pdis, pdis, "PDIs")),
        )

    def _pdi(self, at: int) -> Pdi:
        size, image, n_groups, groups = self._section.unpack(_PDI, at, "a PDI")
        uuid = UUID(bytes=self._section.raw(at, 16, "a PDI's uuid"))
        self._claim(_BYTE, size, image, "PDI image")
        data = self._section.raw(image, size, "a PDI image")
        return Pdi(
            uuid,
            self._section.start + image,
            size,
            hashlib.sha256(data).hexdigest(),
            tuple(
                self._cdo_group(at)
                for at in self._array(_CDO_GROUP, n_groups, groups, "CDO groups")
            ),
        )

    def _cdo_group(self, at: int) -> CdoGroup:
        name, kind, pdi_id, n_ids, ids, n_before, before = self._section.unpack(
            _CDO_GROUP, at, "a CDO group"
        )
        return CdoGroup(
            self._string(name, "a CDO group's name"),
            named(_CDO_TYPES, kind),
            pdi_id,
            self._integers(_U64, n_ids, ids, "kernel ids"),
            self._integers(_U32, n_before, before, "CDO groups"),
        )

    def _integers(self, form: struct.Struct, count: int, at: int, what: str) -> tuple[int, ...]:
        offsets = self._array(form, count, at, what)
        return tuple(self._section.unpack(form, offset, what)[0] for offset in offsets)

    def _array(self, form: struct.Struct, count: int, at: int, what: str) -> range:
        """Offsets of the elements."""
        if count > MAX_ENTRIES:
            raise self._section.fail(at, f"{count} {what}, at most {MAX_ENTRIES} are read")
        self._claim(form, count, at, what)
        return range(at, at + count * form.size, form.size)

    def _claim(self, form: struct.Struct, count: int, at: int, what: str) -> None:
        size = count * form.size
        self._section.part(at, size, f"an array of {count} {what}")
        self._left -= size
        if self._left < 0:
            raise self._section.fail(at, f"this array of {what} overlaps others of the section")

    def _string(self, at: int, what: str) -> str:
        # Offset 0 is the partition itself: no string.
        if at == 0:
            return ""
        room = self._section.size - at
        text = self._section.raw(at, min(room, _MAX_STRING), what)
        if b"\0" not in text:
            raise self._section.fail(at, f"{what} has no end")
        return text.split(b"\0", 1)[0].decode("utf-8", "replace")
