"""One digest of what int8 computes of real speech, whatever computes it.

    python -m tools.bits tiny.en                                   # the kernels of this CPU
    python -m tools.bits base --backend numpy --threads 1
    python -m tools.bits base --batch 5 --fallback 3

Recordings, from their samples at 16 kHz on, are decoded greedily from the model's weights in int8.
The digest (SHA-256) is over the features, the encoder's states, and for each token all logits, the
token and its log-probability. It must not depend on the backend, on the instruction set
(WHISPER_NPU_CPU_ISA), on threads, on the size of batches or on which ops fall back to NumPy:
``--fallback`` takes the kernels away from about half of the ops, another half for each number.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tests.support.real import data
from tests.support.real.speech import Recording, packs, president
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.backends.cpu.backend import CpuBackend, usable_kernels
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.errors import KernelError
from whisper_npu.model.checkpoint import Checkpoint, load_checkpoint
from whisper_npu.model.graph import Graph
from whisper_npu.ops.arrays import F32, I16
from whisper_npu.runtime.backend import NUMPY, Backend, Offer, Refusal, Step
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.usage import Usage
from whisper_npu.runtime.workers import use_threads
from whisper_npu.text.tokenizer import Tokenizer

RECORDINGS = 50
# Tokens of a recording that are decoded at most.
LONGEST = 60


class Mixed(Backend):
    """A backend that refuses about half of the ops, chosen by a number and their names."""

    def __init__(self, backend: Backend, number: int) -> None:
        self._backend, self._number = backend, number
        self.name = backend.name

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        name = f"{self._number} {graph.name} {graph.ops[index].name}"
        if hashlib.sha256(name.encode()).digest()[0] % 2:
            return Refusal(self.name, "taken away")
        return self._backend.offer(graph, index)

    def join(self, steps: Sequence[Step]) -> list[Step]:
        return self._backend.join(steps)


def machine(backend: str, fallback: int | None = None) -> Machine:
    """A machine for int8. Raises KernelError where there are no kernels for this CPU."""
    if backend == "numpy":
        return Machine(numpy_backends(), usage=Usage(precision="int8"))
    usable = usable_kernels()
    if isinstance(usable, str):
        raise KernelError(usable)
    usage = Usage(precision="int8", instruction_set=usable.library.isa)
    cpu: Backend = CpuBackend(usable, usage)
    if fallback is not None:
        cpu = Mixed(cpu, fallback)
    return Machine((cpu, *numpy_backends()), usage=usage)


def digest(
    checkpoint: Checkpoint,
    on: Machine,
    recordings: Sequence[F32],
    prompt: list[int],
    batch: int = 1,
) -> str:
    """The digest of recordings, each at most a window of samples at 16 kHz, decoded ``batch`` at a
    time."""
    model = Model(checkpoint, "int8", on)
    total = hashlib.sha256()
    for start in range(0, len(recordings), batch):
        for each in _decoded(model, recordings[start : start + batch], prompt):
            total.update(each)
    return total.hexdigest()


def _decoded(model: Model, recordings: Sequence[F32], prompt: list[int]) -> Iterator[bytes]:
    """What is computed of each recording, as the digest of it."""
    windows: list[I16] = []
    for samples in recordings:
        with compute_log_mel([samples], model.dims.n_mels, model.log_mel, "int8") as log_mel:
            windows.append(log_mel.window(0).astype(np.int16, copy=False))
    found = [hashlib.sha256(window.tobytes()) for window in windows]
    states = model.encode(np.stack(windows))
    session = model.decoder(states)
    logits = session.prefill([prompt] * len(windows), [len(prompt) - 1])[:, 0].copy()
    for each, state in zip(found, states, strict=True):
        each.update(state.tobytes())
    for _ in range(LONGEST):
        tokens, logprobs = (x.copy() for x in session.likeliest(logits, 1))
        for each, *row in zip(found, logits, tokens, logprobs, strict=True):
            for array in row:
                each.update(array.tobytes())
        logits = session.step(tokens[:, 0])
    yield from (each.digest() for each in found)


def speech(model: str, count: int) -> list[Recording]:
    """Recordings of at most a window: a President, and telephone prompts."""
    languages = ("en",) if model.endswith(".en") else ("en", "es", "fr", "it", "ru")
    each = -(-(count - 1) // len(languages))
    prompts = [recording for language in languages for recording in packs(language)[:each]]
    return [president(), *prompts][:count]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", choices=data.MODELS)
    parser.add_argument("--folder", type=Path, help="a model folder in the place of the cache's")
    parser.add_argument("--recordings", type=int, default=RECORDINGS, help="(%(default)s)")
    parser.add_argument("--backend", choices=("cpu", "numpy"), default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--fallback", type=int, help="take the kernels away from half of the ops")
    args = parser.parse_args()
    if args.threads is not None:
        use_threads(args.threads)
    checkpoint = load_checkpoint(args.folder or data.converted(args.model, "int8"))
    tokenizer = Tokenizer.from_dir(checkpoint.path, checkpoint.dims.n_vocab, checkpoint.generation)
    prompt = list(tokenizer.for_task("en", "transcribe").sot_sequence)
    samples = [recording.samples() for recording in speech(args.model, args.recordings)]
    on = machine(args.backend, args.fallback)
    print(digest(checkpoint, on, samples, prompt, args.batch))
    ran = Counter[str]()
    for (_, kernel), count in on.usage.counts.ops.items():
        ran["NumPy" if kernel == NUMPY else "kernels"] += count
    shares = ", ".join(f"{count} ops on {what}" for what, count in ran.items())
    print(f"{args.model}: {len(samples)} recordings; {on.usage.instruction_set}; {shares}")


if __name__ == "__main__":
    main()
