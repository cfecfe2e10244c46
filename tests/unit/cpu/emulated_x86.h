// AVX-512 (F, BW, DQ, VL), VNNI and the tiles of AMX in C and AVX2, as far as the CPU kernels use
// them, so that their variants run on a processor that has AVX2 alone. What an instruction does is
// taken from Intel's manual. To be included before all else (-include), with EMULATED_LEVEL: 1 for
// AVX-512, 2 with VNNI, 3 with AMX.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#if EMULATED_LEVEL >= 2
#define __AVX512VNNI__ 1
#endif
#if EMULATED_LEVEL >= 3
#define __AMX_TILE__ 1
#define __AMX_INT8__ 1
#endif

namespace emulated {
namespace {

// One half of a vector, and a vector of two.
template <typename Half, typename Whole>
inline Half half(Whole x, int which) {
  Half y;
  memcpy(&y, reinterpret_cast<const char *>(&x) + which * sizeof y, sizeof y);
  return y;
}

template <typename Whole, typename Half>
inline Whole join(Half low, Half high) {
  static_assert(sizeof(Whole) == 2 * sizeof(Half));
  Whole x;
  memcpy(&x, &low, sizeof low);
  memcpy(reinterpret_cast<char *>(&x) + sizeof low, &high, sizeof high);
  return x;
}

// The numbers of a vector.
template <typename Number, typename Vector>
struct Lanes {
  static constexpr int kCount = sizeof(Vector) / sizeof(Number);
  Number of[kCount] = {};
  Lanes() {}
  explicit Lanes(Vector x) { memcpy(of, &x, sizeof of); }
  Vector vector() const {
    Vector x;
    memcpy(&x, of, sizeof of);
    return x;
  }
};

using Int64s = Lanes<int64_t, __m512i>;
using Int32s = Lanes<int32_t, __m512i>;
using Int16s = Lanes<int16_t, __m512i>;
using Int8s = Lanes<int8_t, __m512i>;

// What works on each 128 bits, or each number, for itself: AVX2 on both halves.
#define BY_HALVES(name, Whole, Half)                                             \
  inline Whole name(Whole a, Whole b) {                                          \
    return join<Whole>(_mm256_##name(half<Half>(a, 0), half<Half>(b, 0)),        \
                       _mm256_##name(half<Half>(a, 1), half<Half>(b, 1)));       \
  }
BY_HALVES(add_epi32, __m512i, __m256i)
BY_HALVES(madd_epi16, __m512i, __m256i)
BY_HALVES(max_epi32, __m512i, __m256i)
BY_HALVES(min_epi32, __m512i, __m256i)
BY_HALVES(mulhrs_epi16, __m512i, __m256i)
BY_HALVES(packus_epi32, __m512i, __m256i)
BY_HALVES(srlv_epi32, __m512i, __m256i)
BY_HALVES(unpackhi_epi16, __m512i, __m256i)
BY_HALVES(unpackhi_epi32, __m512i, __m256i)
BY_HALVES(unpackhi_epi64, __m512i, __m256i)
BY_HALVES(unpacklo_epi16, __m512i, __m256i)
BY_HALVES(unpacklo_epi32, __m512i, __m256i)
BY_HALVES(unpacklo_epi64, __m512i, __m256i)
BY_HALVES(add_pd, __m512d, __m256d)
BY_HALVES(max_pd, __m512d, __m256d)
BY_HALVES(min_pd, __m512d, __m256d)
BY_HALVES(mul_pd, __m512d, __m256d)
BY_HALVES(unpackhi_pd, __m512d, __m256d)
BY_HALVES(unpacklo_pd, __m512d, __m256d)
BY_HALVES(add_ps, __m512, __m256)
BY_HALVES(max_ps, __m512, __m256)
BY_HALVES(min_ps, __m512, __m256)
BY_HALVES(unpackhi_ps, __m512, __m256)
BY_HALVES(unpacklo_ps, __m512, __m256)
#undef BY_HALVES

inline __m512d fmadd_pd(__m512d a, __m512d b, __m512d c) {
  return join<__m512d>(
      _mm256_fmadd_pd(half<__m256d>(a, 0), half<__m256d>(b, 0), half<__m256d>(c, 0)),
      _mm256_fmadd_pd(half<__m256d>(a, 1), half<__m256d>(b, 1), half<__m256d>(c, 1)));
}

inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return join<__m512>(
      _mm256_fmadd_ps(half<__m256>(a, 0), half<__m256>(b, 0), half<__m256>(c, 0)),
      _mm256_fmadd_ps(half<__m256>(a, 1), half<__m256>(b, 1), half<__m256>(c, 1)));
}

inline __m512i xor_si512(__m512i a, __m512i b) {
  return join<__m512i>(_mm256_xor_si256(half<__m256i>(a, 0), half<__m256i>(b, 0)),
                       _mm256_xor_si256(half<__m256i>(a, 1), half<__m256i>(b, 1)));
}

inline __m512i slli_epi32(__m512i a, unsigned bits) {
  return join<__m512i>(_mm256_slli_epi32(half<__m256i>(a, 0), static_cast<int>(bits)),
                       _mm256_slli_epi32(half<__m256i>(a, 1), static_cast<int>(bits)));
}

inline __m512i srlv_epi16(__m512i a, __m512i bits) {
  Int16s x(a), by(bits);
  for (int i = 0; i < Int16s::kCount; ++i) {
    const uint16_t shift = static_cast<uint16_t>(by.of[i]), each = static_cast<uint16_t>(x.of[i]);
    x.of[i] = static_cast<int16_t>(shift > 15 ? 0 : each >> shift);
  }
  return x.vector();
}

inline __m512i setzero_si512() { return __m512i{}; }
inline __m512d set1_pd(double x) { return join<__m512d>(_mm256_set1_pd(x), _mm256_set1_pd(x)); }
inline __m512i set1_epi8(char x) { return join<__m512i>(_mm256_set1_epi8(x), _mm256_set1_epi8(x)); }
inline __m512i set1_epi16(short x) {
  return join<__m512i>(_mm256_set1_epi16(x), _mm256_set1_epi16(x));
}
inline __m512i set1_epi32(int x) {
  return join<__m512i>(_mm256_set1_epi32(x), _mm256_set1_epi32(x));
}
inline __m512i setr_epi64(long long a, long long b, long long c, long long d, long long e,
                          long long f, long long g, long long h) {
  return __m512i{a, b, c, d, e, f, g, h};
}

inline __m512i castsi256_si512(__m256i x) { return join<__m512i>(x, _mm256_set1_epi8(0x5a)); }
inline __m256i castsi512_si256(__m512i x) { return half<__m256i>(x, 0); }
inline __m512i castpd_si512(__m512d x) { return (__m512i)x; }
inline __m256i extracti64x4_epi64(__m512i x, int which) { return half<__m256i>(x, which); }
inline __m512i inserti64x4(__m512i x, __m256i y, int which) {
  return which == 0 ? join<__m512i>(y, half<__m256i>(x, 1)) : join<__m512i>(half<__m256i>(x, 0), y);
}

inline __m512i loadu_si512(const void *p) {
  __m512i x;
  memcpy(&x, p, sizeof x);
  return x;
}

inline __m512d loadu_pd(const void *p) {
  __m512d x;
  memcpy(&x, p, sizeof x);
  return x;
}

// Numbers whose bit is not set are neither read nor written.
template <typename Number, typename Vector>
inline Vector load_masked(uint64_t mask, const void *from) {
  Lanes<Number, Vector> x;
  for (int i = 0; i < x.kCount; ++i)
    if ((mask >> i & 1) != 0)
      memcpy(&x.of[i], static_cast<const Number *>(from) + i, sizeof(Number));
  return x.vector();
}

inline __m512i maskz_loadu_epi8(__mmask64 mask, const void *p) {
  return load_masked<int8_t, __m512i>(mask, p);
}
inline __m512i maskz_loadu_epi16(__mmask32 mask, const void *p) {
  return load_masked<int16_t, __m512i>(mask, p);
}
inline __m256i maskz_loadu_epi8_of_256(__mmask32 mask, const void *p) {
  return load_masked<int8_t, __m256i>(mask, p);
}
inline void mask_storeu_epi32(void *p, __mmask16 mask, __m512i a) {
  const Int32s x(a);
  for (int i = 0; i < x.kCount; ++i)
    if ((mask >> i & 1) != 0) memcpy(static_cast<int32_t *>(p) + i, &x.of[i], sizeof x.of[i]);
}

// The low bits of each number.
template <typename Narrow, typename Vector, typename Wide, typename From>
inline Vector cut(From a) {
  const Lanes<Wide, From> x(a);
  Lanes<Narrow, Vector> y;
  static_assert(x.kCount == y.kCount);
  for (int i = 0; i < x.kCount; ++i) y.of[i] = static_cast<Narrow>(x.of[i]);
  return y.vector();
}

inline __m256i cvtepi16_epi8(__m512i a) { return cut<int8_t, __m256i, int16_t>(a); }
inline __m128i cvtepi32_epi8(__m512i a) { return cut<int8_t, __m128i, int32_t>(a); }
inline __m256i cvtepi64_epi32(__m512i a) { return cut<int32_t, __m256i, int64_t>(a); }
inline __m128i cvtepi32_epi16_of_256(__m256i a) { return cut<int16_t, __m128i, int32_t>(a); }

inline __m512i cvtepi8_epi16(__m256i a) {
  return join<__m512i>(_mm256_cvtepi8_epi16(half<__m128i>(a, 0)),
                       _mm256_cvtepi8_epi16(half<__m128i>(a, 1)));
}
inline __m512i cvtepi8_epi32(__m128i a) {
  return join<__m512i>(_mm256_cvtepi8_epi32(a), _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8)));
}
inline __m512 cvtepi32_ps(__m512i a) {
  return join<__m512>(_mm256_cvtepi32_ps(half<__m256i>(a, 0)),
                      _mm256_cvtepi32_ps(half<__m256i>(a, 1)));
}
inline __m512d cvtepi32_pd(__m256i a) {
  return join<__m512d>(_mm256_cvtepi32_pd(half<__m128i>(a, 0)),
                       _mm256_cvtepi32_pd(half<__m128i>(a, 1)));
}
inline __m256i cvtpd_epi32(__m512d a) {
  return join<__m256i>(_mm256_cvtpd_epi32(half<__m256d>(a, 0)),
                       _mm256_cvtpd_epi32(half<__m256d>(a, 1)));
}

