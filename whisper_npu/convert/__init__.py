"""Model conversion: ``convert`` reads any known format and writes a model folder."""

from whisper_npu.convert.conversion import ConversionReport, convert

__all__ = ["ConversionReport", "convert"]
