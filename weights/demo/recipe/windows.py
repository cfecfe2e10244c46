"""Training windows made on the fly: utterances put together, augmented, and written as tokens.

Most windows are a slice of the 30 seconds that inference always sees, because a full window costs
many times as much; full ones are mixed in from the first step on, so that neither the positions
nor 25 seconds of silence after the speech are ever news.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from weights.demo.recipe import mel as melspec
from weights.demo.recipe import synth, vocab
from whisper_npu.ops.mel import SAMPLE_RATE

FULL = 30.0
CTC_SYMBOLS = " 'abcdefghijklmnopqrstuvwxyz"
N_CTC = len(CTC_SYMBOLS) + 1
# (seconds, windows in one process's batch, share of the batches at hardness 0, 1 and 2)
BUCKETS = [
    (4.0, 10, (0.5, 0.28, 0.08)),
    (6.0, 7, (0.34, 0.26, 0.1)),
    (10.0, 4, (0.06, 0.16, 0.1)),
    (16.0, 3, (0.04, 0.1, 0.12)),
    (30.0, 2, (0.06, 0.2, 0.6)),
]
# Long-form decoding gives the next window up to 223 tokens of previous text.
MAX_PROMPT = 223


@dataclass
class Reading:
    """What the decoder is given of a window, and what it is to say at each token (-1: anything)."""

    tokens: list[int]
    labels: list[int]


@dataclass
class Window:
    """One training example before it is batched."""

    audio: np.ndarray
    readings: list[Reading]
    ctc: list[int]
    speech_end: float
    use_ctc: bool = True


@dataclass
class Batch:
    """Tensors of one step; `start` is the encoder position of the first frame.

    `tokens` and `labels` have as many rows for each window as it has readings, one after another.
    """

    mel: Tensor
    tokens: Tensor
    labels: Tensor
    ctc: Tensor
    ctc_lengths: Tensor
    ctc_used: Tensor
    start: int


def ctc_target(text: str) -> list[int]:
    """Letters of the text as CTC symbols (0 is the blank)."""
    plain = re.sub(r"[^a-z' ]", "", text.lower())
    return [CTC_SYMBOLS.index(c) + 1 for c in " ".join(plain.split())]


def make_noises(rng: np.random.Generator) -> list[np.ndarray]:
    """Thirty-one seconds each of white, pink, brown and hum-like noise at unit power."""
    length = 31 * SAMPLE_RATE
    frequencies = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    noises = []
    for slope in (0.0, 0.3, 0.5, 0.7, 1.0):
        spectrum = rng.normal(size=len(frequencies)) + 1j * rng.normal(size=len(frequencies))
        noises.append(np.fft.irfft(spectrum / np.maximum(frequencies, 30.0) ** slope, length))
    t = np.arange(length) / SAMPLE_RATE
    for base in (50.0, 60.0, 120.0):
        hum = sum(np.sin(2 * np.pi * base * k * t + rng.uniform(0, 6)) / k for k in range(1, 8))
        noises.append(hum + 0.1 * rng.normal(size=length))
    return [(noise / np.sqrt(np.mean(noise**2))).astype(np.float32) for noise in noises]


@dataclass
class Composer:
    """Makes windows and batches; owns the random state and the utterances."""

    work_dir: Path
    seed: int
    name: str = "train"
    clean: bool = False
    # 0: mostly one utterance near the start of a short window; 1: everything; 2: mostly the full
    # windows, timestamps and previous text of long recordings. The decoder finds the audio by its
    # position at first, and by its content later.
    hardness: float = 1.0
    # How often the decoder reads a window, each time after another text and with other mistakes.
    readings: int = 1
    utterances: list[tuple[np.ndarray, synth.Utterance]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokenizer = Tokenizer.from_file(str(self.work_dir / "tokenizer.json"))
        self.rng = random.Random(self.seed)
        self.noises = make_noises(np.random.default_rng(self.seed))
        self.token_cache: dict[str, list[int]] = {}
        if not self.utterances:
            self.utterances = synth.load(self.work_dir / "speech", self.name)

    def text_tokens(self, text: str) -> list[int]:
        """Tokens of one segment; its text starts with a space."""
        if text not in self.token_cache:
            self.token_cache[text] = self.tokenizer.encode(" " + text).ids
        return self.token_cache[text]

    def _utterance(self, longest: float) -> tuple[np.ndarray, str] | None:
        """A random utterance of at most `longest` seconds, its tempo now and then changed."""
        for _ in range(12):
            samples, info = self.rng.choice(self.utterances)
            if info.length / SAMPLE_RATE > longest:
                continue
            audio = samples.astype(np.float32) / 32768
            if self.clean:
                return audio, info.text
            if self.rng.random() < 0.3:
                factor = self.rng.uniform(0.9, 1.12)
                count = int(len(audio) / factor)
                if count / SAMPLE_RATE < longest:
                    grid = np.arange(count, dtype=np.float32) * np.float32(factor)
                    base = np.minimum(grid.astype(np.int32), len(audio) - 2)
                    part = grid - base
                    audio = audio[base] * (1 - part) + audio[base + 1] * part
            if self.rng.random() < 0.06:
                audio = self._reverberate(audio)
            return audio.astype(np.float32), info.text
        return None

    def _reverberate(self, audio: np.ndarray) -> np.ndarray:
        decay = self.rng.uniform(0.1, 0.5)
        length = int(decay * SAMPLE_RATE)
        tail = np.random.default_rng(self.rng.getrandbits(32)).normal(size=length)
        tail *= np.exp(-6.9 * np.arange(length) / length) * self.rng.uniform(0.02, 0.12)
        tail[0] = 1.0
        size = 1 << (len(audio) + length - 1).bit_length()
        wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(tail, size), size)
        return wet[: len(audio)].astype(np.float32)

    def _layout(self, seconds: float) -> list[tuple[float, np.ndarray, str]]:
        """Utterances with their start times; the last may run past the end of a full window."""
        rng, placed, at = self.rng, [], 0.0
        at = rng.uniform(0, 0.25) if rng.random() < 0.6 else rng.uniform(0, min(3.0, seconds / 3))
        if seconds == FULL and self.hardness > 1 and rng.random() < 0.4:
            at = -rng.uniform(0, 0.3)
        filled = rng.random() < 0.75
        wanted = 99 if filled else rng.choice([1, 1, 1, 2, 3])
        if seconds < 7:
            wanted = min(wanted, 2)
            if rng.random() > 0.2 + self.hardness:
                at, wanted = rng.uniform(0, 0.25), 1
        while len(placed) < wanted and at < seconds - 0.7:
            full = seconds == FULL and filled
            found = self._utterance(12.0 if full else seconds - at - 0.02)
            if found is None:
                break
            samples, text = found
            if at < 0:
                # The window before took an utterance that it saw in part for a little shorter.
                samples, at = samples[int(-at * SAMPLE_RATE) :], 0.0
            placed.append((round(at / 0.02) * 0.02, samples, text))
            gap = rng.choice([rng.uniform(0.05, 0.5), rng.uniform(0.2, 1.2), rng.expovariate(1.0)])
            at += len(samples) / SAMPLE_RATE + gap
        return placed

    def _prompt(self, seconds: float, timed: bool) -> list[int]:
        """Previous text, as long-form decoding hands it over: with its timestamps when timed."""
        long = seconds > 15
        if self.rng.random() > ((0.65 if self.hardness > 1 else 0.4) if long else 0.1):
            return []
        wanted = self.rng.randint(1, MAX_PROMPT if long else 30)
        if long and self.hardness > 1 and self.rng.random() < 0.6:
            wanted = MAX_PROMPT  # what every window but the first few of a recording gets
        tokens: list[int] = []
        at = self.rng.randrange(0, 60)
        while len(tokens) < wanted:
            text = self.text_tokens(self.rng.choice(self.utterances)[1].text)
            if timed:
                end = at + self.rng.randint(50, 250)
                tokens += [vocab.TIMESTAMP_BEGIN + min(at, 1500), *text]
                tokens.append(vocab.TIMESTAMP_BEGIN + min(end, 1500))
                at = end + self.rng.randint(0, 60)
                at = 0 if at > 1400 else at
            else:
                tokens += text
        return [vocab.SOT_PREV, *tokens[-wanted:]]

    def window(self, seconds: float, start: float) -> Window:
        """A window of `seconds` that begins at `start` of the 30 that the model thinks it sees."""
        rng = self.rng
        audio = np.zeros(int(seconds * SAMPLE_RATE), dtype=np.float32)
        timed = rng.random() < (0.8 if seconds > 15 and self.hardness > 1 else 0.5)
        placed = [] if rng.random() < 0.06 else self._layout(seconds)
        if not placed or placed[0][0] + len(placed[0][1]) / SAMPLE_RATE > seconds:
            return self._no_speech(audio, timed)
        body: list[int] = []
        ctc: list[int] = []
        cut, speech_end = False, 0.0
        for at, samples, text in placed:
            first = int(at * SAMPLE_RATE)
            fitted = samples[: len(audio) - first]
            audio[first : first + len(fitted)] += fitted
            end = at + len(samples) / SAMPLE_RATE
            t0, t1 = (vocab.TIMESTAMP_BEGIN + round((start + t) / 0.02) for t in (at, end))
            cut = end > seconds
            speech_end = min(end, seconds)
            if cut:
                # Without timestamps there is no way to write half an utterance: leave it out.
                body += [t0] if timed else []
                if not timed:
                    audio[first : first + len(fitted)] -= fitted
                    cut, speech_end = False, at
                break
            body += [t0, *self.text_tokens(text), t1] if timed else self.text_tokens(text)
            ctc += ([1] if ctc else []) + ctc_target(text)
        late = placed[0][0] + start > 1.0
        readings = [self._reading(body, seconds, timed, late) for _ in range(self.readings)]
        return Window(self._add_noise(audio), readings, ctc, speech_end, not cut)

    def _reading(self, body: list[int], seconds: float, timed: bool, late: bool) -> Reading:
        """The text of a window after some other text; `late`: it begins after the first second."""
        prompt = self._prompt(seconds, timed)
        mode = [] if timed else [vocab.NO_TIMESTAMPS]
        head = [*prompt, vocab.SOT, vocab.ENGLISH, vocab.TRANSCRIBE, *mode]
        full = [*head, *body, vocab.EOT]
        labels = [-1] * len(prompt) + full[len(prompt) + 1 :]
        if not timed:
            labels[len(prompt) + 2] = -1
        tokens = self._corrupt(full[:-1], len(prompt) + 3)
        if timed and late and self.rng.random() < 0.5:
            # Whisper's decoding never lets the first timestamp exceed one second.
            tokens[len(head)] = vocab.TIMESTAMP_BEGIN + self.rng.randint(0, 50)
        return Reading(tokens, labels)

    def _corrupt(self, tokens: list[int], first: int) -> list[int]:
        """Replace some of the text already said, so that the decoder trusts the audio more."""
        if self.clean:
            return tokens
        return [
            self.rng.randrange(256, vocab.BASE_SIZE)
            if i >= first and token < vocab.BASE_SIZE and self.rng.random() < 0.05
            else token
            for i, token in enumerate(tokens)
        ]

    def _no_speech(self, audio: np.ndarray, timed: bool) -> Window:
        """Silence or noise only: the no-speech token, and no text however the decoder is led."""
        rng = self.rng
        if rng.random() < 0.6:
            noise = rng.choice(self.noises)
            at = rng.randrange(0, len(noise) - len(audio))
            audio = noise[at : at + len(audio)] * np.float32(10 ** rng.uniform(-4.5, -1.0))
        elif rng.random() < 0.4:
            for _ in range(rng.randint(1, 3)):  # clicks
                audio[rng.randrange(0, len(audio) - 40) :][:40] += rng.uniform(-0.3, 0.3)
        readings = [
            self._silent_reading(len(audio) / SAMPLE_RATE, timed) for _ in range(self.readings)
        ]
        return Window(audio, readings, [], 0.0)

    def _silent_reading(self, seconds: float, timed: bool) -> Reading:
        prompt = self._prompt(seconds, timed)
        head = [*prompt, vocab.SOT]
        labels = [-1] * len(prompt) + [vocab.NO_SPEECH]
        if self.rng.random() < 0.25:
            tokens = [*head, vocab.NO_SPEECH]
        else:
            last = vocab.TIMESTAMP_BEGIN if timed else vocab.NO_TIMESTAMPS
            tokens = [*head, vocab.ENGLISH, vocab.TRANSCRIBE, last]
            labels += [vocab.TRANSCRIBE, last if timed else -1]
        return Reading(tokens, [*labels, vocab.EOT])

    def _add_noise(self, audio: np.ndarray) -> np.ndarray:
        if self.clean or self.rng.random() > 0.2:
            return audio
        noise = self.rng.choice(self.noises)
        at = self.rng.randrange(0, len(noise) - len(audio))
        power = float(np.sqrt(np.mean(audio[audio != 0] ** 2)))
        level = power * 10 ** (-self.rng.uniform(6, 40) / 20)
        return audio + noise[at : at + len(audio)] * np.float32(level)

    def features(self, windows: list[Window]) -> Tensor:
        """Normalised log-mel of a batch, with channel effects and both kinds of padding."""
        rng = self.rng
        log_mel = melspec.log10_mel(torch.from_numpy(np.stack([w.audio for w in windows])))
        if not self.clean:
            bands = torch.linspace(-1, 1, melspec.N_MELS)[None, :, None]
            count = len(windows)
            tilt = torch.tensor([rng.gauss(0, 0.15) for _ in range(count)])[:, None, None]
            bend = torch.tensor([rng.gauss(0, 0.15) for _ in range(count)])[:, None, None]
            log_mel = log_mel + tilt * bands + bend * (bands * bands)
            for i in range(count):
                if rng.random() < 0.06:
                    log_mel[i, rng.randint(48, 76) :] -= rng.uniform(2, 6)
                if rng.random() < 0.06:
                    log_mel[i, : rng.randint(1, 8)] -= rng.uniform(1, 4)
            log_mel.clamp_(min=-10.0)
        louder = torch.tensor(
            [0.0 if rng.random() < 0.6 else rng.uniform(0, 1.0) for _ in windows]
        )[:, None, None]
        for i, window in enumerate(windows):
            if not window.ctc and rng.random() < 0.5:
                # Silence inside a file that has speech elsewhere.
                louder[i] = max(0.0, rng.uniform(-1.0, 2.5) - float(log_mel[i].max()))
        features = melspec.normalise(log_mel, louder)
        for i, window in enumerate(windows):
            if rng.random() < 0.45:
                # openai-whisper fills a file's last window with zeros after the normalisation.
                end = window.speech_end + rng.choice([0.0, rng.uniform(0, 1.5)])
                features[i, :, int(end * 100) + 1 :] = 0.0
        return features

    def pick_bucket(self) -> int:
        """Which window length comes next."""
        shares = [float(np.interp(self.hardness, (0, 1, 2), each)) for *_, each in BUCKETS]
        return self.rng.choices(range(len(BUCKETS)), shares)[0]

    def batch(self, bucket: int) -> Batch:
        """One step's data, all windows of one length."""
        rng = self.rng
        seconds, count = BUCKETS[bucket][:2]
        last = int((FULL - seconds) * 50)
        start = rng.randint(0, last) if rng.random() < 0.15 + 0.45 * min(1.0, self.hardness) else 0
        windows = [self.window(seconds, start / 50) for _ in range(count)]
        return self.collate(windows, start)

    def collate(self, windows: list[Window], start: int) -> Batch:
        """Pad token rows to one length."""
        readings = [reading for window in windows for reading in window.readings]
        width = max(len(reading.tokens) for reading in readings)
        tokens = torch.full((len(readings), width), vocab.EOT)
        labels = torch.full((len(readings), width), -1)
        for i, reading in enumerate(readings):
            tokens[i, : len(reading.tokens)] = torch.tensor(reading.tokens)
            labels[i, : len(reading.labels)] = torch.tensor(reading.labels)
        lengths = torch.tensor([len(w.ctc) for w in windows])
        ctc = torch.zeros((len(windows), max(1, int(lengths.max()))), dtype=torch.long)
        for i, window in enumerate(windows):
            ctc[i, : len(window.ctc)] = torch.tensor(window.ctc, dtype=torch.long)
        used = torch.tensor([float(w.use_ctc) for w in windows])
        return Batch(self.features(windows), tokens, labels, ctc, lengths, used, start)
