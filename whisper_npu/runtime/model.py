"""A loaded model: the phases of a window as plans over shared weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np

from whisper_npu.model import builders
from whisper_npu.model.checkpoint import Checkpoint, StoredWeights
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.graph import Graph
from whisper_npu.model.integer_weights import IntegerWeights
from whisper_npu.model.precision import Precision
from whisper_npu.ops.arrays import F32, I16
from whisper_npu.ops.fixed import FEATURE_FRACTION
from whisper_npu.ops.mel import mel_filters
from whisper_npu.ops.probabilities import Probabilities
from whisper_npu.runtime.backend import Array
from whisper_npu.runtime.decoder import Decoder
from whisper_npu.runtime.machine import Halt, Machine
from whisper_npu.runtime.network import Network
from whisper_npu.runtime.plan import Observer, Plan
from whisper_npu.runtime.plan_cache import PlanCache
from whisper_npu.runtime.session import DecoderSession
from whisper_npu.runtime.usage import Counts
from whisper_npu.runtime.weights import Weights

# Lengths of audio and batches vary; plans for more of them are not kept.
_PLANS = 8


def phase_graphs(dims: ModelDimensions, precision: Precision) -> list[Graph]:
    """The graphs by which the forms of weights and states are settled: one of each phase."""
    return [builders.build_phase(phase, dims, precision=precision) for phase in builders.PHASES]


def _mel_constants(n_mels: int, precision: Precision) -> Mapping[str, Array]:
    """The tables of mel by the names that graphs have for them."""
    if precision == "float32":
        return {builders.MEL_FILTERS: mel_filters(n_mels)}
    # Imported here for the decimal arithmetic that it takes.
    from whisper_npu.ops.mel_tables import named_tables

    return named_tables(n_mels)


class Model:
    """Runs the phases. Not to be used from several threads at once.

    Weights are held once, whatever the number of plans.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        machine: Machine,
    ) -> None:
        self.dims = checkpoint.dims
        self.precision = precision
        self.machine = machine
        self.machine.usage.precision = precision
        forms = machine.settle(phase_graphs(self.dims, precision))
        int8 = precision == "int8"
        constants = _mel_constants(self.dims.n_mels, precision)
        weights = checkpoint.integer_weights() if int8 else checkpoint.float_weights()
        self._weights = Weights(weights, constants)
        self._weights.load(
            forms.weights,
            weights.files if isinstance(weights, StoredWeights | IntegerWeights) else None,
        )
        self._network = Network(self.dims, precision, self._weights, forms.states, machine)
        self._mel: PlanCache[int, Plan] = PlanCache(_PLANS)
        self._encoder: PlanCache[int, Plan] = PlanCache(_PLANS)
        self._decoder = Decoder(self._network)

    @property
    def probabilities(self) -> Probabilities:
        """The functions that compute probabilities of the logits."""
        return self._network.probabilities

    @property
    def halt(self) -> Halt:
        """What is run meanwhile ends with Halted if it is asked to."""
        return self.machine.halt

    def new_counts(self) -> Counts:
        """Counts of nothing."""
        return Counts()

    def counted(self, counts: Counts) -> AbstractContextManager[None]:
        """Count what is run meanwhile there."""
        return self.machine.usage.counted(counts)

    def release(self) -> None:
        """Forget plans, and weights in memory of backends: they are made anew where needed."""
        self._mel.clear()
        self._encoder.clear()
        self._decoder.forget_plans()
        self._weights.release()

    def log_mel(self, samples: F32) -> F32 | I16:  # [160 (t - 1) + 400] -> [n_mels, t]
        """log10 of the mel spectrum, neither clamped nor normalised, as ``builders.build_mel`` has
        it."""
        n_frames = 1 + (len(samples) - 400) // 160
        plan = self._mel.get(n_frames, lambda: self._plan_mel(n_frames))
        plan(samples=samples)
        log_mel: F32 | I16 = plan.outputs["log_mel"].copy()
        return log_mel

    def _plan_mel(self, n_frames: int) -> Plan:
        graph = builders.build_mel(self.dims.n_mels, n_frames, self.precision)
        return self._network.plan(graph)

    def encode(
        self, features: F32 | I16, observe: Observer | None = None
    ) -> Array:  # [b, n_mels, 2 n_audio_ctx] -> [b, n_audio_ctx, n_audio_state]
        """Encoder states of a batch of windows, as ``builders.build_encoder`` has them.

        For the integers of ``int8``, features that are floats are rounded.
        """
        plan = self._encoder.get(len(features), lambda: self._plan_encoder(len(features)))
        if self.precision == "int8" and features.dtype != np.int16:
            steps = np.rint(features * np.float32(2.0**FEATURE_FRACTION))
            features = np.clip(steps, 1 - 2**15, 2**15 - 1).astype(np.int16)
        plan(observe, features=features)
        states: Array = plan.outputs["states"].copy()
        return states

    def _plan_encoder(self, batch: int) -> Plan:
        graph = builders.build_encoder(self.dims, batch, self.precision)
        plan = self._network.plan(graph)
        # The arena has become large enough for spectra, whose plans would keep a smaller one.
        self._mel.clear()
        return plan

    def decoder(
        self, states: Array | Sequence[Array], group: int = 1, observe: Observer | None = None
    ) -> DecoderSession:  # n_audio of [n_audio_ctx, n_audio_state]
        """A session that decodes ``group`` sequences for each window of ``states``.

        A window's cross keys and values are computed once, for as long as no other window takes
        their place: its states are known by where they are in memory, and must not be changed.
        Several sessions may be under way.
        """
        slots = self._decoder.claim(list(states), group, observe)
        return DecoderSession(self._decoder, slots, group)
