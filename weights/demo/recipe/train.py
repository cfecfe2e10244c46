"""Train the demo model: decoder cross-entropy and CTC, for a number of steps or of minutes.

Each core runs a process of its own on its own share of the batch, with the weights, the gradients
and the momenta in shared memory: small tensors keep one thread busy far better than they do two.

The learning rate follows the progress (the share of the steps, or of the time, that is spent) and
ends at zero. A run that was stopped goes on from its last checkpoint with `resume`.

`decoder_only` is the second stage, of the length given: the encoder is ready long before the
decoder finds its place in half a minute of dense speech after 223 tokens of earlier text. A step of
the decoder alone costs a third, and reads each window several times.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import multiprocessing as mp

from weights.demo.recipe import mel as melspec
from weights.demo.recipe import synth, vocab, wer
from weights.demo.recipe.model import Whisper
from weights.demo.recipe.optim import Muon, split_parameters
from weights.demo.recipe.windows import FULL, N_CTC, Batch, Composer
from whisper_npu.ops.mel import HOP_LENGTH, SAMPLE_RATE


@dataclass
class Options:
    """What a run may vary."""

    work_dir: Path
    minutes: float | None = None
    steps: int | None = None
    seed: int = 1
    resume: bool = False
    muon_rate: float = 0.008
    adam_rate: float = 1e-3
    warmup: int = 150
    hold: float = 0.5
    easy_until: float = 0.2
    hard_from: float = 0.45
    decoder_only: bool = False
    readings: int = 3
    ctc_weight: float = 1.5
    smoothing: float = 0.05
    processes: int = 2
    eval_minutes: float = 8.0
    save_minutes: float = 4.0


def keep_freed_memory() -> None:
    """Stop glibc from giving every large tensor back to the kernel.

    Each step frees and allocates gigabytes; with the default settings half of the CPU time goes
    into mapping and clearing those pages again.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, top_pad, mmap_max = -1, -2, -4
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 2**28)


def rate_factor(progress: float, step: int, warmup: int, hold: float) -> float:
    """Linear warm-up by steps, constant up to `hold`, then straight down to zero."""
    falling = min(1.0, (1.0 - progress) / (1.0 - hold))
    return max(0.0, min((step + 1) / warmup, falling))


def losses(model: Whisper, batch: Batch, options: Options) -> tuple[Tensor, Tensor]:
    """Decoder cross-entropy per token and CTC per symbol."""
    with torch.autocast("cpu", torch.bfloat16):
        logits, ctc_logits = model(batch.mel, batch.tokens, batch.start)
    wanted = batch.labels >= 0
    entropy = F.cross_entropy(
        logits[wanted].float(), batch.labels[wanted], label_smoothing=options.smoothing
    )
    log_probs = ctc_logits.float().log_softmax(-1).transpose(0, 1)
    frames = torch.full((log_probs.shape[1],), log_probs.shape[0])
    ctc = F.ctc_loss(
        log_probs, batch.ctc, frames, batch.ctc_lengths, reduction="none", zero_infinity=True
    )
    symbols = (batch.ctc_lengths * batch.ctc_used).sum().clamp(min=1)
    return entropy, (ctc * batch.ctc_used).sum() / symbols


