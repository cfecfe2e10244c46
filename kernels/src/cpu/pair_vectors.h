// Vectors of 16-bit integers in pairs, of the instruction set that a file is compiled for: an int32
// lane holds two that are multiplied with two others, and the two products are added. What the
// vector types of GCC and clang have is not spelt in instructions.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

// int32 lanes of a vector; rows and vectors of a block of products, the sums of which stay in
// registers; and vectors where there is one row.
#if defined(__AVX512BW__)
constexpr int kLanes = 16;
constexpr int kBlockRows = 6, kBlockVectors = 4, kWideVectors = 4;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kBlockRows = 6, kBlockVectors = 2, kWideVectors = 8;
#elif defined(__aarch64__)
constexpr int kLanes = 4;
constexpr int kBlockRows = 6, kBlockVectors = 2, kWideVectors = 8;
#else
constexpr int kLanes = 4;
constexpr int kBlockRows = 4, kBlockVectors = 2, kWideVectors = 8;
#endif
// 16-bit integers of a vector.
constexpr int kShorts = 2 * kLanes;

typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t UnsignedInts __attribute__((vector_size(4 * kLanes)));
typedef int16_t Shorts __attribute__((vector_size(4 * kLanes)));
typedef uint16_t UnsignedShorts __attribute__((vector_size(4 * kLanes)));
// Half as many numbers, of which float64 has a vector.
constexpr int kHalf = kLanes / 2;
typedef double Doubles __attribute__((vector_size(8 * kHalf)));
typedef int32_t HalfInts __attribute__((vector_size(4 * kHalf)));
typedef float HalfFloats __attribute__((vector_size(4 * kHalf)));

inline Ints all_ints(int32_t x) { return x - Ints{}; }
inline Shorts all_shorts(int16_t x) { return x - Shorts{}; }

template <typename Vector>
inline Vector load_vector(const void *p) {
  Vector x;
  memcpy(&x, p, sizeof x);
  return x;
}

template <typename Vector>
inline void store_vector(void *p, Vector x) {
  memcpy(p, &x, sizeof x);
}

// The lane at p, in all lanes.
inline Ints all_lanes(const void *p) {
  int32_t lane;
  memcpy(&lane, p, sizeof lane);
  return all_ints(lane);
}

template <typename Vector>
inline Vector larger(Vector a, Vector b) {
  return a > b ? a : b;
}
template <typename Vector>
inline Vector smaller(Vector a, Vector b) {
  return a < b ? a : b;
}

inline Doubles all_doubles(double x) { return x - Doubles{}; }
inline Doubles to_doubles(HalfInts x) { return __builtin_convertvector(x, Doubles); }
inline Doubles to_doubles(HalfFloats x) { return __builtin_convertvector(x, Doubles); }
// Cut off towards 0.
inline HalfInts to_ints(Doubles x) { return __builtin_convertvector(x, HalfInts); }

inline int32_t largest_of_lanes(Ints x) {
  int32_t found = x[0];
  for (int i = 1; i < kLanes; ++i) found = x[i] > found ? x[i] : found;
  return found;
}

inline int32_t sum_of_lanes(Ints x) {
  int32_t sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += x[i];
  return sum;
}

// Below, of each instruction set:
//
// Cut, Weight       the types of numbers of 8 bits, and of 8 without a sign, that are multiplied
// as_column         a lane of Cuts as ``add_keys`` takes it
// add_keys          adds the products of columns of Cuts and a row of Cuts to a Sum; it may add more,
//                   which is the same for all columns
// add_values        adds the products of columns of Cuts and a row of Weights to a Sum
// store_weights     weights, of 8 bits without a sign, as Weights
// Sum               sums of products of pairs, by lane
// begin, total      a Sum of integers, and what a Sum comes to
// add_products      adds the products of pairs to a Sum
// times             products of numbers with 15 fraction bits, rounded half up
// saturated         integers that are not negative, as unsigned 16-bit ones
// power             2^(13 - n), 0 for n of 14 and 15
// sums_of_lanes     the sum of the lanes of each of kLanes vectors
// load_shorts       a vector of int16, or of int8 as int16
// load_row_pairs    columns of two rows as kShorts pairs
#if defined(__AVX512BW__)

