// The tile kernels: what one AIE2 core computes on buffers in its data memory. Layouts, value ranges
// and formulas are in README.md; the NumPy models are kernels/src/tiles.py.
#pragma once

#include <stdint.h>

#define RESTRICT __restrict__

namespace tiles {

// One AIE2 core.
constexpr int kDataMemoryBytes = 64 * 1024;
constexpr int kStackBytes = 1024;
// Width of a float32 vector of the core, and the number of partial sums of a reduction.
constexpr int kLanes = 16;

}  // namespace tiles

extern "C" {

// c += a * b for one tile; the name says m x k x n.
void gemm_i8_i32_64x64x64(const int8_t *RESTRICT a, const int8_t *RESTRICT b, int32_t *RESTRICT c);
void gemm_i8_i32_16x64x64(const int8_t *RESTRICT a, const int8_t *RESTRICT b, int32_t *RESTRICT c);
void zero_i32_64x64(int32_t *RESTRICT c);
void zero_i32_16x64(int32_t *RESTRICT c);

// The number in a name is the number of floats of x and of y.
void gelu_f32_1024(const float *RESTRICT x, float *RESTRICT y);

void layer_norm_f32_256(const float *RESTRICT x, const float *RESTRICT gain,
                        const float *RESTRICT bias, float *RESTRICT y);
void layer_norm_f32_384(const float *RESTRICT x, const float *RESTRICT gain,
                        const float *RESTRICT bias, float *RESTRICT y);
void layer_norm_f32_512(const float *RESTRICT x, const float *RESTRICT gain,
                        const float *RESTRICT bias, float *RESTRICT y);
void layer_norm_f32_768(const float *RESTRICT x, const float *RESTRICT gain,
                        const float *RESTRICT bias, float *RESTRICT y);
void layer_norm_f32_1024(const float *RESTRICT x, const float *RESTRICT gain,
                         const float *RESTRICT bias, float *RESTRICT y);
void layer_norm_f32_1280(const float *RESTRICT x, const float *RESTRICT gain,
                         const float *RESTRICT bias, float *RESTRICT y);

void softmax_f32_448(const float *RESTRICT x, float *RESTRICT y);
void softmax_f32_1500(const float *RESTRICT x, float *RESTRICT y);
}
