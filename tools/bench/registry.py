"""The runtimes of the benchmark by name: where each is, what it loads, in what precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

NUMPY, KERNELS = "NumPy", "kernels"
BATCH = 8


@dataclass(frozen=True)
class Spec:
    """``module`` of this package has ``load(model, threads, **options)``; ``model`` is a name that
    ``models.py`` writes; ``full`` says that it computes in float32 on weights in float32."""

    name: str
    module: str
    model: str
    full: bool = False
    ours: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    batch_size: int = 1  # of a transcription of speech


def _ours(precision: str, kernels: bool, isa: str | None = None) -> Spec:
    how = (KERNELS if kernels else NUMPY) + (f" {isa}" if isa else "")
    return Spec(
        f"ours {precision}, {how}",
        "ours",
        f"ours-{precision}",
        full=precision == "float32",
        ours=True,
        options={"precision": precision, "cpu_kernels": kernels},
        environment={"WHISPER_NPU_CPU_ISA": isa} if isa else {},
    )


OURS = tuple(_ours(p, kernels) for kernels in (False, True) for p in ("float32", "int8"))
PEERS = (
    Spec("openai-whisper float32", "openai_whisper", "float32.pt", full=True),
    Spec(
        "transformers float32",
        "huggingface",
        "ours-float32",
        full=True,
        options={"dtype": "float32"},
    ),
    Spec("transformers bf16", "huggingface", "ours-float32", options={"dtype": "bfloat16"}),
    Spec(
        "faster-whisper float32",
        "faster_whisper",
        "ctranslate2-float32",
        full=True,
        options={"compute_type": "float32"},
    ),
    Spec(
        "faster-whisper int8",
        "faster_whisper",
        "ctranslate2-int8",
        options={"compute_type": "int8_float32"},
    ),
    Spec("whisper.cpp f16", "whisper_cpp", "ggml-f16.bin"),
    Spec("whisper.cpp q8_0", "whisper_cpp", "ggml-q8_0.bin"),
)


# As users have them: what a download gives, loaded as it is.
BY_DEFAULT = "ours, by default"
SEQUENTIAL, BATCHED = "faster-whisper int8", f"faster-whisper int8, {BATCH} at a time"
SPEECH = (
    Spec("openai-whisper float32", "openai_whisper", "real-openai.pt"),
    Spec(
        "faster-whisper float32",
        "faster_whisper",
        "real-ctranslate2",
        options={"compute_type": "float32"},
    ),
    *(
        Spec(
            name,
            "faster_whisper",
            "real-ctranslate2",
            options={"compute_type": "int8_float32"},
            batch_size=batch_size,
        )
        for name, batch_size in ((SEQUENTIAL, 1), (BATCHED, BATCH))
    ),
    Spec("whisper.cpp q8_0", "whisper_cpp", "real-ggml-q8_0.bin"),
    Spec(
        "ours float32, NumPy",
        "ours",
        "real-ours",
        ours=True,
        options={"precision": "float32", "cpu_kernels": False},
    ),
    Spec(BY_DEFAULT, "ours", "real-ours", ours=True),
    Spec(f"{BY_DEFAULT}, {BATCH} at a time", "ours", "real-ours", ours=True, batch_size=BATCH),
)


def capped(isas: Sequence[str]) -> Iterator[Spec]:
    """Ours on kernels that may use no more than these instruction sets."""
    for isa in isas:
        for precision in ("float32", "int8"):
            yield _ours(precision, True, isa)


def select(specs: Sequence[Spec], patterns: Sequence[str]) -> list[Spec]:
    """The runtimes that match any of the patterns (``ours*``). Raises ValueError for a pattern
    that matches none."""
    for pattern in patterns:
        if not any(fnmatch(spec.name, pattern) for spec in specs):
            names = "; ".join(spec.name for spec in specs)
            raise ValueError(f"{pattern!r} matches no runtime; there are: {names}")
    return [spec for spec in specs if any(fnmatch(spec.name, pattern) for pattern in patterns)]
