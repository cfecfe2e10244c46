"""The caches of a test session, set before anything of the package is imported.

Fixtures of every scope see them: no test sees the user's caches, kernels or token.
"""

from __future__ import annotations

import os
import tempfile

_folder = tempfile.TemporaryDirectory(prefix="whisper-npu-tests-home-")
SESSION_HOME = _folder.name
os.environ["WHISPER_NPU_HOME"] = SESSION_HOME
os.environ.pop("WHISPER_NPU_KERNELS", None)
# As on a machine without kernels for its CPU, whatever was installed: each test with an empty home
# would verify them. Those that are about kernels get the set that was asked for (cpu_home).
# (Workers of pytest-xdist inherit what is set here.)
ASKED_ISA = os.environ.get("WHISPER_NPU_CPU_ISA", "").removeprefix("none")
os.environ["WHISPER_NPU_CPU_ISA"] = "none"

_huggingface = tempfile.TemporaryDirectory(prefix="whisper-npu-tests-huggingface-")
os.environ["HF_HOME"] = _huggingface.name
for _name in (
    "HF_ENDPOINT",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HUGGINGFACE_HUB_CACHE",
    "HUGGING_FACE_HUB_TOKEN",
    "TRANSFORMERS_OFFLINE",
):
    os.environ.pop(_name, None)
