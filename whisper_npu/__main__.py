"""``python -m whisper_npu``."""

import sys

try:
    from whisper_npu.cli import main
except KeyboardInterrupt:
    # Before there is anything that could say so: 128 and the number of SIGINT.
    sys.exit(130)

sys.exit(main())