using Sum = Ints;
inline Sum begin(Ints x) { return x; }
inline Ints total(Sum sum) { return sum; }

#if defined(__AVX512VNNI__)
inline Sum add_products(Sum sum, Ints a, Ints b) {
  // Not as an intrinsic, with which GCC 12 moves the sums through memory.
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

#define HAS_BYTES 1
using Cut = int8_t;
using Weight = uint8_t;
// Four products of a byte without a sign and one with it.
inline Sum add_bytes(Sum sum, Ints without, Ints with) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(without), "v"(with));
  return sum;
}
// Moved up by 128, which adds 128 times the sum of the row.
inline int32_t as_column(int32_t lane) { return lane ^ static_cast<int32_t>(0x80808080u); }
inline Sum add_keys(Sum sum, Ints column, Ints row) { return add_bytes(sum, column, row); }
inline Sum add_values(Sum sum, Ints column, Ints row) { return add_bytes(sum, row, column); }
inline void store_weights(Weight *p, Shorts weights) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtepi16_epi8((__m512i)weights));
}
#else
inline Sum add_products(Sum sum, Ints a, Ints b) {
  return sum + (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
}
#endif

inline Shorts times(Shorts a, Shorts b) {
  return (Shorts)_mm512_mulhrs_epi16((__m512i)a, (__m512i)b);
}

inline UnsignedShorts saturated(Ints a, Ints b) {
  // 128 bits of a and of b by turns, put in order.
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  return (UnsignedShorts)_mm512_permutexvar_epi64(
      order, _mm512_packus_epi32((__m512i)a, (__m512i)b));
}

inline Shorts power(UnsignedShorts n) {
  return (Shorts)_mm512_srlv_epi16(_mm512_set1_epi16(1 << 13), (__m512i)n);
}

inline Ints sums_of_lanes(const Ints *x) {
  __m512i fours[4];
  for (int i = 0; i < 4; ++i) {
    const __m512i a = (__m512i)x[4 * i], b = (__m512i)x[4 * i + 1];
    const __m512i c = (__m512i)x[4 * i + 2], d = (__m512i)x[4 * i + 3];
    const __m512i ab =
        _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd =
        _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    fours[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  }
  // Lanes of 128 bits have a part of four sums each.
  __m512i pairs[2];
  for (int i = 0; i < 2; ++i)
    pairs[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(fours[2 * i], fours[2 * i + 1], 0x88),
                                _mm512_shuffle_i32x4(fours[2 * i], fours[2 * i + 1], 0xdd));
  return (Ints)_mm512_add_epi32(_mm512_shuffle_i32x4(pairs[0], pairs[1], 0x88),
                                _mm512_shuffle_i32x4(pairs[0], pairs[1], 0xdd));
}

inline Shorts load_shorts(const int16_t *p) { return load_vector<Shorts>(p); }
inline Shorts load_shorts(const int8_t *p) {
  return (Shorts)_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}

inline void load_row_pairs(const int16_t *first, const int16_t *second, Ints *pairs) {
  // Four columns of each half to a lane of 128 bits.
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const __m512i a = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(first));
  const __m512i b = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(second));
  pairs[0] = (Ints)_mm512_unpacklo_epi16(a, b);
  pairs[1] = (Ints)_mm512_unpackhi_epi16(a, b);
}
inline void load_row_pairs(const int8_t *first, const int8_t *second, Ints *pairs) {
  for (int i = 0; i < 2; ++i) {
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i *>(first + 16 * i));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i *>(second + 16 * i));
    const __m256i both = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_unpacklo_epi8(a, b)), _mm_unpackhi_epi8(a, b), 1);
    pairs[i] = (Ints)_mm512_cvtepi8_epi16(both);
  }
}

#elif defined(__AVX2__)

