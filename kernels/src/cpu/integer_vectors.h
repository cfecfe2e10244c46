// Vectors of integers of the instruction set that a file is compiled for.
//
// ``Dot`` adds up products along k of rows as they lie. ``Panel`` multiplies lanes of 32 bits, each
// of which holds a few consecutive k of one column, with the same k of one row. Where an
// instruction takes unsigned integers on one side, weights are moved up by ``kOffset``, and the
// sums are too large by kOffset times the sum of the row.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace {

// Sums of four columns, and what becomes of them.
typedef int32_t FourInts __attribute__((vector_size(16)));
typedef float FourFloats __attribute__((vector_size(16)));

#if defined(__AVX512BW__)

inline __mmask64 first_bytes(int64_t count) { return ~0ull >> (64 - count); }
inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

// max |x|, NaN if there is one.
inline float largest_magnitude(const float *x, int64_t k) {
  const __m512 sign = _mm512_set1_ps(-0.0f);
  __m512 largest = _mm512_setzero_ps();
  __mmask16 nan = 0;
  for (int64_t i = 0; i < k; i += 16) {
    const __m512 part = _mm512_maskz_loadu_ps(first_lanes(k - i), x + i);
    nan |= _mm512_cmp_ps_mask(part, part, _CMP_UNORD_Q);
    largest = _mm512_max_ps(largest, _mm512_andnot_ps(sign, part));
  }
  return nan != 0 ? __builtin_nanf("") : _mm512_reduce_max_ps(largest);
}

inline void round_to_int8(const float *x, float factor, int8_t *values, int64_t k) {
  const __m512 factors = _mm512_set1_ps(factor);
  for (int64_t i = 0; i < k; i += 16) {
    const __mmask16 mask = first_lanes(k - i);
    const __m512 part = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factors);
    _mm512_mask_cvtepi32_storeu_epi8(values + i, mask, _mm512_cvtps_epi32(part));
  }
}

inline __m512 scale_lanes(__m512i sums, float x_scale, __m512 w_scale) {
  return _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(x_scale)), w_scale);
}

struct Lanes512 {
  using Vector = __m512i;
  using Lane = int32_t;
  static constexpr int kLanes = 16, kVectors = 4, kRows = 6;
  static Vector load(const Lane *p) { return _mm512_loadu_si512(p); }
  static Vector broadcast(Lane lane) { return _mm512_set1_epi32(lane); }
  static void store_scaled(Vector sums, float x_scale, const float *w_scale, const float *bias,
                           float *out, int64_t count) {
    const __mmask16 mask = first_lanes(count);
    __m512 y = scale_lanes(sums, x_scale, _mm512_maskz_loadu_ps(mask, w_scale));
    if (bias != nullptr) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, bias));
    _mm512_mask_storeu_ps(out, mask, y);
  }
};

inline __m128i halves(__m512i sum) {
  const __m256i half =
      _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

#define HAS_VECTORS 1
constexpr int kDotRows = 6;

#elif defined(__AVX2__)

inline float largest_magnitude(const float *x, int64_t k) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 largest = _mm256_setzero_ps(), nan = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 8 <= k; i += 8) {
    const __m256 part = _mm256_loadu_ps(x + i);
    nan = _mm256_or_ps(nan, _mm256_cmp_ps(part, part, _CMP_UNORD_Q));
    largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, part));
  }
  float lanes[8];
  _mm256_storeu_ps(lanes, largest);
  float found = 0.0f;
  bool none = _mm256_movemask_ps(nan) != 0;
  for (float lane : lanes) found = lane > found ? lane : found;
  for (; i < k; ++i) {
    const float magnitude = __builtin_fabsf(x[i]);
    none = none || x[i] != x[i];
    found = magnitude > found ? magnitude : found;
  }
  return none ? __builtin_nanf("") : found;
}

inline void round_to_int8(const float *x, float factor, int8_t *values, int64_t k) {
  const __m256 factors = _mm256_set1_ps(factor);
  // The low byte of each lane, to the front of each half.
  const __m256i low = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                       0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  int64_t i = 0;
  for (; i + 8 <= k; i += 8) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factors));
    const __m256i bytes = _mm256_shuffle_epi8(whole, low);
    const int32_t both[2] = {_mm256_extract_epi32(bytes, 0), _mm256_extract_epi32(bytes, 4)};
    memcpy(values + i, both, 8);
  }
  for (; i < k; ++i) values[i] = static_cast<int8_t>(_mm_cvtss_si32(_mm_set_ss(x[i] * factor)));
}

