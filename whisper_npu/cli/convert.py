"""``whisper-npu convert``: a checkpoint of another format to a model folder."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from whisper_npu.cli.options import add_dtype, add_format
from whisper_npu.cli.process import say, showing_warnings
from whisper_npu.terminal import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "source",
        type=Path,
        help="a Hugging Face folder (safetensors or pytorch_model.bin), an openai-whisper .pt "
        "file, a whisper.cpp ggml file (f32, f16, q8_0) or a CTranslate2 folder",
    )
    parser.add_argument("dest", type=Path, help="the folder to make")
    add_dtype(parser)
    parser.add_argument("--force", action="store_true", help="replace dest if it is there")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        help="tokenizer.json or .tiktoken file (or its folder) for a source without a vocabulary; "
        "a .pt file takes a tokenizer.json beside it, or openai-whisper's where that is installed",
    )
    parser.add_argument(
        "--no_calibration",
        action="store_true",
        help="round each weight to the nearest integer, not for the results on speech that comes "
        "with the program: quicker, and less accurate (int8)",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="no table of errors, no progress bar, no warnings"
    )
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Convert, then print the errors of each tensor and what was made."""
    from whisper_npu.convert import convert
    from whisper_npu.convert.errors_table import table

    began = time.perf_counter()
    with showing_warnings(args.quiet):
        report = convert(
            args.source,
            args.dest,
            dtype=args.dtype,
            force=args.force,
            tokenizer=args.tokenizer,
            calibrate=not args.no_calibration,
            progress=not args.quiet,
        )
    if args.format == "json":
        say(json.dumps(asdict(report), indent=2, default=str))
        return 0
    if not args.quiet:
        say("\n".join(table(report.tensors)))
        if report.calibration is not None:
            say(f"calibrated on {report.calibration}")
    made = (
        f"{report.dest}: {len(report.tensors)} tensors of {report.source} ({report.kind}) as "
        f"{report.dtype}, {report.nbytes / 1e6:.1f} MB in {time.perf_counter() - began:.1f} s, "
        f"sha256 {report.sha256}"
    )
    say(printable(made))
    return 0
