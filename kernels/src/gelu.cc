#include "float_math.h"

namespace tiles {

// x / (1 + e^-t) with t = x g(x^2 / 4): the tanh form of erf in whisper_npu/ops/activation.py, where
// the coefficients of g are from, written as a logistic function.
inline float gelu(float x) {
  // Beyond 6 the logistic factor is 0 or 1 to within 1e-9.
  const float above = x < -6.0f ? -6.0f : x;
  const float clamped = above > 6.0f ? 6.0f : above;
  const float half = 0.5f * clamped;
  const float s = half * half;
  float g = s * 1.47917273e-05f + -2.73299658e-04f;
  g = g * s + 2.03219026e-03f;
  g = g * s + -7.07075287e-03f;
  g = g * s + -1.06014788e-03f;
  g = g * s + 2.90674263e-01f;
  g = g * s + 1.59576843e+00f;
  return above * reciprocal(1.0f + exponential(-(clamped * g)));
}

template <int N>
inline void gelu_tile(const float *RESTRICT x, float *RESTRICT y) {
  // x and y twice each: the DMA fills or drains one while the core works on the other.
  static_assert(N % kLanes == 0 && 4 * 4 * N + kStackBytes <= kDataMemoryBytes);
  for (int i = 0; i < N; ++i) y[i] = gelu(x[i]);
}

}  // namespace tiles

extern "C" {

void gelu_f32_1024(const float *RESTRICT x, float *RESTRICT y) { tiles::gelu_tile<1024>(x, y); }
}
