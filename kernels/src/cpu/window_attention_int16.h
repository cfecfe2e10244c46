// Attention of the encoder in pairs of 16-bit integers (VPDPWSSD), which multiply twice as fast as
// floats: for AVX-512 VNNI. Included by floats.cc.
//
// A query and a key are integers with one scale each, values with one for every column. A block of
// 64 keys is done from scores to weighted values while it lies in registers and a first-level
// cache: weights are e^(score - largest of the block) as integers, and what was added up before is
// scaled down when a larger score turns up.
#pragma once

#include "float_vectors.h"
#include "variant.h"

namespace {
namespace in_int16 {

constexpr int64_t kBlockKeys = 64;
constexpr int64_t kPairs = kBlockKeys / 2;
constexpr int kBlockRows = 6, kBlockVectors = 4;
// Queries that go over the keys together: what is added up for them stays in a first-level cache.
constexpr int64_t kQueries = 48;
// 64 products of integers up to this stay in int32.
constexpr float kLargestInteger = 5792.0f;

inline int64_t round_up_to(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

inline __mmask16 lanes_below(int64_t count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// Sizes of what is packed for a head: keys [blocks, pairs of d_head, 64] with a scale each, values
// [blocks, panels of 64 columns, pairs of keys, 64] with a scale for each column.
struct Packed {
  int64_t keys, pairs, width, values_at, key_scales_at, value_scales_at, words;
  explicit Packed(const Attention &a)
      : keys(round_up_to(a.t, kBlockKeys)),
        pairs((a.d_head + 1) / 2),
        width(round_up_to(a.d_head, kBlockKeys)),
        values_at(keys * pairs),
        key_scales_at(values_at + keys / 2 * width),
        value_scales_at(key_scales_at + keys),
        words(round_up_to(value_scales_at + width, 16)) {}
};

// The largest integer for queries and keys: d_head products stay in int32.
inline float largest_integer(int64_t d_head) {
  const float largest = __builtin_sqrtf(2147483000.0f / static_cast<float>(d_head)) - 1.0f;
  return largest < 32767.0f ? largest : 32767.0f;
}

// The bits of |x|, which compare as integers like the numbers do, and a NaN above all of them.
inline __m512i magnitude_bits(__m512 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

// What makes integers up to ``largest`` of a row, and what they are to be multiplied with: NaN if
// there is one in the row.
struct RowScale {
  float factor, scale;
  RowScale(const float *x, int64_t d, float largest) {
    __m512i top = _mm512_setzero_si512();
    for (int64_t i = 0; i < d; i += 16)
      top = _mm512_max_epi32(
          top, magnitude_bits(_mm512_maskz_loadu_ps(lanes_below(d - i), x + i)));
    const int32_t bits = _mm512_reduce_max_epi32(top);
    float magnitude;
    memcpy(&magnitude, &bits, sizeof magnitude);
    factor = magnitude >= 1e-30f ? largest / magnitude : 0.0f;
    scale = magnitude / largest;
  }
};

// The pairs of a row as integers, ``stride`` lanes apart.
inline void store_pairs(const float *x, int64_t d, float factor, int32_t *pairs, int64_t stride) {
  for (int64_t i = 0; i < d; i += 16) {
    const __m512 part = _mm512_maskz_loadu_ps(lanes_below(d - i), x + i);
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(part, _mm512_set1_ps(factor)));
    int32_t lanes[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(lanes), _mm512_cvtepi32_epi16(whole));
    for (int64_t j = 0; j < 8 && i + 2 * j < d; ++j) pairs[(i / 2 + j) * stride] = lanes[j];
  }
}

// unit * 2^x for x <= 0, to 4e-6; x below -100 counts as that. A NaN stays one.
inline __m512 power_of_two(__m512 x, float unit) {
  // Adding 3 * 2^22 rounds to the nearest integer, which is then in the low bits.
  const __m512 round = _mm512_set1_ps(12582912.0f);
  const __m512 above = _mm512_max_ps(_mm512_set1_ps(-100.0f), x);
  const __m512 shifted = _mm512_add_ps(above, round);
  const __m512 rest = _mm512_sub_ps(above, _mm512_sub_ps(shifted, round));
  const auto all = [unit](float c) { return _mm512_set1_ps(c * unit); };
  __m512 p = _mm512_fmadd_ps(rest, all(9.58284363e-03f), all(5.59064262e-02f));
  p = _mm512_fmadd_ps(p, rest, all(2.40240991e-01f));
  p = _mm512_fmadd_ps(p, rest, all(6.93124175e-01f));
  p = _mm512_fmadd_ps(p, rest, all(1.0f));
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), exponent));
}

int64_t attention_shared(const Attention &a) { return 4 * a.b * a.n_head * Packed(a).words; }

// Of a thread: queries, sums of weights and of weighted values, and by query its scale and the
// largest score so far.
struct Room {
  int32_t *queries;
  float *sums, *mixed, *scales, *tops;
  Room(const Packed &packed, float *scratch)
      : queries(reinterpret_cast<int32_t *>(scratch)),
        sums(scratch + round_up_to(kQueries * packed.pairs, 16)),
        mixed(sums + 16 * kQueries),
        scales(mixed + kQueries * packed.width),
        tops(scales + kQueries) {}
};

int64_t attention_scratch(const Attention &a) {
  const Packed packed(a);
  // tops are read 16 at a time.
  return 4 * (round_up_to(kQueries * packed.pairs, 16) + kQueries * (packed.width + 18) + 16);
}

void attention_pack(const Attention &a, int64_t item, float *shared) {
  const Packed packed(a);
  const int64_t d = a.n_head * a.d_head;
  const int64_t from = item / a.n_head * a.t * d + item % a.n_head * a.d_head;
  float *head = shared + item * packed.words;
  int32_t *keys = reinterpret_cast<int32_t *>(head), *values = keys + packed.values_at;
  memset(head, 0, static_cast<size_t>(packed.words) * sizeof(float));
  const float largest = largest_integer(a.d_head);
  for (int64_t t = 0; t < a.t; ++t) {
    const float *k = a.k + from + t * d;
    const RowScale scale(k, a.d_head, largest);
    head[packed.key_scales_at + t] = scale.scale;
    store_pairs(k, a.d_head, scale.factor,
                keys + t / kBlockKeys * kBlockKeys * packed.pairs + t % kBlockKeys, kBlockKeys);
  }
  float *scales = head + packed.value_scales_at;
  for (int64_t t = 0; t < a.t; ++t)
    for (int64_t c = 0; c < a.d_head; c += 16) {
      const __m512 v = _mm512_maskz_loadu_ps(lanes_below(a.d_head - c), a.v + from + t * d + c);
      _mm512_storeu_si512(scales + c,
                          _mm512_max_epi32(_mm512_loadu_si512(scales + c), magnitude_bits(v)));
    }
  for (int64_t c = 0; c < a.d_head; c += 16) {
    const __mmask16 there = lanes_below(a.d_head - c);
    const float *v = a.v + from + c;
    const __m512 top = _mm512_loadu_ps(scales + c), weight = _mm512_set1_ps(kLargestInteger);
    const __mmask16 any = _mm512_cmp_ps_mask(top, _mm512_set1_ps(1e-30f), _CMP_GE_OQ);
    const __m512 factor = _mm512_maskz_div_ps(any, weight, top);
    _mm512_storeu_ps(scales + c, _mm512_div_ps(top, weight));
    const auto whole = [&](int64_t t) {
      const __mmask16 mask = t < a.t ? there : 0;
      return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, v + t * d), factor));
    };
    for (int64_t t = 0; t < a.t; t += 2) {
      // A lane has the value of a key in its lower half and that of the next in its upper one.
      const __m512i low = _mm512_and_si512(whole(t), _mm512_set1_epi32(0xffff));
      const __m512i pair = _mm512_or_si512(low, _mm512_slli_epi32(whole(t + 1), 16));
      const int64_t panel = t / kBlockKeys * (packed.width / kBlockKeys) + c / kBlockKeys;
      _mm512_storeu_si512(
          values + (panel * kPairs + t % kBlockKeys / 2) * kBlockKeys + c % kBlockKeys, pair);
    }
  }
}

