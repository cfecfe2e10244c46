"""Where packets are placed by their times and bytes, and how much silence those may claim."""

from __future__ import annotations

import io
import types
import warnings
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from tests.support.signals import noise
from whisper_npu.audio import load_audio
from whisper_npu.audio.decoders.account import Account
from whisper_npu.audio.decoders.packets import Packets

av = pytest.importorskip("av")

RATE = 8000
# Of packets, in milliseconds.
LENGTH = 20
MILLISECOND = Fraction(1, 1000)
SIZE = 100


def packet(time: int | None, place: int | None, damaged: bool = False) -> types.SimpleNamespace:
    """A packet of ``LENGTH`` at a time in milliseconds; its samples are 0.5."""
    samples = np.full((1, RATE * LENGTH // 1000), 0.5, np.float32)

    def decode() -> list[types.SimpleNamespace]:
        if damaged:
            raise av.error.InvalidDataError(1, "damaged")
        frame = types.SimpleNamespace(
            sample_rate=RATE,
            samples=samples.size,
            time=None if time is None else time / 1000,
            planes=[samples],
            format=types.SimpleNamespace(is_planar=True, name="fltp"),
            layout=types.SimpleNamespace(name="mono", nb_channels=1),
        )
        return [frame]

    return types.SimpleNamespace(decode=decode, pts=time, duration=LENGTH, pos=place, size=SIZE)


def place(packets: list[types.SimpleNamespace], kind: str = "matroska") -> tuple[str, Account]:
    """The packets in time: a letter for each ``LENGTH``, "x" for samples and "-" for silence."""
    container = types.SimpleNamespace(
        demux=lambda stream: iter(packets), format=types.SimpleNamespace(name=kind), bit_rate=None
    )
    context = types.SimpleNamespace(name="opus", bit_rate=0)
    stream = types.SimpleNamespace(codec_context=context, start_time=None, time_base=MILLISECOND)
    account = Account("x")
    blocks = Packets(container, stream, account).blocks()
    n = 0
    text = ""
    for block in _pieces(blocks):
        n += len(block)
        text += "x" if block.all() else "-"
    assert account.position == pytest.approx(n / RATE)
    return text, account


def _pieces(blocks: Iterator) -> Iterator[np.ndarray]:
    samples = np.concatenate([block.samples for block in blocks])
    size = RATE * LENGTH // 1000
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def times(*milliseconds: int | None) -> list[types.SimpleNamespace]:
    return [packet(time, SIZE * n) for n, time in enumerate(milliseconds)]


def test_the_first_time_does_not_matter() -> None:
    text, account = place(times(10**6, 10**6 + 20, 10**6 + 40))
    assert text == "xxx"
    assert account.gaps == []


def test_a_packet_that_is_missing() -> None:
    text, account = place([*times(0, 20), packet(60, 3 * SIZE), packet(80, 4 * SIZE)])
    assert text == "xx-xx"
    ((start, lost),) = [(gap.start, gap.lost) for gap in account.gaps]
    assert (start, lost) == pytest.approx((0.04, 0.02))


def test_packets_that_are_damaged() -> None:
    packets = times(0, 20, 40, 60, 80, 100)
    for n in (0, 2, 3):
        packets[n] = packet(20 * n, SIZE * n, damaged=True)
    assert place(packets)[0] == "-x--xx"


def test_times_that_are_rounded_or_jitter() -> None:
    for jitter in ((0, 33, 40, 66, 73, 100, 128, 140), (0, 20, 60, 80, 140)):
        text, account = place(times(*jitter))
        assert text == "x" * len(jitter)
        assert account.gaps == []


def test_times_alone_tell_of_what_is_long() -> None:
    assert place(times(0, 20, 160, 180))[0] == "xx------xx"


def test_frames_without_a_time() -> None:
    assert place(times(0, None, 40, None))[0] == "xxxx"


def test_times_that_go_back() -> None:
    """As where recordings were joined: nothing is dropped, and later gaps are still filled."""
    assert place(times(5000, 5020, 5040, 0, 20, 160))[0] == "xxxxx------x"


def test_silence_without_bytes_is_bounded() -> None:
    years = 10 * 365 * 24 * 3600 * 1000
    text, account = place([*times(0, 20, years, years + 20), packet(years + 60, 5 * SIZE)])
    # Half a minute, and as much as was decoded before.
    assert text == "xx" + "-" * 1502 + "xx-x"
    with pytest.warns(UserWarning, match=r"claim 3153\d+\.\d s more than it can hold"):
        account.warn()


def test_silence_for_bytes_is_not() -> None:
    """Where the file has bytes for it, for instance those of damaged pictures."""
    minute = 60 * 1000
    packets = [*times(0, 20), packet(minute, 3000 * SIZE), packet(minute + 20, 3001 * SIZE)]
    text, account = place(packets)
    assert text == "xx" + "-" * 2998 + "xx"
    assert account.gaps[0].filled == pytest.approx(59.96)


def test_bytes_tell_the_time_where_nothing_else_does() -> None:
    packets = times(0, 20, 40, 60)
    packets[2] = packet(40, 2 * SIZE, damaged=True)
    packets += [packet(80, 7 * SIZE), packet(100, 8 * SIZE)]
    assert place(packets, "aac")[0] == "xx-x---xx"
    # There times are sums, and those of packets that were never there.
    assert place([packet(20 * n, SIZE * n // 4) for n in range(4)], "aac")[0] == "xxxx"


def late(*starts: float, container: str, codec: str) -> bytes:
    """Two seconds of noise in each track of a file; they begin at these times in seconds."""
    file = io.BytesIO()
    # Clusters of half a second.
    options = {"cluster_time_limit": "500"} if container == "matroska" else {}
    with av.open(file, "w", format=container, options=options) as output:
        streams = [output.add_stream(codec, rate=48000, layout="mono") for _ in starts]
        for stream, start in zip(streams, starts, strict=True):
            stream.bit_rate = 64000
            frame = av.AudioFrame.from_ndarray(noise(2 * 48000)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, round(48000 * start)
            output.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


@pytest.mark.parametrize(
    ("starts", "container", "codec"),
    [
        ((1.5,), "matroska", "libopus"),
        ((1.5, 0.0), "matroska", "libopus"),
        ((1.5,), "asf", "wmav2"),
    ],
)
def test_a_track_that_begins_late_is_whole(
    starts: tuple[float, ...], container: str, codec: str
) -> None:
    source = late(*starts, container=container, codec=codec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = load_audio(source, audio_track=0)
    assert len(samples) == pytest.approx(2 * 16000, abs=1000)


def test_a_track_whose_start_is_lost_is_not() -> None:
    whole = bytearray(late(0.0, container="matroska", codec="libopus"))
    clusters = [i for i in range(len(whole)) if whole.startswith(b"\x1f\x43\xb6\x75", i)]
    whole[clusters[0] : clusters[1]] = bytes(clusters[1] - clusters[0])
    with pytest.warns(UserWarning, match=r"but its header promises 2\.0 s"):
        load_audio(bytes(whole), audio_track=0)
