"""The decoder of a model: its caches, and the plans over them, which its sessions share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whisper_npu.model import builders
from whisper_npu.model.graph_builder import CacheRoom
from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.backend import Array
from whisper_npu.runtime.caches import CrossCache, OwnCache, Slot
from whisper_npu.runtime.network import Network
from whisper_npu.runtime.plan import Observer, Plan
from whisper_npu.runtime.plan_cache import PlanCache

# Shapes vary with batches and beams, prompts in length; plans for more of them are not kept. A
# batch has as many sizes as windows, and as many again where windows are decoded again with other
# beams.
_STEPS = 16
_PREFILLS = 8
# Slots are added by so many.
_SLOTS = 8
# Nor are more for choices among the tokens: one for each number of beams.
_CHOICES = 2


class StepPlans:
    """The plans for a token of ``group`` sequences of each of ``n_audio`` windows."""

    def __init__(self, network: Network, states: Mapping[str, Array], room: CacheRoom,
                 n_audio: int, group: int) -> None:  # fmt: skip
        self._network, self._sequences = network, n_audio * group
        graph = builders.build_step(network.dims, n_audio, group, network.precision, room)
        self.step = network.plan(graph, states)
        #: Where a step puts them: [n_audio * group, n_vocab].
        self.logits: F32 = self.step.outputs["logits"][:, 0]
        self._choices: PlanCache[int, Plan] = PlanCache(_CHOICES)

    def choice(self, k: int) -> Plan:
        """The plan that finds the ``k`` likeliest tokens by ``logits``."""
        network = self._network

        def plan() -> Plan:
            graph = builders.build_choice(
                network.dims.n_vocab, self._sequences, k, network.precision
            )
            return network.plan(graph, {"logits": self.logits})

        return self._choices.get(k, plan)


class Decoder:
    """Caches of the windows that are decoded, in slots, and plans for any number of them.

    Caches are as large as what was decoded at once so far, and grow.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._cross, self.own = CrossCache(network), OwnCache(network)
        self._steps: PlanCache[tuple[int, int], StepPlans] = PlanCache(_STEPS)
        self._prefills: PlanCache[tuple[int, int, int], Plan] = PlanCache(_PREFILLS)

    @property
    def room(self) -> CacheRoom:
        """What there is room for."""
        return self.own.room

    @property
    def states(self) -> dict[str, Array]:
        """The caches by name."""
        return {**self.own.states, **self._cross.states}

    def forget_plans(self) -> None:
        """Make them anew when they are needed. What is cached stays."""
        self._steps.clear()
        self._prefills.clear()
        self._cross.forget_plans()

    def reserve(self, slots: int, members: int) -> None:
        """Have room for so many windows with so many sequences each."""
        room = CacheRoom(max(slots, self.room.slots), max(members, self.room.members))
        if room == self.room:
            return
        # Of arrays that are left behind.
        self.forget_plans()
        if room.slots > self._cross.slots:
            self._cross.grow(room.slots)
        self.own.grow(room)

    def claim(
        self, windows: Sequence[Array], members: int, observe: Observer | None = None
    ) -> list[Slot]:  # of [n_audio_ctx, n_audio_state]
        """Slots with the keys and values of windows, given by their states.

        Those of a window are computed once, for as long as no other window takes their place: its
        states are known by where they are in memory, and must not be changed.
        """
        needed = self.room.slots + max(0, len(windows) - self._cross.n_free)
        # Memory that nothing is written to costs nothing: where windows come one by one, there is
        # room for several at once.
        several = -(-needed // _SLOTS) * _SLOTS
        self.reserve(several if 0 < self.room.slots < needed else needed, members)
        # Those that are known first: otherwise their slots might be given to others.
        numbers = sorted(range(len(windows)), key=lambda i: not self._cross.knows(windows[i]))
        claimed = {i: self._cross.claim(windows[i], observe) for i in numbers}
        return [claimed[i] for i in range(len(windows))]

    def step(self, n_audio: int, group: int) -> StepPlans:
        """The plans for a token of all sequences."""

        def plans() -> StepPlans:
            return StepPlans(self.network, self.states, self.room, n_audio, group)

        return self._steps.get((n_audio, group), plans)

    def prefill(self, n_audio: int, n_tokens: int, n_rows: int) -> Plan:
        """The plan for a prompt of each window, with logits of ``n_rows`` of its tokens. The prompt
        is the same for the sequences of a window: it is run for the first of them."""
        network = self.network

        def plan() -> Plan:
            graph = builders.build_prefill(
                network.dims, n_tokens, n_audio, n_rows, network.precision, self.room
            )
            return network.plan(graph, self.states)

        return self._prefills.get((n_audio, n_tokens, n_rows), plan)

    def align(self, n_tokens: int, heads: Sequence[tuple[int, int]]) -> Plan:
        """A plan for one window that gives the scores of cross-attention heads; it is not kept."""
        network = self.network
        graph = builders.build_align(network.dims, n_tokens, heads, network.precision, self.room)
        return network.plan(graph, self.states)
