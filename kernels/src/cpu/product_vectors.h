// Vectors of integers of the instruction set that a file is compiled for, for products of int8 or
// int16 rows with int8 weights.
//
// ``Dot`` adds up products along k, kStep at a time, of rows that were placed for it: as they lie,
// widened, or as two planes of bytes, x = 256 high + low. The sums over the first plane then become
// 256 times as large before those over the second are added. ``Panel`` multiplies groups of a few
// consecutive k of one row with the same k of many columns, a lane of 32 bits for each. Where an
// instruction takes unsigned integers on one side, weights are moved up by 128, and sums are too
// large by kOffset times the sum of the row, or of its first plane.
#pragma once

#include "fixed_vectors.h"

namespace {

// Sums, scales and biases of four columns.
typedef uint32_t FourWords __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));
typedef float FourFloats __attribute__((vector_size(16)));
typedef double FourDoubles __attribute__((vector_size(32)));

// sat(rint(sums * x_scale * w_scale) + bias), of four or of a whole vector of columns.
#if defined(__AVX2__)

inline __m256d scale_and_round(__m256d sums, double x_scale, __m256d w_scale, __m256d bias) {
  const __m256d scale = _mm256_mul_pd(_mm256_set1_pd(x_scale), w_scale);
  __m256d y = _mm256_fmadd_pd(sums, scale, _mm256_set1_pd(kWhole));
  y = _mm256_add_pd(y, bias);
  y = _mm256_min_pd(y, _mm256_set1_pd(kWhole + kLargest));
  return _mm256_max_pd(y, _mm256_set1_pd(kWhole - kLargest));
}

