"""All CPU kernels, in the order in which they are verified and listed."""

from __future__ import annotations

from whisper_npu.backends.cpu.kernels.attention import ATTENTION
from whisper_npu.backends.cpu.kernels.attention_over_cache import (
    CACHED_ATTENTION,
    CROSS_ATTENTION,
)
from whisper_npu.backends.cpu.kernels.copies import IM2COL, SPLIT_HEADS, STORE_CACHE
from whisper_npu.backends.cpu.kernels.elementwise import ADD, GELU
from whisper_npu.backends.cpu.kernels.fixed_elements import (
    ADD_INT32,
    EMBED_INT32,
    GELU_INT32,
    LOGITS_FLOAT,
    STORE_INT16,
)
from whisper_npu.backends.cpu.kernels.fixed_rows import (
    QUANTIZE_COLUMNS,
    QUANTIZE_INT32,
    RMS_NORM,
)
from whisper_npu.backends.cpu.kernels.integer_attention import (
    ATTENTION_INT8,
    ATTENTION_INT32,
    CACHED_ATTENTION_INT16,
    CROSS_ATTENTION_INT32,
)
from whisper_npu.backends.cpu.kernels.layer_norm import LAYER_NORM
from whisper_npu.backends.cpu.kernels.log_mel import LOG_MEL_INT16
from whisper_npu.backends.cpu.kernels.product_int8 import PRODUCT_INT8
from whisper_npu.backends.cpu.kernels.top_logprobs import TOP_LOGPROBS, TOP_LOGPROBS_INT32
from whisper_npu.backends.cpu.records import CpuKernel

KERNELS: tuple[CpuKernel, ...] = (
    QUANTIZE_INT32,
    RMS_NORM,
    PRODUCT_INT8,
    GELU_INT32,
    ADD_INT32,
    EMBED_INT32,
    STORE_INT16,
    QUANTIZE_COLUMNS,
    LOGITS_FLOAT,
    STORE_CACHE,
    SPLIT_HEADS,
    IM2COL,
    GELU,
    ADD,
    LAYER_NORM,
    ATTENTION,
    ATTENTION_INT32,
    ATTENTION_INT8,
    CACHED_ATTENTION,
    CROSS_ATTENTION,
    CACHED_ATTENTION_INT16,
    CROSS_ATTENTION_INT32,
    TOP_LOGPROBS,
    TOP_LOGPROBS_INT32,
    LOG_MEL_INT16,
)
