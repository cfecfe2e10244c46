// Vectors of int32 of the instruction set that a file is compiled for, their rounding through
// float64, and what several kernels of fixed-point numbers share.
#pragma once

#include "numbers.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

constexpr int32_t kLargest = INT32_MAX;

// A float64 beside this number is a whole one, rounded to the nearest, halves to even, and has it in
// its low bits.
constexpr double kWhole = 6755399441055744.0;  // 1.5 * 2^52

// sat(rint(value * scale) + bias) where the product is exact; bias is a whole number. Beyond 2^51 the
// sum with kWhole is rounded to something else, that is out of range too.
inline int32_t scaled(int32_t value, double scale, double bias) {
  const double product = value * scale;
  double y = product + kWhole;
  y += bias;
  y = y < kWhole + kLargest ? y : kWhole + kLargest;
  y = y > kWhole - kLargest ? y : kWhole - kLargest;
  return static_cast<int32_t>(bits_of(y));
}

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));

inline Ints all(int32_t x) { return Ints{} + x; }

inline Ints load(const int32_t *p) {
  Ints x;
  memcpy(&x, p, sizeof x);
  return x;
}

inline void store(int32_t *p, Ints x) { memcpy(p, &x, sizeof x); }

// function(part of x) for all of x, in whole vectors and what is left, beside which are zeros.
template <typename Function>
inline void for_each(const int32_t *x, int32_t *out, int64_t count, Function function) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(out + i, function(load(x + i), i));
  if (i == count) return;
  const size_t bytes = static_cast<size_t>(count - i) * sizeof(int32_t);
  Ints part = {};
  memcpy(&part, x + i, bytes);
  part = function(part, i);
  memcpy(out + i, &part, bytes);
}

// The lanes as int8, in which they fit.
inline void store_bytes(int8_t *p, Ints x) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8((__m512i)x));
#elif defined(__AVX2__)
  const __m128i shorts = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)x),
                                         _mm256_extracti128_si256((__m256i)x, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i *>(p), _mm_packs_epi16(shorts, shorts));
#else
  for (int i = 0; i < kWidth; ++i) p[i] = static_cast<int8_t>(x[i]);
#endif
}

// Eight numbers, to be looked up by the low three bits of lanes.
class Table {
 public:
  explicit Table(const int32_t (&numbers)[8]) {
#if defined(__AVX512F__)
    memcpy(&numbers_, numbers, sizeof numbers);
    memcpy(reinterpret_cast<char *>(&numbers_) + sizeof numbers, numbers, sizeof numbers);
#else
    memcpy(&numbers_, numbers, sizeof numbers);
#endif
  }

  Ints operator[](Ints index) const {
#if defined(__AVX512F__)
    return (Ints)_mm512_permutexvar_epi32((__m512i)index, (__m512i)numbers_);
#elif defined(__AVX2__)
    return (Ints)_mm256_permutevar8x32_epi32((__m256i)numbers_, (__m256i)index);
#elif defined(__aarch64__)
    const Ints bytes = (index & 7) * 0x04040404 + 0x03020100;
    return (Ints)vqtbl2q_u8(numbers_, (uint8x16_t)bytes);
#else
    Ints found;
    for (int i = 0; i < kWidth; ++i) found[i] = numbers_[index[i] & 7];
    return found;
#endif
  }

 private:
#if defined(__AVX2__)
  Ints numbers_;
#elif defined(__aarch64__)
  uint8x16x2_t numbers_;
#else
  int32_t numbers_[8];
#endif
};

// rint(x * factor) of eight integers of at most 16 bits.
#if defined(__AVX2__)
typedef __m128i Shorts;

inline Shorts round_eight(const int32_t *x, double factor) {
#if defined(__AVX512VL__)
  const __m512d y = _mm512_mul_pd(
      _mm512_cvtepi32_pd(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(x))),
      _mm512_set1_pd(factor));
  return _mm256_cvtepi32_epi16(_mm512_cvtpd_epi32(y));
#else
  const __m256d factors = _mm256_set1_pd(factor);
  const __m128i *p = reinterpret_cast<const __m128i *>(x);
  const __m256d low = _mm256_mul_pd(_mm256_cvtepi32_pd(_mm_loadu_si128(p)), factors);
  const __m256d high = _mm256_mul_pd(_mm256_cvtepi32_pd(_mm_loadu_si128(p + 1)), factors);
  return _mm_packs_epi32(_mm256_cvtpd_epi32(low), _mm256_cvtpd_epi32(high));
#endif
}

inline void store_eight(Shorts values, int16_t *p) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), values);
}

inline void store_eight(Shorts values, int8_t *p) {
  _mm_storel_epi64(reinterpret_cast<__m128i *>(p), _mm_packs_epi16(values, values));
}
#elif defined(__aarch64__)
typedef int16x8_t Shorts;

inline int32x4_t round_four(int32x4_t x, double factor) {
  const float64x2_t low = vcvtq_f64_s64(vmovl_s32(vget_low_s32(x)));
  const float64x2_t high = vcvtq_f64_s64(vmovl_high_s32(x));
  return vcombine_s32(vmovn_s64(vcvtnq_s64_f64(vmulq_n_f64(low, factor))),
                      vmovn_s64(vcvtnq_s64_f64(vmulq_n_f64(high, factor))));
}

inline Shorts round_eight(const int32_t *x, double factor) {
  return vcombine_s16(vmovn_s32(round_four(vld1q_s32(x), factor)),
                      vmovn_s32(round_four(vld1q_s32(x + 4), factor)));
}

inline void store_eight(Shorts values, int16_t *p) { vst1q_s16(p, values); }
inline void store_eight(Shorts values, int8_t *p) { vst1_s8(p, vmovn_s16(values)); }
#else
struct Shorts {
  int16_t lanes[8];
};

inline Shorts round_eight(const int32_t *x, double factor) {
  Shorts values;
  for (int i = 0; i < 8; ++i)
    values.lanes[i] = static_cast<int16_t>(bits_of(x[i] * factor + kWhole));
  return values;
}

template <typename Value>
inline void store_eight(const Shorts &values, Value *p) {
  for (int i = 0; i < 8; ++i) p[i] = static_cast<Value>(values.lanes[i]);
}
#endif

}  // namespace
