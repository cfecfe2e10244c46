"""Decoding token by token: windows that take each step together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from whisper_npu.ops.arrays import F32, I64
from whisper_npu.ops.probabilities import Probabilities
from whisper_npu.runtime.caches import Slot
from whisper_npu.runtime.decoder import Decoder
from whisper_npu.runtime.plan import Observer


class DecoderSession:
    """Some windows in the caches of a decoder: a prompt for each, then token by token.

    Sequences are ordered by window, then within the group. Windows may be at different positions:
    ``join`` takes in those of another session, ``keep`` leaves some behind. Logits are valid until
    the next call of any session of the decoder, and may be changed in place.
    """

    def __init__(self, decoder: Decoder, slots: Sequence[Slot], group: int) -> None:
        self._decoder, self.group = decoder, group
        self._held = list(slots)
        self._slots = np.array([slot.index for slot in slots])
        self._start_over(0)

    @property
    def n_audio(self) -> int:
        """Windows that are decoded."""
        return len(self._held)

    @property
    def probabilities(self) -> Probabilities:
        """The functions that compute probabilities of the logits."""
        return self._decoder.network.probabilities

    def _start_over(self, position: int) -> None:
        #: Tokens of each window so far.
        self.positions: I64 = np.full(self.n_audio, position)
        # The first tokens that sequences have in common: [n_audio, group, group].
        self._common = np.full((self.n_audio, self.group, self.group), position)

    def _check(self, tokens: ArrayLike, shape: tuple[int, ...]) -> I64:
        array = np.asarray(tokens, np.int64)
        n_vocab = self._decoder.network.dims.n_vocab
        if array.shape != shape:
            raise ValueError(f"tokens are {array.shape}, not {shape}")
        if array.size and not 0 <= array.min() <= array.max() < n_vocab:
            raise ValueError(f"a token id is outside 0..{n_vocab - 1}")
        return array

    def prefill(
        self, tokens: ArrayLike, rows: Sequence[int], observe: Observer | None = None
    ) -> F32:  # [n_audio, n], rows of n -> [n_audio, len(rows), n_vocab]
        """Start over with a prompt for each window. Raises ValueError if it is too long."""
        n, n_text_ctx = np.shape(tokens)[-1], self._decoder.network.dims.n_text_ctx
        if not 0 < n <= n_text_ctx:
            raise ValueError(f"a prompt of {n} tokens does not fit {n_text_ctx}")
        checked = self._check(tokens, (self.n_audio, n))
        plan, first = self._decoder.prefill(self.n_audio, n, len(rows)), np.zeros_like(self._slots)
        plan(observe, tokens=checked, position=first, slot=self._slots, rows=rows)
        if self.group > 1:
            members = np.arange(1, self.group)
            slots = self._slots[:, None]
            self._decoder.own.copy(slots, np.zeros_like(members), members, 0, n)
        self._start_over(n)
        self._decoder.own.wrote(self._slots, self.positions)
        return plan.outputs["logits"]

    def step(
        self, tokens: ArrayLike, observe: Observer | None = None
    ) -> F32:  # [n_audio * group] -> [n_audio * group, n_vocab]
        """One more token for every sequence. Raises ValueError when the context of one is full."""
        n_text_ctx = self._decoder.network.dims.n_text_ctx
        if self.positions.max() >= n_text_ctx:
            raise ValueError(f"the text context of {n_text_ctx} tokens is full")
        checked = self._check(tokens, (self.n_audio * self.group,))
        plans = self._decoder.step(self.n_audio, self.group)
        plans.step(observe, tokens=checked[:, None], position=self.positions, slot=self._slots)
        self.positions += 1
        self._decoder.own.wrote(self._slots, self.positions)
        return plans.logits

    def likeliest(
        self, logits: ArrayLike, k: int
    ) -> tuple[I64, F32]:  # [n_audio * group, n_vocab], k -> [n_audio * group, k] of each
        """The ``k`` likeliest tokens of each sequence, best first, and their log-probabilities.

        Valid until the next call. Logits are best the array that ``step`` gave: others are copied
        there.
        """
        plans = self._decoder.step(self.n_audio, self.group)
        plan = plans.choice(k)
        if logits is not plans.logits:
            plans.logits[...] = logits
        plan()
        return plan.outputs["tokens"], plan.outputs["logprobs"]

    def reorder(self, source: ArrayLike) -> None:
        """Sequence i continues the cache of sequence ``source[i]``, which is of the same window.

        Sequences that were one before have its tokens in common: only what follows is copied.
        """
        order = np.asarray(source, np.int64)
        numbers = np.arange(self.n_audio * self.group)
        if order.shape != numbers.shape or np.any(order // self.group != numbers // self.group):
            raise ValueError("source must name, for each sequence, one of the same window")
        parents = order.reshape(self.n_audio, self.group) % self.group
        windows, members = np.arange(self.n_audio), np.arange(self.group)
        moved, here = parents != members, self.positions[:, None]
        self._common[:, members, members] = here
        shared = np.where(moved, self._common[windows[:, None], members, parents], here).min(axis=1)
        for window in np.flatnonzero(shared < self.positions).tolist():
            targets = np.flatnonzero(moved[window])
            self._decoder.own.copy(
                int(self._slots[window]), parents[window, targets], targets,
                int(shared[window]), int(self.positions[window]),
            )  # fmt: skip
        if moved.any():
            self._common = self._common[
                windows[:, None, None], parents[:, :, None], parents[:, None, :]
            ]

    def keep(self, windows: I64) -> None:
        """Go on with some of the windows, in this order, and give back the slots of the others."""
        self._held = [self._held[window] for window in windows.tolist()]
        self._slots, self.positions = self._slots[windows], self.positions[windows]
        self._common = self._common[windows]

    def join(self, other: DecoderSession) -> None:
        """Go on with the windows of another session as well, behind those that are here.

        Raises ValueError if that has another number of sequences for each window. It must not be
        used afterwards.
        """
        if other.group != self.group:
            raise ValueError(f"a group of {other.group} sequences cannot join one of {self.group}")
        self._held += other._held
        self._slots = np.concatenate([self._slots, other._slots])
        self.positions = np.concatenate([self.positions, other.positions])
        self._common = np.concatenate([self._common, other._common])

    def align(
        self, tokens: ArrayLike, heads: Sequence[tuple[int, int]], observe: Observer | None = None
    ) -> tuple[F32, F32]:  # [n], pairs of (layer, head) -> [n, n_vocab], [len(heads), n, ctx]
        """Logits of every token and the cross-attention scores before softmax of chosen heads.

        For one window and one sequence of it; starts over like ``prefill``.
        """
        checked = self._check(tokens, (len(np.atleast_1d(tokens)),))
        plan = self._decoder.align(len(checked), heads)
        plan(observe, tokens=checked[None], position=np.zeros(1, np.int64), slot=self._slots)
        by_layer = {
            layer: iter(plan.outputs[f"alignment.{layer}"])
            for layer in dict.fromkeys(layer for layer, _ in heads)
        }
        scores = np.stack([next(by_layer[layer]) for layer, _ in heads])
        self._start_over(len(checked))
        self._decoder.own.wrote(self._slots, self.positions)
        return plan.outputs["logits"][0], scores