inline FourInts scale_four(FourInts sums, double x_scale, FourDoubles w_scale, FourDoubles bias) {
  const __m256i y = _mm256_castpd_si256(scale_and_round(
      _mm256_cvtepi32_pd((__m128i)sums), x_scale, (__m256d)w_scale, (__m256d)bias));
  const __m256i low = _mm256_permutevar8x32_epi32(y, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
  return (FourInts)_mm256_castsi256_si128(low);
}

#elif defined(__aarch64__)

inline int32x2_t scale_two(int32x2_t sums, double x_scale, float64x2_t w_scale, float64x2_t bias) {
  const float64x2_t scale = vmulq_n_f64(w_scale, x_scale);
  float64x2_t y = vrndnq_f64(vmulq_f64(vcvtq_f64_s64(vmovl_s32(sums)), scale));
  y = vaddq_f64(y, bias);
  y = vmaxq_f64(vminq_f64(y, vdupq_n_f64(kLargest)), vdupq_n_f64(-kLargest));
  return vmovn_s64(vcvtq_s64_f64(y));
}

inline FourInts scale_four(FourInts sums, double x_scale, FourDoubles w_scale, FourDoubles bias) {
  const int32x4_t x = (int32x4_t)sums;
  float64x2_t scale[2], offset[2];
  memcpy(scale, &w_scale, sizeof scale);
  memcpy(offset, &bias, sizeof offset);
  return (FourInts)vcombine_s32(scale_two(vget_low_s32(x), x_scale, scale[0], offset[0]),
                                scale_two(vget_high_s32(x), x_scale, scale[1], offset[1]));
}

#endif

#if defined(__AVX512BW__)

inline __mmask64 first_bytes(int64_t count) { return ~0ull >> (64 - count); }

inline __m256i scale_eight(__m256i sums, double x_scale, const double *w_scale,
                           const double *bias) {
  const __m512d scale = _mm512_mul_pd(_mm512_set1_pd(x_scale), _mm512_loadu_pd(w_scale));
  __m512d y = _mm512_fmadd_pd(_mm512_cvtepi32_pd(sums), scale, _mm512_set1_pd(kWhole));
  y = _mm512_add_pd(y, _mm512_loadu_pd(bias));
  y = _mm512_min_pd(y, _mm512_set1_pd(kWhole + kLargest));
  y = _mm512_max_pd(y, _mm512_set1_pd(kWhole - kLargest));
  return _mm512_cvtepi64_epi32(_mm512_castpd_si512(y));
}

struct Lanes {
  using Sums = __m512i;
  using Weights = __m512i;
  using Group = __m512i;
  static constexpr int kLanes = 16, kVectors = 4, kRows = 6;
  static Sums start(int32_t offset) { return _mm512_set1_epi32(offset); }
  static Sums finish(Sums sums) { return sums; }
  static Weights load(const int32_t *p) { return _mm512_loadu_si512(p); }
  static Group broadcast(const char *p) {
    int32_t lane;
    memcpy(&lane, p, sizeof lane);
    return _mm512_set1_epi32(lane);
  }
  // Of the columns that are there; ``w_scale`` and ``bias`` have whole vectors.
  static void store_scaled(Sums sums, double x_scale, const double *w_scale, const double *bias,
                           int32_t *out, int64_t columns) {
    const __m256i low = scale_eight(_mm512_castsi512_si256(sums), x_scale, w_scale, bias);
    const __m256i high =
        scale_eight(_mm512_extracti64x4_epi64(sums, 1), x_scale, w_scale + 8, bias + 8);
    const __mmask16 mask = columns >= 16 ? 0xffff : static_cast<__mmask16>((1u << columns) - 1);
    _mm512_mask_storeu_epi32(out, mask, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
  }
};

inline __m128i halves(__m512i sum) {
  const __m256i half =
      _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

struct DotLanes {
  using Sum = __m512i;
  using Rows = __m512i;
  using Weights = __m512i;
  // Columns that are multiplied by turns, and vectors of a single row that stay in registers.
  static constexpr int kTogether = 4, kKept = 24;
  // Bytes of a step of a placed row, and how far ahead weights are asked for.
  static constexpr int64_t kBytes = 64, kAhead = 12 * 1024;
  static Sum zero() { return _mm512_setzero_si512(); }
  static Rows load_x(const int8_t *p) { return _mm512_loadu_si512(p); }
  static FourInts reduce(const Sum *sums) {
    const __m512i first = _mm512_add_epi32(_mm512_unpacklo_epi32(sums[0], sums[1]),
                                           _mm512_unpackhi_epi32(sums[0], sums[1]));
    const __m512i second = _mm512_add_epi32(_mm512_unpacklo_epi32(sums[2], sums[3]),
                                            _mm512_unpackhi_epi32(sums[2], sums[3]));
    return (FourInts)halves(_mm512_add_epi32(_mm512_unpacklo_epi64(first, second),
                                             _mm512_unpackhi_epi64(first, second)));
  }
};

#if defined(__AVX512VNNI__)

inline __m512i add_pairs(__m512i sum, __m512i w, __m512i x) {
  return _mm512_dpwssd_epi32(sum, w, x);
}

#else

inline __m512i add_pairs(__m512i sum, __m512i w, __m512i x) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(w, x));
}

// Integers of 16 bits along k, to which weights are widened.
struct DotShorts : DotLanes {
  static constexpr int64_t kStep = 32;
  static Weights load_w(const int8_t *p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
  }
  static Weights load_w_part(const int8_t *p, int64_t count) {
    return _mm512_cvtepi8_epi16(
        _mm256_maskz_loadu_epi8(static_cast<__mmask32>(first_bytes(count)), p));
  }
  static Sum add(Sum sum, Weights w, Rows x, int) { return add_pairs(sum, w, x); }
};

#endif

#define HAS_VECTORS 1
constexpr int64_t kDotRows = 6;

#elif defined(__AVX2__)

struct Lanes {
  using Sums = __m256i;
  using Weights = __m256i;
  using Group = __m256i;
  static constexpr int kLanes = 8, kVectors = 2, kRows = 4;
  static Sums start(int32_t offset) { return _mm256_set1_epi32(offset); }
  static Sums finish(Sums sums) { return sums; }
  static Weights load(const int32_t *p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
  }
  static Group broadcast(const char *p) {
    int32_t lane;
    memcpy(&lane, p, sizeof lane);
    return _mm256_set1_epi32(lane);
  }
  // Of the columns that are there; ``w_scale`` and ``bias`` have whole vectors.
  static void store_scaled(Sums sums, double x_scale, const double *w_scale, const double *bias,
                           int32_t *out, int64_t columns) {
    const __m256d low =
        scale_and_round(_mm256_cvtepi32_pd(_mm256_castsi256_si128(sums)), x_scale,
                        _mm256_loadu_pd(w_scale), _mm256_loadu_pd(bias));
    const __m256d high =
        scale_and_round(_mm256_cvtepi32_pd(_mm256_extracti128_si256(sums, 1)), x_scale,
                        _mm256_loadu_pd(w_scale + 4), _mm256_loadu_pd(bias + 4));
    // The low words, in the order of the halves.
    const __m256 words =
        _mm256_shuffle_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high), 0x88);
    const __m256i y = _mm256_permute4x64_epi64(_mm256_castps_si256(words), 0xd8);
    if (columns >= kLanes)
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(out), y);
    else
      memcpy(out, &y, static_cast<size_t>(columns) * sizeof *out);
  }
};

