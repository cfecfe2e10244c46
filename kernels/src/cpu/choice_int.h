// Log-probabilities of fixed-point logits in integers: the bits of whisper_npu/ops/exponentials.py
// and of top_logprobs_int32 in whisper_npu/ops/choice.py, which have the formulas.
#pragma once

#include "float_vectors.h"
#include "variant.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

typedef uint32_t UnsignedInts __attribute__((vector_size(4 * kWidth)));
typedef uint64_t Longs __attribute__((vector_size(4 * kWidth)));

// Of the eighths of the interval from 1 to 2^-1: the value where each begins, its slope, and what
// bends it.
struct Eighth {
  uint32_t value;
  int16_t slope, bend;
};
constexpr Eighth kEighths[8] = {
    {4294967295u, 22703, -1894}, {3938506654u, 20820, -1739}, {3611622461u, 19091, -1593},
    {3311869904u, 17506, -1460}, {3037000522u, 16053, -1338}, {2784938983u, 14720, -1226},
    {2553795662u, 13497, -1122}, {2341836274u, 12376, -1028},
};

// Floats from here on lie 2^-12 apart.
constexpr float kLift = 2048.0f;
constexpr int32_t kLiftBits = 0x45000000;
// The last distance that has a weight.
constexpr int32_t kLast = 90852;

// A sum of the weights of logits, of which the largest is given.
#if defined(__AVX2__)

// Products of 16-bit integers, of which two and two are added; a lane of a table of eight for each
// index, which may have more than three bits; and shifts of each lane by another number.
#if defined(__AVX512BW__)
inline UnsignedInts multiply_pairs(UnsignedInts a, UnsignedInts b) {
  return (UnsignedInts)_mm512_madd_epi16((__m512i)a, (__m512i)b);
}
inline UnsignedInts look_up(UnsignedInts table, UnsignedInts index) {
  return (UnsignedInts)_mm512_permutexvar_epi32((__m512i)index, (__m512i)table);
}
inline UnsignedInts shift_right(UnsignedInts x, UnsignedInts bits) {
  return (UnsignedInts)_mm512_srlv_epi32((__m512i)x, (__m512i)bits);
}
inline Ints within(Ints x, int32_t least, int32_t most) {
  return (Ints)_mm512_max_epi32(_mm512_set1_epi32(least),
                                _mm512_min_epi32((__m512i)x, _mm512_set1_epi32(most)));
}
#else
inline UnsignedInts multiply_pairs(UnsignedInts a, UnsignedInts b) {
  return (UnsignedInts)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}
inline UnsignedInts look_up(UnsignedInts table, UnsignedInts index) {
  return (UnsignedInts)_mm256_permutevar8x32_epi32((__m256i)table, (__m256i)index);
}
inline UnsignedInts shift_right(UnsignedInts x, UnsignedInts bits) {
  return (UnsignedInts)_mm256_srlv_epi32((__m256i)x, (__m256i)bits);
}
inline Ints within(Ints x, int32_t least, int32_t most) {
  return (Ints)_mm256_max_epi32(_mm256_set1_epi32(least),
                                _mm256_min_epi32((__m256i)x, _mm256_set1_epi32(most)));
}
#endif

class Weights {
 public:
  explicit Weights(float top) : lifted_(all(top + kLift)) {
    for (int i = 0; i < kWidth; ++i) {
      const Eighth &eighth = kEighths[i % 8];
      values_[i] = eighth.value;
      pairs_[i] = static_cast<uint16_t>(eighth.slope) |
                  static_cast<uint32_t>(static_cast<uint16_t>(eighth.bend)) << 16;
    }
  }

  void add(Floats x) {
    // All that have no weight are at one distance beyond the last, which is shifted out of 32 bits.
    const Ints bits = (Ints)(lifted_ - x) - kLiftBits;
    const UnsignedInts u = (UnsignedInts)within(bits, 0, kLast + 1);
    const UnsignedInts z = u * 23637u + (u >> 3);
    const UnsignedInts r = (z >> 8) & 0x7fffu, piece = z >> 23;
    // r in the lower 16 bits of each lane, the upper half of its square in the upper ones.
    const UnsignedInts both = (multiply_pairs(r, r) & 0xffff0000u) | r;
    const UnsignedInts fall = multiply_pairs(both, look_up(pairs_, piece));
    const UnsignedInts value = look_up(values_, piece) - (fall >> 1);
    const Longs weights = (Longs)shift_right(value, z >> 26);
    sums_ += weights;
    upper_ += weights >> 32;
  }

