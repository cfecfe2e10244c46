"""``whisper-npu bench``: how fast a model is on this machine, against real time and op by op."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from whisper_npu.cli.machine import (
    MODEL,
    THREADS,
    add_machine,
    machine_options,
    prepare_numpy,
    unnamed_model,
)
from whisper_npu.cli.options import add_format, add_options, as_options
from whisper_npu.cli.process import say
from whisper_npu.errors import OptionError

if TYPE_CHECKING:
    from whisper_npu.bench import PhaseProfile, Report
    from whisper_npu.ops.arrays import F32

_SYNTHETIC = "30 s of synthetic noise, as no file was given"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "audio", nargs="?", help="a file, of which the first 30 s are taken; if not given, noise"
    )
    add_options(parser, (MODEL, THREADS))
    parser.add_argument("--repeats", type=int, default=5, help="runs to take the medians of")
    parser.add_argument("--profile", action="store_true", help="time every kind of op")
    add_format(parser)
    add_machine(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, and print the report on stdout."""
    if args.repeats < 1:
        raise OptionError(f"--repeats must be 1 or more, not {args.repeats}")
    machine = machine_options(args)
    prepare_numpy(args.threads)
    audio = _audio(args.audio)
    model = args.model or unnamed_model(quiet=False)
    # Imported here, as NumPy reads the number of threads when it is imported.
    from whisper_npu.bench import measure
    from whisper_npu.transcriber import Transcriber

    with as_options():
        open_model = partial(Transcriber.from_options, model, machine)
        report = measure(open_model, audio, args.repeats, args.profile)
    what = {"model": model, "audio": args.audio or _SYNTHETIC}
    if args.format == "json":
        say(json.dumps({**what, **report.to_dict()}, indent=2))
    else:
        say("\n".join(_text(what, report)))
    return 0


def _audio(path: str | None) -> F32:  # -> [up to 480000]
    """The first 30 s of a file, or noise. Raises AudioError."""
    import numpy as np

    from whisper_npu.audio import N_SAMPLES, stream_audio

    if path is None:
        noise = np.random.default_rng(0).standard_normal(N_SAMPLES, np.float32)
        return 0.1 * noise
    blocks, count = [], 0
    for block in stream_audio(path):
        blocks.append(block)
        count += len(block)
        if count >= N_SAMPLES:
            break
    return np.concatenate(blocks)[:N_SAMPLES]


def _text(what: dict[str, str], report: Report) -> Iterator[str]:
    from whisper_npu.bench import STAGES, TOKENS_PER_WINDOW
    from whisper_npu.runtime.usage import notice_of

    kernels = report.instruction_set or "none"
    yield f"model: {what['model']}, {report.precision} ({report.precision_reason})"
    yield (f"device: {report.device or 'cpu'}; threads: {report.threads}; CPU kernels: {kernels}")
    yield f"audio: {what['audio']}"
    yield f"medians of {report.repeats}, after one to warm up:"
    for stage, text in STAGES.items():
        yield f"  {report.seconds[stage] * 1e3:>10.3f} ms  {text}"
    yield f"a window of 30 s with {TOKENS_PER_WINDOW} tokens (assumed):"
    for search, token in (("greedy", "token_greedy"), ("beams", "token_beams")):
        yield (
            f"  {report.window_seconds(token) * 1e3:>10.3f} ms  {search}: "
            f"x {report.real_time(token):.1f} real time"
        )
    yield (
        f"  30 s / (log-mel + encoder + cross keys and values + prompt of {report.prompt_tokens} "
        f"tokens + {TOKENS_PER_WINDOW} x token)"
    )
    yield "  without decoding audio, rules of decoding, text and output"
    yield "ops by what runs them:"
    for phase in dict.fromkeys(each.phase for each in report.placement):
        counts = [
            f"{each.ops} {each.kernel} ({each.backend})"
            for each in report.placement
            if each.phase == phase
        ]
        yield f"  {phase}: {', '.join(counts)}"
    for event in report.fallbacks:
        yield f"fell back to NumPy: {event.phase}/{event.op} of {event.kernel}: {event.detail}"
    notice = notice_of(report.saturations)
    if notice is not None:
        yield notice
    for profile in report.profile:
        yield ""
        yield from _profile_text(profile)


_COLUMNS = "{:>10} {:>6} {:>4} {:>9} {:>7}  {:<34} {}"


def _profile_text(profile: PhaseProfile) -> Iterator[str]:
    yield (
        f"{profile.phase}: {profile.seconds * 1e3:.3f} ms; {profile.seconds_timed * 1e3:.3f} ms "
        f"with every op timed, {profile.seconds_in_ops * 1e3:.3f} ms of it in ops:"
    )
    yield _COLUMNS.format("ms", "share", "n", "GFLOP/s", "GB/s", "ops", "where")
    total = sum(each.seconds for each in profile.ops)
    for each in profile.ops:
        yield _COLUMNS.format(
            f"{each.seconds * 1e3:.3f}",
            f"{each.seconds / total:.1%}",
            each.regions,
            _rate(each.flops, each.seconds),
            _rate(each.bytes, each.seconds),
            each.kind,
            f"{each.kernel}: {each.function}",
        )


def _rate(count: int | None, seconds: float) -> str:
    """Billions in a second; - where there is nothing to count."""
    return f"{count / seconds / 1e9:.1f}" if count else "-"
