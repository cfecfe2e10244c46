"""A loaded model: the five phases of a window as plans over shared weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from whisper_npu.model import builders
from whisper_npu.model.builders import Precision
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.model.graph import Graph
from whisper_npu.ops.arrays import F32, I64
from whisper_npu.ops.mel import mel_filters
from whisper_npu.runtime.numpy_ops import Array
from whisper_npu.runtime.plan import Machine, Observer, Plan
from whisper_npu.runtime.plan_cache import PlanCache
from whisper_npu.runtime.weights import prepare_weights

# Shapes vary with the prompt's length, with batches and beams; more than these are not kept.
_PLANS = 8
_SESSIONS = 4


class Model:
    """Runs the phases on NumPy. Not to be used from several threads at once.

    Weights are held once, whatever the number of plans.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision = "float32",
        machine: Machine | None = None,
    ) -> None:
        self.dims = checkpoint.dims
        self.precision = precision
        self.machine = machine or Machine()
        self.machine.usage.precision = precision
        cpu = self.machine.cpu
        as_integers = cpu is not None and "linear_int8" in cpu.kinds
        self._weights = prepare_weights(checkpoint.weights, precision, as_integers)
        self._weights[builders.MEL_FILTERS] = mel_filters(self.dims.n_mels)
        self._mel: PlanCache[int, Plan] = PlanCache(
            _PLANS, lambda n: self._plan(builders.build_mel(self.dims.n_mels, n))
        )
        self._encoder: PlanCache[int, Plan] = PlanCache(
            _PLANS, lambda n: self._plan(builders.build_encoder(self.dims, n, precision))
        )
        # Both are as large as the largest batch so far; sessions are on the first part of them.
        self._cross = CrossCache(self, 0)
        self._own = self._own_caches(0)
        self._sessions: PlanCache[tuple[int, int], DecoderSession] = PlanCache(
            _SESSIONS, lambda shape: DecoderSession(self, self._cross, self._own, *shape)
        )

    def _plan(self, graph: Graph, states: Mapping[str, Array] | None = None) -> Plan:
        return Plan(graph, self._weights, states, self.machine)

    def log_mel(self, samples: F32) -> F32:  # [160 (t - 1) + 400] -> [n_mels, t]
        """log10 of the mel spectrum, neither clamped nor normalised."""
        plan = self._mel[1 + (len(samples) - 400) // 160]
        plan(samples=samples)
        log_mel: F32 = plan.outputs["log_mel"].copy()
        return log_mel

    def encode(
        self, features: F32, observe: Observer | None = None
    ) -> F32:  # [b, n_mels, 2 n_audio_ctx] -> [b, n_audio_ctx, n_audio_state]
        """Encoder states of a batch of windows."""
        plan = self._encoder[len(features)]
        plan(observe, features=features)
        states: F32 = plan.outputs["states"].copy()
        return states

    def decoder(
        self, states: F32, group: int = 1, observe: Observer | None = None
    ) -> DecoderSession:
        """A session that decodes ``group`` sequences for each audio of ``states``.

        The cross keys and values are computed unless ``states`` is the very array they were last
        computed from. Sessions share memory: only the latest is valid.
        """
        n_audio = len(states)
        if n_audio > self._cross.n_audio:
            self._sessions.clear()
            self._cross = CrossCache(self, n_audio)
        if n_audio * group > len(next(iter(self._own.values()))):
            self._sessions.clear()
            self._own = self._own_caches(n_audio * group)
        self._cross.fill(states, observe)
        session = self._sessions[n_audio, group]
        session.position = 0
        return session

    def _own_caches(self, sequences: int) -> dict[str, F32]:
        """Room for the self-attention keys and values of so many sequences."""
        step = builders.build_step(self.dims)
        return {
            t.name: np.empty((sequences, *t.shape[1:]), np.float32)
            for t in step.role("state")
            if t.name not in self._cross.states
        }


class CrossCache:
    """Keys and values of the encoder states of up to ``n_audio`` windows, for all decoder layers.

    They are computed window by window: one plan for each takes less memory than one for every size
    of a batch, and no more time.
    """

    def __init__(self, model: Model, n_audio: int) -> None:
        self.n_audio = n_audio
        graph = builders.build_cross_kv(model.dims, precision=model.precision)
        self.states = {
            t.name: np.empty((n_audio, *t.shape[1:]), np.float32) for t in graph.role("state")
        }
        self._plans = [model._plan(graph, self.slots(i, i + 1)) for i in range(n_audio)]
        self._source: F32 | None = None

    def slots(self, start: int, stop: int) -> dict[str, F32]:
        """The keys and values of windows ``start`` to ``stop``."""
        return {name: cache[start:stop] for name, cache in self.states.items()}

    def fill(self, states: F32, observe: Observer | None = None) -> None:
        if states is not self._source or observe is not None:
            for window, plan in zip(states, self._plans, strict=False):
                plan(observe, states=window[None])
            self._source = states


class DecoderSession:
    """The decoder over one preallocated KV cache: a prompt, then token by token.

    Sequences are ordered by audio, then within the group. Logits are valid until the next call of
    the same method and may be changed in place.
    """

    def __init__(
        self, model: Model, cross: CrossCache, own: Mapping[str, F32], n_audio: int, group: int
    ) -> None:
        self.n_audio, self.group, self.position = n_audio, group, 0
        self._dims, self._cross = model.dims, cross.slots(0, n_audio)
        self._precision, self._plan = model.precision, model._plan
        sequences = n_audio * group
        self._caches = {name: cache[:sequences] for name, cache in own.items()}
        step = builders.build_step(self._dims, n_audio, group, self._precision)
        self._step = self._plan(step, {**self._caches, **self._cross})
        # The prompt is the same for the sequences of an audio: it is run for the first of each.
        shared = {
            name: cache.reshape(self.n_audio, group, *cache.shape[1:])
            for name, cache in self._caches.items()
        }
        self._first = {name: cache[:, 0] for name, cache in shared.items()}
        self._rest = [cache[:, 1:] for cache in shared.values()]
        self._sequences = np.arange(sequences)
        self._prefill: PlanCache[tuple[int, int], Plan] = PlanCache(_PLANS, self._plan_prefill)

    def _plan_prefill(self, key: tuple[int, int]) -> Plan:
        n_tokens, n_rows = key
        graph = builders.build_prefill(self._dims, n_tokens, self.n_audio, n_rows, self._precision)
        return self._plan(graph, {**self._first, **self._cross})

    def _check(self, tokens: ArrayLike, shape: tuple[int, ...]) -> I64:
        array = np.asarray(tokens, np.int64)
        if array.shape != shape:
            raise ValueError(f"tokens are {array.shape}, not {shape}")
        if array.size and not 0 <= array.min() <= array.max() < self._dims.n_vocab:
            raise ValueError(f"a token id is outside 0..{self._dims.n_vocab - 1}")
        return array

    def prefill(
        self, tokens: ArrayLike, rows: Sequence[int], observe: Observer | None = None
    ) -> F32:  # [n_audio, n], rows of n -> [n_audio, len(rows), n_vocab]
        """Start over with a prompt for each audio. Raises ValueError if it is too long."""
        n = np.shape(tokens)[-1]
        if not 0 < n <= self._dims.n_text_ctx:
            raise ValueError(f"a prompt of {n} tokens does not fit {self._dims.n_text_ctx}")
        plan = self._prefill[n, len(rows)]
        plan(observe, tokens=self._check(tokens, (self.n_audio, n)), position=0, rows=rows)
        if self.group > 1:
            for first, rest in zip(self._first.values(), self._rest, strict=True):
                rest[:, :, :, :n] = first[:, None, :, :n]
        self.position = n
        return plan.outputs["logits"]

    def step(
        self, tokens: ArrayLike, observe: Observer | None = None
    ) -> F32:  # [n_audio * group] -> [n_audio * group, n_vocab]
        """One more token for every sequence. Raises ValueError when the context is full."""
        if self.position >= self._dims.n_text_ctx:
            raise ValueError(f"the text context of {self._dims.n_text_ctx} tokens is full")
        checked = self._check(tokens, (len(self._sequences),))
        self._step(observe, tokens=checked[:, None], position=self.position)
        self.position += 1
        return self._step.outputs["logits"][:, 0]

    def reorder(self, source: ArrayLike) -> None:
        """Sequence i continues the cache of sequence ``source[i]``, which is of the same audio."""
        order = np.asarray(source, np.int64)
        if order.shape != self._sequences.shape or np.any(
            order // self.group != self._sequences // self.group
        ):
            raise ValueError("source must name, for each sequence, one of the same audio")
        moved = self._sequences[order != self._sequences]
        if moved.size == 0:
            return
        for cache in self._caches.values():
            cache[moved, :, : self.position] = cache[order[moved], :, : self.position]

    def align(
        self, tokens: ArrayLike, heads: Sequence[tuple[int, int]], observe: Observer | None = None
    ) -> tuple[F32, F32]:  # [n], pairs of (layer, head) -> [n, n_vocab], [len(heads), n, ctx]
        """Logits of every token and the cross-attention scores before softmax of chosen heads.

        For one audio and one sequence; starts over like ``prefill``.
        """
        n = len(np.atleast_1d(tokens))
        graph = builders.build_align(self._dims, n, heads, self._precision)
        plan = self._plan(graph, {**self._first, **self._cross})
        plan(observe, tokens=self._check(tokens, (n,))[None], position=0)
        by_layer = {
            layer: iter(plan.outputs[f"alignment.{layer}"])
            for layer in dict.fromkeys(layer for layer, _ in heads)
        }
        scores = np.stack([next(by_layer[layer]) for layer, _ in heads])
        self.position = n
        return plan.outputs["logits"][0], scores
