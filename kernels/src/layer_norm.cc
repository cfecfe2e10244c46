#include "float_math.h"

namespace tiles {

template <int N>
inline void layer_norm(const float *RESTRICT x, const float *RESTRICT gain,
                       const float *RESTRICT bias, float *RESTRICT y) {
  // x and y twice each, gain and bias once.
  static_assert(4 * 6 * N + kStackBytes <= kDataMemoryBytes);
  constexpr float kPerElement = 1.0f / N;
  constexpr float kEpsilon = 1e-5f;
  const float mean = lane_sum<N>([&](int i) { return x[i]; }) * kPerElement;
  for (int i = 0; i < N; ++i) y[i] = x[i] - mean;
  const float variance = lane_sum<N>([&](int i) { return y[i] * y[i]; }) * kPerElement;
  const float scale = reciprocal_sqrt(variance + kEpsilon);
  for (int i = 0; i < N; ++i) y[i] = (y[i] * scale) * gain[i] + bias[i];
}

}  // namespace tiles

extern "C" {

void layer_norm_f32_256(const float *RESTRICT x, const float *RESTRICT gain,
                        const float *RESTRICT bias, float *RESTRICT y) {
  tiles::layer_norm<256>(x, gain, bias, y);
}

void layer_norm_f32_384(const float *RESTRICT x, const float *RESTRICT gain,
                        const float *RESTRICT bias, float *RESTRICT y) {
  tiles::layer_norm<384>(x, gain, bias, y);
}

void layer_norm_f32_512(const float *RESTRICT x, const float *RESTRICT gain,
                        const float *RESTRICT bias, float *RESTRICT y) {
  tiles::layer_norm<512>(x, gain, bias, y);
}

void layer_norm_f32_768(const float *RESTRICT x, const float *RESTRICT gain,
                        const float *RESTRICT bias, float *RESTRICT y) {
  tiles::layer_norm<768>(x, gain, bias, y);
}

void layer_norm_f32_1024(const float *RESTRICT x, const float *RESTRICT gain,
                         const float *RESTRICT bias, float *RESTRICT y) {
  tiles::layer_norm<1024>(x, gain, bias, y);
}

void layer_norm_f32_1280(const float *RESTRICT x, const float *RESTRICT gain,
                         const float *RESTRICT bias, float *RESTRICT y) {
  tiles::layer_norm<1280>(x, gain, bias, y);
}
}