int64_t attention_blocks(const Attention &a) { return (a.t + kQueries - 1) / kQueries; }

// What a block of rows gives for 64 columns.
using Block = float[kBlockRows][kBlockKeys];

// Sums of products of kBlockRows rows of pairs, ``stride`` lanes apart, with n pairs of 64 columns.
// A function of its own, or compilers do not keep the sums in registers.
__attribute__((noinline)) void multiply_pairs(const int32_t *x, int64_t stride,
                                              const int32_t *columns, int64_t n, Block &out) {
  __m512i sums[kBlockRows][kBlockVectors];
  UNROLL
  for (int m = 0; m < kBlockRows; ++m) {
    UNROLL
    for (int v = 0; v < kBlockVectors; ++v) sums[m][v] = _mm512_setzero_si512();
  }
  for (int64_t i = 0; i < n; ++i) {
    __m512i column[kBlockVectors];
    UNROLL
    for (int v = 0; v < kBlockVectors; ++v)
      column[v] = _mm512_loadu_si512(columns + i * kBlockKeys + 16 * v);
    UNROLL
    for (int m = 0; m < kBlockRows; ++m) {
      const __m512i pair = _mm512_set1_epi32(x[m * stride + i]);
      UNROLL
      for (int v = 0; v < kBlockVectors; ++v)
        // Not as an intrinsic, with which GCC 12 moves the sums through memory.
        asm("vpdpwssd %2, %1, %0" : "+v"(sums[m][v]) : "v"(column[v]), "v"(pair));
    }
  }
  UNROLL
  for (int m = 0; m < kBlockRows; ++m) {
    UNROLL
    for (int v = 0; v < kBlockVectors; ++v)
      _mm512_store_ps(out[m] + 16 * v, _mm512_cvtepi32_ps(sums[m][v]));
  }
}