inline __m512i permutexvar_epi32(__m512i index, __m512i a) {
  const Int32s at(index), x(a);
  Int32s y;
  for (int i = 0; i < y.kCount; ++i) y.of[i] = x.of[at.of[i] & 15];
  return y.vector();
}

inline __m512i permutexvar_epi64(__m512i index, __m512i a) {
  const Int64s at(index), x(a);
  Int64s y;
  for (int i = 0; i < y.kCount; ++i) y.of[i] = x.of[at.of[i] & 7];
  return y.vector();
}

// Pieces of 128 bits: two of a, then two of b.
template <typename Vector>
inline Vector shuffle(Vector a, Vector b, int which) {
  Vector y;
  for (int i = 0; i < 4; ++i)
    memcpy(reinterpret_cast<char *>(&y) + 16 * i,
           reinterpret_cast<const char *>(i < 2 ? &a : &b) + 16 * (which >> 2 * i & 3), 16);
  return y;
}

inline int reduce_add_epi32(__m512i a) {
  uint32_t sum = 0;
  for (int32_t each : Int32s(a).of) sum += static_cast<uint32_t>(each);
  return static_cast<int>(sum);
}

inline __m512i dpbusd_epi32(__m512i sums, __m512i a, __m512i b) {
  Int32s y(sums);
  const Lanes<uint8_t, __m512i> x(a);
  const Int8s w(b);
  for (int i = 0; i < 64; ++i)
    y.of[i / 4] = static_cast<int32_t>(static_cast<uint32_t>(y.of[i / 4]) +
                                       static_cast<uint32_t>(x.of[i] * w.of[i]));
  return y.vector();
}

