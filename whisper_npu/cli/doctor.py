"""``whisper-npu doctor``: what an NPU and the CPU kernels need, and what to do about the rest."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict

from whisper_npu.backends.npu.xrt.checks import Check, Diagnosis, diagnose
from whisper_npu.cli.options import add_format
from whisper_npu.cli.process import say
from whisper_npu.errors import KernelError

_CPU_KERNELS = "CPU kernels"
_MARKS = {True: "ok", False: "WRONG", None: "-"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis. Gives 0 if an NPU is usable, else the exit code of kernel errors."""
    diagnosis, cpu = diagnose(), _cpu_kernels()
    say((_json if args.format == "json" else _text)(diagnosis, cpu))
    return 0 if diagnosis.usable else KernelError.exit_code


def _cpu_kernels() -> Check:
    # Imported here: the kernels need NumPy, which --help does not.
    from whisper_npu.backends.cpu.build import Build
    from whisper_npu.backends.cpu.library import open_library, switched_off
    from whisper_npu.backends.cpu.status import cpu_kernel_statuses, usable_build

    build = usable_build()
    if not isinstance(build, Build):
        return Check(_CPU_KERNELS, False, build)
    off = switched_off()
    if off is not None:
        return Check(_CPU_KERNELS, None, off)
    library = open_library(build)
    counts = Counter(status.state for status in cpu_kernel_statuses())
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    advice = "they are verified when a model is loaded" if counts["unverified"] else ""
    return Check(_CPU_KERNELS, True, f"{build.path} for {library.isa}: {states}", advice)


def _json(diagnosis: Diagnosis, cpu: Check) -> str:
    found = {"usable": diagnosis.usable, **asdict(diagnosis), "cpu_kernels": asdict(cpu)}
    return json.dumps(found, indent=2)


def _text(diagnosis: Diagnosis, cpu: Check) -> str:
    lines = [line for check in diagnosis.checks for line in _lines(check)]
    wrong = sum(check.ok is False for check in diagnosis.checks)
    verdict = "The NPU is usable." if diagnosis.usable else f"No usable NPU ({wrong} wrong)."
    return "\n".join([*lines, "", verdict, "", *_lines(cpu)])


def _lines(check: Check) -> list[str]:
    lines = [f"{_MARKS[check.ok]:<7}{check.name:<15}{check.found}"]
    if check.fix:
        lines.append(f"{'':<22}-> {check.fix}")
    return lines
