"""EMBEDDED_METADATA: the XML that names an xclbin's kernels and their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from xml.parsers import expat

from whisper_npu.backends.npu.binaries.xclbin.container import MAX_ENTRIES, named
from whisper_npu.errors import WhisperNpuError
from whisper_npu.files.span import Span

# Files with one kernel have 2 kB.
MAX_XML_SIZE = 4 << 20

_QUALIFIERS = {0: "scalar", 1: "global", 2: "constant", 3: "local", 4: "stream"}


@dataclass(frozen=True)
class DeclaredArgument:
    """An argument of a kernel: ``size`` bytes at ``offset`` of the command's registers.

    ``memory`` is the index into ``Xclbin.memories``; a scalar has none.
    """

    name: str
    index: int
    offset: int
    size: int
    qualifier: str
    type: str
    memory: int | None


@dataclass(frozen=True)
class DeclaredKernel:
    """A kernel, under the name by which ``pyxrt.kernel(context, name)`` finds it."""

    name: str
    type: str
    dpu_kernel_id: int | None
    instances: tuple[str, ...]
    arguments: tuple[DeclaredArgument, ...]


def parse_metadata(
    section: Span, memories: Mapping[tuple[str, int], int]
) -> tuple[DeclaredKernel, ...]:
    """The kernels of section EMBEDDED_METADATA; ``memories`` by (kernel, argument index).

    Raises XclbinError.
    """
    if section.size > MAX_XML_SIZE:
        raise section.fail(0, f"{section.size} bytes of XML, at most {MAX_XML_SIZE} are read")
    xml = section.raw(0, section.size, "the XML").rstrip(b"\0")
    return tuple(_KernelParser(section, memories).parse(xml))


class _KernelParser:
    """Takes what it knows from the stream of elements; no tree is built, no entity expanded."""

    def __init__(self, section: Span, memories: Mapping[tuple[str, int], int]) -> None:
        self._section = section
        self._memories = memories
        self._kernels: list[DeclaredKernel] = []
        self._n_entries = 0
        # Names of the elements that are open, from the root on.
        self._open: list[str] = []
        # Of the kernel that is open:
        self._kernel_id: int | None = None
        self._instances: list[str] = []
        self._arguments: list[DeclaredArgument] = []
        self._name = self._type = ""
        # Whatever the document says of its encoding: XRT writes UTF-8 only.
        self._expat = expat.ParserCreate("UTF-8")
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.StartDoctypeDeclHandler = self._doctype

    def parse(self, xml: bytes) -> list[DeclaredKernel]:
        try:
            self._expat.Parse(xml, True)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            raise self._fail(f"not well-formed XML: {reason}") from error
        return self._kernels

    def _fail(self, reason: str) -> WhisperNpuError:
        return self._section.fail(max(0, self._expat.CurrentByteIndex), reason)

    def _doctype(self, *_: object) -> None:
        # Entities, which can grow without bound, are declared in one.
        raise self._fail("XML with a document type declaration")

    def _start(self, tag: str, attributes: Mapping[str, str]) -> None:
        parent = self._open[-1] if self._open else ""
        if tag == "kernel":
            if tag in self._open:
                raise self._fail("a kernel within a kernel")
            self._name, self._type = attributes.get("name", ""), attributes.get("type", "")
            self._kernel_id, self._instances, self._arguments = None, [], []
        elif parent == "kernel":
            self._of_kernel(tag, attributes)
        self._open.append(tag)

    def _end(self, tag: str) -> None:
        self._open.pop()
        if tag == "kernel":
            self._count()
            self._kernels.append(
                DeclaredKernel(
                    self._name,
                    self._type,
                    self._kernel_id,
                    tuple(self._instances),
                    tuple(self._arguments),
                )
            )

    def _of_kernel(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "arg":
            self._count()
            index = self._integer(attributes, "id")
            self._arguments.append(
                DeclaredArgument(
                    name=attributes.get("name", ""),
                    index=index,
                    offset=self._integer(attributes, "offset"),
                    size=self._integer(attributes, "size"),
                    qualifier=named(_QUALIFIERS, self._integer(attributes, "addressQualifier")),
                    type=attributes.get("type", ""),
                    memory=self._memories.get((self._name, index)),
                )
            )
        elif tag == "instance":
            self._count()
            self._instances.append(attributes.get("name", ""))
        elif tag == "extended-data" and "dpu_kernel_id" in attributes:
            self._kernel_id = self._integer(attributes, "dpu_kernel_id")

    def _count(self) -> None:
        self._n_entries += 1
        if self._n_entries > MAX_ENTRIES:
            raise self._fail(f"more than {MAX_ENTRIES} kernels, arguments and instances")

    def _integer(self, attributes: Mapping[str, str], key: str) -> int:
        text = attributes.get(key, "")
        try:
            value = int(text, 0)
        except ValueError:
            value = -1
        if not 0 <= value < 1 << 64:
            raise self._fail(f"attribute {key} is {text[:40]!r}, not a number of 64 bits")
        return value
