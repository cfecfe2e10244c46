"""The device on AMD's pyxrt. pyxrt is imported here only, and only when a device is opened."""

from __future__ import annotations

from whisper_npu.backends.npu.xrt.device import XrtDevice, open_device

__all__ = ["XrtDevice", "open_device"]
