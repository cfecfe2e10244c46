// Attention in integers for one instruction set: the bits of whisper_npu/ops/attention_int.py.
#include "window_attention_int32.h"

extern const IntegerAttention JOIN(integer_attention_, VARIANT) = {&in_window::kKernels};
