// Attention in integers for one instruction set: the bits of whisper_npu/ops/attention_int.py.
#include "integers_over_cache.h"
#include "window_attention_int8.h"

extern const IntegerAttention JOIN(integer_attention_, VARIANT) = {
    &in_window::kKernels,       &in_bytes::kKernels,     over_cache::queries_together,
    over_cache::cached_scratch, over_cache::cached_rows, over_cache::cross_scratch,
    over_cache::cross_rows,
};
