"""The NPU as a backend: regions on verified kernels, and on NumPy when a kernel lets them down.

Whatever goes wrong with a launch, the region is computed by NumPy instead, at once, from the same
integers: the result is the same, and the event is recorded. The op then stays on NumPy.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from whisper_npu.backends.npu.device import Device, DeviceLost, KernelLied
from whisper_npu.backends.npu.families import FAMILIES, family_of
from whisper_npu.backends.npu.families.family import Family, Work
from whisper_npu.backends.npu.kernel_rates import KernelRates
from whisper_npu.backends.npu.manager import FAILED, UNVERIFIED, VERIFIED, KernelStatus
from whisper_npu.backends.npu.runner import Launch, Runner, Runners
from whisper_npu.backends.npu.trust import Trust
from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Graph, Op
from whisper_npu.runtime.backend import (
    Backend,
    Bound,
    Form,
    Offer,
    Refusal,
    Step,
    function_of,
)
from whisper_npu.runtime.usage import Usage


@dataclass(frozen=True)
class _Kernel:
    """A kernel that may be used, and the form of the weights that lie in its buffers."""

    status: KernelStatus
    rates: KernelRates
    family: Family
    form: Form | None = field(repr=False)

    @property
    def name(self) -> str:
        """That of its contract."""
        return self.status.name


class NpuStep:
    """A region on a kernel, computed by NumPy from the moment that this has let it down.

    ``function`` is the kernel's name, or that of the NumPy function which the last call called.
    """

    def __init__(
        self,
        phase: str,
        work: Work,
        kernel: str,
        launch: Launch | None,
        numpy: Step,
        trust: Trust,
        usage: Usage,
        proving: bool,
        sampled: Callable[[], bool],
    ) -> None:
        self._phase, self._work, self._kernel = phase, work, kernel
        self._launch, self._numpy = launch, numpy
        self._trust, self._usage = trust, usage
        self._proving, self._sampled = proving, sampled
        self.function = kernel if launch is not None else function_of(numpy)

    def __call__(self) -> None:
        launch, ops = self._launch, self._work.ops
        if launch is None or self._trust.failed(self._phase, ops):
            self._compute()
            return
        try:
            self._trust.check(self._kernel)
            launch(canaries=self._proving and not launch.has_law)
            self._count()
            if launch.has_law:
                self._prove(launch)
            if self._sampled():
                self._check(launch)
        except KernelError as error:
            self._trust.fall_back(self._phase, ops, self._kernel, error)
            self._compute()
            return
        launch.read()

    def _compute(self) -> None:
        # Its buffers are not needed any more; that of the weight is, which NumPy reads.
        self._launch = None
        self.function = function_of(self._numpy)
        self._numpy()
        for op in self._work.ops:
            self._usage.fell_back(op.kind, self._kernel)

    def _count(self) -> None:
        usage = self._usage
        usage.counts.launches += 1
        usage.counts.bytes_to_device += sum(self._work.inputs)
        usage.counts.bytes_from_device += sum(self._work.outputs)

    def _prove(self, launch: Launch) -> None:
        """Look whether the outputs obey the family's law. Raises KernelLied."""
        self._usage.counts.proofs += 1
        self._believe(launch.unproven())

    def _check(self, launch: Launch) -> None:
        """Compare with NumPy. Raises KernelLied."""
        self._usage.counts.checks += 1
        self._believe(launch.wrong())

    def _believe(self, wrong: str | None) -> None:
        if wrong is not None:
            raise KernelLied(
                f"{self._kernel}: {wrong} of {self._work.ops[-1].name} were wrong; the kernel is "
                "not used any more"
            )


