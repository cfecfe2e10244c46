// Attention of the decoder in integers: over its own keys and values, and over those of the audio.
#pragma once

#include "attention_weights.h"

namespace {
namespace over_cache {

// Queries that go over the same keys and values together.
constexpr int64_t kTogether = 8;
// Bytes that are asked for ahead: the processor does so itself, but not beyond the end of a page.
constexpr int64_t kAhead = 2048;
// Pairs of keys that go through a first-level cache together.
constexpr int64_t kNear = 32;

// Pairs of keys whose weighted values stay in int32: 8 * (2^13 - 1) * (2^15 - 1) + 2^16 does.
constexpr int64_t step_of(const int16_t *) { return 4; }
constexpr int64_t step_of(const int8_t *) { return kNear; }

// Of a thread, for so many queries: scores, sums of weighted values, queries and a vector of keys.
struct Room {
  int64_t padded, columns, words;
  int32_t *scores, *high, *low;
  int16_t *queries, *keys;
  Room(int64_t queries, int64_t t, int64_t d_head, uint8_t *scratch)
      : padded(round_up(t, kShorts)),
        columns(round_up(d_head, kShorts)),
        words(queries * (padded + 2 * columns + columns / 2) + kLanes * columns / 2),
        scores(reinterpret_cast<int32_t *>(scratch)),
        high(scores + queries * padded),
        low(high + queries * columns),
        queries(reinterpret_cast<int16_t *>(low + queries * columns)),
        keys(this->queries + queries * columns) {}
};

// The halves of a query over the decoder's own cache count as two.
int64_t cached_scratch(const CachedAttentionInt16 &a) {
  return 4 * Room(2 * kTogether, a.t, a.d_head, nullptr).words;
}

int64_t cross_scratch(const CrossAttentionInt32 &a) {
  return 4 * Room(kTogether, a.t, a.d_head, nullptr).words;
}

int64_t queries_together() { return kTogether; }

// Scores of N queries, which lie ``columns`` apart, with kLanes keys, which lie ``stride`` apart.
// Queries and keys have whole vectors.
template <int N, typename Number>
inline void score_keys(const int16_t *queries, int64_t columns, const Number *keys, int64_t stride,
                       int32_t *scores, int64_t padded) {
  Ints sums[N][kLanes];
  UNROLL
  for (int j = 0; j < kLanes; ++j) {
    const Number *row = keys + j * stride;
    __builtin_prefetch(reinterpret_cast<const char *>(row) + kAhead);
    Sum sum[N];
    UNROLL
    for (int m = 0; m < N; ++m) sum[m] = begin(Ints{});
    for (int64_t i = 0; i < columns; i += kShorts) {
      const Ints key = (Ints)load_shorts(row + i);
      UNROLL
      for (int m = 0; m < N; ++m)
        sum[m] = add_products(sum[m], key, load_vector<Ints>(queries + m * columns + i));
    }
    UNROLL
    for (int m = 0; m < N; ++m) sums[m][j] = total(sum[m]);
  }
  UNROLL
  for (int m = 0; m < N; ++m) store_vector(scores + m * padded, sums_of_lanes(sums[m]));
}

// Scores of N queries with the first n_keys of the ``t`` keys, of which more may be read.
template <int N, typename Number>
inline void score(const int16_t *queries, const Number *k, int64_t n_keys, int64_t t,
                  int64_t d_head, const Room &room, int32_t *scores) {
  const auto put = [&](int64_t key, const auto *keys, int64_t stride) {
    // The width of all Whisper models, as a constant: its loop is unrolled.
    if (d_head == 64)
      score_keys<N>(queries, 64, keys, stride, scores + key, room.padded);
    else
      score_keys<N>(queries, room.columns, keys, stride, scores + key, room.padded);
  };
  for (int64_t key = 0; key < n_keys; key += kLanes) {
    const Number *keys = k + key * d_head;
    if (d_head % kShorts == 0 && key + kLanes <= t) {
      put(key, keys, d_head);
      continue;
    }
    // What is no whole vector, or the last of all keys.
    memset(room.keys, 0, static_cast<size_t>(kLanes * room.columns) * sizeof(int16_t));
    for (int64_t j = 0; j < kLanes && key + j < n_keys; ++j)
      for (int64_t i = 0; i < d_head; ++i) room.keys[j * room.columns + i] = keys[j * d_head + i];
    put(key, const_cast<const int16_t *>(room.keys), room.columns);
  }
}

// Weighted sums of the first columns of values, a whole number of vectors, in room.high and low.
template <int M, int V, typename Number>
inline void mix_columns(const int16_t *weights, int64_t stride, int64_t first, int64_t pairs,
                        int64_t n_keys, const Number *v, int64_t d_head, int32_t *high,
                        int32_t *low, int64_t sum_stride) {
  const auto columns = [=](int64_t i, Ints *column) {
    const int64_t key = 2 * (first + i);
    const Number *row = v + key * d_head;
    // The last key may be alone: the other one of its pair has no weight.
    const Number *next = key + 1 < n_keys ? row + d_head : row;
    __builtin_prefetch(reinterpret_cast<const char *>(row) + kAhead);
    UNROLL
    for (int c = 0; c < V; c += 2) load_row_pairs(row + c * kLanes, next + c * kLanes, column + c);
  };
  mix_block<M, V>(weights + 2 * first, stride, pairs, step_of(v), columns, high, low, sum_stride);
}

// function(Count<N>()) for the N that is n, from 1 to Most.
template <int Most, typename Function>
inline void with_count(int64_t n, const Function &function) {
  if (n == Most)
    function(Count<Most>());
  else if constexpr (Most > 1)
    with_count<Most - 1>(n, function);
}

template <int Rows, typename Number>
inline void mix(int64_t queries, const int16_t *weights, int64_t stride, int64_t n_keys,
                const Number *v, int64_t d_head, const Room &room) {
  const int64_t pairs = (n_keys + 1) / 2, whole = d_head / kShorts * kShorts;
  constexpr int64_t kWide = kWideVectors * kLanes, kNarrow = kBlockVectors * kLanes;
  memset(room.high, 0, static_cast<size_t>(queries * room.columns) * sizeof(int32_t));
  memset(room.low, 0, static_cast<size_t>(queries * room.columns) * sizeof(int32_t));
  for (int64_t first = 0; first < pairs; first += kNear) {
    const int64_t count = pairs - first < kNear ? pairs - first : kNear;
    const auto add = [&](auto rows, auto vectors, int64_t m, int64_t at) {
      mix_columns<decltype(rows)::kCount, decltype(vectors)::kCount>(
          weights + m * stride, stride, first, count, n_keys, v + at, d_head,
          room.high + m * room.columns + at, room.low + m * room.columns + at, room.columns);
    };
    int64_t at = 0;
    for (; queries == 1 && at + kWide <= whole; at += kWide)
      add(Count<1>(), Count<kWideVectors>(), 0, at);
    const auto add_all = [&](auto vectors) {
      for (int64_t m = 0; m < queries; m += Rows)
        with_count<Rows>(queries - m < Rows ? queries - m : Rows,
                         [&](auto rows) { add(rows, vectors, m, at); });
    };
    for (; at + kNarrow <= whole; at += kNarrow) add_all(Count<kBlockVectors>());
    for (; at < whole; at += kShorts) add_all(Count<2>());
  }
  // Columns that are no whole vector.
  for (int64_t m = 0; m < queries; ++m)
    for (int64_t i = whole; i < d_head; ++i) {
      int64_t sum = 0;
      for (int64_t key = 0; key < n_keys; ++key)
        sum += weights[m * stride + key] * int64_t{v[key * d_head + i]};
      room.high[m * room.columns + i] = static_cast<int32_t>(sum >> kLowBits);
      room.low[m * room.columns + i] = static_cast<int32_t>(sum & ((1 << kLowBits) - 1));
    }
}

// A query of kQueryBits as 2^8 times its upper half and its lower half; gives by how much it was
// shifted. Its scores have up to 38 bits, those of its halves fit int32.
inline int cut_in_two(const int32_t *q, int64_t d_head, int16_t *__restrict upper,
                      int16_t *__restrict lower) {
  const int shift = shift_to(all_magnitudes(q, d_head), kQueryBits);
  for (int64_t i = 0; i < d_head; ++i) {
    const int32_t cut = shift_down(q[i], shift, (1 << kQueryBits) - 1);
    const int32_t half = (cut + 128) >> 8;
    upper[i] = static_cast<int16_t>(half);
    lower[i] = static_cast<int16_t>(cut - 256 * half);
  }
  return shift;
}

// Scores of the halves of a query become weights at the front of ``upper``; gives their sum.
inline int32_t weigh_halves(int32_t *upper, int32_t *lower, int64_t count, int exponent) {
  const int64_t padded = round_up(count, kShorts);
  for (int64_t i = count; i < padded; ++i) {
    upper[i] = upper[count - 1];
    lower[i] = lower[count - 1];
  }
  const auto score_at = [=](int64_t i) {
    return to_doubles(load_vector<HalfInts>(upper + i)) * 256.0 +
           to_doubles(load_vector<HalfInts>(lower + i));
  };
  Doubles tops = score_at(0);
  for (int64_t i = kHalf; i < padded; i += kHalf) tops = larger(tops, score_at(i));
  double top = tops[0];
  for (int i = 1; i < kHalf; ++i) top = tops[i] > top ? tops[i] : top;
  const double unit = power_of_two(kDistanceFraction - exponent);
  for (int64_t i = 0; i < padded; i += kHalf) {
    const Doubles distance = smaller((top - score_at(i)) * unit, all_doubles(65535.0));
    store_vector(upper + i, -to_ints(distance));
  }
  return weigh(upper, count, kDistanceFraction);
}

// Consecutive queries of one head, at most kTogether, the first at ``query`` in q and out. That one
// sees the first n_keys of the keys and values at ``from`` in k and v, each other one more than the
// one before it.
void cached_rows(const CachedAttentionInt16 &a, int64_t query, int64_t queries, int64_t n_keys,
                 int64_t from, uint8_t *scratch) {
  const Room room(2 * kTogether, a.t, a.d_head, scratch);
  const int64_t d = a.n_head * a.d_head, all_keys = n_keys + queries - 1;
  int exponents[kTogether];
  memset(room.queries, 0, static_cast<size_t>(2 * queries * room.columns) * sizeof(int16_t));
  for (int64_t m = 0; m < queries; ++m) {
    int16_t *upper = room.queries + 2 * m * room.columns;
    exponents[m] = kFraction + kCacheFraction -
                   cut_in_two(a.q + query + m * d, a.d_head, upper, upper + room.columns);
  }
  for (int64_t m = 0; m < queries; m += 2)
    with_count<2>(queries - m < 2 ? 1 : 2, [&](auto count) {
      score<2 * decltype(count)::kCount>(room.queries + 2 * m * room.columns, a.k + from, all_keys,
                                         a.t, a.d_head, room, room.scores + 2 * m * room.padded);
    });
  double factors[kTogether];
  for (int64_t m = 0; m < queries; ++m) {
    int32_t *scores = room.scores + 2 * m * room.padded;
    const int64_t count = n_keys + m, known = round_up(count, kShorts);
    const int32_t sum = weigh_halves(scores, scores + room.padded, count, exponents[m]);
    factors[m] = reciprocal(sum) * power_of_two(kAttentionFraction - kCacheFraction);
    // Keys that only later queries see.
    if (known <= all_keys)
      memset(reinterpret_cast<int16_t *>(scores) + known, 0,
             static_cast<size_t>(all_keys + 1 - known) * sizeof(int16_t));
  }
  mix<kBlockRows>(queries, reinterpret_cast<const int16_t *>(room.scores), 4 * room.padded,
                  all_keys, a.v + from, a.d_head, room);
  for (int64_t m = 0; m < queries; ++m)
    divide(room.high + m * room.columns, room.low + m * room.columns, a.d_head,
           a.out + query + m * d,
           [factor = all_doubles(factors[m])](int64_t) { return factor; });
}

// The exponent of a power of two.
inline int exponent_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return static_cast<int>(bits >> 23) - 127;
}

// A query with the scales of the keys' columns, cut to kQueryBits; gives by how much.
inline int cut_query(const int32_t *q, const float *scale, int64_t d_head, int16_t *query) {
  const auto scaled = [&](int64_t i) {
    return static_cast<int64_t>(static_cast<uint64_t>(int64_t{q[i]})
                                << (exponent_of(scale[i]) + kFraction));
  };
  uint64_t magnitudes = 0;
  for (int64_t i = 0; i < d_head; ++i) {
    const int64_t x = scaled(i);
    magnitudes |= x < 0 ? 0 - static_cast<uint64_t>(x) : static_cast<uint64_t>(x);
  }
  constexpr int64_t kMost = (1 << kQueryBits) - 1;
  const int shift = shift_to(magnitudes, kQueryBits);
  const int64_t half = (int64_t{1} << shift) >> 1;
  for (int64_t i = 0; i < d_head; ++i) {
    const int64_t cut = (scaled(i) + half) >> shift;
    query[i] = static_cast<int16_t>(cut < kMost ? cut : kMost);
  }
  return shift;
}

// The scores of a query in natural units, where those of its head are kept.
inline void keep_scores(const CrossAttentionInt32 &a, int64_t head, int64_t row,
                        const int32_t *scores, int exponent) {
  const uint64_t heads = static_cast<uint64_t>(a.heads), bit = uint64_t{1} << head;
  if ((heads & bit) == 0) return;
  const double unit = 0.6931471805599453 * power_of_two(-exponent);
  float *kept = a.kept + (__builtin_popcountll(heads & (bit - 1)) * a.n + row) * a.t;
  for (int64_t i = 0; i < a.t; ++i) kept[i] = static_cast<float>(scores[i] * unit);
}

// At most kTogether queries of one head, the first at ``query`` in q and out, over the keys and
// values of one head of one slot, ``head`` of all.
void cross_rows(const CrossAttentionInt32 &a, int64_t query, int64_t queries, int64_t head,
                uint8_t *scratch) {
  const Room room(kTogether, a.t, a.d_head, scratch);
  const int64_t d = a.n_head * a.d_head;
  const float *k_scale = a.k_scale + head * a.d_head, *v_scale = a.v_scale + head * a.d_head;
  const int8_t *k = a.k + head * a.t * a.d_head, *v = a.v + head * a.t * a.d_head;
  int exponents[kTogether];
  memset(room.queries, 0, static_cast<size_t>(queries * room.columns) * sizeof(int16_t));
  for (int64_t m = 0; m < queries; ++m)
    exponents[m] = 2 * kFraction - cut_query(a.q + query + m * d, k_scale, a.d_head,
                                             room.queries + m * room.columns);
  constexpr int kScored = 4;
  for (int64_t m = 0; m < queries; m += kScored)
    with_count<kScored>(queries - m < kScored ? queries - m : kScored, [&](auto count) {
      score<decltype(count)::kCount>(room.queries + m * room.columns, k, a.t, a.t, a.d_head, room,
                                     room.scores + m * room.padded);
    });
  double reciprocals[kTogether];
  for (int64_t m = 0; m < queries; ++m) {
    int32_t *scores = room.scores + m * room.padded;
    if (a.kept != nullptr) keep_scores(a, head % a.n_head, query / d + m, scores, exponents[m]);
    reciprocals[m] = reciprocal(weigh(scores, a.t, exponents[m]));
  }
  const int16_t *weights = reinterpret_cast<const int16_t *>(room.scores);
  mix<kBlockRows>(queries, weights, 2 * room.padded, a.t, v, a.d_head, room);
  // Behind the scales of a head are others, or nothing.
  float scales[kMostColumns];
  memset(scales, 0, sizeof scales);
  memcpy(scales, v_scale, static_cast<size_t>(a.d_head) * sizeof(float));
  for (int64_t m = 0; m < queries; ++m) {
    const double factor = reciprocals[m] * power_of_two(kAttentionFraction);
    divide(room.high + m * room.columns, room.low + m * room.columns, a.d_head,
           a.out + query + m * d,
           [&](int64_t i) { return factor * to_doubles(load_vector<HalfFloats>(scales + i)); });
  }
}

}  // namespace over_cache
}  // namespace
