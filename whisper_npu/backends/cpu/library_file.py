"""Whether the file of a library may be loaded: what is loaded runs as the user does."""

from __future__ import annotations

import hashlib
from pathlib import Path

from whisper_npu.errors import KernelError
from whisper_npu.files.owner import check_owners
from whisper_npu.files.whole import read_file

# A library has about 1 MB.
_LARGEST = 256 << 20
_ADVICE = "install whisper-npu again as one of these, or run whisper-npu kernels build"


def check_library_file(path: Path, sha256: str) -> bytes:
    """The content of a library's file.

    Raises KernelError, in one line, if it is not as it was compiled, or if others may have changed
    it or may change it now (``check_owners``).
    """
    check_owners(path, KernelError, _ADVICE)
    content = read_file(path, _LARGEST, KernelError)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise KernelError(
            f"{path}: is not the file that was compiled (its SHA-256 is {found[:16]}..., not "
            f"{sha256[:16]}...); run whisper-npu kernels build"
        )
    return content
