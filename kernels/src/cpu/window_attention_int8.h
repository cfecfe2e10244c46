// Attention of the encoder in products of 8 bits.
#pragma once

#include "window_attention_int32.h"

namespace {
namespace in_bytes {

using in_window::blocks;
using in_window::kColumns;
using in_window::kQueries;
using in_window::multiply_block;
using in_window::Queries;
using in_window::start_of;

constexpr double kLargestCut = 127.0;
constexpr int kWeightCut = 5;
constexpr int kLargestWeight = 255;
// The numbers of 5 bits, each reversed.
constexpr int16_t kThresholds[32] = {0,  16, 8,  24, 4,  20, 12, 28, 2,  18, 10, 26, 6,  22, 14, 30,
                                     1,  17, 9,  25, 5,  21, 13, 29, 3,  19, 11, 27, 7,  23, 15, 31};

typedef Cut HalfCuts __attribute__((vector_size(kHalf * sizeof(Cut))));

// Of a head: keys as panels [blocks of kColumns keys, lanes of d_head, kColumns], values as panels
// [blocks of kColumns columns, lanes of keys, kColumns], the scales of values, and that of keys.
struct Packed {
  int64_t keys, lanes, width, values_at, scales_at, mantissa_at, words;
  explicit Packed(const AttentionInt32 &a)
      : keys(round_up(a.t, kColumns)),
        lanes((a.d_head + kGroup - 1) / kGroup),
        width(round_up(a.d_head, kColumns)),
        values_at(keys * lanes),
        scales_at(values_at + keys / kGroup * width),
        mantissa_at(scales_at + width),
        words(round_up(mantissa_at + 2, 16)) {}
};

// Of a thread, in int32: scores, weighted sums of a block of columns, and queries.
struct Room {
  int32_t *scores, *sums;
  Cut *queries;
  int64_t words;
  Room(const Packed &packed, int32_t *scratch)
      : scores(scratch),
        sums(scores + kQueries * packed.keys),
        queries(reinterpret_cast<Cut *>(sums + kBlockRows * kColumns)),
        words(kQueries * packed.keys + kBlockRows * kColumns + kQueries * packed.lanes) {}
};

int64_t shared_bytes(const AttentionInt32 &a) { return 4 * a.b * a.n_head * Packed(a).words; }

int64_t scratch_bytes(const AttentionInt32 &a) { return 4 * Room(Packed(a), nullptr).words; }

inline Mantissa scale_of(uint32_t largest) { return mantissa(largest / kLargestCut); }

// rint(x * factors) of the first ``count`` of kHalf numbers, zeros for the others.
inline HalfInts cut_half(const int32_t *x, int64_t count, Doubles factors) {
  HalfInts part = {};
  if (count >= kHalf)
    part = load_vector<HalfInts>(x);
  else if (count > 0)
    memcpy(&part, x, static_cast<size_t>(count) * sizeof *x);
  return rounded(to_doubles(part) * factors);
}

// A row in whole lanes.
inline void cut_row(const int32_t *x, int64_t count, double factor, Cut *cut) {
  for (int64_t i = 0; i < count; i += kHalf)
    store_vector(cut + i, __builtin_convertvector(cut_half(x + i, count - i, all_doubles(factor)),
                                                  HalfCuts));
}

inline uint32_t largest_magnitude(const int32_t *x, int64_t rows, int64_t columns,
                                  int64_t stride) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      const uint32_t each = magnitude(x[i * stride + j]);
      largest = each > largest ? each : largest;
    }
  return largest;
}

void pack_keys(const AttentionInt32 &a, const int32_t *k, const Packed &packed, int32_t *keys,
               int32_t *exponent_and_m) {
  const int64_t d = a.n_head * a.d_head;
  const Mantissa scale = scale_of(largest_magnitude(k, a.t, a.d_head, d));
  Cut row[kMostColumns] = {};
  for (int64_t t = 0; t < packed.keys; ++t) {
    int32_t *column = keys + t / kColumns * kColumns * packed.lanes + t % kColumns;
    if (t < a.t)
      cut_row(k + t * d, a.d_head, scale.reciprocal(), row);
    else
      memset(row, 0, sizeof row);
    for (int64_t i = 0; i < packed.lanes; ++i) {
      int32_t lane;
      memcpy(&lane, row + kGroup * i, sizeof lane);
      column[i * kColumns] = as_column(lane);
    }
  }
  exponent_and_m[0] = static_cast<int32_t>(scale.e);
  exponent_and_m[1] = static_cast<int32_t>(scale.m);
}

void pack_values(const AttentionInt32 &a, const int32_t *v, const Packed &packed, int32_t *values,
                 int32_t *scales) {
  const int64_t d = a.n_head * a.d_head;
  uint32_t largest[kMostColumns] = {};
  for (int64_t t = 0; t < a.t; ++t)
    for (int64_t i = 0; i < a.d_head; ++i) {
      const uint32_t each = magnitude(v[t * d + i]);
      largest[i] = each > largest[i] ? each : largest[i];
    }
  double factors[kMostColumns] = {};
  for (int64_t i = 0; i < packed.width; ++i) {
    const Mantissa scale = scale_of(i < a.d_head ? largest[i] : 0);
    factors[i] = scale.reciprocal();
    const float natural = static_cast<float>(scale.value() * power_of_two(-kFraction));
    memcpy(scales + i, &natural, sizeof natural);
  }
  constexpr int kBits = 32 / kGroup;
  constexpr int32_t kMask = static_cast<int32_t>((uint64_t{1} << kBits) - 1);
  for (int64_t c = 0; c < packed.width; c += kColumns)
    for (int64_t t = 0; t < packed.keys; t += kGroup)
      for (int64_t i = 0; i < kColumns; i += kHalf) {
        const Doubles factor = load_vector<Doubles>(factors + c + i);
        HalfInts lane = {};
        UNROLL
        for (int j = 0; j < kGroup; ++j)
          if (t + j < a.t)
            lane |= (cut_half(v + (t + j) * d + c + i, a.d_head - c - i, factor) & kMask)
                    << (j * kBits);
        store_vector(values + c * packed.keys / kGroup + t / kGroup * kColumns + i, lane);
      }
}

