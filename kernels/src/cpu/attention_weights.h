// What attentions in integers share: cutting to few bits, weights of scores, sums over keys, and
// the division by the sum of weights. whisper_npu/ops/attention_int.py has the formulas.
#pragma once

#include "numbers.h"
#include "pair_vectors.h"
#include "variant.h"

namespace {

constexpr int kAttentionFraction = 16, kCacheFraction = 9;
constexpr int kDistanceFraction = 12, kWeightBits = 13, kQueryBits = 15;

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

inline uint32_t magnitude(int32_t x) {
  return x < 0 ? 0u - static_cast<uint32_t>(x) : static_cast<uint32_t>(x);
}

// A number with the highest bit of the largest magnitude of x.
inline uint32_t all_magnitudes(const int32_t *x, int64_t count) {
  uint32_t bits = 0;
  for (int64_t i = 0; i < count; ++i) bits |= magnitude(x[i]);
  return bits;
}

// By how much numbers with so many bits are to be shifted to have ``bits``.
inline int shift_to(uint64_t all_magnitudes, int bits) {
  const int shift = bit_length(all_magnitudes) - bits;
  return shift > 0 ? shift : 0;
}

// floor(x / 2^shift + 1/2), at most ``largest``, which is to be below 2^30.
inline int32_t shift_down(int32_t x, int shift, int32_t largest) {
  // With a shift there is room for the 1: x has more bits than the result only then.
  const int32_t shifted = shift == 0 ? x : ((x >> (shift - 1)) + 1) >> 1;
  return shifted < largest ? shifted : largest;
}

// Weights of distances from the largest score, which have kDistanceFraction fraction bits.
inline Shorts weights_of(UnsignedShorts distance) {
  const Shorts g = (Shorts)((distance << 3) & 0x7ff8);
  Shorts p = times(g, all_shorts(-1294)) + 7568;
  p = times(g, p) - 22658;
  p = times(g, p) + 32764;
  return times(p, power(distance >> kDistanceFraction));
}

// Scores become weights of another type, at the front of the row; gives their sum. scaled(distance)
// stands for scaled * 2^-exponent, and put(place, weights) writes a vector of weights of 13 bits and
// gives what it has written. The row has room for whole vectors of kShorts; weights beyond ``count``
// are 0. The largest score is less than 2^31 above the least.
template <typename Number, typename Scaled, typename Put>
inline int32_t weigh_as(int32_t *scores, int64_t count, int exponent, const Scaled &scaled,
                        const Put &put) {
  const int64_t padded = round_up(count, kShorts);
  for (int64_t i = count; i < padded; ++i) scores[i] = scores[count - 1];
  Ints tops[2] = {all_ints(scores[0]), all_ints(scores[0])};
  for (int64_t i = 0; i < padded; i += kShorts)
    for (int j = 0; j < 2; ++j)
      tops[j] = larger(tops[j], load_vector<Ints>(scores + i + j * kLanes));
  const int32_t top = largest_of_lanes(larger(tops[0], tops[1]));
  Number *weights = reinterpret_cast<Number *>(scores);
  Sum sums = begin(Ints{});
  const auto weigh_all = [&](auto distances) {
    for (int64_t i = 0; i < padded; i += kShorts) {
      const Ints a = distances(scaled(top - load_vector<Ints>(scores + i)));
      const Ints b = distances(scaled(top - load_vector<Ints>(scores + i + kLanes)));
      const Shorts w = put(i, weights_of(saturated(a, b)));
      sums = add_products(sums, (Ints)w, (Ints)all_shorts(1));
    }
  };
  const int down = exponent - kDistanceFraction;
  if (down >= 0)
    weigh_all([by = down < 31 ? down : 31](Ints d) { return (Ints)((UnsignedInts)d >> by); });
  else {
    // Whatever is more than ``most`` is shifted beyond 16 bits.
    const int up = down > -16 ? -down : 16;
    const int32_t most = up < 16 ? 0xffff : 1;
    weigh_all([up, most](Ints d) { return (d < most ? d : all_ints(most)) << up; });
  }
  int32_t sum = sum_of_lanes(total(sums));
  for (int64_t i = count; i < padded; ++i) {
    sum -= weights[i];
    weights[i] = 0;
  }
  return sum;
}

// Weights of 13 bits as int16, of scores that stand for score * 2^-exponent.
inline int32_t weigh(int32_t *scores, int64_t count, int exponent) {
  int16_t *weights = reinterpret_cast<int16_t *>(scores);
  return weigh_as<int16_t>(scores, count, exponent, [](Ints distance) { return distance; },
                           [weights](int64_t i, Shorts w) {
                             store_vector(weights + i, w);
                             return w;
                           });
}

// A number that is known when code is compiled, as a type.
template <int N>
struct Count {
  static constexpr int kCount = N;
};

// Sums that outgrow int32 are kept as 2^16 high + low.
constexpr int kLowBits = 16;

// Adds to the sums of M rows, ``sum_stride`` apart, what rows of n pairs of weights give with
// columns(i, vectors), the i-th pairs of V vectors of columns. ``step`` pairs at a time stay in
// int32.
template <int M, int V, typename Columns>
inline void mix_block(const int16_t *weights, int64_t stride, int64_t n, int64_t step,
                      const Columns &columns, int32_t *high, int32_t *low, int64_t sum_stride) {
  Sum sums[M][V];
  UNROLL
  for (int m = 0; m < M; ++m) {
    UNROLL
    for (int v = 0; v < V; ++v)
      sums[m][v] = begin(load_vector<Ints>(low + m * sum_stride + v * kLanes));
  }
  for (int64_t i = 0; i < n;) {
    const int64_t end = n - i < step ? n : i + step;
    for (; i < end; ++i) {
      Ints column[V];
      columns(i, column);
      UNROLL
      for (int m = 0; m < M; ++m) {
        const Ints pair = all_lanes(weights + m * stride + 2 * i);
        UNROLL
        for (int v = 0; v < V; ++v) sums[m][v] = add_products(sums[m][v], column[v], pair);
      }
    }
    UNROLL
    for (int m = 0; m < M; ++m) {
      UNROLL
      for (int v = 0; v < V; ++v) {
        int32_t *p = high + m * sum_stride + v * kLanes;
        const Ints sum = total(sums[m][v]);
        store_vector(p, load_vector<Ints>(p) + (sum >> kLowBits));
        sums[m][v] = begin(sum & ((1 << kLowBits) - 1));
      }
    }
  }
  UNROLL
  for (int m = 0; m < M; ++m) {
    UNROLL
    for (int v = 0; v < V; ++v)
      store_vector(low + m * sum_stride + v * kLanes, total(sums[m][v]));
  }
}

// 1 / total, cut to 16 bits.
inline double reciprocal(int32_t total) {
  const int places = bit_length(static_cast<uint64_t>(total)) + 15;
  return static_cast<double>((int64_t{1} << places) / total) * power_of_two(-places);
}

// Adding 3 * 2^51 rounds to an integer, halves to even.
inline HalfInts rounded(Doubles x) {
  constexpr double kRound = 6755399441055744.0;
  return to_ints(x + kRound - kRound);
}

// products(i), of kHalf columns, rounded to the nearest integer and saturated.
template <typename Products>
inline void round_all(int64_t count, int32_t *out, const Products &products) {
  const Doubles largest = all_doubles(2147483647.0);
  for (int64_t i = 0; i < count; i += kHalf) {
    const HalfInts whole = rounded(smaller(larger(products(i), -largest), largest));
    if (i + kHalf <= count)
      store_vector(out + i, whole);
    else
      memcpy(out + i, &whole, static_cast<size_t>(count - i) * sizeof *out);
  }
}

// Sums of weighted values, 2^kLowBits high + low, times a factor for each column. factors(i) gives
// those of kHalf columns; high and low have whole vectors.
template <typename Factors>
inline void divide(const int32_t *high, const int32_t *low, int64_t count, int32_t *out,
                   const Factors &factors) {
  round_all(count, out, [&](int64_t i) {
    const Doubles mixed = to_doubles(load_vector<HalfInts>(high + i)) * (1 << kLowBits) +
                          to_doubles(load_vector<HalfInts>(low + i));
    return mixed * factors(i);
  });
}

}  // namespace