struct Lanes256 {
  using Vector = __m256i;
  using Lane = int32_t;
  static constexpr int kLanes = 8, kVectors = 2, kRows = 4;
  static Vector load(const Lane *p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
  }
  static Vector broadcast(Lane lane) { return _mm256_set1_epi32(lane); }
  static void store_scaled(Vector sums, float x_scale, const float *w_scale, const float *bias,
                           float *out, int64_t count) {
    __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(x_scale));
    if (count >= 8) {
      y = _mm256_mul_ps(y, _mm256_loadu_ps(w_scale));
      if (bias != nullptr) y = _mm256_add_ps(y, _mm256_loadu_ps(bias));
      _mm256_storeu_ps(out, y);
      return;
    }
    float lanes[8];
    _mm256_storeu_ps(lanes, y);
    for (int64_t i = 0; i < count; ++i) {
      out[i] = lanes[i] * w_scale[i];
      if (bias != nullptr) out[i] += bias[i];
    }
  }
};

#define HAS_VECTORS 1
constexpr int kDotRows = 3;

#else

inline float largest_magnitude(const float *x, int64_t k) {
  float found = 0.0f;
  bool nan = false;
  for (int64_t i = 0; i < k; ++i) {
    const float magnitude = __builtin_fabsf(x[i]);
    nan = nan || x[i] != x[i];
    found = magnitude > found ? magnitude : found;
  }
  return nan ? __builtin_nanf("") : found;
}

inline void round_to_int8(const float *x, float factor, int8_t *values, int64_t k) {
  // Adding 3 * 2^22 rounds to the nearest integer, ties to even, which is then in the low bits.
  for (int64_t i = 0; i < k; ++i) {
    const float shifted = x[i] * factor + 12582912.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    values[i] = static_cast<int8_t>(bits & 0xff);
  }
}

#if defined(__ARM_FEATURE_DOTPROD)
#define HAS_VECTORS 1
constexpr int kDotRows = 4;
#else
#define HAS_VECTORS 0
#endif

#endif

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

struct Dot {
  using Sum = __m512i;
  using Rows = __m512i;
  using Weights = __m512i;
  static constexpr int64_t kStep = 64;
  static constexpr int32_t kOffset = 128;
  static Sum zero() { return _mm512_setzero_si512(); }
  static Rows load_x(const int8_t *p) { return _mm512_loadu_si512(p); }
  static Rows load_x_part(const int8_t *p, int64_t count) {
    return _mm512_maskz_loadu_epi8(first_bytes(count), p);
  }
  static Weights load_w(const int8_t *p) { return move_up(_mm512_loadu_si512(p)); }
  static Weights load_w_part(const int8_t *p, int64_t count) {
    return move_up(_mm512_maskz_loadu_epi8(first_bytes(count), p));
  }
  static Weights move_up(__m512i w) { return _mm512_xor_si512(w, _mm512_set1_epi8(-128)); }
  static Sum add(Sum sum, Weights w, Rows x) { return _mm512_dpbusd_epi32(sum, w, x); }
  static FourInts reduce(const Sum *sums) {
    const __m128i first = _mm_hadd_epi32(halves(sums[0]), halves(sums[1]));
    const __m128i second = _mm_hadd_epi32(halves(sums[2]), halves(sums[3]));
    return (FourInts)_mm_hadd_epi32(first, second);
  }
};

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

struct Panel : Lanes512 {
  static constexpr int64_t kGroup = Bytes::kGroup;
  static constexpr int32_t kOffset = 128;
  static constexpr bool kAsTheyLie = true;
  static Lane pack(const int8_t *w, int64_t count) {
    return Bytes::pack(w, count) ^ static_cast<Lane>(0x80808080u);
  }
  static void unpack_row(const int8_t *x, int64_t k, Lane *room) {
    room[k / kGroup] = 0;
    memcpy(room, x, static_cast<size_t>(k));
  }
  static Vector add(Vector sum, Vector w, Vector x) { return _mm512_dpbusd_epi32(sum, w, x); }
};

#elif defined(__AVX2__)

// Without a product of bytes that is exact, integers are widened to 16 bits.
struct Pairs {
  static constexpr int64_t kGroup = 2;
  static constexpr int32_t kOffset = 0;
  static constexpr bool kAsTheyLie = false;
  static int32_t pack(const int8_t *w, int64_t count) {
    const int low = count > 0 ? w[0] : 0, high = count > 1 ? w[1] : 0;
    return static_cast<int32_t>((static_cast<uint32_t>(high) << 16) | (low & 0xffff));
  }
  static void unpack_row(const int8_t *x, int64_t k, int32_t *room) {
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

inline int32_t sum_of(const int8_t *, int64_t) { return 0; }

#if defined(__AVX512BW__)

struct Dot {
  using Sum = __m512i;
  using Rows = __m512i;
  using Weights = __m512i;
  static constexpr int64_t kStep = 32;
  static constexpr int32_t kOffset = 0;
  static Sum zero() { return _mm512_setzero_si512(); }
  static Rows load_x(const int8_t *p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
  }
  static Rows load_x_part(const int8_t *p, int64_t count) {
    return _mm512_cvtepi8_epi16(
        _mm256_maskz_loadu_epi8(static_cast<__mmask32>(first_bytes(count)), p));
  }
  static Weights load_w(const int8_t *p) { return load_x(p); }
  static Weights load_w_part(const int8_t *p, int64_t count) { return load_x_part(p, count); }
  static Sum add(Sum sum, Weights w, Rows x) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(w, x));
  }
  static FourInts reduce(const Sum *sums) {
    const __m128i first = _mm_hadd_epi32(halves(sums[0]), halves(sums[1]));
    const __m128i second = _mm_hadd_epi32(halves(sums[2]), halves(sums[3]));
    return (FourInts)_mm_hadd_epi32(first, second);
  }
};

