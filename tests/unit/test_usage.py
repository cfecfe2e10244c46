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
from whisper_npu.runtime.usage import Usage


def kinds(*phases: str) -> Counter[str]:
    return Counter(op.kind for p in phases for op in build_phase(p, DIMS, 3, "int8").ops)


def test_numpy_alone() -> None:
    model = numpy_model()
    usage = model.machine.usage
    before = usage.snapshot()
    run_windows(model)
    placement = usage.since(before)
    assert placement.ops == {kind: {"numpy": n} for kind, n in kinds(*RUNS).items()}
    assert (placement.device, placement.precision) == (None, "int8")
    assert (placement.launches, placement.resident_bytes, placement.checks) == (0, 0, 0)
    assert usage.runs == Counter(RUNS)
    assert set(placement.seconds) == set(RUNS)
    assert all(seconds > 0 for seconds in placement.seconds.values())


def test_every_backend_is_counted() -> None:
    model = accelerated(Alternating((LARGE, SMALL)))
    before = model.machine.usage.snapshot()
    run_windows(model)
    placement = model.machine.usage.since(before)
    counts = placement.ops["product_int8"]
    assert set(counts) == {"numpy", LARGE.contract.name, SMALL.contract.name}
    assert sum(counts.values()) == kinds(*RUNS)["product_int8"]
    assert placement.launches == sum(counts.values()) - counts["numpy"]
    rest = {kind: {"numpy": n} for kind, n in kinds(*RUNS).items() if kind != "product_int8"}
    assert {k: v for k, v in placement.ops.items() if k != "product_int8"} == rest


def test_a_placement_is_of_one_transcription() -> None:
    model = accelerated(everywhere(SMALL), check_rate=1.0)
    usage = model.machine.usage
    run_windows(model)
    before = usage.snapshot()
    states = model.encode(FEATURES[:1])
    middle = usage.since(before)
    assert middle.ops["product_int8"] == {SMALL.contract.name: kinds("encoder")["product_int8"]}
    assert set(middle.seconds) == {"encoder"}
    assert middle.launches == middle.checks == kinds("encoder")["product_int8"]
    model.decoder(states)
    after = usage.since(before)
    assert after.launches - middle.launches == kinds("cross_kv")["product_int8"]
    assert after.bytes_to_device > middle.bytes_to_device
    assert middle.resident_bytes == after.resident_bytes > 0


def test_alignment_counts_as_what_it_is() -> None:
    model = numpy_model()
    before = model.machine.usage.snapshot()
    model.decoder(model.encode(FEATURES[:1])).align([1, 2, 3, 4], [(0, 0), (0, 1)])
    graph = build_align(DIMS, 4, [(0, 0), (0, 1)], "int8")
    expected = kinds("encoder", "cross_kv") + Counter(op.kind for op in graph.ops)
    placement = model.machine.usage.since(before)
    assert placement.ops == {kind: {"numpy": n} for kind, n in expected.items()}


def test_two_transcriptions_of_one_model() -> None:
    """Each counts its own ops, checks and seconds."""
    model = accelerated(everywhere(SMALL), check_rate=1.0)
    usage = model.machine.usage
    run_windows(model)
    first = usage.since(Usage())
    before = usage.snapshot()
    model.encode(FEATURES[:1])
    second = usage.since(before)
    assert first.checks == first.launches > second.checks == second.launches > 0
    assert set(second.seconds) == {"encoder"}
    assert 0 < second.seconds["encoder"] < first.seconds["encoder"] + 1
    assert usage.since(usage.snapshot()).ops == {}
    assert usage.since(usage.snapshot()).seconds == {}


def test_what_fell_back_in_a_run_that_was_interrupted_is_not_counted() -> None:
    usage = Usage()
    usage.begin()
    usage.fell_back("product_int8", "kernel")
    # Here the run is interrupted; the next one runs to its end, with one op that falls back.
    usage.begin()
    usage.fell_back("product_int8", "kernel")
    usage.ran("step", {("product_int8", "kernel"): 3}, 0.5)
    placement = usage.since(Usage())
    assert placement.ops == {"product_int8": {"kernel": 2, "numpy": 1}}
    usage.begin()
    usage.fell_back("product_int8", "kernel")
    usage.ran("step", {("product_int8", "kernel"): 1}, 0.5)
    assert usage.since(Usage()).ops == {"product_int8": {"kernel": 2, "numpy": 2}}


def test_a_run_that_was_interrupted() -> None:
    def fault(action: str, kernel: str, count: int) -> DeviceError | None:
        if (action, count) == ("launch", 3):
            raise KeyboardInterrupt
        return None

    model = accelerated(everywhere(SMALL), SoftwareDevice(fault))
    before = model.machine.usage.snapshot()
    with pytest.raises(KeyboardInterrupt):
        model.encode(FEATURES[:1])
    placement = model.machine.usage.since(before)
    # A run that was not ended is not counted, but what it launched is.
    assert placement.ops == {}
    assert placement.launches == 3
    assert placement.seconds == {}


def test_fallbacks_stay_those_of_the_model() -> None:
    usage = Usage()
    event = Fallback("step", "logits", "gemm", "timeout", "too long")
    usage.fallbacks.append(event)
    placement = usage.since(usage.snapshot())
    assert placement.fallbacks == (event,)
    assert placement.to_dict()["fallbacks"][0]["reason"] == "timeout"


def test_saturations_are_those_of_one_transcription() -> None:
    usage = Usage()
    usage.saturated("encoder", ["a", "b"])
    before = usage.snapshot()
    usage.saturated("encoder", ["b"])
    usage.saturated("step", ["c"])
    # Another transcription has a turn.
    between = usage.snapshot()
    usage.saturated("step", ["c", "d"])
    before.skip(usage, between)
    usage.saturated("encoder", ["b"])
    placement = usage.since(before)
    found = [(each.phase, each.op, each.runs) for each in placement.saturations]
    assert found == [("encoder", "b", 2), ("step", "c", 1)]
    assert placement.to_dict()["saturations"][0] == {"phase": "encoder", "op": "b", "runs": 2}


def test_a_snapshot_does_not_move() -> None:
    model = accelerated(everywhere(SMALL))
    usage = model.machine.usage
    run_windows(model)
    before = usage.snapshot()
    kept = (Counter(before.runs), dict(before.seconds), Counter(before.ops))
    run_windows(model)
    assert (before.runs, before.seconds, before.ops) == kept
    seconds = usage.since(before).seconds
    assert seconds == {phase: usage.seconds[phase] - kept[1][phase] for phase in kept[1]}
