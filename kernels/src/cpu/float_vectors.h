// Vectors of floats of the instruction set that a file is compiled for, through the vector types of
// GCC and clang; only what these do not have is spelt in instructions.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
// Rows and vectors of the blocks that products are cut into: their sums stay in registers.
constexpr int kRows = 6, kVectors = 4;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
constexpr int kRows = 6, kVectors = 2;
#elif defined(__aarch64__)
constexpr int kWidth = 4;
constexpr int kRows = 6, kVectors = 4;
#else
constexpr int kWidth = 4;
constexpr int kRows = 3, kVectors = 2;
#endif

typedef float Floats __attribute__((vector_size(4 * kWidth)));
typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));

typedef int8_t Bytes __attribute__((vector_size(kWidth)));

inline Floats all(float x) { return x - Floats{}; }

inline Floats load(const float *p) {
  Floats x;
  memcpy(&x, p, sizeof x);
  return x;
}

inline void store(float *p, Floats x) { memcpy(p, &x, sizeof x); }

inline Floats load(const int8_t *p) {
  // Compilers make much more than two instructions of the general form.
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
#elif defined(__AVX2__)
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(p));
  return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
#else
  Bytes bytes;
  memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Floats);
#endif
}

// The first ``count`` floats (fewer than a vector has) and zeros.
inline Floats load_part(const float *p, int64_t count) {
  Floats x = {};
  memcpy(&x, p, static_cast<size_t>(count) * sizeof(float));
  return x;
}

inline void store_part(float *p, Floats x, int64_t count) {
  memcpy(p, &x, static_cast<size_t>(count) * sizeof(float));
}

inline Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

inline Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
  return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

inline Floats smaller(Floats a, Floats b) {
#if defined(__AVX512F__)
  return (Floats)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Floats)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return a < b ? a : b;
#endif
}

inline float sum_of_lanes(Floats x) {
  float lanes[kWidth];
  store(lanes, x);
  for (int width = kWidth / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

inline float largest_of_lanes(Floats x) {
  float lanes[kWidth];
  store(lanes, x);
  float found = lanes[0];
  for (float lane : lanes) found = lane > found ? lane : found;
  return found;
}

// The sum of the lanes of each of kWidth vectors.
inline Floats sums_of_lanes(const Floats *x) {
#if defined(__AVX512F__)
  __m512 fours[4];
  for (int i = 0; i < 4; ++i) {
    const __m512 a = (__m512)x[4 * i], b = (__m512)x[4 * i + 1];
    const __m512 c = (__m512)x[4 * i + 2], d = (__m512)x[4 * i + 3];
    const __m512d ab = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512d cd = (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    fours[i] =
        _mm512_add_ps((__m512)_mm512_unpacklo_pd(ab, cd), (__m512)_mm512_unpackhi_pd(ab, cd));
  }
  // Lanes of 128 bits have a part of four sums each.
  __m512 pairs[2];
  for (int i = 0; i < 2; ++i)
    pairs[i] = _mm512_add_ps(_mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0xdd));
  return (Floats)_mm512_add_ps(_mm512_shuffle_f32x4(pairs[0], pairs[1], 0x88),
                               _mm512_shuffle_f32x4(pairs[0], pairs[1], 0xdd));
#elif defined(__AVX2__)
  __m256 fours[2];
  for (int i = 0; i < 2; ++i)
    fours[i] = _mm256_hadd_ps(_mm256_hadd_ps((__m256)x[4 * i], (__m256)x[4 * i + 1]),
                              _mm256_hadd_ps((__m256)x[4 * i + 2], (__m256)x[4 * i + 3]));
  return (Floats)_mm256_add_ps(_mm256_permute2f128_ps(fours[0], fours[1], 0x20),
                               _mm256_permute2f128_ps(fours[0], fours[1], 0x31));
#elif defined(__aarch64__)
  return (Floats)vpaddq_f32(vpaddq_f32((float32x4_t)x[0], (float32x4_t)x[1]),
                            vpaddq_f32((float32x4_t)x[2], (float32x4_t)x[3]));
#else
  return Floats{sum_of_lanes(x[0]), sum_of_lanes(x[1]), sum_of_lanes(x[2]), sum_of_lanes(x[3])};
#endif
}

// e^x, 0 for x < -87 and as for 88 beyond that: x = n ln 2 + r with |r| <= ln 2 / 2, then
// 2^n (1 + r + r^2 P(r)). The polynomial is that of ../float_math.h. A NaN stays one.
inline Floats exponential(Floats x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // ten bits, so that its product with n is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;
  // In this order a NaN passes: the second operand is what min and max give then.
  const Floats above = larger(all(-87.0f), smaller(all(88.0f), x));
  const Floats shifted = multiply_add(above, all(kLog2E), all(kRound));
  const Floats n = shifted - kRound;
  const Floats r = multiply_add(n, all(-kLn2Low), multiply_add(n, all(-kLn2High), above));
  Floats p = multiply_add(r, all(1.38145988e-3f), all(8.36871658e-3f));
  p = multiply_add(p, r, all(4.16683890e-2f));
  p = multiply_add(p, r, all(1.66665211e-1f));
  p = multiply_add(p, r, all(4.99999940e-1f));
  const Floats mantissa = multiply_add(p, r * r, r) + 1.0f;
  const Floats scale = (Floats)(((Ints)shifted << 23) + 0x3f800000);
  const Floats result = mantissa * scale;
  return (Floats)((Ints)result & ~(x < all(-87.0f)));
}

}  // namespace
