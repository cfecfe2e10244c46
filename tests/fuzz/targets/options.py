"""Options as people and programs pass them, in Python and in commands: taken, or an OptionError.

An input is "api", "machine" or "cli", a line, and keywords or arguments as Python writes them. Some
of the options that are taken are used for a transcription.
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from decimal import Decimal
from fractions import Fraction
from functools import cache
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.targets import models
from tests.fuzz.targets.readers import check_message
from whisper_npu.audio import SAMPLE_RATE
from whisper_npu.backends.machine_options import MachineOptions
from whisper_npu.cli.program import parser_for, run
from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.errors import AudioError, ModelError, OptionError
from whisper_npu.text.writers import OUTPUT_FORMATS
from whisper_npu.transcriber import Transcriber

SECONDS = 10.0

_AUDIO = np.zeros(SAMPLE_RATE // 2, np.float32)
_NAMES = {"np": np, "nan": float("nan"), "inf": float("inf"), "D": Decimal, "F": Fraction}
_VALUES = (
    *("None", "True", "False", "0", "1", "-1", "2", "5", "0.5", "-0.5", "0.0", "-0.0", "1.0"),
    *("1e300", "1e-300", "nan", "inf", "-inf", "2**31", "2**63", "2**64", "10**400", "-10**400"),
    *("1j", "D('0.5')", "D('NaN')", "F(1, 3)", "F(10**400)", "np.int64(3)", "np.int8(-1)"),
    *("np.uint64(2**64 - 1)", "np.float32(0.5)", "np.float64('nan')", "np.float16('inf')"),
    *("np.bool_(True)", "np.array(3)", "np.array(0.5)", "np.array([0., 5.])", "np.array([])"),
    *("np.array([[1, 2], [3, 4]])", "np.arange(3)", "np.array(['en'])", "np.array('en')"),
    *("np.array([None])", "np.datetime64('2020')", "np.complex64(1)", "np.str_('en')"),
    *("''", "'en'", "'English'", "'a'", "'0'", "'-1'", "'1,2'", "'0,5'", "'5,0'", "'nan'", "','"),
    *(r"'\0'", r"'\ud800'", "'x' * 10000", r"'\x1b[2J'", "'1' * 5000", "'0,' * 5000", "'１'"),
    *("b'en'", "bytearray(b'1')", "memoryview(b'1')", "[]", "()", "[0]", "[0.0]", "(0.0, 0.5)"),
    *("{1}", "{}", "{'a': 1}", "object()", "range(3)", "range(10**5)", "iter([1])", "int", "print"),
    *("[[1]]", "[None]", "['a']", "[10**400]", "[nan]", "[True]", "[np.float32(1)]", "[0.2] * 99"),
    *("'transcribe'", "'translate'", "'cpu'", "'npu'", "'auto'", "'int8'", "'float32'", "Ellipsis"),
)  # fmt: skip
_WORDS = (
    *("", "0", "1", "-1", "2", "0.5", "nan", "inf", "-inf", "1e300", "1e-300", "1e999", "None"),
    *("True", "False", "true", "9" * 400, "9" * 5000, "en", "English", "xx", "１", "1,2", "0,5"),
    *("\ud800", "x" * 5000, "\x1b[2J", "--", "-", "@file", "%s", "transcribe", "cpu", "npu", "all"),
    *("auto", "int8", "0x10", "1_000", " 1", "1 ", "5,0", ",", "nan,nan", "left", "each", "json"),
)  # fmt: skip


def _names_of(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def mutate(chance: Random) -> bytes:
    """A few options with odd values."""
    kind = chance.choice(("api", "api", "machine", "cli"))
    if kind == "cli":
        return f"cli\n{_arguments(chance)!r}".encode("utf-8", "backslashreplace")
    machine = kind == "machine"
    names = _names_of(MachineOptions) if machine else [*_names_of(TranscribeOptions), "beamsize"]
    chosen = chance.sample(names, chance.choice((1, 1, 2, 3)))
    values = ", ".join(f"{name!r}: {chance.choice(_VALUES)}" for name in chosen)
    return f"{kind}\n{{{values}}}".encode()


# Commands with what they need, and how they end before they do anything.
_MISSING = ["--model", "./missing"]
_COMMANDS = {
    "transcribe": (["missing.wav"], _MISSING),
    "plan": ([], _MISSING),
    "graph": ([], _MISSING),
    "bench": ([], _MISSING),
    "convert": (["./missing", "./made"], []),
    "models": ([], []),
}


@cache
def _options_of(command: str) -> tuple[str, ...]:
    (commands,) = parser_for([command])._subparsers._group_actions  # type: ignore[union-attr]
    found = commands.choices[command]._option_string_actions  # type: ignore[index]
    return (*found, "--unknown", "--no", "--temp")


def _arguments(chance: Random) -> list[str]:
    command = "transcribe" if chance.random() < 0.6 else chance.choice(list(_COMMANDS))
    needed, last = _COMMANDS[command]
    found = [command, *needed]
    for name in chance.sample(_options_of(command), chance.choice((1, 1, 2, 3))):
        value = chance.choice((*_WORDS, *OUTPUT_FORMATS))
        found += [name, value] if chance.random() < 0.7 else [f"{name}={value}"]
    return [*found, *last]


def check(data: bytes, folder: Path) -> str:
    """Make the options, or run a command on what is not there."""
    kind, _, text = data.partition(b"\n")
    values: Any = eval(text.decode("utf-8", "backslashreplace"), dict(_NAMES))
    if not (folder / "model").exists():
        (folder / "model").mkdir()
        for path, content in models.seeds()["plain"].items():
            (folder / "model" / Path(path).name).write_bytes(content)
    try:
        if kind == b"machine":
            MachineOptions(**values)
            return "taken"
        if kind == b"cli":
            return _run(values, folder)
        options = TranscribeOptions.from_keywords(**values)
    except OptionError as error:
        check_message(error)
        return "refused"
    if len(data) % 3:
        return "taken"
    return _transcribe(options, folder)


def _transcribe(options: TranscribeOptions, folder: Path) -> str:
    try:
        with Transcriber(folder / "model", cpu_kernels=False, threads=1) as transcriber:
            result = transcriber.transcribe(_AUDIO, options)
    except (AudioError, ModelError, OptionError) as error:
        check_message(error)
        return "refused by the model or the audio"
    # openai-whisper's own times may lie beyond the audio.
    if not options.raw_timestamps:
        models.check_result(result, len(_AUDIO) / SAMPLE_RATE)
    return "used"


def _run(arguments: list[str], folder: Path) -> str:
    # Output folders may be made there.
    (folder / "here").mkdir(exist_ok=True)
    os.chdir(folder / "here")
    os.environ["WHISPER_NPU_HOME"] = str(folder / "home")
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as told:
        try:
            code = run(arguments)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 99
    text = told.getvalue()
    if "Traceback" in text or code not in range(6):
        raise AssertionError(f"exit code {code}: {text[-3000:]}")
    if code == 2 and len(text) > 20_000:
        raise AssertionError(f"{len(text)} characters for an option")
    sys.stderr.flush()
    return f"exit code {code}"