def full_windows(clips: list[np.ndarray], zeros: bool) -> Tensor:
    """Whole 30-second windows, padded with silence, or with zeros after the normalisation."""
    audio = np.zeros((len(clips), int(FULL * SAMPLE_RATE)), dtype=np.float32)
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip)] = clip[: len(row)].astype(np.float32) / 32768
    features = melspec.normalise(melspec.log10_mel(torch.from_numpy(audio)))
    if zeros:
        for row, clip in zip(features, clips, strict=True):
            row[:, len(clip) // HOP_LENGTH + 1 :] = 0.0
    return features


@torch.no_grad()
def evaluate(
    model: Whisper, composer: Composer, sets: dict[str, list[Any]], limit: int = 30
) -> dict[str, float]:
    """Greedy WER of single sentences in full windows, without and with timestamps."""
    result = {}
    start = [vocab.SOT, vocab.ENGLISH, vocab.TRANSCRIBE]
    for name, items in sets.items():
        errors = words = 0
        for at in range(0, min(limit, len(items)), 10):
            part = items[at : at + 10]
            features = full_windows([samples for samples, _ in part], zeros=at % 20 == 0)
            timed = at % 30 == 10
            prompt = [*start, vocab.TIMESTAMP_BEGIN] if timed else [*start, vocab.NO_TIMESTAMPS]
            for tokens, (_, info) in zip(
                model.greedy(features, prompt, vocab.EOT), part, strict=True
            ):
                text = composer.tokenizer.decode([t for t in tokens if t < vocab.BASE_SIZE])
                e, n = wer.word_errors(info.text, text)
                errors, words = errors + e, words + n
        result[name] = errors / max(1, words)
    return result


class Shared:
    """What the processes have in common; `control` is (stop, bucket, rate factor, hardness)."""

    def __init__(self, options: Options) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.model = Whisper(N_CTC).share_memory()
        if options.decoder_only:
            self.model.only_decoder()
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self.size = sum(p.numel() for p in self.params)
        self.gradients = torch.zeros(options.processes, self.size).share_memory_()
        self.control = torch.zeros(4, dtype=torch.float64).share_memory_()
        self.muon = Muon(split_parameters(self.model)[0])
        self.barrier = mp.get_context("fork").Barrier(options.processes, timeout=1800)


class Worker:
    """One process: its share of every batch and of the matrices to update."""

    def __init__(self, shared: Shared, rank: int, step: int) -> None:
        keep_freed_memory()
        torch.set_num_threads(1)
        self.shared, self.rank, self.options = shared, rank, shared.options
        self.model = shared.model
        matrices, others = split_parameters(self.model)
        # The momenta travel with `shared`, the parameter objects do not: pair them anew.
        self.muon = shared.muon
        self.muon.groups = Muon(matrices).groups
        # The convolutions' scale against the positions matters: they move more slowly.
        groups = [
            {"params": [p for p in others if p.ndim != 3], "scale": 1.0},
            {"params": [p for p in others if p.ndim == 3], "scale": 0.25},
        ]
        self.adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, foreach=True)
        seed = self.options.seed + 7919 * step + 104729 * rank
        readings = self.options.readings if self.options.decoder_only else 1
        self.data = Composer(self.options.work_dir, seed, readings=readings)

    def train_step(self) -> dict[str, float]:
        """One batch; returns what the log averages."""
        shared, options = self.shared, self.options
        _, bucket, factor, self.data.hardness = shared.control.tolist()
        began = time.perf_counter()
        batch = self.data.batch(int(bucket))
        made = time.perf_counter()
        entropy, ctc = losses(self.model, batch, options)
        (entropy + options.ctc_weight * ctc).backward()
        params = shared.params
        torch.cat([p.grad.flatten() for p in params], out=shared.gradients[self.rank])
        backward = time.perf_counter()
        shared.barrier.wait()
        waited = time.perf_counter()
        total = shared.gradients.mean(0)
        norm = float(total.norm())
        total.mul_(min(1.0, 5.0 / (norm + 1e-6)))
        for param, part in zip(params, total.split([p.numel() for p in params]), strict=True):
            param.grad = part.view_as(param)
        # Nobody may write weights or gradients that another process has yet to read.
        shared.barrier.wait()
        self.muon.step(options.muon_rate * factor, 0.02, self.rank, options.processes)
        if self.rank == 0:
            for group in self.adam.param_groups:
                group["lr"] = options.adam_rate * factor * group["scale"]
            self.adam.step()
        self.model.zero_grad(set_to_none=True)
        shared.barrier.wait()
        done = time.perf_counter()
        return {
            "ce": entropy.item(), "ctc": ctc.item(), "norm": norm, "rate": factor,
            "data_s": made - began, "model_s": backward - made, "wait_s": waited - backward,
            "opt_s": done - waited,
        }  # fmt: skip


def follow(shared: Shared, rank: int, step: int) -> None:
    """A process that does what the first one says."""
    os.setsid()  # Linux shares the CPU among sessions first, among their processes second
    worker = Worker(shared, rank, step)
    while True:
        shared.barrier.wait()
        if shared.control[0]:
            return
        worker.train_step()


