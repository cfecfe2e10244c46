"""What users see of the interface, as data: options, parameters, JSON keys, exit codes.

    python -m tests.cli.interface > tests/data/interface.json

writes the snapshot that ``test_interface.py`` compares with, when a change is meant.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import whisper_npu
from whisper_npu import errors
from whisper_npu.async_streams import AsyncSegmentStream
from whisper_npu.cli import main, program
from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.streams import SegmentStream
from whisper_npu.transcriber import Transcriber

NOISE = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
REPORTS = {
    "plan": ["plan", "--model", "tiny", "--format", "json", "--phase", "step"],
    "graph": ["graph", "--model", "tiny", "--format", "json", "--phase", "step"],
    "bench": ["bench", "--model", "demo", "--repeats", "1", "--profile", "--format", "json"],
    "models": ["models", "--format", "json"],
    "kernels list": ["kernels", "list", "--format", "json"],
    "kernels status": ["kernels", "status", "--device", "software", "--format", "json"],
}


def interface() -> dict[str, Any]:
    """All of it."""
    return {
        "names": sorted(whisper_npu.__all__),
        "options": dict(sorted(_commands())),
        "parameters": {
            "Transcriber": _parameters(Transcriber.__init__),
            "Transcriber.transcribe": _parameters(Transcriber.transcribe),
            "transcribe options": {
                name: repr(getattr(TranscribeOptions(), name))
                for name in sorted(TranscribeOptions.__dataclass_fields__)
            },
        },
        "members": {
            each.__name__: sorted(name for name in dir(each) if not name.startswith("_"))
            for each in (Transcriber, SegmentStream, AsyncSegmentStream)
        },
        "exit codes": {
            name: kind.exit_code
            for name, kind in sorted(vars(errors).items())
            if isinstance(kind, type) and issubclass(kind, errors.WhisperNpuError)
        },
        "JSON keys": {**dict(_reports()), "result": sorted(_keys(_result()))},
    }


def _commands() -> Iterator[tuple[str, list[str]]]:
    for name in program.COMMANDS:
        parser = program.parser_for([name])
        (commands,) = (
            action.choices[name]
            for action in parser._actions
            if isinstance(action, argparse._SubParsersAction)
        )
        yield from _options(name, commands)


def _options(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[str]]]:
    options = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub, command in action.choices.items():
                yield from _options(f"{name} {sub}", command)
        else:
            choices = f" {{{','.join(map(str, action.choices))}}}" if action.choices else ""
            options += [f"{option}{choices}" for option in action.option_strings or [action.dest]]
    yield name, sorted(options)


def _parameters(function: Any) -> dict[str, str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: "" if p.default is p.empty else repr(p.default) for p in parameters}


def _reports() -> Iterator[tuple[str, list[str]]]:
    for name, arguments in REPORTS.items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(arguments) == 0
        yield name, sorted(_keys(json.loads(printed.getvalue())))


def _result() -> dict[str, Any]:
    transcriber = Transcriber("demo", cpu_kernels=False)
    return transcriber.transcribe(NOISE, language="en", word_timestamps=True).to_dict()


# Below these the keys are names of ops, phases and files.
_OPEN = ("ops", "seconds", "totals", "files", "bytes", "attrs", "refusals", "limits")


def _keys(value: Any, prefix: str = "") -> set[str]:
    if isinstance(value, Mapping):
        found = set()
        for key, inner in value.items():
            path = f"{prefix}.{key}" if prefix else key
            found.add(path)
            if not (key in _OPEN and isinstance(inner, Mapping)):
                found |= _keys(inner, path)
        return found
    if isinstance(value, list):
        return {key for item in value for key in _keys(item, f"{prefix}[]")}
    return set()


if __name__ == "__main__":
    import os

    with tempfile.TemporaryDirectory() as home:
        os.environ["WHISPER_NPU_HOME"] = str(Path(home))
        print(json.dumps(interface(), indent=1))
