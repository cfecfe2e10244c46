"""Layer by layer: every tensor of our graphs against the reference's, in the order of execution.

A reference is a sequence of phases, each the tensors it computes by name. It may hold whole
tensors, or a seeded sample of each with its size (what is kept in tests/data).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from whisper_npu.audio.features import compute_log_mel
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.runtime.model import Model

N_PROMPT = 12
N_STEPS = 20
N_SAMPLES = 128  # values kept of each tensor


@dataclass(frozen=True)
class Inputs:
    """What both sides are given: the same for a shape wherever it is made."""

    samples: np.ndarray  # float32 [n], for the mel spectrogram
    features: np.ndarray  # float32 [1, n_mels, 2 n_audio_ctx], for the encoder
    prompt: np.ndarray  # int64 [N_PROMPT]
    steps: np.ndarray  # int64 [N_STEPS]


def seeded_inputs(dims: ModelDimensions, samples: np.ndarray) -> Inputs:
    """Inputs for a model: features as busy as speech, and tokens from all of the vocabulary."""
    generator = np.random.RandomState([dims.n_mels, dims.n_vocab])
    n_frames = dims.n_frames
    features = np.full((dims.n_mels, n_frames), -0.5)
    for size in (3, 10, 40, 150):  # frames that a patch lasts
        patches = generator.random_sample((dims.n_mels, -(-n_frames // size))) - 0.5
        features += np.repeat(patches, size, axis=1)[:, :n_frames]
    tokens = generator.randint(0, dims.n_vocab, N_PROMPT + N_STEPS)
    return Inputs(samples, features[None].astype(np.float32), tokens[:N_PROMPT], tokens[N_PROMPT:])


class Value(Protocol):
    """A tensor of the reference, or what is known of it."""

    def error(self, ours: np.ndarray) -> float:
        """Largest difference from ``ours``, relative to the tensor's largest value."""
        ...


@dataclass(frozen=True)
class Whole:
    """A tensor."""

    array: np.ndarray

    def error(self, ours: np.ndarray) -> float:
        if ours.shape != self.array.shape:
            raise ValueError(f"shape {ours.shape}, not {self.array.shape}")
        return float(np.abs(ours - self.array).max() / np.abs(self.array).max())


@dataclass(frozen=True)
class Sampled:
    """A tensor's shape, its largest absolute value, its norm and some of its values."""

    name: str
    shape: tuple[int, ...]
    peak: float
    norm: float
    values: np.ndarray  # float32 [N_SAMPLES]

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> Sampled:
        values = array.reshape(-1)[_sampled_indices(name, array.size)]
        return cls(name, array.shape, *_size(array), values)

    def error(self, ours: np.ndarray) -> float:
        if ours.shape != self.shape:
            raise ValueError(f"shape {ours.shape}, not {self.shape}")
        peak, norm = _size(ours)
        values = ours.reshape(-1)[_sampled_indices(self.name, ours.size)]
        return max(
            float(np.abs(values - self.values).max()) / self.peak,
            abs(peak - self.peak) / self.peak,
            abs(norm - self.norm) / self.norm,
        )


def _size(array: np.ndarray) -> tuple[float, float]:
    return float(np.abs(array).max()), float(np.sqrt(np.square(array, dtype=np.float64).sum()))


def _sampled_indices(name: str, size: int) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(name.encode())).randint(0, size, N_SAMPLES)


Reference = Mapping[tuple[str, str], Value]  # (phase, tensor) -> value, in order of execution


@dataclass(frozen=True)
class Difference:
    """How far one of our tensors is from the reference's."""

    phase: str
    name: str
    error: float


def differences(model: Model, inputs: Inputs, reference: Reference) -> list[Difference]:
    """Run our side and compare every tensor of the reference, in order of execution.

    Raises KeyError for a tensor of the reference that our graphs do not compute.
    """
    found: dict[tuple[str, str], Difference] = {}
    for phase, name, array in our_tensors(model, inputs):
        value = reference.get((phase, name))
        if value is not None:
            found[phase, name] = Difference(phase, name, _error(value, phase, name, array))
    return [found[key] for key in reference]


def _error(value: Value, phase: str, name: str, array: np.ndarray) -> float:
    try:
        error = value.error(array)
    except ValueError as problem:
        raise ValueError(f"{phase}: {name}: {problem}") from problem
    # A NaN compares as neither more nor less than any tolerance.
    return error if np.isfinite(error) else float("inf")


def our_tensors(model: Model, inputs: Inputs) -> Iterator[tuple[str, str, np.ndarray]]:
    """Every tensor of our side as (phase, name, array)."""
    seen: list[tuple[str, np.ndarray]] = []

    def observe(name: str, array: np.ndarray) -> None:
        seen.append((name, array.copy()))

    def flush(phase: str) -> Iterator[tuple[str, str, np.ndarray]]:
        yield from ((phase, name, array) for name, array in seen)
        seen.clear()

    mel = compute_log_mel([inputs.samples], model.dims.n_mels, model.log_mel)
    with mel:
        yield "mel", "mel", mel.window(0)[:, : mel.n_frames]
    states = model.encode(inputs.features, observe=observe)
    yield from flush("encoder")
    session = model.decoder(states, observe=observe)
    yield from flush("cross")
    session.prefill(inputs.prompt[None], range(len(inputs.prompt)), observe=observe)
    yield from flush("prefill")
    for i, token in enumerate(inputs.steps):
        session.step(np.array([token]), observe=observe)
        yield from flush(f"step {i + 1}")


def first_beyond(found: list[Difference], tolerances: Mapping[str, float]) -> str | None:
    """What to say about the first tensor beyond its tolerance; None if there is none.

    ``tolerances`` are by kind of tensor: see ``kind``.
    """
    for i, difference in enumerate(found):
        allowed = tolerances[kind(difference.name)]
        if difference.error > allowed:
            return (
                f"{difference.phase}: {difference.name} is the first tensor that differs: by "
                f"{difference.error:.2e} of its largest value, where {allowed:.0e} is allowed; "
                f"the {i} tensors before it agree"
            )
    return None


def kind(name: str) -> str:
    """The kind of a tensor: its name without the number of its layer."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def save(path: Path, reference: Mapping[tuple[str, str], np.ndarray]) -> None:
    """Keep a sample of each tensor."""
    samples = [Sampled.of(name, array) for (_, name), array in reference.items()]
    np.savez_compressed(
        path,
        phases=np.array([phase for phase, _ in reference]),
        names=np.array([sample.name for sample in samples]),
        shapes=np.array([" ".join(map(str, sample.shape)) for sample in samples]),
        sizes=np.array([(sample.peak, sample.norm) for sample in samples]),
        values=np.stack([sample.values for sample in samples]),
    )


def load(path: Path) -> Reference:
    """What ``save`` kept."""
    with np.load(path, allow_pickle=False) as file:
        rows = zip(
            *(file[key] for key in ("phases", "names", "shapes", "sizes", "values")), strict=True
        )
        return {
            (str(phase), str(name)): Sampled(
                str(name), tuple(map(int, shape.split())), float(size[0]), float(size[1]), values
            )
            for phase, name, shape, size, values in rows
        }
