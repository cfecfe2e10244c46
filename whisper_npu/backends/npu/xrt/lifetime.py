"""pyxrt objects that must not be destroyed.

Two destructors of XRT 2.25 end or block the process: that of a run which is not over aborts, and
that of a context in a forked child waits for a thread which the child does not have. An object
with a reference too many is never destroyed, at interpreter exit neither; the process then ends
as it would have, with its own exit code, and the driver cleans up after it.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any

_tracked: weakref.WeakSet[Any] = weakref.WeakSet()
_fork_hook = False


def keep_for_ever(thing: object) -> None:
    """Never destroy ``thing``, or anything that it refers to."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def track(thing: Any) -> Any:
    """Have a forked child leave this pyxrt object alone. Gives it back."""
    global _fork_hook
    if not _fork_hook:
        # The child shares the parent's open device: what it frees would be gone for the parent.
        os.register_at_fork(after_in_child=_leave_to_parent)
        _fork_hook = True
    _tracked.add(thing)
    return thing


def _leave_to_parent() -> None:
    for thing in list(_tracked):
        keep_for_ever(thing)
