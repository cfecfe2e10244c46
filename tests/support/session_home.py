"""The cache of a test session, set before anything of the package is imported.

Fixtures of every scope see it: no test sees the user's cache or kernels.
"""

from __future__ import annotations

import os
import tempfile

_folder = tempfile.TemporaryDirectory(prefix="whisper-npu-tests-home-")
SESSION_HOME = _folder.name
os.environ["WHISPER_NPU_HOME"] = SESSION_HOME
os.environ.pop("WHISPER_NPU_KERNELS", None)
