#include "float_math.h"

namespace tiles {

// e^x for x <= 0, and 0 below -75: then a weight is a normal number or 0 in rows of any length.
inline float weight(float x) {
  constexpr float kLowest = -75.0f;
  const float above = x < kLowest ? kLowest : x;
  const float e = exponential(above);
  return x < kLowest ? 0.0f : e;
}

template <int N>
inline float maximum(const float *RESTRICT x) {
  static_assert(N >= kLanes);
  constexpr int kWhole = N / kLanes * kLanes;
  float lanes[kLanes];
  for (int j = 0; j < kLanes; ++j) lanes[j] = x[j];
  for (int i = kLanes; i < kWhole; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lanes[j] = lanes[j] < x[i + j] ? x[i + j] : lanes[j];
  for (int j = 0; j < N - kWhole; ++j) lanes[j] = lanes[j] < x[kWhole + j] ? x[kWhole + j] : lanes[j];
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lanes[j] = lanes[j] < lanes[j + width] ? lanes[j + width] : lanes[j];
  return lanes[0];
}

template <int N>
inline void softmax(const float *RESTRICT x, float *RESTRICT y) {
  // x and y twice each.
  static_assert(4 * 4 * N + kStackBytes <= kDataMemoryBytes);
  const float top = maximum<N>(x);
  for (int i = 0; i < N; ++i) y[i] = weight(x[i] - top);
  const float scale = reciprocal(lane_sum<N>([&](int i) { return y[i]; }));
  for (int i = 0; i < N; ++i) y[i] *= scale;
}

}  // namespace tiles

extern "C" {

void softmax_f32_448(const float *RESTRICT x, float *RESTRICT y) { tiles::softmax<448>(x, y); }

void softmax_f32_1500(const float *RESTRICT x, float *RESTRICT y) { tiles::softmax<1500>(x, y); }
}
