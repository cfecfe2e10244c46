// Ops of the integer network that work element by element: whisper_npu/ops/product_int8.py, and
// store_int16 of ops/attention_int.py.
#pragma once

#include "fixed_vectors.h"
#include "variant.h"

namespace {

// GELU_COEFFICIENTS of ops/product_int8.py, of each place by intervals. Beyond them h is 0.
constexpr int kPlaceBits = 11;
constexpr int32_t kCurve[4][8] = {
    {-28, 161760, 166381, 105095, 47716, 16278, 4245, 854},
    {263098, 69608, -44216, -67317, -44831, -19674, -6204, -1453},
    {-109478, -81699, -29151, 6759, 14968, 9568, 3766, 1031},
    {8142, 16691, 12083, 3190, -1569, -1926, -954, -299},
};

void gelu_int32_elements(const GeluInt32 &a, int64_t first, int64_t last) {
  const Table c0(kCurve[0]), c1(kCurve[1]), c2(kCurve[2]), c3(kCurve[3]);
  for_each(a.x + first, a.out + first, last - first, [&](Ints x, int64_t) {
    const Ints sign = x >> 31, t = (x ^ sign) - sign;
    const Ints interval = t >> kPlaceBits, u = t & ((1 << kPlaceBits) - 1);
    Ints h = c3[interval] * u >> kPlaceBits;
    h = (h + c2[interval]) * u >> kPlaceBits;
    h = (h + c1[interval]) * u >> kPlaceBits;
    h = (h + c0[interval] + 128) >> 8;
    return (x & ~sign) - (h & (t < (8 << kPlaceBits)));
  });
}

typedef uint32_t Unsigned __attribute__((vector_size(sizeof(Ints))));

inline Ints saturated_sum(Ints x, Ints y) {
  const Ints sum = (Ints)((Unsigned)x + (Unsigned)y);
  // Where both have a sign that the sum has not.
  const Ints beyond = ((x ^ sum) & (y ^ sum)) >> 31;
  const Ints largest = (x >> 31) ^ kLargest;
  const Ints found = (sum & ~beyond) | (largest & beyond);
  // The other end of int32 is no number here.
  return found - (found == INT32_MIN);
}

// The largest and the smallest numbers that were seen, lane by lane.
class Extremes {
 public:
  void see(Ints x) {
    high_ = x > high_ ? x : high_;
    low_ = x < low_ ? x : low_;
  }

  bool at_limit() const {
    const Ints found = (high_ == kLargest) | (low_ == -kLargest);
    bool any = false;
    for (int i = 0; i < kWidth; ++i) any |= found[i] != 0;
    return any;
  }

 private:
  Ints high_ = {}, low_ = {};
};

void add_int32_elements(const AddInt32 &a, int64_t first, int64_t last) {
  Extremes extremes;
  // y repeats: it has the last axes of x.
  for (int64_t at = first; at < last;) {
    const int64_t start = at % a.period;
    const int64_t count = last - at < a.period - start ? last - at : a.period - start;
    const int32_t *y = a.y + start;
    for_each(a.x + at, a.out + at, count, [&](Ints x, int64_t i) {
      Ints other = {};
      const int64_t rest = count - i;
      if (rest >= kWidth)
        other = load(y + i);
      else
        memcpy(&other, y + i, static_cast<size_t>(rest) * sizeof *y);
      const Ints sum = saturated_sum(x, other);
      extremes.see(x);
      extremes.see(other);
      extremes.see(sum);
      return sum;
    });
    at += count;
  }
  // Other threads may say the same of their elements.
  if (extremes.at_limit()) __atomic_store_n(a.cut, 1, __ATOMIC_RELAXED);
}

void embed_int32_rows(const EmbedInt32 &a, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    const int64_t token = a.tokens[i];
    const int8_t *values = a.table + token * a.d;
    const int64_t first = a.position[i / (a.n * a.group)];
    const int32_t *place = a.positions + (first + i % a.n) * a.d;
    const double scale = static_cast<double>(a.scale[token]) * (1 << kFraction);
    int32_t *out = a.out + i * a.d;
    for (int64_t j = 0; j < a.d; ++j) out[j] = scaled(values[j], scale, place[j]);
  }
}

// What a cache has fewer fraction bits, and the numbers next to which it saturates.
constexpr int kCutBits = 3;
constexpr int32_t kMostCached = 32767 << kCutBits;

void store_int16_rows(const StoreInt16 &a, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    const int64_t sequence = i / a.n, window = sequence / a.group;
    const int64_t cache = a.slot[window] * a.members + sequence % a.group;
    const int64_t place = a.position[window] + i % a.n;
    for (int64_t head = 0; head < a.n_head; ++head) {
      const int32_t *x = a.x + (i * a.n_head + head) * a.d_head;
      int16_t *to = a.cache + ((cache * a.n_head + head) * a.t + place) * a.d_head;
      for (int64_t j = 0; j < a.d_head; ++j) {
        int32_t value = x[j] < kMostCached ? x[j] : kMostCached;
        value = value > -kMostCached ? value : -kMostCached;
        to[j] = static_cast<int16_t>((value + (1 << (kCutBits - 1))) >> kCutBits);
      }
    }
  }
}

void logits_float_elements(const LogitsFloat &a, int64_t first, int64_t last) {
  constexpr int32_t kMost = (1 << 24) - 1;
  for (int64_t i = first; i < last; ++i) {
    int32_t steps = a.x[i] < kMost ? a.x[i] : kMost;
    steps = steps > -kMost ? steps : -kMost;
    a.out[i] = static_cast<float>(steps) * (1.0f / (1 << kFraction));
  }
}

}  // namespace
