"""Model conversion: ``convert`` reads any known format and writes a model folder."""

from whisper_npu.convert.conversion import DTYPES, ConversionReport, convert

__all__ = ["DTYPES", "ConversionReport", "convert"]
