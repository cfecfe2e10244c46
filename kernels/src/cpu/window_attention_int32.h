// Attention of the encoder in integers.
#pragma once

#include "attention_weights.h"

namespace {
namespace in_window {

// Queries of a block: their scores of 1,500 keys stay in a second-level cache.
constexpr int64_t kQueries = 24;
constexpr int64_t kColumns = kBlockVectors * kLanes;
constexpr int64_t kLaneBytes = sizeof(int32_t);
constexpr int kValueBits = kWeightBits - 1;
// Pairs of keys whose weighted values stay in int32: 64 * (2^13 - 1) * 2^12 + 2^16 does.
constexpr int64_t kStep = 32;

// Of a head: keys as panels [blocks of kColumns keys, pairs of d_head, kColumns], values as panels
// [blocks of kColumns columns, pairs of keys, kColumns], and the shifts of both.
struct Packed {
  int64_t keys, pairs, width, values_at, shifts_at, words;
  explicit Packed(const AttentionInt32 &a)
      : keys(round_up(a.t, kColumns)),
        pairs((a.d_head + 1) / 2),
        width(round_up(a.d_head, kColumns)),
        values_at(keys * pairs),
        shifts_at(values_at + keys / 2 * width),
        words(round_up(shifts_at + 2, 16)) {}
};

// Of a thread, in int32: scores, queries, and sums of a block of columns.
struct Room {
  int32_t *scores, *high, *low;
  int16_t *queries;
  int64_t words;
  Room(const Packed &packed, int32_t *scratch)
      : scores(scratch),
        high(scores + kQueries * packed.keys),
        low(high + kBlockRows * kColumns),
        queries(reinterpret_cast<int16_t *>(low + kBlockRows * kColumns)),
        words(kQueries * packed.keys + 2 * kBlockRows * kColumns + kQueries * packed.pairs) {}
};

// Bits of queries and keys, the sign not counted: d_head products fit 30 bits.
inline int window_bits(int64_t d_head) {
  return (30 - bit_length(static_cast<uint64_t>(d_head - 1))) / 2;
}

inline int32_t pair_of(int32_t low, int32_t high) {
  return static_cast<int32_t>((static_cast<uint32_t>(high) << 16) | (low & 0xffff));
}

int64_t shared_bytes(const AttentionInt32 &a) { return 4 * a.b * a.n_head * Packed(a).words; }

int64_t scratch_bytes(const AttentionInt32 &a) { return 4 * Room(Packed(a), nullptr).words; }

inline int64_t start_of(const AttentionInt32 &a, int64_t head) {
  return (head / a.n_head * a.t * a.n_head + head % a.n_head) * a.d_head;
}

inline int shift_of(const int32_t *x, int64_t t, int64_t d_head, int64_t d, int bits) {
  uint32_t magnitudes = 0;
  for (int64_t i = 0; i < t; ++i) magnitudes |= all_magnitudes(x + i * d, d_head);
  return shift_to(magnitudes, bits);
}

void pack(const AttentionInt32 &a, int64_t head, int32_t *shared) {
  const Packed packed(a);
  const int64_t d = a.n_head * a.d_head, whole = a.d_head / 2;
  const int32_t *k = a.k + start_of(a, head), *v = a.v + start_of(a, head);
  int32_t *keys = shared + head * packed.words, *values = keys + packed.values_at;
  int32_t *shifts = keys + packed.shifts_at;
  const int key_shift = shift_of(k, a.t, a.d_head, d, window_bits(a.d_head));
  for (int64_t t = 0; t < packed.keys; ++t) {
    const int32_t *row = k + t * d;
    int32_t *column = keys + t / kColumns * kColumns * packed.pairs + t % kColumns;
    if (t >= a.t) {
      for (int64_t i = 0; i < packed.pairs; ++i) column[i * kColumns] = 0;
      continue;
    }
    for (int64_t i = 0; i < whole; ++i)
      column[i * kColumns] = pair_of(row[2 * i] >> key_shift, row[2 * i + 1] >> key_shift);
    if (whole < packed.pairs)
      column[whole * kColumns] = pair_of(row[2 * whole] >> key_shift, 0);
  }
  constexpr int32_t kMost = (1 << kValueBits) - 1;
  const int value_shift = shift_of(v, a.t, a.d_head, d, kValueBits);
  for (int64_t t = 0; t < packed.keys; t += 2)
    for (int64_t c = 0; c < packed.width; c += kColumns) {
      int32_t *row = values + c * packed.keys / 2 + t / 2 * kColumns;
      const int64_t count = a.d_head - c < kColumns ? a.d_head - c : kColumns;
      const int32_t *first = v + t * d + c, *second = t + 1 < a.t ? first + d : first;
      memset(row, 0, kColumns * sizeof(int32_t));
      if (t >= a.t) continue;
      for (int64_t i = 0; i < count; ++i)
        row[i] = pair_of(shift_down(first[i], value_shift, kMost),
                         shift_down(second[i], value_shift, kMost));
    }
  shifts[0] = key_shift;
  shifts[1] = value_shift;
}

int64_t blocks(const AttentionInt32 &a) { return (a.t + kQueries - 1) / kQueries; }

// The queries of a block: the distance from one to the next, how many there are, and where the first
// is in q and out.
struct Queries {
  int64_t d, rows, from;
  Queries(const AttentionInt32 &a, int64_t head, int64_t block)
      : d(a.n_head * a.d_head),
        rows(a.t - block * kQueries < kQueries ? a.t - block * kQueries : kQueries),
        from(start_of(a, head) + block * kQueries * d) {
    // They lie far apart: all are asked for before the first is needed.
    for (int64_t m = 0; m < rows; ++m)
      for (int64_t i = 0; i < a.d_head; i += 16) __builtin_prefetch(a.q + from + m * d + i);
  }
};

// Sums of products of kBlockRows rows, of lanes ``row_stride`` apart, with the columns of a panel;
// ``add`` adds the products of a lane of all columns and of one row. A function of its own, or
// compilers do not keep the sums in registers.
template <Sum add(Sum, Ints, Ints)>
__attribute__((noinline)) void multiply_block(const void *rows, int64_t row_stride, int64_t lanes,
                                              const int32_t *panel, int32_t *out,
                                              int64_t out_stride) {
  const char *row = static_cast<const char *>(rows);
  Sum sums[kBlockRows][kBlockVectors];
  UNROLL
  for (int m = 0; m < kBlockRows; ++m) {
    UNROLL
    for (int v = 0; v < kBlockVectors; ++v) sums[m][v] = begin(Ints{});
  }
  for (int64_t i = 0; i < lanes; ++i) {
    Ints column[kBlockVectors];
    UNROLL
    for (int v = 0; v < kBlockVectors; ++v)
      column[v] = load_vector<Ints>(panel + i * kColumns + v * kLanes);
    UNROLL
    for (int m = 0; m < kBlockRows; ++m) {
      const Ints lane = all_lanes(row + kLaneBytes * (m * row_stride + i));
      UNROLL
      for (int v = 0; v < kBlockVectors; ++v) sums[m][v] = add(sums[m][v], column[v], lane);
    }
  }
  UNROLL
  for (int m = 0; m < kBlockRows; ++m) {
    UNROLL
    for (int v = 0; v < kBlockVectors; ++v)
      store_vector(out + m * out_stride + v * kLanes, total(sums[m][v]));
  }
}

// Weighted sums of a panel of columns.
__attribute__((noinline)) void mix_panel(const int16_t *weights, int64_t stride,
                                         const int32_t *panel, int64_t pairs, int32_t *high,
                                         int32_t *low) {
  const auto columns = [panel](int64_t i, Ints *column) {
    UNROLL
    for (int v = 0; v < kBlockVectors; ++v)
      column[v] = load_vector<Ints>(panel + i * kColumns + v * kLanes);
  };
  mix_block<kBlockRows, kBlockVectors>(weights, stride, pairs, kStep, columns, high, low,
                                       kColumns);
}

// One block of queries of one head.
void block(const AttentionInt32 &a, int64_t head, int64_t block, const int32_t *shared,
           int32_t *scratch) {
  const Packed packed(a);
  const Room room(packed, scratch);
  const auto [d, rows, from] = Queries(a, head, block);
  const int32_t *keys = shared + head * packed.words, *values = keys + packed.values_at;
  const int32_t *shifts = keys + packed.shifts_at;
  const int bits = window_bits(a.d_head);
  int exponents[kQueries];
  // Blocks of rows are whole: what the last lacks is zeros.
  memset(room.queries, 0, static_cast<size_t>(kQueries * packed.pairs) * sizeof(int32_t));
  for (int64_t m = 0; m < rows; ++m) {
    const int32_t *q = a.q + from + m * d;
    int16_t *query = room.queries + 2 * m * packed.pairs;
    const int shift = shift_to(all_magnitudes(q, a.d_head), bits);
    for (int64_t i = 0; i < a.d_head; ++i)
      query[i] = static_cast<int16_t>(shift_down(q[i], shift, (1 << bits) - 1));
    exponents[m] = 2 * kFraction - shift - shifts[0];
  }
  for (int64_t at = 0; at < packed.keys; at += kColumns)
    for (int64_t m = 0; m < rows; m += kBlockRows)
      multiply_block<add_products>(room.queries + 2 * m * packed.pairs, packed.pairs, packed.pairs,
                                   keys + at * packed.pairs, room.scores + m * packed.keys + at,
                                   packed.keys);
  double factors[kQueries];
  const double unit = power_of_two(kAttentionFraction - kFraction + shifts[1]);
  for (int64_t m = 0; m < rows; ++m) {
    const int32_t sum = weigh(room.scores + m * packed.keys, a.t, exponents[m]);
    factors[m] = reciprocal(sum) * unit;
  }
  const int16_t *weights = reinterpret_cast<const int16_t *>(room.scores);
  for (int64_t c = 0; c < packed.width; c += kColumns) {
    const int64_t count = a.d_head - c < kColumns ? a.d_head - c : kColumns;
    for (int64_t row = 0; row < rows; row += kBlockRows) {
      memset(room.high, 0, 2 * kBlockRows * kColumns * sizeof(int32_t));
      mix_panel(weights + 2 * row * packed.keys, 2 * packed.keys, values + c * packed.keys / 2,
                packed.keys / 2, room.high, room.low);
      for (int64_t m = 0; m < kBlockRows && row + m < rows; ++m)
        divide(room.high + m * kColumns, room.low + m * kColumns, count,
               a.out + from + (row + m) * d + c,
               [factor = all_doubles(factors[row + m])](int64_t) { return factor; });
    }
  }
}

constexpr WindowKernels<AttentionInt32, int32_t> kKernels = {shared_bytes, scratch_bytes, pack,
                                                             blocks, block};

}  // namespace in_window
}  // namespace