inline __m512i dpwssd_epi32(__m512i sums, __m512i a, __m512i b) {
  return add_epi32(sums, madd_epi16(a, b));
}

// A tile instruction that finds no configuration, or a tile number that there is none of, aborts.
struct Configuration {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes_per_row[16];
  uint8_t rows[16];
};
thread_local Configuration configuration;

struct Tile {
  int8_t bytes[16][64];
};
thread_local Tile tiles[8];

inline void check(int tile) {
  if (configuration.palette != 1 || tile < 0 || tile > 7) abort();
  if (configuration.rows[tile] > 16 || configuration.bytes_per_row[tile] > 64) abort();
}

inline void tile_loadconfig(const void *from) {
  memcpy(&configuration, from, sizeof configuration);
}

inline void tile_release() { memset(&configuration, 0, sizeof configuration); }

inline void tile_zero(int tile) {
  check(tile);
  memset(&tiles[tile], 0, sizeof *tiles);
}

inline void tile_loadd(int tile, const void *from, int64_t stride) {
  tile_zero(tile);
  for (int i = 0; i < configuration.rows[tile]; ++i)
    memcpy(tiles[tile].bytes[i], static_cast<const char *>(from) + i * stride,
           configuration.bytes_per_row[tile]);
}

inline void tile_stored(int tile, void *to, int64_t stride) {
  check(tile);
  for (int i = 0; i < configuration.rows[tile]; ++i)
    memcpy(static_cast<char *>(to) + i * stride, tiles[tile].bytes[i],
           configuration.bytes_per_row[tile]);
}

