"""``whisper-npu doctor``: what an NPU needs, what of it is there, and what to do about the rest."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from whisper_npu.backends.npu.xrt.checks import Check, Diagnosis, diagnose
from whisper_npu.cli.options import add_format
from whisper_npu.errors import KernelError

_MARKS = {True: "ok", False: "WRONG", None: "-"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis. Gives 0 if an NPU is usable, else the exit code of kernel errors."""
    diagnosis = diagnose()
    print(_json(diagnosis) if args.format == "json" else _text(diagnosis))
    return 0 if diagnosis.usable else KernelError.exit_code


def _json(diagnosis: Diagnosis) -> str:
    return json.dumps({"usable": diagnosis.usable, **asdict(diagnosis)}, indent=2)


def _text(diagnosis: Diagnosis) -> str:
    lines = [line for check in diagnosis.checks for line in _lines(check)]
    wrong = sum(check.ok is False for check in diagnosis.checks)
    verdict = "The NPU is usable." if diagnosis.usable else f"No usable NPU ({wrong} wrong)."
    return "\n".join([*lines, "", verdict])


def _lines(check: Check) -> list[str]:
    lines = [f"{_MARKS[check.ok]:<7}{check.name:<15}{check.found}"]
    if check.fix:
        lines.append(f"{'':<22}-> {check.fix}")
    return lines
