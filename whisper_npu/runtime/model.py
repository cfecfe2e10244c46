"""A loaded model: the phases of a window as plans over shared weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from whisper_npu.runtime.backend import Array
from whisper_npu.runtime.caches import CrossCache, OwnCache
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.network import Network
from whisper_npu.runtime.plan import Observer, Plan
from whisper_npu.runtime.plan_cache import PlanCache
from whisper_npu.runtime.session import DecoderPlans, DecoderSession
from whisper_npu.runtime.weights import Weights

# Shapes vary with batches and beams; plans for more of them are not kept. A batch of eight windows
# has four shapes as they end, and as many again where they are decoded again with other beams.
_PLANS = 8
_SHAPES = 8


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
        # Both are as large as the largest batch so far; plans are on the first part of them.
        self._cross = CrossCache(self._network, 0)
        self._own = OwnCache(self._network, 0)
        self._decoder: PlanCache[tuple[int, int], DecoderPlans] = PlanCache(_SHAPES)

    def release(self) -> None:
        """Forget plans, and weights in memory of backends: they are made anew where needed."""
        self._mel.clear()
        self._encoder.clear()
        self._decoder.clear()
        self._cross = CrossCache(self._network, 0)
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
        Sessions share memory: only the latest is valid.
        """
        n_audio = len(states)
        if n_audio > self._cross.n_audio:
            self._decoder.clear()
            self._cross = CrossCache(self._network, n_audio)
        if n_audio * group > self._own.sequences:
            self._decoder.clear()
            self._own = OwnCache(self._network, n_audio * group)
        self._cross.fill(states, observe)
        return DecoderSession(self._network, self._cross, self._own, self._decoder, n_audio, group)