  uint64_t total() const {
    uint64_t total = 0;
    for (int i = 0; i < kWidth / 2; ++i) total += sums_[i] - (upper_[i] << 32) + upper_[i];
    return total;
  }

 private:
  Floats lifted_;
  UnsignedInts values_, pairs_;
  // Lanes of 64 bits have two weights each: sums of both, the upper one shifted by 32, and of the
  // upper ones.
  Longs sums_ = {}, upper_ = {};
};

#elif defined(__SSE2__)

class Weights {
 public:
  explicit Weights(float top) : lifted_(all(top + kLift)) {}

  void add(Floats x) {
    const Ints bits = (Ints)(lifted_ - x) - kLiftBits;
    const Ints near = bits <= kLast;
    const Ints u = bits & near & (bits >= 0);
    const UnsignedInts z = (UnsignedInts)products(u & 0x7fff, kFactor) +
                           ((UnsignedInts)products(u >> 15, kFactor) << 15) + (UnsignedInts)(u >> 3);
    const Ints r = (Ints)(z >> 8) & 0x7fff;
    const __m128i piece = (__m128i)((z >> 23) & 7u);
    const __m128i first = _mm_unpacklo_epi32(eighth(_mm_extract_epi16(piece, 0)),
                                             eighth(_mm_extract_epi16(piece, 2)));
    const __m128i second = _mm_unpacklo_epi32(eighth(_mm_extract_epi16(piece, 4)),
                                              eighth(_mm_extract_epi16(piece, 6)));
    // r in the lower 16 bits of each lane, the upper half of its square in the upper ones.
    const Ints both = (products(r, r) & ~0xffff) | r;
    const Ints fall = products(both, (Ints)_mm_unpackhi_epi64(first, second));
    const UnsignedInts value =
        (UnsignedInts)_mm_unpacklo_epi64(first, second) - (UnsignedInts)(fall >> 1);
    uint32_t values[kWidth], shifts[kWidth];
    const UnsignedInts seen = value & (UnsignedInts)near, whole = z >> 26;
    memcpy(values, &seen, sizeof values);
    memcpy(shifts, &whole, sizeof shifts);
    for (int i = 0; i < kWidth; ++i) sum_ += values[i] >> shifts[i];
  }

  uint64_t total() const { return sum_; }

 private:
  static constexpr Ints kFactor = {23637, 23637, 23637, 23637};
  static Ints products(Ints a, Ints b) { return (Ints)_mm_madd_epi16((__m128i)a, (__m128i)b); }
  static __m128i eighth(int index) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i *>(kEighths + index));
  }

  Floats lifted_;
  uint64_t sum_ = 0;
};

#else

class Weights {
 public:
  explicit Weights(float top) : lifted_(all(top + kLift)) {}

  void add(Floats x) {
    const Ints bits = (Ints)(lifted_ - x) - kLiftBits;
    const Ints near = bits <= kLast;
    const UnsignedInts u = (UnsignedInts)(bits & near & (bits >= 0));
    const UnsignedInts z = u * 23637u + (u >> 3);
    const UnsignedInts r = (z >> 8) & 0x7fffu, piece = (z >> 23) & 7u;
    UnsignedInts value;
    Ints slope, bend;
    for (int i = 0; i < kWidth; ++i) {
      const Eighth &eighth = kEighths[piece[i]];
      value[i] = eighth.value;
      slope[i] = eighth.slope;
      bend[i] = eighth.bend;
    }
    const UnsignedInts fall = r * (UnsignedInts)slope + ((r * r) >> 16) * (UnsignedInts)bend;
    const UnsignedInts weights = ((value - (fall >> 1)) >> (z >> 26)) & (UnsignedInts)near;
    for (int i = 0; i < kWidth; ++i) sum_ += weights[i];
  }

  uint64_t total() const { return sum_; }

 private:
  Floats lifted_;
  uint64_t sum_ = 0;
};

#endif

// In scratch: the largest of each piece of each row, and before them the sums of weights.
inline uint64_t *weights_of_pieces(const TopLogprobs &a) {
  return reinterpret_cast<uint64_t *>(a.scratch->data);
}
inline float *tops_of_pieces(const TopLogprobs &a) {
  return reinterpret_cast<float *>(weights_of_pieces(a) + a.m * pieces_of(a));
}

