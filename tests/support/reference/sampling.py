"""openai-whisper drawing its random tokens from our uniform numbers.

Its sampling has no seed. Decoding at a temperature can be compared token for token once both
sides invert the same cumulative probabilities at the same numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from whisper import decoding

from whisper_npu.decoding.sampling import sample_from, sample_uniforms
from whisper_npu.ops.probabilities import FLOATS


@dataclass
class Margins:
    """The narrowest decisions of a transcription, infinite where there was none.

    Token for token equality says something only where these are far beyond float32's rounding.
    """

    greedy: float = float("inf")  # largest logit over the next
    sampled: float = float("inf")  # probability between a random number and another token
    beams: float = float("inf")  # log-probability of the last beam kept over the next

    def narrowest(self) -> float:
        return min(self.greedy, self.sampled, self.beams)


@contextmanager
def seeded_sampling(seed: int) -> Iterator[Margins]:
    """Within it, ``whisper.transcribe`` samples as ours does with ``seed``; gives the margins."""
    state = _State(seed)
    greedy, beam = decoding.GreedyDecoder, decoding.BeamSearchDecoder
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(greedy, "reset", state.reset))
        stack.enter_context(mock.patch.object(greedy, "update", state.greedy(greedy.update)))
        stack.enter_context(mock.patch.object(beam, "update", state.beams(beam.update)))
        stack.enter_context(mock.patch.object(decoding, "Categorical", state.categorical))
        yield state.margins


class _State:
    def __init__(self, seed: int) -> None:
        self.seed, self.seek, self.step, self.temperature = seed, 0, 0, 0.0
        self.margins = Margins()

    def reset(self) -> None:
        # Called at the start of each window by a function that does not know where the window
        # is; transcribe(), some frames up, does.
        frame = inspect.currentframe()
        while frame is not None and frame.f_code.co_name != "transcribe":
            frame = frame.f_back
        self.seek = 0 if frame is None else frame.f_locals["seek"]
        self.step = 0

    def greedy(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def update(decoder: Any, tokens: Tensor, logits: Tensor, sums: Tensor) -> Any:
            self.temperature = decoder.temperature
            if self.temperature == 0:
                best = logits.topk(2).values
                self.margins.greedy = min(
                    self.margins.greedy, (best[:, 0] - best[:, 1]).min().item()
                )
            result = original(decoder, tokens, logits, sums)
            self.step += 1
            return result

        return update

    def beams(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def update(decoder: Any, tokens: Tensor, logits: Tensor, sums: Tensor) -> Any:
            # At the first step all sequences are the same, and so are their continuations.
            distinct = 1 if decoder.finished_sequences is None else decoder.beam_size
            scores = logits[:distinct].log_softmax(-1) + sums[:distinct, None]
            scores[:, decoder.eot] = -np.inf
            best = scores.flatten().topk(decoder.beam_size + 1).values
            if best.isfinite().all():
                self.margins.beams = min(self.margins.beams, (best[-2] - best[-1]).item())
            return original(decoder, tokens, logits, sums)

        return update

    def categorical(self, logits: Tensor) -> _Choice:
        n = len(logits)
        uniforms = sample_uniforms(self.seed, self.seek, self.temperature, n, self.step)
        pairs = zip(logits.numpy(), uniforms, strict=True)
        tokens = np.array([sample_from(FLOATS.cumulative(row), uniform) for row, uniform in pairs])
        upper = logits.double().softmax(-1).cumsum(-1).numpy()
        lower = np.concatenate([np.zeros((n, 1)), upper[:, :-1]], axis=1)
        rows = np.arange(n)
        distances = np.minimum(upper[rows, tokens] - uniforms, uniforms - lower[rows, tokens])
        self.margins.sampled = min(self.margins.sampled, float(distances.min()))
        return _Choice(torch.from_numpy(tokens))


class _Choice:
    def __init__(self, tokens: Tensor) -> None:
        self._tokens = tokens

    def sample(self) -> Tensor:
        return self._tokens
