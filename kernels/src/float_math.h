// Elementary functions and reductions of the float32 kernels, of nothing but IEEE additions,
// multiplications, comparisons and integer operations on the bits, in the order written. README.md
// gives the errors; the NumPy models do the same operations in the same order.
#pragma once

#include "tiles.h"

// The bits of a result are part of the contract: no reassociation, no fused multiply-add, no wider
// intermediate results.
#ifdef __FAST_MATH__
#error "the float kernels need IEEE arithmetic: compile without -ffast-math"
#endif
#if __FLT_EVAL_METHOD__ != 0
#error "the float kernels need float arithmetic in float: FLT_EVAL_METHOD must be 0"
#endif
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

namespace tiles {

inline uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
inline float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// e^x for -80 <= x <= 80: x = n ln 2 + r with |r| <= ln 2 / 2, then 2^n (1 + r + r^2 P(r)).
inline float exponential(float x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // ten bits, so that its product with n is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  // Adding 3 * 2^22 rounds to the nearest integer, ties to even, which is then in the low bits.
  constexpr float kRound = 12582912.0f;
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = r * 1.38145988e-3f + 8.36871658e-3f;
  p = p * r + 4.16683890e-2f;
  p = p * r + 1.66665211e-1f;
  p = p * r + 4.99999940e-1f;
  const float mantissa = (p * (r * r) + r) + 1.0f;
  // The shift drops all of kRound's own bits and leaves n as an exponent.
  return mantissa * float_of((bits_of(shifted) << 23) + 0x3f800000u);
}

// 1 / x for x from 2^-100 to 2^100: a guess from the bits, two Newton steps, and a third in the form
// that rounds best.
inline float reciprocal(float x) {
  float y = float_of(0x7ef31200u - bits_of(x));
  y = y * (2.0f - x * y);
  y = y * (2.0f - x * y);
  return y + y * (1.0f - x * y);
}

// 1 / sqrt(x) for normal x > 0: a guess from the bits and three Newton steps.
inline float reciprocal_sqrt(float x) {
  const float half = 0.5f * x;
  float y = float_of(0x5f375a86u - (bits_of(x) >> 1));
  y = y * (1.5f - (half * y) * y);
  y = y * (1.5f - (half * y) * y);
  return y * (1.5f - (half * y) * y);
}

// The sum of term(0) ... term(N - 1): term i is added to lane i mod kLanes in the order of i, then
// the upper half of the lanes to the lower until one is left.
template <int N, typename Term>
inline float lane_sum(Term term) {
  constexpr int kWhole = N / kLanes * kLanes;
  float lanes[kLanes] = {};
  for (int i = 0; i < kWhole; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lanes[j] += term(i + j);
  for (int j = 0; j < N - kWhole; ++j) lanes[j] += term(kWhole + j);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  return lanes[0];
}

}  // namespace tiles
