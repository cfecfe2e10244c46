"""``whisper-npu convert`` from a checkout: python tools/convert.py SOURCE DEST [options]."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from whisper_npu.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