struct Panel : Lanes512, Pairs {
  static Vector add(Vector sum, Vector w, Vector x) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(w, x));
  }
};

#else

struct Dot {
  using Sum = __m256i;
  using Rows = __m256i;
  using Weights = __m256i;
  static constexpr int64_t kStep = 16;
  static constexpr int32_t kOffset = 0;
  static Sum zero() { return _mm256_setzero_si256(); }
  static Rows load_x(const int8_t *p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
  }
  static Rows load_x_part(const int8_t *p, int64_t count) {
    int8_t whole[kStep] = {};
    memcpy(whole, p, static_cast<size_t>(count));
    return load_x(whole);
  }
  static Weights load_w(const int8_t *p) { return load_x(p); }
  static Weights load_w_part(const int8_t *p, int64_t count) { return load_x_part(p, count); }
  static Sum add(Sum sum, Weights w, Rows x) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
  }
  static FourInts reduce(const Sum *sums) {
    const __m256i first = _mm256_hadd_epi32(sums[0], sums[1]);
    const __m256i second = _mm256_hadd_epi32(sums[2], sums[3]);
    const __m256i all = _mm256_hadd_epi32(first, second);
    return (FourInts)_mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  }
};

struct Panel : Lanes256, Pairs {
  static Vector add(Vector sum, Vector w, Vector x) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
  }
};

#endif

#elif defined(__ARM_FEATURE_DOTPROD)

inline int32_t sum_of(const int8_t *, int64_t) { return 0; }

struct Dot {
  using Sum = int32x4_t;
  using Rows = int8x16_t;
  using Weights = int8x16_t;
  static constexpr int64_t kStep = 16;
  static constexpr int32_t kOffset = 0;
  static Sum zero() { return vdupq_n_s32(0); }
  static Rows load_x(const int8_t *p) { return vld1q_s8(p); }
  static Rows load_x_part(const int8_t *p, int64_t count) {
    int8_t whole[kStep] = {};
    memcpy(whole, p, static_cast<size_t>(count));
    return load_x(whole);
  }
  static Weights load_w(const int8_t *p) { return load_x(p); }
  static Weights load_w_part(const int8_t *p, int64_t count) { return load_x_part(p, count); }
  static Sum add(Sum sum, Weights w, Rows x) { return vdotq_s32(sum, w, x); }
  static FourInts reduce(const Sum *sums) {
    return FourInts{vaddvq_s32(sums[0]), vaddvq_s32(sums[1]), vaddvq_s32(sums[2]),
                    vaddvq_s32(sums[3])};
  }
};

struct Panel {
  using Vector = int32x4_t;
  using Lane = int32_t;
  static constexpr int kLanes = 4, kVectors = 4, kRows = 4;
  static constexpr int64_t kGroup = 4;
  static constexpr int32_t kOffset = 0;
  static constexpr bool kAsTheyLie = true;
  static Vector load(const Lane *p) { return vld1q_s32(p); }
  static Vector broadcast(Lane lane) { return vdupq_n_s32(lane); }
  static Lane pack(const int8_t *w, int64_t count) {
    Lane lane = 0;
    if (count > 0) memcpy(&lane, w, static_cast<size_t>(count));
    return lane;
  }
  static void unpack_row(const int8_t *x, int64_t k, Lane *room) {
    room[k / kGroup] = 0;
    memcpy(room, x, static_cast<size_t>(k));
  }
  static Vector add(Vector sum, Vector w, Vector x) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x));
  }
  static void store_scaled(Vector sums, float x_scale, const float *w_scale, const float *bias,
                           float *out, int64_t count) {
    float lanes[4];
    vst1q_f32(lanes, vmulq_n_f32(vcvtq_f32_s32(sums), x_scale));
    for (int64_t i = 0; i < (count < 4 ? count : 4); ++i) {
      out[i] = lanes[i] * w_scale[i];
      if (bias != nullptr) out[i] += bias[i];
    }
  }
};

#endif

}  // namespace
