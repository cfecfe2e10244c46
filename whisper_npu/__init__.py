"""Whisper speech recognition on NumPy and AMD's XRT, as one static op graph."""

from __future__ import annotations

from whisper_npu.version import __version__

# What this names is for type checkers: the module ``typing`` takes longer than all that is here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from whisper_npu.audio import load_audio
    from whisper_npu.backends.machine_options import MachineOptions
    from whisper_npu.backends.npu.manager import KernelManager
    from whisper_npu.decoding.options import TranscribeOptions
    from whisper_npu.results import Placement, Segment, Transcription, Word
    from whisper_npu.transcriber import Transcriber

__all__ = [
    "KernelManager",
    "MachineOptions",
    "Placement",
    "Segment",
    "TranscribeOptions",
    "Transcriber",
    "Transcription",
    "Word",
    "__version__",
    "load_audio",
]

_HOMES = {
    "KernelManager": "backends.npu.manager",
    "MachineOptions": "backends.machine_options",
    "Placement": "results",
    "Segment": "results",
    "TranscribeOptions": "decoding.options",
    "Transcriber": "transcriber",
    "Transcription": "results",
    "Word": "results",
    "load_audio": "audio",
}


# Imported on first use: the command line answers --help at once, and sets the number of threads
# before NumPy is loaded, which reads it only then.
def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
