"""Decoding token by token, over plans that are made once for each shape of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from whisper_npu.model import builders
from whisper_npu.ops.arrays import F32, I64
from whisper_npu.ops.probabilities import FLOATS, INTEGERS, Probabilities
from whisper_npu.runtime.backend import Array
from whisper_npu.runtime.caches import CrossCache, OwnCache
from whisper_npu.runtime.network import Network
from whisper_npu.runtime.plan import Observer, Plan
from whisper_npu.runtime.plan_cache import PlanCache

# Prompts vary in length; plans for more of them are not kept.
_PREFILLS = 8
# Nor are more for choices among the tokens: one for each number of beams.
_CHOICES = 2


class DecoderPlans:
    """The plans for ``group`` sequences of each of ``n_audio`` windows, on the first part of the
    caches, which are larger."""

    def __init__(
        self, network: Network, cross: CrossCache, own: OwnCache, n_audio: int, group: int
    ) -> None:
        self.n_audio, self.group = n_audio, group
        self._network, self._cross = network, cross.slots(0, n_audio)
        own_states = {name: cache[: n_audio * group] for name, cache in own.states.items()}
        # The prompt is the same for the sequences of an audio: it is run for the first of each.
        self._first = {name: cache[::group] for name, cache in own_states.items()}
        graph = builders.build_step(network.dims, n_audio, group, network.precision)
        self.step = network.plan(graph, {**own_states, **self._cross})
        #: Where a step puts them: [n_audio * group, n_vocab].
        self.logits: F32 = self.step.outputs["logits"][:, 0]
        self._prefills: PlanCache[tuple[int, int], Plan] = PlanCache(_PREFILLS)
        self._choices: PlanCache[int, Plan] = PlanCache(_CHOICES)

    @property
    def states(self) -> Mapping[str, Array]:
        """The keys and values that they run on: of all windows, of the first sequence of each."""
        return {**self._first, **self._cross}

    def prefill(self, n_tokens: int, n_rows: int) -> Plan:
        """The plan for a prompt of so many tokens, with logits of ``n_rows`` of them."""
        return self._prefills.get((n_tokens, n_rows), lambda: self._plan_prefill(n_tokens, n_rows))

    def choice(self, k: int) -> Plan:
        """The plan that finds the ``k`` likeliest tokens by ``logits``."""
        n_vocab, sequences = self._network.dims.n_vocab, self.n_audio * self.group

        def plan() -> Plan:
            graph = builders.build_choice(n_vocab, sequences, k, self._network.precision)
            return self._network.plan(graph, {"logits": self.logits})

        return self._choices.get(k, plan)

    def _plan_prefill(self, n_tokens: int, n_rows: int) -> Plan:
        network = self._network
        graph = builders.build_prefill(
            network.dims, n_tokens, self.n_audio, n_rows, network.precision
        )
        return network.plan(graph, self.states)


class DecoderSession:
    """The decoder over preallocated KV caches: a prompt, then token by token.

    Sequences are ordered by audio, then within the group. Logits are valid until the next call of
    the same method and may be changed in place.
    """

    def __init__(
        self,
        network: Network,
        cross: CrossCache,
        own: OwnCache,
        plans: PlanCache[tuple[int, int], DecoderPlans],
        n_audio: int,
        group: int,
    ) -> None:
        self._network, self._cross, self._own = network, cross, own
        self._all_plans = plans
        self._plans = self._choose_plans(n_audio, group)
        self._start_over(0)

    def _choose_plans(self, n_audio: int, group: int) -> DecoderPlans:
        return self._all_plans.get(
            (n_audio, group),
            lambda: DecoderPlans(self._network, self._cross, self._own, n_audio, group),
        )

    @property
    def n_audio(self) -> int:
        """Windows that are decoded."""
        return self._plans.n_audio

    @property
    def group(self) -> int:
        """Sequences of each window."""
        return self._plans.group

    @property
    def probabilities(self) -> Probabilities:
        """The functions that compute probabilities of the logits."""
        return INTEGERS if self._network.precision == "int8" else FLOATS

    def _start_over(self, position: int) -> None:
        self.position = position
        # The first tokens that sequences have in common: [n_audio, group, group].
        self._common = np.full((self.n_audio, self.group, self.group), position)

    def _check(self, tokens: ArrayLike, shape: tuple[int, ...]) -> I64:
        array = np.asarray(tokens, np.int64)
        n_vocab = self._network.dims.n_vocab
        if array.shape != shape:
            raise ValueError(f"tokens are {array.shape}, not {shape}")
        if array.size and not 0 <= array.min() <= array.max() < n_vocab:
            raise ValueError(f"a token id is outside 0..{n_vocab - 1}")
        return array

    def prefill(
        self, tokens: ArrayLike, rows: Sequence[int], observe: Observer | None = None
    ) -> F32:  # [n_audio, n], rows of n -> [n_audio, len(rows), n_vocab]
        """Start over with a prompt for each audio. Raises ValueError if it is too long."""
        n, n_text_ctx = np.shape(tokens)[-1], self._network.dims.n_text_ctx
        if not 0 < n <= n_text_ctx:
            raise ValueError(f"a prompt of {n} tokens does not fit {n_text_ctx}")
        plan = self._plans.prefill(n, len(rows))
        plan(observe, tokens=self._check(tokens, (self.n_audio, n)), position=0, rows=rows)
        others = np.flatnonzero(np.arange(self.n_audio * self.group) % self.group)
        if len(others):
            self._own.copy(others - others % self.group, others, 0, n)
        self._start_over(n)
        return plan.outputs["logits"]

    def step(
        self, tokens: ArrayLike, observe: Observer | None = None
    ) -> F32:  # [n_audio * group] -> [n_audio * group, n_vocab]
        """One more token for every sequence. Raises ValueError when the context is full."""
        if self.position >= self._network.dims.n_text_ctx:
            n_text_ctx = self._network.dims.n_text_ctx
            raise ValueError(f"the text context of {n_text_ctx} tokens is full")
        checked = self._check(tokens, (self.n_audio * self.group,))
        plan = self._plans.step
        plan(observe, tokens=checked[:, None], position=self.position)
        self.position += 1
        return self._plans.logits

    def likeliest(
        self, logits: ArrayLike, k: int
    ) -> tuple[I64, F32]:  # [n_audio * group, n_vocab], k -> [n_audio * group, k] of each
        """The ``k`` likeliest tokens of each sequence, best first, and their log-probabilities.

        Valid until the next call. Logits are best the array that ``step`` gave: others are copied
        there.
        """
        plan = self._plans.choice(k)
        if logits is not self._plans.logits:
            self._plans.logits[...] = logits
        plan()
        return plan.outputs["tokens"], plan.outputs["logprobs"]

    def reorder(self, source: ArrayLike) -> None:
        """Sequence i continues the cache of sequence ``source[i]``, which is of the same audio.

        Sequences that were one before have its tokens in common: only what follows is copied.
        """
        order = np.asarray(source, np.int64)
        numbers = np.arange(self.n_audio * self.group)
        if order.shape != numbers.shape or np.any(order // self.group != numbers // self.group):
            raise ValueError("source must name, for each sequence, one of the same audio")
        parents = order.reshape(self.n_audio, self.group) % self.group
        windows, members = np.arange(self.n_audio), np.arange(self.group)
        moved = parents != members
        self._common[:, members, members] = self.position
        shared = np.where(
            moved, self._common[windows[:, None], members, parents], self.position
        ).min(axis=1)
        for window in np.flatnonzero(shared < self.position):
            rows = np.flatnonzero(moved[window])
            first = window * self.group
            self._own.copy(
                first + parents[window, rows], first + rows, int(shared[window]), self.position
            )
        if moved.any():
            self._common = self._common[
                windows[:, None, None], parents[:, :, None], parents[:, None, :]
            ]

    def keep(self, windows: I64) -> None:
        """Go on with some of the windows, in ascending order, and without the others."""
        targets = np.arange(len(windows) * self.group)
        sources = windows.repeat(self.group) * self.group + targets % self.group
        moved = sources != targets
        self._own.copy(sources[moved], targets[moved], 0, self.position)
        self._cross.keep(windows)
        self._common = self._common[windows]
        self._plans = self._choose_plans(len(windows), self.group)

    def align(
        self, tokens: ArrayLike, heads: Sequence[tuple[int, int]], observe: Observer | None = None
    ) -> tuple[F32, F32]:  # [n], pairs of (layer, head) -> [n, n_vocab], [len(heads), n, ctx]
        """Logits of every token and the cross-attention scores before softmax of chosen heads.

        For one audio and one sequence; starts over like ``prefill``.
        """
        n = len(np.atleast_1d(tokens))
        graph = builders.build_align(self._network.dims, n, heads, self._network.precision)
        plan = self._network.plan(graph, self._plans.states)
        plan(observe, tokens=self._check(tokens, (n,))[None], position=0)
        by_layer = {
            layer: iter(plan.outputs[f"alignment.{layer}"])
            for layer in dict.fromkeys(layer for layer, _ in heads)
        }
        scores = np.stack([next(by_layer[layer]) for layer, _ in heads])
        self._start_over(n)
        return plan.outputs["logits"][0], scores