// kBlockRows queries with a block of keys: weights as integers, relative to the largest of each
// query. Takes that into ``tops``, and gives what to multiply with: the sums so far, and these.
inline void weigh_block(const Packed &packed, const Room &room, int64_t row, const int32_t *keys,
                        const float *key_scales, int64_t count,
                        int32_t (&weights)[kBlockRows][kPairs], float (&before)[16],
                        float (&now)[16]) {
  alignas(64) Block products;
  multiply_pairs(room.queries + row * packed.pairs, packed.pairs, keys, packed.pairs, products);
  __m512 key_scale[kBlockVectors];
  __mmask16 there[kBlockVectors];
  UNROLL
  for (int v = 0; v < kBlockVectors; ++v) {
    key_scale[v] = _mm512_loadu_ps(key_scales + 16 * v);
    there[v] = lanes_below(count - 16 * v);
  }
  const __m512 none = _mm512_set1_ps(-__builtin_inff());
  __m512 here = none;
  UNROLL
  for (int m = 0; m < kBlockRows; ++m) {
    const __m512 scale = _mm512_set1_ps(room.scales[row + m]);
    __m512 scores[kBlockVectors];
    UNROLL
    for (int v = 0; v < kBlockVectors; ++v) {
      const __m512 product = _mm512_mul_ps(_mm512_load_ps(products[m] + 16 * v), scale);
      // Keys that are not there have no weight.
      scores[v] = _mm512_mask_mul_ps(none, there[v], product, key_scale[v]);
      _mm512_store_ps(products[m] + 16 * v, scores[v]);
    }
    const __m512 largest = _mm512_max_ps(_mm512_max_ps(scores[0], scores[1]),
                                         _mm512_max_ps(scores[2], scores[3]));
    here = _mm512_mask_mov_ps(here, static_cast<__mmask16>(1 << m),
                              _mm512_set1_ps(_mm512_reduce_max_ps(largest)));
  }
  alignas(64) float largest[16];
  _mm512_store_ps(largest, here);
  const __m512 old = _mm512_loadu_ps(room.tops + row);
  const __m512 top = _mm512_max_ps(old, here);
  _mm512_mask_storeu_ps(room.tops + row, lanes_below(kBlockRows), top);
  _mm512_store_ps(before, power_of_two(_mm512_sub_ps(old, top), 1.0f));
  _mm512_store_ps(now, power_of_two(_mm512_sub_ps(here, top), 1.0f));
  alignas(64) float totals[kBlockRows][16];
  for (int m = 0; m < kBlockRows; ++m) {
    const __m512 subtracted = _mm512_set1_ps(largest[m]);
    __m512 parts[kBlockVectors];
    UNROLL
    for (int v = 0; v < kBlockVectors; ++v) {
      const __m512 score = _mm512_load_ps(products[m] + 16 * v);
      parts[v] = power_of_two(_mm512_sub_ps(score, subtracted), kLargestInteger);
      _mm256_store_si256(reinterpret_cast<__m256i *>(weights[m] + 8 * v),
                         _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(parts[v])));
    }
    _mm512_store_ps(totals[m], _mm512_add_ps(_mm512_add_ps(parts[0], parts[1]),
                                             _mm512_add_ps(parts[2], parts[3])));
  }
  for (int m = 0; m < kBlockRows; ++m) {
    float *sum = room.sums + 16 * (row + m);
    const __m512 kept = _mm512_mul_ps(_mm512_loadu_ps(sum), _mm512_set1_ps(before[m]));
    const __m512 total = _mm512_load_ps(totals[m]);
    _mm512_storeu_ps(sum, _mm512_fmadd_ps(total, _mm512_set1_ps(now[m]), kept));
  }
}

