"""``KernelManager``: the kernels that there are, what is known of them, and their verification."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from whisper_npu.backends.npu.device import Device, Kernel
from whisper_npu.backends.npu.families import family_of
from whisper_npu.backends.npu.kernel_evidence import NpuEvidence, NpuEvidenceStore
from whisper_npu.backends.npu.registry import FileStatus, KernelEntry, Registry, load_registry
from whisper_npu.backends.npu.verify_kernel import verify
from whisper_npu.errors import KernelError

UNVERIFIED = "unverified"
VERIFIED = "verified"
FAILED = "failed verification"


@dataclass(frozen=True)
class KernelStatus:
    """A kernel, its files, and what this machine's evidence says of it."""

    entry: KernelEntry
    files: dict[str, FileStatus]
    state: str
    evidence: NpuEvidence | None

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.entry.contract.name


class KernelManager:
    """Kernels of the built-in registry and of folders of the user's own, with ``inventory`` also
    those of the published inventory.

    ``device`` is what they are verified and loaded on; without one nothing is verified. Raises
    KernelError for a registry that is damaged.
    """

    def __init__(
        self,
        device: Device | None = None,
        folders: Sequence[str | os.PathLike[str]] = (),
        evidence: NpuEvidenceStore | None = None,
        inventory: bool = False,
    ) -> None:
        self.device = device
        self.registry: Registry = load_registry(*folders, inventory=inventory)
        self.evidence = evidence or NpuEvidenceStore()

    def list(self) -> list[KernelStatus]:
        """All kernels, in the order of the registry."""
        return [self.status(entry.contract.name) for entry in self.registry]

    def status(self, name: str) -> KernelStatus:
        """One kernel. Raises KernelError if there is none of that name."""
        entry = self.registry[name]
        found = None if self.device is None else self.evidence.find(self.device.identity, entry)
        state = UNVERIFIED if found is None else VERIFIED if found.passed else FAILED
        return KernelStatus(entry, entry.file_status(), state, found)

    def load(self, name: str) -> Kernel:
        """A kernel in a context of the device, verified or not. Raises KernelError."""
        return self._device().open(self.registry[name])

    def verify(self, *names: str) -> dict[str, NpuEvidence | KernelError]:
        """Verify kernels (all, if none is named) and record what was found.

        A kernel that cannot be tried has its error instead of evidence.
        """
        device = self._device()
        found: dict[str, NpuEvidence | KernelError] = {}
        for name in names or [entry.contract.name for entry in self.registry]:
            entry = self.registry[name]
            try:
                evidence = verify(device, entry, self._others(entry))
            except KernelError as error:
                found[name] = error
                continue
            self.evidence.record(evidence)
            found[name] = evidence
        return found

    def _others(self, entry: KernelEntry) -> Sequence[KernelEntry]:
        """Kernels to launch in between: those that could run beside this one."""
        return [
            other
            for other in self.registry
            if family_of(other).distracts and other.contract.name != entry.contract.name
        ]

    def _device(self) -> Device:
        if self.device is None:
            raise KernelError("no device: open one first (whisper-npu doctor says what is missing)")
        return self.device