// function(vector) for all of a piece, with minus infinity beyond its end.
template <typename Function>
inline void for_piece(const TopLogprobs &a, int64_t piece, Function function) {
  const int64_t row = piece / pieces_of(a), start = piece % pieces_of(a) * kPiece;
  const float *x = a.x + row * a.n + start;
  const int64_t count = a.n - start < kPiece ? a.n - start : kPiece;
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) function(load(x + i));
  if (i < count) {
    float rest[kWidth];
    for (int64_t j = 0; j < kWidth; ++j) rest[j] = i + j < count ? x[i + j] : -__builtin_inff();
    function(load(rest));
  }
}

// The largest of each piece, NaN if there is one.
void find_tops(const TopLogprobs &a, int64_t first, int64_t last) {
  for (int64_t piece = first; piece < last; ++piece) {
    Floats tops = all(-__builtin_inff());
    Ints nan = {};
    for_piece(a, piece, [&](Floats x) {
      nan |= x != x;
      tops = larger(x, tops);
    });
    int32_t any = 0;
    for (int i = 0; i < kWidth; ++i) any |= nan[i];
    tops_of_pieces(a)[piece] = any != 0 ? __builtin_nanf("") : largest_of_lanes(tops);
  }
}

// The largest of a row, or what is not finite.
inline float top_of_row(const TopLogprobs &a, int64_t row) {
  const float *tops = tops_of_pieces(a) + row * pieces_of(a);
  float top = tops[0];
  for (int64_t i = 1; i < pieces_of(a) && top == top; ++i)
    if (!(tops[i] <= top)) top = tops[i];
  return top;
}

inline bool is_finite(float x) { return x - x == 0.0f; }

void weigh_pieces(const TopLogprobs &a, int64_t first, int64_t last) {
  for (int64_t piece = first; piece < last;) {
    const int64_t row = piece / pieces_of(a), end = (row + 1) * pieces_of(a);
    const float top = top_of_row(a, row);
    const Weights none(top);
    for (; piece < end && piece < last; ++piece) {
      Weights weights = none;
      if (is_finite(top)) for_piece(a, piece, [&](Floats x) { weights.add(x); });
      weights_of_pieces(a)[piece] = weights.total();
    }
  }
}

// ln(total / 2^32) in steps of 2^-18.
inline int64_t log_of_sum(uint64_t total) {
  constexpr int32_t kInverses[16] = {63550, 59919, 56680, 53773, 51150, 48771, 46603, 44620,
                                     42799, 41121, 39569, 38130, 36792, 35545, 34380, 33288};
  constexpr int32_t kLogs[16] = {33041841,  96213667,  155883900, 212416334, 266113079, 317251771,
                                 366075839, 412765063, 457505148, 500450309, 541760331, 581536678,
                                 619891749, 656915367, 692697275, 727355544};
  constexpr int64_t kLn2 = 744261118;
  const int length = 64 - __builtin_clzll(total);
  const int64_t x =
      static_cast<int64_t>(length > 32 ? total >> (length - 32) : total << (32 - length));
  const int64_t piece = (x >> 27) & 15;
  const int64_t y = (x * kInverses[piece] - (int64_t{1} << 47)) >> 17;
  const int64_t square = (y * y) >> 30, cube = (square * y) >> 30;
  const int64_t log =
      (length - 33) * kLn2 + kLogs[piece] + y - (square >> 1) + ((cube * 21845) >> 16);
  return (log + (1 << 11)) >> 12;
}

void choose_tokens_int32(const TopLogprobs &a, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    int64_t *tokens = a.tokens + row * a.k;
    float *values = a.logprobs + row * a.k;
    const float top = top_of_row(a, row);
    if (!is_finite(top)) {
      // Of numbers that are not finite there is no order.
      for (int64_t i = 0; i < a.k; ++i) {
        tokens[i] = i;
        values[i] = __builtin_nanf("");
      }
      continue;
    }
    find_likeliest(a, row, tops_of_pieces(a) + row * pieces_of(a));
    uint64_t total = 0;
    for (int64_t i = 0; i < pieces_of(a); ++i)
      total += weights_of_pieces(a)[row * pieces_of(a) + i];
    const double log = static_cast<double>(log_of_sum(total)) / (1 << 18);
    for (int64_t i = 0; i < a.k; ++i)
      values[i] = static_cast<float>((static_cast<double>(values[i]) - top) - log);
  }
}

}  // namespace
