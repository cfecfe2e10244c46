// Numbers of the integer network that all of its kernels share. Names and widths are those of
// whisper_npu/ops/fixed.py and rows.py, where the formulas are explained.
#pragma once

#include <stdint.h>
#include <string.h>

namespace {

constexpr int kFraction = 12;
constexpr int kScaleBits = 8;
constexpr int kReciprocal = 28;

inline int64_t bits_of(double x) {
  int64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline double power_of_two(int64_t exponent) {
  const int64_t bits = (exponent + 1023) << 52;
  double power;
  memcpy(&power, &bits, sizeof power);
  return power;
}

// floor(log2 x) + 1, 0 for 0.
inline int bit_length(uint64_t x) { return x == 0 ? 0 : 64 - __builtin_clzll(x); }

// m * 2^e.
struct Mantissa {
  int64_t m, e;
  double value() const { return static_cast<double>(m) * power_of_two(e); }
  // What numbers are multiplied by to be divided by this.
  double reciprocal() const {
    return static_cast<double>((int64_t{1} << kReciprocal) / (m == 0 ? 1 : m)) *
           power_of_two(-kReciprocal - e);
  }
};

// The smallest that is at least ``ratio``, with kScaleBits bits.
inline Mantissa mantissa(double ratio) {
  if (ratio == 0.0) return {0, -kScaleBits};
  constexpr int kCut = 53 - kScaleBits;
  const int64_t bits = bits_of(ratio);
  const int64_t whole = (bits & ((int64_t{1} << 52) - 1)) | int64_t{1} << 52;
  const int64_t m = (whole + (int64_t{1} << kCut) - 1) >> kCut, e = (bits >> 52) - 1022 - kScaleBits;
  return m == 1 << kScaleBits ? Mantissa{m >> 1, e + 1} : Mantissa{m, e};
}

}  // namespace
