"""``python -m whisper_npu``."""

import sys

from whisper_npu.cli import main

sys.exit(main())
