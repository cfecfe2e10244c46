"""What a result says of its own making equals what the graphs have."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.accelerated import (
    DIMS,
    FEATURES,
    LARGE,
    RUNS,
    SMALL,
    Alternating,
    accelerated,
    everywhere,
    numpy_model,
    run_windows,
)
from whisper_npu.backends.npu.device import DeviceError
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.model.builders import build_align, build_phase
from whisper_npu.results import Fallback
from whisper_npu.runtime.usage import Counts, Usage


def kinds(*phases: str) -> Counter[str]:
    return Counter(op.kind for p in phases for op in build_phase(p, DIMS, 3, "int8").ops)


def test_numpy_alone() -> None:
    model = numpy_model()
    usage = model.machine.usage
    run_windows(model)
    placement = usage.placement(usage.counts)
    assert placement.ops == {kind: {"numpy": n} for kind, n in kinds(*RUNS).items()}
    assert (placement.device, placement.precision) == (None, "int8")
    assert (placement.launches, placement.resident_bytes, placement.checks) == (0, 0, 0)
    assert usage.counts.runs == Counter(RUNS)
    assert set(placement.seconds) == set(RUNS)
    assert all(seconds > 0 for seconds in placement.seconds.values())


def test_every_backend_is_counted() -> None:
    model = accelerated(Alternating((LARGE, SMALL)))
    run_windows(model)
    placement = model.machine.usage.placement(model.machine.usage.counts)
    counts = placement.ops["product_int8"]
    assert set(counts) == {"numpy", LARGE.contract.name, SMALL.contract.name}
    assert sum(counts.values()) == kinds(*RUNS)["product_int8"]
    assert placement.launches == sum(counts.values()) - counts["numpy"]
    rest = {kind: {"numpy": n} for kind, n in kinds(*RUNS).items() if kind != "product_int8"}
    assert {k: v for k, v in placement.ops.items() if k != "product_int8"} == rest


def test_alignment_counts_as_what_it_is() -> None:
    model = numpy_model()
    model.decoder(model.encode(FEATURES[:1])).align([1, 2, 3, 4], [(0, 0), (0, 1)])
    graph = build_align(DIMS, 4, [(0, 0), (0, 1)], "int8")
    expected = kinds("encoder", "cross_kv") + Counter(op.kind for op in graph.ops)
    placement = model.machine.usage.placement(model.machine.usage.counts)
    assert placement.ops == {kind: {"numpy": n} for kind, n in expected.items()}


def test_what_fell_back_in_a_run_that_was_interrupted_is_not_counted() -> None:
    usage = Usage()
    usage.begin()
    usage.fell_back("product_int8", "kernel")
    # Here the run is interrupted; the next one runs to its end, with one op that falls back.
    usage.begin()
    usage.fell_back("product_int8", "kernel")
    usage.ran("step", {("product_int8", "kernel"): 3}, 0.5)
    placement = usage.placement(usage.counts)
    assert placement.ops == {"product_int8": {"kernel": 2, "numpy": 1}}
    usage.begin()
    usage.fell_back("product_int8", "kernel")
    usage.ran("step", {("product_int8", "kernel"): 1}, 0.5)
    assert usage.placement(usage.counts).ops == {"product_int8": {"kernel": 2, "numpy": 2}}


def test_a_run_that_was_interrupted() -> None:
    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        if (action, count) == ("launch", 3):
            raise KeyboardInterrupt
        return None

    model = accelerated(everywhere(SMALL), SoftwareDevice(fault))
    with pytest.raises(KeyboardInterrupt):
        model.encode(FEATURES[:1])
    placement = model.machine.usage.placement(model.machine.usage.counts)
    # A run that was not ended is not counted, but what it launched is.
    assert placement.ops == {}
    assert placement.launches == 3
    assert placement.seconds == {}


def test_fallbacks_stay_those_of_the_model() -> None:
    usage = Usage()
    event = Fallback("step", "logits", "gemm", "timeout", "too long")
    usage.fallbacks.append(event)
    placement = usage.placement(Counts())
    assert placement.fallbacks == (event,)
    assert placement.to_dict()["fallbacks"][0]["reason"] == "timeout"


def test_runs_are_counted_where_they_are_told_to_be() -> None:
    """Each transcription counts its own ops, checks, bytes and seconds."""
    model = accelerated(everywhere(SMALL), check_rate=1.0)
    usage = model.machine.usage
    first, second = model.new_counts(), model.new_counts()
    with model.counted(first):
        states = model.encode(FEATURES[:1])
        with model.counted(second):
            model.decoder(states)
        model.encode(FEATURES[:1])
    one, other = usage.placement(first), usage.placement(second)
    encoder = kinds("encoder")["product_int8"]
    assert one.ops["product_int8"] == {SMALL.contract.name: 2 * encoder}
    assert one.launches == one.checks == 2 * encoder
    assert other.launches == other.checks == kinds("cross_kv")["product_int8"]
    assert (set(one.seconds), set(other.seconds)) == ({"encoder"}, {"cross_kv"})
    assert one.bytes_to_device > other.bytes_to_device > 0
    assert one.resident_bytes == other.resident_bytes > 0
    assert usage.counts == Counts()


def test_counts_end_with_an_error() -> None:
    usage = Usage()
    with pytest.raises(KeyError), usage.counted(Counts()):
        raise KeyError
    usage.ran("step", {("gelu", "numpy"): 1}, 0.5)
    assert usage.counts.runs == {"step": 1}


def test_what_is_shared_counts_for_all_and_its_time_in_part() -> None:
    usage = Usage()
    with usage.counted(Counts()):
        shared = usage.counts
        usage.ran("step", {("gelu", "numpy"): 4}, 0.5)
        usage.saturated("step", ["a", "b"])
        shared.launches, shared.checks = 7, 3
        shared.bytes_to_device, shared.bytes_from_device = 70, 30
    own = Counts()
    for share in (0.25, 0.75):
        own.add(shared, share)
    placement = usage.placement(own)
    assert placement.ops == {"gelu": {"numpy": 8}}
    assert placement.seconds == {"step": 0.5}
    assert (placement.launches, placement.checks) == (14, 6)
    assert (placement.bytes_to_device, placement.bytes_from_device) == (140, 60)
    found = [(each.phase, each.op, each.runs) for each in placement.saturations]
    assert found == [("step", "a", 2), ("step", "b", 2)]
    assert placement.to_dict()["saturations"][0] == {"phase": "step", "op": "a", "runs": 2}
    # What was added stays as it was.
    assert shared.seconds == {"step": 0.5}
    assert shared.runs == {"step": 1}
