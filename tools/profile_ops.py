"""Where the time of a model goes: per kind of op, for an encoder window and for a decoder step.

    python tools/profile_ops.py MODEL [--precision int8] [--group 5] [--openai tiny.pt]

Products are listed by the shape of their weights. With ``--openai`` (the same weights in
openai-whisper's format) the encoder and a step of openai-whisper are timed as well, in a process
of its own that takes turns with ours.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np

from whisper_npu.model.builders import build_encoder, build_step
from whisper_npu.model.graph import Graph, Op
from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.plan import Observer
from whisper_npu.transcriber import Transcriber

PROMPT = (50258, 50259, 50359)
STEPS = 40
# Answers a line "encoder" or "step" with seconds.
OPENAI = """
import sys, time, torch, whisper
from whisper.decoding import PyTorchInference
torch.set_grad_enabled(False)
model = whisper.load_model(sys.argv[1], device="cpu")
group, steps = int(sys.argv[2]), int(sys.argv[3])
mel = torch.randn(1, model.dims.n_mels, 2 * model.dims.n_audio_ctx)
states = model.encoder(mel)
for line in sys.stdin:
    began = time.perf_counter()
    count = 1
    if line.strip() == "encoder":
        model.encoder(mel)
    else:
        inference, tokens = PyTorchInference(model, 3), torch.ones(group, 3, dtype=torch.long)
        audio = states.repeat_interleave(group, 0)
        inference.logits(tokens, audio)
        began, count = time.perf_counter(), steps
        for _ in range(steps):
            tokens = torch.cat([tokens, tokens[:, -1:]], -1)
            inference.logits(tokens, audio)
    elapsed = (time.perf_counter() - began) / count
    if line.strip() == "step":
        inference.cleanup_caching()
    print(elapsed, flush=True)
"""


class OpTimes:
    """Seconds by kind of op; an observer of plans of one graph."""

    def __init__(self, graph: Graph) -> None:
        self._labels = {op.name: self._label(op, graph) for op in graph.ops}
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._last = 0.0

    @staticmethod
    def _label(op: Op, graph: Graph) -> str:
        matrices = [
            tensor.shape
            for tensor in map(graph.__getitem__, op.inputs)
            if tensor.role == "weight" and len(tensor.shape) > 1
        ]
        products = op.kind.startswith(("linear", "conv"))
        return f"{op.kind} {list(matrices[0])}" if products else op.kind

    def begin(self) -> None:
        self._last = perf_counter()

    def __call__(self, name: str, output: object) -> None:
        now = perf_counter()
        self.seconds[self._labels[name]] += now - self._last
        self.calls[self._labels[name]] += 1
        self._last = perf_counter()

    def table(self, title: str, runs: int) -> str:
        total = sum(self.seconds.values())
        rows = [f"{title}: {1e3 * total / runs:.2f} ms in ops"]
        for label, seconds in self.seconds.most_common():
            rows.append(
                f"  {label:<32} {self.calls[label] // runs:4} x"
                f" {1e3 * seconds / self.calls[label]:9.4f} ms ="
                f" {1e3 * seconds / runs:9.3f} ms {seconds / total:6.1%}"
            )
        return "\n".join(rows)


class Ours:
    """The encoder and the step of our runtime, whole or op by op."""

    def __init__(self, folder: Path, precision: str, group: int) -> None:
        # The tool is about the insides: there is no public door to the phases.
        self.model = Transcriber(folder, precision=precision)._model
        dims, self.group = self.model.dims, group
        rng = np.random.default_rng(0)
        self.features = 0.4 * rng.standard_normal((1, dims.n_mels, dims.n_frames), np.float32)
        self.states: F32 = self.model.encode(self.features)

    def encoder(self, observe: Observer | None = None) -> float:
        began = perf_counter()
        self.model.encode(self.features, observe)
        return perf_counter() - began

    def step(self, times: OpTimes | None = None) -> float:
        session = self.model.decoder(self.states, self.group)
        session.prefill([PROMPT], [len(PROMPT) - 1])
        began = perf_counter()
        for _ in range(STEPS):
            if times is not None:
                times.begin()
            session.step([100] * self.group, times)
        return (perf_counter() - began) / STEPS

    def profile(self, runs: int) -> str:
        encoder = OpTimes(build_encoder(self.model.dims, precision=self.model.precision))
        step = OpTimes(build_step(self.model.dims, 1, self.group, self.model.precision))
        for _ in range(runs):
            encoder.begin()
            self.encoder(encoder)
            self.step(step)
        return encoder.table("encoder", runs) + "\n" + step.table("step", runs * STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    parser.add_argument("--group", type=int, default=1, help="sequences decoded together")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--openai", type=Path, help="the same weights as a .pt")
    args = parser.parse_args()
    ours = Ours(args.model, args.precision, args.group)
    print(ours.profile(args.runs))
    sides: dict[str, Callable[[str], float]] = {
        "ours": lambda phase: ours.encoder() if phase == "encoder" else ours.step()
    }
    if args.openai is not None:
        command = [sys.executable, "-c", OPENAI, str(args.openai), str(args.group), str(STEPS)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def theirs(phase: str) -> float:
            print(phase, file=requests, flush=True)
            return float(answers.readline())

        sides["openai-whisper"] = theirs
    for phase in ("encoder", "step"):
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(args.runs + 1):
            for name, run in sides.items():
                times[name].append(1e3 * run(phase))
        for name, taken in times.items():
            print(f"{phase} {name}: median {statistics.median(taken[1:]):.2f} ms")


if __name__ == "__main__":
    main()
