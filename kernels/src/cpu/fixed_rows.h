// Rows of int32 as int8 or int16 with a scale: whisper_npu/ops/rows.py, where the formulas are
// explained, and quantize_columns of ops/attention_int.py. Numbers of a row are plain integers, or
// float64 where NumPy has them so.
#pragma once

#include "fixed_vectors.h"
#include "variant.h"

namespace {

constexpr int kSquaredBits = 14;
constexpr int kRoot = 10;
constexpr double kEpsilon = 1e-5 * 16777216.0;

constexpr int64_t kLargestInt8 = 127;
constexpr int64_t kLargestInt16 = 256 * kLargestInt8 + kLargestInt8;

template <typename Value>
inline int64_t limit(int64_t k) {
  const int64_t fitting = kLargest / (kLargestInt8 * k);
  return sizeof(Value) == 1 ? kLargestInt8 : fitting < kLargestInt16 ? fitting : kLargestInt16;
}

inline int64_t largest_magnitude(const int32_t *x, int64_t k) {
  int32_t high = x[0], low = x[0];
  for (int64_t i = 0; i < k; ++i) {
    high = x[i] > high ? x[i] : high;
    low = x[i] < low ? x[i] : low;
  }
  return high > -int64_t{low} ? high : -int64_t{low};
}

template <typename Value>
inline void round_row(const int32_t *x, int64_t k, double factor, Value *values) {
  int64_t i = 0;
  for (; i + 8 <= k; i += 8) store_eight(round_eight(x + i, factor), values + i);
  if (i == k) return;
  const size_t rest = static_cast<size_t>(k - i);
  int32_t part[8] = {};
  Value rounded[8];
  memcpy(part, x + i, rest * sizeof *x);
  store_eight(round_eight(part, factor), rounded);
  memcpy(values + i, rounded, rest * sizeof *values);
}

template <typename Value>
inline void quantize_row(const int32_t *x, int64_t k, int64_t fraction, Value *values,
                         float *scale) {
  const double largest = static_cast<double>(largest_magnitude(x, k));
  const Mantissa steps = mantissa(largest / static_cast<double>(limit<Value>(k)));
  round_row(x, k, steps.reciprocal(), values);
  *scale = static_cast<float>(steps.value() * power_of_two(-fraction));
}

void quantize_int32_rows(const QuantizeInt32 &a, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    const int32_t *x = a.x + i * a.k;
    if (a.bits == 8)
      quantize_row(x, a.k, a.fraction, static_cast<int8_t *>(a.values) + i * a.k, a.scale + i);
    else
      quantize_row(x, a.k, a.fraction, static_cast<int16_t *>(a.values) + i * a.k, a.scale + i);
  }
}

inline int64_t square_root(int64_t x) {
  const int64_t root = static_cast<int64_t>(__builtin_sqrt(static_cast<double>(x)));
  return root - (root * root > x);
}

inline int64_t sum_of_squares(const int32_t *x, int64_t k, int shift) {
  int64_t sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += int64_t{x[i] >> shift} * (x[i] >> shift);
  return sum;
}

template <typename Value>
inline void normalize_row(const int32_t *x, int64_t d, Value *values, float *scale) {
  const int64_t largest = largest_magnitude(x, d);
  const int bits = bit_length(largest), s = bits > kSquaredBits ? bits - kSquaredBits : 0;
  const int64_t epsilon = static_cast<int64_t>(__builtin_rint(kEpsilon * static_cast<double>(d)));
  const int64_t total = sum_of_squares(x, d, s) + (epsilon >> 2 * s);
  const int64_t root = square_root((total << 2 * kRoot) / d);
  const auto [m, e] = mantissa(static_cast<double>(largest << kRoot) /
                               static_cast<double>(root * limit<Value>(d)));
  const int64_t divisor = root * (m == 0 ? 1 : m), k = bit_length(divisor) + 20;
  const int64_t reciprocal = (int64_t{1} << k) / divisor;
  round_row(x, d, static_cast<double>(reciprocal) * power_of_two(kRoot - k - e), values);
  *scale = static_cast<float>(static_cast<double>(m) * power_of_two(e - s));
}