class NpuBackend(Backend):
    """Kernels of one device for the plans of one model.

    ``kernels`` are all there are, ``rates`` those of the usable ones by name. Without a ``device``
    there are offers that cannot be bound. If ``proving``, each launch of a family that has a law is
    proven by it, and each of another one must write its outputs. ``check_rate`` is the share of
    launches that are recomputed by NumPy and compared, chosen by ``seed``.
    """

    name = "npu"
    predicts = True

    def __init__(
        self,
        device: Device | None,
        kernels: Iterable[KernelStatus],
        rates: Mapping[str, KernelRates],
        usage: Usage,
        check_rate: float = 1e-3,
        seed: int | None = None,
        proving: bool = True,
    ) -> None:
        self.device, self.usage = device, usage
        self._proving = proving
        self._check_rate, self._random = check_rate, random.Random(seed)
        self._trust = Trust(usage)
        # Forms refer to these and not to this object: without a cycle, memory is freed at once.
        self._runners = Runners(device, self._trust)
        self._used: dict[str, _Kernel] = {}
        self._refused: list[tuple[KernelStatus, Family]] = []
        for status in kernels:
            family = family_of(status.entry)
            if status.name in rates:
                form = family.form(partial(self._runners.take, status.entry, family))
                self._used[status.name] = _Kernel(status, rates[status.name], family, form)
            else:
                self._refused.append((status, family))

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of op that there are families of kernels for."""
        return frozenset(kind for family in FAMILIES.values() for kind in family.kinds)

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        """That of the kernel which is predicted to be the fastest, among those that have the
        weight already if there are any."""
        op = graph.ops[index]
        if op.kind not in self.kinds:
            return Refusal(self.name, self._why_not(op))
        answers = [
            self.offer_of(name, graph, index)
            for name, used in self._used.items()
            if op.kind in used.family.kinds
        ]
        offers = [answer for answer in answers if isinstance(answer, Offer)]
        if offers:
            held = [o for o in offers if self._runners.holding(o.kernel, o.weight)]
            return min(held or offers, key=lambda offer: offer.seconds or 0.0)
        return answers[0] if answers else Refusal(self.name, self._why_none(op))

    def offer_of(self, kernel: str, graph: Graph, index: int) -> Offer | Refusal:
        """What a usable kernel, by name, would do with the region that begins with an op."""
        used = self._used[kernel]
        work = used.family.work(graph, index, used.rates)
        if work is None:
            return Refusal(self.name, f"{kernel} does not take it")
        why = self._trust.failed(graph.name, work.ops)
        if why is not None and not self._runners.holding(kernel, work.weight):
            return Refusal(self.name, f"fell back to NumPy: {why}")
        forms = {work.weight: (used.form,)} if work.weight and used.form else {}
        return Offer(
            backend=self.name,
            kernel=kernel,
            function=kernel,
            ops=work.ops,
            bind=partial(self._bind, graph.name, used, work),
            forms=forms,
            seconds=work.seconds,
            note="verified" if used.status.state == VERIFIED else "taken to be verified",
            launches=1,
            bytes_in=sum(work.inputs),
            bytes_out=sum(work.outputs),
            resident_bytes=work.resident,
            weight=work.weight,
        )

    def failed(self, graph: Graph, offer: Offer, error: KernelError) -> None:
        """Record that the ops of an offer are not launched."""
        self._trust.fall_back(graph.name, offer.ops, offer.kernel, error)

    def open(self, names: Iterable[str]) -> None:
        """Open kernels now, not with the first weight or op that is for them. Raises
        KernelError."""
        for name in names:
            self._open(self._used[name])

    def close(self) -> None:
        """Give back contexts and buffers.

        Steps that there are compute by NumPy from now on; what is offered later falls back when it
        is bound, so that results have the event.
        """
        self._trust.give_up(DeviceLost("the NPU was given back"))
        self._runners.close()

    def describe_rates(self) -> list[str]:
        """What predictions are made of, as text, a line for each usable kernel."""
        return [
            f"{used.name}: {used.rates.describe()}"
            for used in self._used.values()
            if used.family.kinds
        ]

    # Regions

    def _bind(self, phase: str, used: _Kernel, work: Work, bound: Bound) -> Step:
        """The step of a region.

        Where its weight lies in the kernel's buffer nobody else can read it: if anything else is
        missing, the step computes by NumPy. Raises KernelError where the weight is not there, or
        where there is none and the kernel cannot be prepared.
        """
        held = self._runners.holding(used.name, work.weight)
        if work.weight is not None and not held:
            self._trust.check(used.name)
            raise KernelError(f"{used.name}: {work.weight} is not in its memory")
        launch = None
        if self._trust.failed(phase, work.ops) is None:
            try:
                launch = self._prepare(used, work, bound)
            except KernelError as error:
                if not held:
                    raise
                self._trust.fall_back(phase, work.ops, used.name, error)
        numpy = used.family.numpy(bound)
        return NpuStep(
            phase, work, used.name, launch, numpy, self._trust, self.usage, self._proving,
            self._sampled,
        )  # fmt: skip

    def _prepare(self, used: _Kernel, work: Work, bound: Bound) -> Launch:
        runner = self._open(used)
        if work.weight is not None:
            self.usage.resident_bytes += runner.synchronise(work.weight)
        return runner.prepare(work, bound, self._proving)

    def _open(self, used: _Kernel) -> Runner:
        return self._runners.open(used.status.entry, used.family)

    def _sampled(self) -> bool:
        return self._random.random() < self._check_rate

    # Reasons

    def _why_not(self, op: Op) -> str:
        """Why no kernel runs ops of this kind."""
        if any(op.kind in family.float_kinds for family in FAMILIES.values()):
            return "float32; kernels take int8 (--precision int8)"
        return f"no kernel is used for {op.kind}"

    def _why_none(self, op: Op) -> str:
        """Why none of the kernels for ops of this kind is used."""
        refused = [status for status, family in self._refused if op.kind in family.kinds]
        if not refused:
            return "the registry has no kernel for it"
        return "; ".join(f"{kernel.name} {_state(kernel)}" for kernel in refused)


def _state(kernel: KernelStatus) -> str:
    absent = [what for what, status in kernel.files.items() if status != "present"]
    if kernel.state == UNVERIFIED and absent:
        return f"is unverified, its {' and '.join(absent)} absent"
    return kernel.state if kernel.state == FAILED else f"is {kernel.state}"