inline void tile_dpbssd(int c, int a, int b) {
  check(c);
  check(a);
  check(b);
  for (int m = 0; m < configuration.rows[c]; ++m) {
    uint32_t sums[16];
    memcpy(sums, tiles[c].bytes[m], sizeof sums);
    for (int k = 0; k < configuration.bytes_per_row[a] / 4; ++k)
      for (int n = 0; n < configuration.bytes_per_row[c] / 4; ++n)
        for (int i = 0; i < 4; ++i)
          sums[n] += static_cast<uint32_t>(tiles[a].bytes[m][4 * k + i] *
                                           tiles[b].bytes[k][4 * n + i]);
    memcpy(tiles[c].bytes[m], sums, configuration.bytes_per_row[c]);
  }
}

}  // namespace
}  // namespace emulated

// What the kernels call.
#define _mm512_add_epi32 emulated::add_epi32
#define _mm512_add_pd emulated::add_pd
#define _mm512_add_ps emulated::add_ps
#define _mm512_castpd_si512 emulated::castpd_si512
#define _mm512_castsi256_si512 emulated::castsi256_si512
#define _mm512_castsi512_si256 emulated::castsi512_si256
#define _mm512_cvtepi16_epi8 emulated::cvtepi16_epi8
#define _mm512_cvtepi32_epi8 emulated::cvtepi32_epi8
#define _mm512_cvtepi32_pd emulated::cvtepi32_pd
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#define _mm512_cvtepi64_epi32 emulated::cvtepi64_epi32
#define _mm512_cvtepi8_epi16 emulated::cvtepi8_epi16
#define _mm512_cvtepi8_epi32 emulated::cvtepi8_epi32
#define _mm512_cvtpd_epi32 emulated::cvtpd_epi32
#define _mm512_dpbusd_epi32 emulated::dpbusd_epi32
#define _mm512_dpwssd_epi32 emulated::dpwssd_epi32
#define _mm512_extracti64x4_epi64 emulated::extracti64x4_epi64
#define _mm512_fmadd_pd emulated::fmadd_pd
#define _mm512_fmadd_ps emulated::fmadd_ps
#define _mm512_inserti64x4 emulated::inserti64x4
#define _mm512_loadu_pd emulated::loadu_pd
#define _mm512_loadu_si512 emulated::loadu_si512
#define _mm512_madd_epi16 emulated::madd_epi16
#define _mm512_mask_storeu_epi32 emulated::mask_storeu_epi32
#define _mm512_maskz_loadu_epi16 emulated::maskz_loadu_epi16
#define _mm512_maskz_loadu_epi8 emulated::maskz_loadu_epi8
#define _mm512_max_epi32 emulated::max_epi32
#define _mm512_max_pd emulated::max_pd
#define _mm512_max_ps emulated::max_ps
#define _mm512_min_epi32 emulated::min_epi32
#define _mm512_min_pd emulated::min_pd
#define _mm512_min_ps emulated::min_ps
#define _mm512_mul_pd emulated::mul_pd
#define _mm512_mulhrs_epi16 emulated::mulhrs_epi16
#define _mm512_packus_epi32 emulated::packus_epi32
#define _mm512_permutexvar_epi32 emulated::permutexvar_epi32
#define _mm512_permutexvar_epi64 emulated::permutexvar_epi64
#define _mm512_reduce_add_epi32 emulated::reduce_add_epi32
#define _mm512_set1_epi16 emulated::set1_epi16
#define _mm512_set1_epi32 emulated::set1_epi32
#define _mm512_set1_epi8 emulated::set1_epi8
#define _mm512_set1_pd emulated::set1_pd
#define _mm512_setr_epi64 emulated::setr_epi64
#define _mm512_setzero_si512 emulated::setzero_si512
#define _mm512_shuffle_f32x4 emulated::shuffle
#define _mm512_shuffle_i32x4 emulated::shuffle
#define _mm512_slli_epi32 emulated::slli_epi32
#define _mm512_srlv_epi32 emulated::srlv_epi32
#define _mm512_srlv_epi16 emulated::srlv_epi16
#define _mm512_unpackhi_epi16 emulated::unpackhi_epi16
#define _mm512_unpackhi_epi32 emulated::unpackhi_epi32
#define _mm512_unpackhi_epi64 emulated::unpackhi_epi64
#define _mm512_unpackhi_pd emulated::unpackhi_pd
#define _mm512_unpackhi_ps emulated::unpackhi_ps
#define _mm512_unpacklo_epi16 emulated::unpacklo_epi16
#define _mm512_unpacklo_epi32 emulated::unpacklo_epi32
#define _mm512_unpacklo_epi64 emulated::unpacklo_epi64
#define _mm512_unpacklo_pd emulated::unpacklo_pd
#define _mm512_unpacklo_ps emulated::unpacklo_ps
#define _mm512_xor_si512 emulated::xor_si512
#define _mm256_maskz_loadu_epi8 emulated::maskz_loadu_epi8_of_256
#define _mm256_cvtepi32_epi16 emulated::cvtepi32_epi16_of_256
#undef _tile_loadconfig
#define _tile_loadconfig emulated::tile_loadconfig
#undef _tile_release
#define _tile_release emulated::tile_release
#undef _tile_zero
#define _tile_zero emulated::tile_zero
#undef _tile_loadd
#define _tile_loadd emulated::tile_loadd
#undef _tile_stored
#define _tile_stored emulated::tile_stored
#undef _tile_dpbssd
#define _tile_dpbssd emulated::tile_dpbssd