class Trainer(Worker):
    """The first process: also the clock, the log and the checkpoints."""

    def __init__(self, options: Options) -> None:
        self.step, self.spent = 0, 0.0
        self.begun = (0, 0.0)  # the steps and seconds of an earlier stage
        self.checkpoint = options.work_dir / "checkpoint.pt"
        self.log_path = options.work_dir / "train.log"
        torch.set_num_threads(1)  # before anything starts threads that a fork would lose
        shared = Shared(options)
        state = None
        if options.resume and self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.step, self.spent = state["step"], state["spent"]
        new_stage = state is None or options.decoder_only != ("begun" in state)
        if options.decoder_only:
            self.begun = (self.step, self.spent) if new_stage else state["begun"]
        super().__init__(shared, 0, self.step)
        if state:
            self.model.load_state_dict(state["model"])
            if not new_stage:
                self.muon.load_state_dict(state["muon"])
                self.adam.load_state_dict(state["adam"])
        self.sets = {
            name: synth.load(options.work_dir / "speech", name) for name in ("heldout", "newvoice")
        }
        shipped = sum(p.numel() for n, p in self.model.named_parameters() if "ctc" not in n)
        self.log({"utterances": len(self.data.utterances), "parameters": shipped})

    def log(self, entry: dict[str, Any]) -> None:
        """One JSON line, on the screen and in the log."""
        line = json.dumps({"t": round(self.spent), "step": self.step, **entry})
        print(line, flush=True)
        with self.log_path.open("a") as out:
            out.write(line + "\n")

    def save(self) -> None:
        """Write the checkpoint beside the old one, then replace it."""
        state = {
            "model": self.model.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "step": self.step,
            "spent": self.spent,
            "seed": self.options.seed,
        }
        if self.options.decoder_only:
            state["begun"] = self.begun
        partial = self.checkpoint.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def progress(self) -> float:
        """Share of the stage that is done."""
        if self.options.steps is not None:
            return (self.step - self.begun[0]) / self.options.steps
        return (self.spent - self.begun[1]) / 60 / (self.options.minutes or 1.0)

    def hardness(self) -> float:
        """From short single utterances to the full mix, by progress; long windows at the end."""
        options = self.options
        if options.decoder_only:
            return 2.0
        span = options.hard_from - options.easy_until
        return min(1.0, max(0.0, (self.progress() - options.easy_until) / span))

    def evaluate(self, limit: int) -> None:
        """Log the WER; the other processes wait, so all cores are free."""
        torch.set_num_threads(self.options.processes)
        self.log({"wer": evaluate(self.model, self.data, self.sets, limit)})
        torch.set_num_threads(1)

    def run(self) -> bool:
        """Train until the stage is complete, or until told to stop (SIGTERM): then False."""
        context = mp.get_context("fork")
        others = [
            context.Process(target=follow, args=(self.shared, rank, self.step), daemon=True)
            for rank in range(1, self.options.processes)
        ]
        for other in others:
            other.start()
        stop: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
        history: list[dict[str, float]] = []
        clock = last_eval = last_save = time.perf_counter()
        while self.progress() < 1.0 and not stop:
            options = self.options
            steps = self.step - self.begun[0]
            factor = rate_factor(self.progress(), steps, options.warmup, options.hold)
            hardness = self.hardness()
            self.data.hardness = hardness
            values = [0.0, float(self.data.pick_bucket()), factor, hardness]
            self.shared.control.copy_(torch.tensor(values, dtype=torch.float64))
            self.shared.barrier.wait()
            history.append(self.train_step())
            self.step += 1
            now = time.perf_counter()
            self.spent += now - clock
            clock = now
            if len(history) == 25:
                self.log({k: round(float(np.mean([h[k] for h in history])), 3) for k in history[0]})
                history = []
            if now - last_save > options.save_minutes * 60:
                self.save()
                last_save = now
            if now - last_eval > options.eval_minutes * 60:
                self.evaluate(limit=20)
                last_eval = time.perf_counter()
        self.shared.control[0] = 1.0
        self.shared.barrier.wait()
        for other in others:
            other.join()
        self.save()
        if not stop:
            self.evaluate(limit=100)
        return not stop


def decoder_only_begun(work_dir: Path) -> bool:
    """Whether the checkpoint is one of the second stage."""
    checkpoint = work_dir / "checkpoint.pt"
    return checkpoint.exists() and "begun" in torch.load(checkpoint, weights_only=True)