using Sum = Ints;
inline Sum begin(Ints x) { return x; }
inline Ints total(Sum sum) { return sum; }
inline Sum add_products(Sum sum, Ints a, Ints b) {
  return sum + (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}

inline Shorts times(Shorts a, Shorts b) {
  return (Shorts)_mm256_mulhrs_epi16((__m256i)a, (__m256i)b);
}

inline UnsignedShorts saturated(Ints a, Ints b) {
  // 128 bits of a and of b by turns, put in order.
  return (UnsignedShorts)_mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)a, (__m256i)b),
                                                  0xd8);
}

inline Shorts power(UnsignedShorts n) {
  // The one bit is in the upper byte up to n = 5, as 0x80 >> (n + 2), and in the lower one from 6
  // on, as 0x80 >> (n - 6). An index with its highest bit gives 0: of the upper byte from n = 14
  // on, of the lower one below n = 6.
  const __m256i bits = _mm256_setr_epi8(-128, 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0,  //
                                        -128, 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m256i twice = _mm256_mullo_epi16((__m256i)n, _mm256_set1_epi16(0x0101));
  const __m256i index = _mm256_add_epi8(twice, _mm256_set1_epi16(0x72fa));
  return (Shorts)_mm256_shuffle_epi8(bits, index);
}

inline Ints sums_of_lanes(const Ints *x) {
  __m256i fours[2];
  for (int i = 0; i < 2; ++i)
    fours[i] = _mm256_hadd_epi32(_mm256_hadd_epi32((__m256i)x[4 * i], (__m256i)x[4 * i + 1]),
                                 _mm256_hadd_epi32((__m256i)x[4 * i + 2], (__m256i)x[4 * i + 3]));
  return (Ints)_mm256_add_epi32(_mm256_permute2x128_si256(fours[0], fours[1], 0x20),
                                _mm256_permute2x128_si256(fours[0], fours[1], 0x31));
}

inline Shorts load_shorts(const int16_t *p) { return load_vector<Shorts>(p); }
inline Shorts load_shorts(const int8_t *p) {
  return (Shorts)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}

inline void load_row_pairs(const int16_t *first, const int16_t *second, Ints *pairs) {
  // Four columns of each half to a lane of 128 bits.
  const __m256i a = _mm256_permute4x64_epi64(load_vector<__m256i>(first), 0xd8);
  const __m256i b = _mm256_permute4x64_epi64(load_vector<__m256i>(second), 0xd8);
  pairs[0] = (Ints)_mm256_unpacklo_epi16(a, b);
  pairs[1] = (Ints)_mm256_unpackhi_epi16(a, b);
}
inline void load_row_pairs(const int8_t *first, const int8_t *second, Ints *pairs) {
  const __m128i a = load_vector<__m128i>(first), b = load_vector<__m128i>(second);
  pairs[0] = (Ints)_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b));
  pairs[1] = (Ints)_mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b));
}

#elif defined(__SSE2__)

using Sum = Ints;
inline Sum begin(Ints x) { return x; }
inline Ints total(Sum sum) { return sum; }
inline Sum add_products(Sum sum, Ints a, Ints b) {
  return sum + (Ints)_mm_madd_epi16((__m128i)a, (__m128i)b);
}

inline Shorts times(Shorts a, Shorts b) {
  const Shorts high = (Shorts)_mm_mulhi_epi16((__m128i)a, (__m128i)b);
  const UnsignedShorts low = (UnsignedShorts)a * (UnsignedShorts)b;
  return high + high + (Shorts)(((low >> 14) + 1) >> 1);
}

inline UnsignedShorts saturated(Ints a, Ints b) {
  // There is an instruction for signed ones only.
  const Ints half = all_ints(0x8000);
  return (UnsignedShorts)_mm_packs_epi32((__m128i)(a - half), (__m128i)(b - half)) ^ 0x8000;
}

inline Shorts power(UnsignedShorts n) {
  // As floats, whose exponent is 13 - n; what is below 1 is cut off.
  const __m128i upper = (__m128i)((127 + 13 - n) << 7), none = _mm_setzero_si128();
  return (Shorts)_mm_packs_epi32(
      _mm_cvttps_epi32(_mm_castsi128_ps(_mm_unpacklo_epi16(none, upper))),
      _mm_cvttps_epi32(_mm_castsi128_ps(_mm_unpackhi_epi16(none, upper))));
}