inline __m256i add_pairs(__m256i sum, __m256i w, __m256i x) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
}

// Integers of 16 bits along k, to which weights are widened, two vectors to a step.
struct DotShorts {
  struct Pair {
    __m256i first, second;
  };
  using Sum = __m256i;
  using Rows = Pair;
  using Weights = Pair;
  static constexpr int kTogether = 1, kKept = 0;
  static constexpr int64_t kStep = 32, kBytes = 64, kAhead = 12 * 1024;
  static Sum zero() { return _mm256_setzero_si256(); }
  static Rows load_x(const int8_t *p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p + 32))};
  }
  static Weights load_w(const int8_t *p) {
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))),
            _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p + 16)))};
  }
  static Weights load_w_part(const int8_t *p, int64_t count) {
    int8_t whole[kStep] = {};
    memcpy(whole, p, static_cast<size_t>(count));
    return load_w(whole);
  }
  static Sum add(Sum sum, const Weights &w, const Rows &x, int) {
    return add_pairs(add_pairs(sum, w.first, x.first), w.second, x.second);
  }
  static FourInts reduce(const Sum *sums) {
    const __m256i first = _mm256_hadd_epi32(sums[0], sums[1]);
    const __m256i second = _mm256_hadd_epi32(sums[2], sums[3]);
    const __m256i all = _mm256_hadd_epi32(first, second);
    return (FourInts)_mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  }
};

#define HAS_VECTORS 1
constexpr int64_t kDotRows = 5;

#elif defined(__ARM_FEATURE_DOTPROD)
#define HAS_VECTORS 1
constexpr int64_t kDotRows = 4;
#else
#define HAS_VECTORS 0
#endif

template <typename Value>
struct Dot;
template <typename Value>
struct Panel;

#if HAS_VECTORS

// Four k to a lane.
struct Bytes {
  static constexpr int64_t kGroup = 4;
  static int32_t pack(const int8_t *w, int64_t count) {
    int32_t lane = 0;
    if (count == kGroup)
      memcpy(&lane, w, kGroup);
    else if (count > 0)
      memcpy(&lane, w, static_cast<size_t>(count));
    return lane;
  }
};

// The sum of a row that kOffset is multiplied with; where that is 0 it is not asked for.
inline int32_t sum_of(const int16_t *, int64_t) { return 0; }

// An int16 of a row is 256 times this, and its low byte as an int8.
inline int8_t high_byte(int16_t x) {
  return static_cast<int8_t>((x - static_cast<int8_t>(x)) >> 8);
}

#endif

#if defined(__AVX2__)

// Two k to a lane, of 16 bits each.
struct Pairs : Lanes {
  static constexpr int64_t kGroup = 2;
  static constexpr int64_t kGroupBytes = 4;
  static constexpr int32_t kOffset = 0;
  static int32_t pack(const int8_t *w, int64_t count) {
    const int low = count > 0 ? w[0] : 0, high = count > 1 ? w[1] : 0;
    return static_cast<int32_t>((static_cast<uint32_t>(high) << 16) | (low & 0xffff));
  }
  static Sums add(Sums sums, Weights w, Group x) { return add_pairs(sums, w, x); }
};

template <>
struct Panel<int16_t> : Pairs {
  static constexpr bool kAsTheyLie = true;
  static void unpack_row(const int16_t *x, int64_t k, char *room) {
    memset(room + (k / kGroup) * kGroupBytes, 0, kGroupBytes);
    memcpy(room, x, static_cast<size_t>(k) * sizeof *x);
  }
};

#if defined(__AVX512VNNI__)

inline int32_t sum_of(const int8_t *x, int64_t k) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sum = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 64 <= k; i += 64) sum = _mm512_dpbusd_epi32(sum, ones, _mm512_loadu_si512(x + i));
  if (i < k)
    sum = _mm512_dpbusd_epi32(sum, ones, _mm512_maskz_loadu_epi8(first_bytes(k - i), x + i));
  return _mm512_reduce_add_epi32(sum);
}

inline __m512i add_bytes(__m512i sum, __m512i without_sign, __m512i with_sign) {
  // Not as an intrinsic, with which GCC 12 moves the sums through memory.
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(without_sign), "v"(with_sign));
  return sum;
}

