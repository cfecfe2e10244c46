"""Where whisper-npu keeps what it makes: models, packed weights, CPU kernels, evidence."""

from __future__ import annotations

import os
from pathlib import Path

ENVIRONMENT = "WHISPER_NPU_HOME"


def home_folder() -> Path:
    """``WHISPER_NPU_HOME``, or the user's cache folder."""
    home = os.environ.get(ENVIRONMENT)
    if home:
        return Path(home).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("whisper-npu", appauthor=False)