void pack(const AttentionInt32 &a, int64_t head, int32_t *shared) {
  const Packed packed(a);
  int32_t *own = shared + head * packed.words;
  pack_keys(a, a.k + start_of(a, head), packed, own, own + packed.mantissa_at);
  pack_values(a, a.v + start_of(a, head), packed, own + packed.values_at, own + packed.scales_at);
}

// What distances of scores are multiplied by: m * 2^-exponent.
struct DistanceScale {
  int32_t m;
  int exponent;
  DistanceScale(const Mantissa &q, const Mantissa &k, int64_t d_head) {
    const int bits = 31 - bit_length(static_cast<uint64_t>(2 * 127 * 127 * d_head));
    const int64_t product = q.m * k.m;
    const int length = bit_length(static_cast<uint64_t>(product)), cut = length - bits;
    m = static_cast<int32_t>(cut > 0 ? ((product >> (cut - 1)) + 1) >> 1 : product << -cut);
    exponent = static_cast<int>(2 * kFraction - q.e - k.e) - cut;
  }
};

// The weights of ``weigh``, rounded to 8 bits.
inline int32_t weigh_bytes(int32_t *scores, int64_t count, const DistanceScale &scale) {
  Weight *weights = reinterpret_cast<Weight *>(scores);
  return weigh_as<Weight>(
      scores, count, scale.exponent, [m = scale.m](Ints distance) { return distance * m; },
      [weights](int64_t i, Shorts w) {
        const Shorts threshold = load_vector<Shorts>(kThresholds + i % 32);
        const Shorts cut = smaller((w + threshold) >> kWeightCut, all_shorts(kLargestWeight));
        store_weights(weights + i, cut);
        return cut;
      });
}

// One block of queries of one head.
void block(const AttentionInt32 &a, int64_t head, int64_t block, const int32_t *shared,
           int32_t *scratch) {
  const Packed packed(a);
  const Room room(packed, scratch);
  const auto [d, rows, from] = Queries(a, head, block);
  const int32_t *keys = shared + head * packed.words, *values = keys + packed.values_at;
  const int32_t *scales = keys + packed.scales_at;
  const Mantissa key_scale = {keys[packed.mantissa_at + 1], keys[packed.mantissa_at]};
  // Blocks of rows are whole: what the last lacks is zeros.
  memset(room.queries, 0, static_cast<size_t>(kQueries * packed.lanes) * sizeof(int32_t));
  Mantissa query_scales[kQueries];
  Cut row[kMostColumns] = {};
  for (int64_t m = 0; m < rows; ++m) {
    const int32_t *q = a.q + from + m * d;
    query_scales[m] = scale_of(largest_magnitude(q, 1, a.d_head, d));
    cut_row(q, a.d_head, query_scales[m].reciprocal(), row);
    memcpy(room.queries + m * packed.lanes * kGroup, row,
           static_cast<size_t>(packed.lanes) * sizeof(int32_t));
  }
  for (int64_t at = 0; at < packed.keys; at += kColumns)
    for (int64_t m = 0; m < rows; m += kBlockRows)
      multiply_block<add_keys>(room.queries + m * packed.lanes * kGroup, packed.lanes, packed.lanes,
                               keys + at * packed.lanes, room.scores + m * packed.keys + at,
                               packed.keys);
  double factors[kQueries];
  for (int64_t m = 0; m < rows; ++m) {
    const DistanceScale scale(query_scales[m], key_scale, a.d_head);
    const int32_t sum = weigh_bytes(room.scores + m * packed.keys, a.t, scale);
    factors[m] = reciprocal(sum) * power_of_two(kAttentionFraction);
  }
  for (int64_t c = 0; c < packed.width; c += kColumns)
    for (int64_t at = 0; at < rows; at += kBlockRows) {
      multiply_block<add_values>(room.scores + at * packed.keys, packed.keys, packed.keys / kGroup,
                                 values + c * packed.keys / kGroup, room.sums, kColumns);
      for (int64_t m = 0; m < kBlockRows && at + m < rows; ++m)
        round_all(a.d_head - c < kColumns ? a.d_head - c : kColumns, a.out + from + (at + m) * d + c,
                  [&](int64_t i) {
                    return to_doubles(load_vector<HalfInts>(room.sums + m * kColumns + i)) *
                           all_doubles(factors[at + m]) *
                           to_doubles(load_vector<HalfFloats>(scales + c + i));
                  });
    }
}

constexpr WindowKernels<AttentionInt32, int32_t> kKernels = {shared_bytes, scratch_bytes, pack,
                                                             blocks, block};

}  // namespace in_bytes
}  // namespace