struct DotBytes : DotLanes {
  static constexpr int64_t kStep = 64;
  static Weights load_w(const int8_t *p) { return _mm512_loadu_si512(p); }
  static Weights load_w_part(const int8_t *p, int64_t count) {
    return _mm512_maskz_loadu_epi8(first_bytes(count), p);
  }
  static Sum add_moved_up(Sum sum, Weights w, Rows x) {
    return add_bytes(sum, _mm512_xor_si512(w, _mm512_set1_epi8(-128)), x);
  }
  static Sum join(Sum high, Sum low) { return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low); }
};

template <>
struct Dot<int8_t> : DotBytes {
  static constexpr int kPlanes = 1;
  static constexpr uint32_t kOffset = 128;
  static void place(const int8_t *x, int8_t *to, int64_t) { memcpy(to, x, kStep); }
  static Sum add(Sum sum, Weights w, Rows x, int) { return add_moved_up(sum, w, x); }
};

// Low bytes have no sign, so that weights are multiplied with them as they are.
template <>
struct Dot<int16_t> : DotBytes {
  static constexpr int kPlanes = 2;
  static constexpr uint32_t kOffset = 128 << 8;
  static void place(const int16_t *x, int8_t *to, int64_t plane_bytes) {
    int8_t high[kStep], low[kStep];
    for (int i = 0; i < kStep; ++i) {
      high[i] = static_cast<int8_t>(x[i] >> 8);
      low[i] = static_cast<int8_t>(x[i]);
    }
    memcpy(to, high, sizeof high);
    memcpy(to + plane_bytes, low, sizeof low);
  }
  static Sum add(Sum sum, Weights w, Rows x, int plane) {
    return plane == 0 ? add_moved_up(sum, w, x) : add_bytes(sum, x, w);
  }
};

template <>
struct Panel<int8_t> : Lanes {
  static constexpr int64_t kGroup = Bytes::kGroup;
  static constexpr int64_t kGroupBytes = 4;
  static constexpr int32_t kOffset = 128;
  static constexpr bool kAsTheyLie = true;
  static int32_t pack(const int8_t *w, int64_t count) {
    return Bytes::pack(w, count) ^ static_cast<int32_t>(0x80808080u);
  }
  static void unpack_row(const int8_t *x, int64_t k, char *room) {
    memset(room + (k / kGroup) * kGroupBytes, 0, kGroupBytes);
    memcpy(room, x, static_cast<size_t>(k));
  }
  static Sums add(Sums sums, Weights w, Group x) { return _mm512_dpbusd_epi32(sums, w, x); }
};

#else

inline int32_t sum_of(const int8_t *, int64_t) { return 0; }

template <typename Value>
struct Dot : DotShorts {
  static constexpr int kPlanes = 1;
  static constexpr uint32_t kOffset = 0;
  static void place(const Value *x, int8_t *to, int64_t) {
    int16_t shorts[kStep];
    for (int i = 0; i < kStep; ++i) shorts[i] = x[i];
    memcpy(to, shorts, sizeof shorts);
  }
};

// Without a product of bytes that is exact, both sides are widened.
template <>
struct Panel<int8_t> : Pairs {
  static constexpr bool kAsTheyLie = false;
  static void unpack_row(const int8_t *x, int64_t k, char *room) {
    int16_t *wide = reinterpret_cast<int16_t *>(room);
    int64_t i = 0;
    for (; i + 16 <= k; i += 16)
      _mm256_storeu_si256(
          reinterpret_cast<__m256i *>(wide + i),
          _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(x + i))));
    for (; i < k; ++i) wide[i] = x[i];
    if (k % 2 != 0) wide[k] = 0;
  }
};

#endif

#elif defined(__ARM_FEATURE_DOTPROD)

inline int32_t sum_of(const int8_t *, int64_t) { return 0; }

struct DotLanes {
  using Sum = int32x4_t;
  using Rows = int8x16_t;
  using Weights = int8x16_t;
  static constexpr int kTogether = 1, kKept = 0;
  static constexpr int64_t kStep = 16, kBytes = 16, kAhead = 0;
  static Sum zero() { return vdupq_n_s32(0); }
  static Rows load_x(const int8_t *p) { return vld1q_s8(p); }
  static Weights load_w(const int8_t *p) { return vld1q_s8(p); }
  static Weights load_w_part(const int8_t *p, int64_t count) {
    int8_t whole[kStep] = {};
    memcpy(whole, p, static_cast<size_t>(count));
    return load_w(whole);
  }
  static Sum add(Sum sum, Weights w, Rows x, int) { return vdotq_s32(sum, w, x); }
  static Sum join(Sum high, Sum low) { return vaddq_s32(vshlq_n_s32(high, 8), low); }
  static FourInts reduce(const Sum *s) {
    return (FourInts)vpaddq_s32(vpaddq_s32(s[0], s[1]), vpaddq_s32(s[2], s[3]));
  }
};

