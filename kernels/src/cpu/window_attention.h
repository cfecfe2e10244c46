// Attention of the encoder in floats. Included by floats.cc, whose products this is made of.
#pragma once

#include "float_vectors.h"
#include "variant.h"

namespace {
namespace in_floats {

// Queries of a block: its scores of 1,500 keys stay in a second-level cache.
constexpr int64_t kQueries = 24;

// Of the encoder, per head: keys as panels [key blocks, d_head, kKeys], values as [keys, d_head
// padded].
struct Packed {
  int64_t keys, width, head_floats;
  explicit Packed(const Attention &a)
      : keys(round_up(a.t, kKeys)),
        width(round_up(a.d_head, kKeys)),
        head_floats(keys * a.d_head + keys * width) {}
};

int64_t attention_shared(const Attention &a) { return 4 * a.b * a.n_head * Packed(a).head_floats; }

int64_t attention_scratch(const Attention &a) {
  const Packed packed(a);
  return 4 * kQueries * (packed.keys + a.d_head + packed.width);
}

void attention_pack(const Attention &a, int64_t item, float *shared) {
  const Packed packed(a);
  const int64_t d = a.n_head * a.d_head;
  const int64_t from = item / a.n_head * a.t * d + item % a.n_head * a.d_head;
  const float *k = a.k + from, *v = a.v + from;
  float *keys = shared + item * packed.head_floats;
  float *values = keys + packed.keys * a.d_head;
  for (int64_t block = 0; block < packed.keys; block += kKeys) {
    float *panel = keys + block * a.d_head;
    for (int64_t j = 0; j < kKeys; ++j)
      for (int64_t i = 0; i < a.d_head; ++i)
        panel[i * kKeys + j] = block + j < a.t ? k[(block + j) * d + i] : 0.0f;
  }
  for (int64_t t = 0; t < packed.keys; ++t) {
    float *row = values + t * packed.width;
    if (t < a.t) memcpy(row, v + t * d, static_cast<size_t>(a.d_head) * sizeof(float));
    const int64_t used = t < a.t ? a.d_head : 0;
    memset(row + used, 0, static_cast<size_t>(packed.width - used) * sizeof(float));
  }
}

int64_t attention_blocks(const Attention &a) { return (a.t + kQueries - 1) / kQueries; }

// One block of queries of one head.
void attention_block(const Attention &a, int64_t head, int64_t block, const float *shared,
                     float *scratch) {
  const Packed packed(a);
  const int64_t d = a.n_head * a.d_head, first = block * kQueries;
  const int64_t rows = a.t - first < kQueries ? a.t - first : kQueries;
  const int64_t from = head / a.n_head * a.t * d + head % a.n_head * a.d_head + first * d;
  const float *keys = shared + head * packed.head_floats;
  const float *values = keys + packed.keys * a.d_head;
  float *scores = scratch;
  float *queries = scores + kQueries * packed.keys;
  float *mixed = queries + kQueries * a.d_head;
  for (int64_t m = 0; m < rows; ++m)
    for (int64_t i = 0; i < a.d_head; ++i)
      queries[m * a.d_head + i] = a.q[from + m * d + i] * a.scale;
  for (int64_t at = 0; at < packed.keys; at += kKeys)
    multiply_rows(rows, queries, a.d_head, a.d_head, keys + at * a.d_head, kKeys, scores + at,
                  packed.keys);
  float inverse[kQueries];
  for (int64_t m = 0; m < rows; ++m)
    inverse[m] = 1.0f / exponentials(scores + m * packed.keys, a.t, packed.keys);
  for (int64_t at = 0; at < packed.width; at += kKeys)
    multiply_rows(rows, scores, packed.keys, a.t, values + at, packed.width, mixed + at,
                  packed.width);
  for (int64_t m = 0; m < rows; ++m)
    for (int64_t i = 0; i < a.d_head; ++i)
      a.out[from + m * d + i] = mixed[m * packed.width + i] * inverse[m];
}

constexpr AttentionKernels kKernels = {attention_shared, attention_scratch, attention_pack,
                                       attention_blocks, attention_block};

}  // namespace in_floats
}  // namespace