// Adds the weighted values of a block to what there is of its queries.
inline void mix_block(const Packed &packed, const Room &room, int64_t row, const int32_t *values,
                      const int32_t (&weights)[kBlockRows][kPairs], const float (&before)[16],
                      const float (&now)[16]) {
  for (int64_t c = 0; c < packed.width; c += kBlockKeys) {
    alignas(64) Block products;
    multiply_pairs(weights[0], kPairs, values + c * kPairs, kPairs, products);
    for (int m = 0; m < kBlockRows; ++m) {
      const __m512 kept = _mm512_set1_ps(before[m]), added = _mm512_set1_ps(now[m]);
      UNROLL
      for (int v = 0; v < kBlockVectors; ++v) {
        float *mixed = room.mixed + (row + m) * packed.width + c + 16 * v;
        const __m512 old = _mm512_mul_ps(_mm512_loadu_ps(mixed), kept);
        _mm512_storeu_ps(mixed, _mm512_fmadd_ps(_mm512_load_ps(products[m] + 16 * v), added, old));
      }
    }
  }
}

// One block of queries of one head.
void attention_block(const Attention &a, int64_t head, int64_t block, const float *shared,
                     float *scratch) {
  constexpr float kLog2E = 1.44269504f;
  const Packed packed(a);
  const Room room(packed, scratch);
  const int64_t d = a.n_head * a.d_head, first = block * kQueries;
  const int64_t rows = a.t - first < kQueries ? a.t - first : kQueries;
  const int64_t from = head / a.n_head * a.t * d + head % a.n_head * a.d_head + first * d;
  const float *packed_head = shared + head * packed.words;
  const int32_t *keys = reinterpret_cast<const int32_t *>(packed_head);
  const int32_t *values = keys + packed.values_at;
  const float *key_scales = packed_head + packed.key_scales_at;
  // Rows lie far apart: all are asked for before the first is needed.
  for (int64_t m = 0; m < rows; ++m)
    for (int64_t i = 0; i < a.d_head; i += 16) __builtin_prefetch(a.q + from + m * d + i);
  memset(scratch, 0, static_cast<size_t>(attention_scratch(a)));
  for (int64_t m = 0; m < rows; ++m) {
    const float *q = a.q + from + m * d;
    const RowScale scale(q, a.d_head, largest_integer(a.d_head));
    room.scales[m] = scale.scale * (a.scale * kLog2E);
    store_pairs(q, a.d_head, scale.factor, room.queries + m * packed.pairs, 1);
  }
  for (int64_t m = 0; m < kQueries; ++m) room.tops[m] = -__builtin_inff();
  for (int64_t t = 0; t < a.t; t += kBlockKeys)
    for (int64_t row = 0; row < rows; row += kBlockRows) {
      alignas(64) int32_t weights[kBlockRows][kPairs];
      alignas(64) float before[16], now[16];
      weigh_block(packed, room, row, keys + t * packed.pairs, key_scales + t, a.t - t, weights,
                  before, now);
      mix_block(packed, room, row, values + t / 2 * packed.width, weights, before, now);
    }
  for (int64_t m = 0; m < rows; ++m) {
    const __m512 sum = _mm512_loadu_ps(room.sums + 16 * m);
    const __m512 inverse = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    for (int64_t i = 0; i < a.d_head; i += 16) {
      const __m512 scale = _mm512_loadu_ps(packed_head + packed.value_scales_at + i);
      const __m512 mixed = _mm512_loadu_ps(room.mixed + m * packed.width + i);
      _mm512_mask_storeu_ps(a.out + from + m * d + i, lanes_below(a.d_head - i),
                            _mm512_mul_ps(_mm512_mul_ps(mixed, scale), inverse));
    }
  }
}

constexpr AttentionKernels kKernels = {attention_shared, attention_scratch, attention_pack,
                                       attention_blocks, attention_block};

}  // namespace in_int16
}  // namespace