void rms_norm_rows(const RmsNorm &a, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    const int32_t *x = a.x + i * a.d;
    if (a.bits == 8)
      normalize_row(x, a.d, static_cast<int8_t *>(a.values) + i * a.d, a.scale + i);
    else
      normalize_row(x, a.d, static_cast<int16_t *>(a.values) + i * a.d, a.scale + i);
  }
}

constexpr int kCrossBits = 7;
// Vectors of columns that are done together, so that rows are read in long pieces.
constexpr int kTogether = 64 / kWidth;

inline Ints load_part(const int32_t *p, int64_t count) {
  Ints x = {};
  memcpy(&x, p, static_cast<size_t>(count < kWidth ? count : kWidth) * sizeof *p);
  return x;
}

// Columns of one head, ``columns`` of them, at most 64: rows of x are ``stride`` apart, and ``d_head``
// in values.
template <bool kWhole64>
inline void quantize_columns_of(const int32_t *x, int64_t t, int64_t stride, int64_t columns,
                                int8_t *values, int64_t d_head, float *scale) {
  const int64_t vectors = kWhole64 ? kTogether : (columns + kWidth - 1) / kWidth;
  const auto part = [&](int64_t i, int64_t v) {
    const int32_t *p = x + i * stride + v * kWidth;
    return kWhole64 ? load(p) : load_part(p, columns - v * kWidth);
  };
  // Together, the magnitudes have the bits of the largest.
  Ints together[kTogether] = {};
  for (int64_t i = 0; i < t; ++i)
    for (int64_t v = 0; v < vectors; ++v) {
      const Ints each = part(i, v), sign = each >> 31;
      together[v] |= (each ^ sign) - sign;
    }
  // floor(x / 2^s + 1/2) without leaving int32: x >> s - 1, plus one, halved; x itself for s = 0.
  Ints first[kTogether], halved[kTogether];
  for (int64_t v = 0; v < vectors; ++v)
    for (int j = 0; j < kWidth; ++j) {
      const int bits = bit_length(static_cast<uint32_t>(together[v][j]));
      const int s = bits > kCrossBits ? bits - kCrossBits : 0;
      halved[v][j] = s > 0;
      first[v][j] = s - halved[v][j];
      if (v * kWidth + j < columns)
        scale[v * kWidth + j] = static_cast<float>(power_of_two(s - kFraction));
    }
  for (int64_t i = 0; i < t; ++i)
    for (int64_t v = 0; v < vectors; ++v) {
      Ints cut = ((part(i, v) >> first[v]) + halved[v]) >> halved[v];
      cut = cut < 127 ? cut : all(127);
      cut = cut > -127 ? cut : all(-127);
      int8_t *to = values + i * d_head + v * kWidth;
      const int64_t rest = columns - v * kWidth;
      if (kWhole64 || rest >= kWidth) {
        store_bytes(to, cut);
        continue;
      }
      int8_t bytes[kWidth];
      store_bytes(bytes, cut);
      memcpy(to, bytes, static_cast<size_t>(rest));
    }
}

void quantize_columns_heads(const QuantizeColumns &a, int64_t first, int64_t last) {
  const int64_t width = a.n_head * a.d_head;
  for (int64_t head = first; head < last; ++head)
    for (int64_t j = 0; j < a.d_head; j += 64) {
      const int32_t *x = a.x + head / a.n_head * a.t * width + head % a.n_head * a.d_head + j;
      int8_t *values = a.values + head * a.t * a.d_head + j;
      float *scale = a.scale + head * a.d_head + j;
      if (a.d_head - j >= 64)
        quantize_columns_of<true>(x, a.t, width, 64, values, a.d_head, scale);
      else
        quantize_columns_of<false>(x, a.t, width, a.d_head - j, values, a.d_head, scale);
    }
}

}  // namespace
