from __future__ import annotations

from tests.support.cpu_library import cpu_home as cpu_home
