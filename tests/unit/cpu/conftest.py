from __future__ import annotations

from tests.cpu_library import cpu_home as cpu_home
