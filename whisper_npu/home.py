"""Where whisper-npu keeps what it makes: models, packed weights, CPU kernels, evidence."""

from __future__ import annotations

import os
from pathlib import Path

from whisper_npu.errors import OptionError

ENVIRONMENT = "WHISPER_NPU_HOME"


def home_folder() -> Path:
    """``WHISPER_NPU_HOME``, or the user's cache folder.

    Raises OptionError for ``~`` in ``WHISPER_NPU_HOME`` where the user has no home.
    """
    home = os.environ.get(ENVIRONMENT)
    if home:
        try:
            return Path(home).expanduser()
        except RuntimeError as error:
            raise OptionError(f"{ENVIRONMENT} is {home!r}, but this user has no home") from error
    from platformdirs import user_cache_path

    try:
        found = user_cache_path("whisper-npu", appauthor=False)
    except RuntimeError:
        found = Path("~")
    # A user without a name, as containers have them, has no home unless HOME is set; some versions
    # of platformdirs leave "~" then. What container runtimes set HOME to for these is the root.
    return found if found.is_absolute() else Path(os.sep, ".cache", "whisper-npu")