template <>
struct Dot<int8_t> : DotLanes {
  static constexpr int kPlanes = 1;
  static constexpr uint32_t kOffset = 0;
  static void place(const int8_t *x, int8_t *to, int64_t) { memcpy(to, x, kStep); }
};

// Low bytes are signed.
template <>
struct Dot<int16_t> : DotLanes {
  static constexpr int kPlanes = 2;
  static constexpr uint32_t kOffset = 0;
  static void place(const int16_t *x, int8_t *to, int64_t plane_bytes) {
    int8_t high[kStep], low[kStep];
    for (int i = 0; i < kStep; ++i) {
      high[i] = high_byte(x[i]);
      low[i] = static_cast<int8_t>(x[i]);
    }
    memcpy(to, high, sizeof high);
    memcpy(to + plane_bytes, low, sizeof low);
  }
};

struct Lanes : Bytes {
  using Weights = int32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int32_t kOffset = 0;
  static Weights load(const int32_t *p) { return vld1q_s32(p); }
  static int32x4_t broadcast_four(const char *p) {
    return vld1q_dup_s32(reinterpret_cast<const int32_t *>(p));
  }
  static int32x4_t dot(int32x4_t sums, Weights w, int32x4_t x) {
    return vdotq_s32(sums, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x));
  }
  // Of the columns that are there; ``w_scale`` and ``bias`` have whole vectors.
  static void store_scaled(int32x4_t sums, double x_scale, const double *w_scale,
                           const double *bias, int32_t *out, int64_t columns) {
    FourDoubles scale_of_columns, bias_of_columns;
    memcpy(&scale_of_columns, w_scale, sizeof scale_of_columns);
    memcpy(&bias_of_columns, bias, sizeof bias_of_columns);
    const FourInts y = scale_four((FourInts)sums, x_scale, scale_of_columns, bias_of_columns);
    memcpy(out, &y, static_cast<size_t>(columns < kLanes ? columns : kLanes) * sizeof *out);
  }
};

template <>
struct Panel<int8_t> : Lanes {
  using Sums = int32x4_t;
  using Group = int32x4_t;
  static constexpr int kVectors = 4, kRows = 4;
  static constexpr int64_t kGroupBytes = 4;
  static constexpr bool kAsTheyLie = true;
  static Sums start(int32_t) { return vdupq_n_s32(0); }
  static Sums finish(Sums sums) { return sums; }
  static Group broadcast(const char *p) { return broadcast_four(p); }
  static void unpack_row(const int8_t *x, int64_t k, char *room) {
    memset(room + (k / kGroup) * kGroupBytes, 0, kGroupBytes);
    memcpy(room, x, static_cast<size_t>(k));
  }
  static Sums add(Sums sums, Weights w, Group x) { return dot(sums, w, x); }
};

// Two products of bytes: x = 256 high + low, where low is signed.
template <>
struct Panel<int16_t> : Lanes {
  struct Sums {
    int32x4_t high, low;
  };
  using Group = Sums;
  static constexpr int kVectors = 2, kRows = 4;
  static constexpr int64_t kGroupBytes = 8;
  static constexpr bool kAsTheyLie = false;
  static Sums start(int32_t) { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
  static int32x4_t finish(const Sums &sums) {
    return vaddq_s32(vshlq_n_s32(sums.high, 8), sums.low);
  }
  static Group broadcast(const char *p) { return {broadcast_four(p), broadcast_four(p + 4)}; }
  static void unpack_row(const int16_t *x, int64_t k, char *room) {
    int8_t *bytes = reinterpret_cast<int8_t *>(room);
    for (int64_t i = 0; i < (k + kGroup - 1) / kGroup * kGroup; ++i) {
      const int16_t value = i < k ? x[i] : 0;
      int8_t *group = bytes + i / kGroup * kGroupBytes;
      group[i % kGroup] = high_byte(value);
      group[kGroup + i % kGroup] = static_cast<int8_t>(value);
    }
  }
  static Sums add(const Sums &sums, Weights w, const Group &x) {
    return {dot(sums.high, w, x.high), dot(sums.low, w, x.low)};
  }
};

#endif

}  // namespace