inline Ints sums_of_lanes(const Ints *x) {
  const __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32((__m128i)x[0], (__m128i)x[1]),
                                   _mm_unpackhi_epi32((__m128i)x[0], (__m128i)x[1]));
  const __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32((__m128i)x[2], (__m128i)x[3]),
                                   _mm_unpackhi_epi32((__m128i)x[2], (__m128i)x[3]));
  return (Ints)_mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
}

inline Shorts load_shorts(const int16_t *p) { return load_vector<Shorts>(p); }
inline Shorts load_shorts(const int8_t *p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(p));
  return (Shorts)_mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
}

inline void load_row_pairs(const int16_t *first, const int16_t *second, Ints *pairs) {
  const __m128i a = load_vector<__m128i>(first), b = load_vector<__m128i>(second);
  pairs[0] = (Ints)_mm_unpacklo_epi16(a, b);
  pairs[1] = (Ints)_mm_unpackhi_epi16(a, b);
}
inline void load_row_pairs(const int8_t *first, const int8_t *second, Ints *pairs) {
  const __m128i a = (__m128i)load_shorts(first), b = (__m128i)load_shorts(second);
  pairs[0] = (Ints)_mm_unpacklo_epi16(a, b);
  pairs[1] = (Ints)_mm_unpackhi_epi16(a, b);
}

#elif defined(__aarch64__)

// Products of the lower and of the upper half of a vector, of which two and two are a lane's.
struct Sum {
  int32x4_t low, high;
};
inline Sum begin(Ints x) {
  const int32x4_t none = vdupq_n_s32(0);
  return {vzip1q_s32((int32x4_t)x, none), vzip2q_s32((int32x4_t)x, none)};
}
inline Ints total(Sum sum) { return (Ints)vpaddq_s32(sum.low, sum.high); }
inline Sum add_products(Sum sum, Ints a, Ints b) {
  const int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
  return {vmlal_s16(sum.low, vget_low_s16(x), vget_low_s16(y)), vmlal_high_s16(sum.high, x, y)};
}

inline Shorts times(Shorts a, Shorts b) {
  return (Shorts)vqrdmulhq_s16((int16x8_t)a, (int16x8_t)b);
}

inline UnsignedShorts saturated(Ints a, Ints b) {
  return (UnsignedShorts)vqmovun_high_s32(vqmovun_s32((int32x4_t)a), (int32x4_t)b);
}

inline Shorts power(UnsignedShorts n) {
  return (Shorts)vshlq_u16(vdupq_n_u16(1 << 13), vnegq_s16((int16x8_t)n));
}

inline Ints sums_of_lanes(const Ints *x) {
  return (Ints)vpaddq_s32(vpaddq_s32((int32x4_t)x[0], (int32x4_t)x[1]),
                          vpaddq_s32((int32x4_t)x[2], (int32x4_t)x[3]));
}

inline Shorts load_shorts(const int16_t *p) { return load_vector<Shorts>(p); }
inline Shorts load_shorts(const int8_t *p) { return (Shorts)vmovl_s8(vld1_s8(p)); }

template <typename Number>
inline void load_row_pairs(const Number *first, const Number *second, Ints *pairs) {
  const int16x8_t a = (int16x8_t)load_shorts(first), b = (int16x8_t)load_shorts(second);
  pairs[0] = (Ints)vzip1q_s16(a, b);
  pairs[1] = (Ints)vzip2q_s16(a, b);
}

#else
#error "pair_vectors.h has no vectors for this processor"
#endif

#if !defined(HAS_BYTES)
using Cut = int16_t;
using Weight = int16_t;
inline int32_t as_column(int32_t lane) { return lane; }
inline Sum add_keys(Sum sum, Ints column, Ints row) { return add_products(sum, column, row); }
inline Sum add_values(Sum sum, Ints column, Ints row) { return add_products(sum, column, row); }
inline void store_weights(Weight *p, Shorts weights) { store_vector(p, weights); }
#endif
// Cuts, or Weights, of a lane.
constexpr int kGroup = sizeof(int32_t) / sizeof(Cut);
static_assert(sizeof(Cut) == sizeof(Weight));

}  // namespace
