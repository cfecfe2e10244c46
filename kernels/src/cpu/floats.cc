// GELU, layer norm and attention in float32 for one instruction set. Sums run in several lanes, so
// that results differ from NumPy's by roundings; README.md says by how much at most.
#include "float_vectors.h"
#include "variant.h"

namespace {

// x / (1 + e^-t) with t = x g(x^2 / 4): the tanh form of erf in whisper_npu/ops/activation.py,
// where the coefficients of g are from, written as a logistic function.
inline Floats gelu(Floats x) {
  const Floats above = larger(all(-6.0f), x);
  const Floats clamped = smaller(all(6.0f), above);
  const Floats half = clamped * 0.5f;
  const Floats s = half * half;
  Floats g = multiply_add(s, all(1.47917273e-05f), all(-2.73299658e-04f));
  g = multiply_add(g, s, all(2.03219026e-03f));
  g = multiply_add(g, s, all(-7.07075287e-03f));
  g = multiply_add(g, s, all(-1.06014788e-03f));
  g = multiply_add(g, s, all(2.90674263e-01f));
  g = multiply_add(g, s, all(1.59576843e+00f));
  // NaN of minus infinity, of which the tanh form is infinity minus infinity.
  const Floats numerator = multiply_add(smaller(all(0.0f), x), all(0.0f), above);
  return numerator / (exponential(-(clamped * g)) + 1.0f);
}

// function(part of x) for all of x, in whole vectors and what is left.
template <typename Function>
inline void for_each(const float *x, float *out, int64_t count, Function function) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(out + i, function(load(x + i)));
  if (i < count) store_part(out + i, function(load_part(x + i, count - i)), count - i);
}

void gelu_elements(const Gelu &a, int64_t first, int64_t last) {
  for_each(a.x + first, a.out + first, last - first, [](Floats x) { return gelu(x); });
}

void add_elements(const Add &a, int64_t first, int64_t last) {
  // y repeats: it has the last axes of x.
  for (int64_t at = first; at < last;) {
    const int64_t start = at % a.period;
    const int64_t count = last - at < a.period - start ? last - at : a.period - start;
    const float *x = a.x + at, *y = a.y + start;
    float *out = a.out + at;
    int64_t i = 0;
    for (; i + kWidth <= count; i += kWidth) store(out + i, load(x + i) + load(y + i));
    for (; i < count; ++i) out[i] = x[i] + y[i];
    at += count;
  }
}

// The sum of term(vector of x) over a row; what is beyond the row counts as ``rest``.
template <typename Term>
inline float row_sum(const float *x, int64_t d, float rest, Term term) {
  Floats sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kWidth <= d; i += 4 * kWidth)
    for (int j = 0; j < 4; ++j) sums[j] += term(load(x + i + j * kWidth));
  for (; i + kWidth <= d; i += kWidth) sums[0] += term(load(x + i));
  if (i < d) {
    float part[kWidth];
    for (int j = 0; j < kWidth; ++j) part[j] = i + j < d ? x[i + j] : rest;
    sums[1] += term(load(part));
  }
  return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

void layer_norm_rows(const LayerNorm &a, int64_t first, int64_t last) {
  const float count = static_cast<float>(a.d);
  for (int64_t row = first; row < last; ++row) {
    const float *x = a.x + row * a.d;
    float *out = a.out + row * a.d;
    const float mean = row_sum(x, a.d, 0.0f, [](Floats part) { return part; }) / count;
    const float variance = row_sum(x, a.d, mean,
                                   [mean](Floats part) {
                                     const Floats centred = part - mean;
                                     return centred * centred;
                                   }) /
                           count;
    const float scale = 1.0f / __builtin_sqrtf(variance + 1e-5f);
    int64_t i = 0;
    for (; i + kWidth <= a.d; i += kWidth)
      store(out + i,
            multiply_add((load(x + i) - mean) * scale, load(a.gain + i), load(a.bias + i)));
    if (i < a.d) {
      const int64_t rest = a.d - i;
      const Floats y = multiply_add((load_part(x + i, rest) - mean) * scale,
                                    load_part(a.gain + i, rest), load_part(a.bias + i, rest));
      store_part(out + i, y, rest);
    }
  }
}

// Bytes that are asked for ahead where many come from memory: the processor asks for what follows
// by itself, but not beyond the end of a page.
constexpr int64_t kAhead = 2048;

// Products of M rows of x, ``x_stride`` apart, with a matrix of k rows of kVectors vectors,
// ``stride`` floats apart.
template <int M>
inline void multiply_block(const float *x, int64_t x_stride, int64_t k, const float *matrix,
                           int64_t stride, float *out, int64_t out_stride) {
  Floats sums[M][kVectors] = {};
  for (int64_t i = 0; i < k; ++i) {
    Floats row[kVectors];
    UNROLL
    for (int v = 0; v < kVectors; ++v) row[v] = load(matrix + i * stride + v * kWidth);
    UNROLL
    for (int m = 0; m < M; ++m) {
      const Floats factor = all(x[m * x_stride + i]);
      UNROLL
      for (int v = 0; v < kVectors; ++v) sums[m][v] = multiply_add(factor, row[v], sums[m][v]);
    }
  }
  UNROLL
  for (int m = 0; m < M; ++m) {
    UNROLL
    for (int v = 0; v < kVectors; ++v) store(out + m * out_stride + v * kWidth, sums[m][v]);
  }
}

inline void multiply_rows(int64_t rows, const float *x, int64_t x_stride, int64_t k,
                          const float *matrix, int64_t stride, float *out, int64_t out_stride) {
  for (int64_t m = 0; m < rows; m += kRows) {
    const float *from = x + m * x_stride;
    float *to = out + m * out_stride;
    switch (rows - m) {
      case 1: multiply_block<1>(from, x_stride, k, matrix, stride, to, out_stride); break;
      case 2: multiply_block<2>(from, x_stride, k, matrix, stride, to, out_stride); break;
      case 3: multiply_block<3>(from, x_stride, k, matrix, stride, to, out_stride); break;
      case 4:
        multiply_block<(kRows > 4 ? 4 : kRows)>(from, x_stride, k, matrix, stride, to, out_stride);
        break;
      case 5:
        multiply_block<(kRows > 5 ? 5 : kRows)>(from, x_stride, k, matrix, stride, to, out_stride);
        break;
      default: multiply_block<kRows>(from, x_stride, k, matrix, stride, to, out_stride);
    }
  }
}

// Scores become weights: e^(x - max). Gives their sum. What is beyond the row, up to ``padded``,
// gets 0.
inline float exponentials(float *x, int64_t count, int64_t padded) {
  Floats tops[4];
  for (Floats &top : tops) top = all(-__builtin_inff());
  for (int64_t i = count; i < padded; ++i) x[i] = -__builtin_inff();
  int64_t i = 0;
  for (; i + 4 * kWidth <= padded; i += 4 * kWidth)
    for (int j = 0; j < 4; ++j) tops[j] = larger(load(x + i + j * kWidth), tops[j]);
  for (; i < padded; i += kWidth) tops[0] = larger(load(x + i), tops[0]);
  const float top = largest_of_lanes(larger(larger(tops[0], tops[1]), larger(tops[2], tops[3])));
  Floats sums[2] = {};
  for (i = 0; i + 2 * kWidth <= padded; i += 2 * kWidth)
    for (int j = 0; j < 2; ++j) {
      const Floats e = exponential(load(x + i + j * kWidth) - top);
      store(x + i + j * kWidth, e);
      sums[j] += e;
    }
  for (; i < padded; i += kWidth) {
    const Floats e = exponential(load(x + i) - top);
    store(x + i, e);
    sums[0] += e;
  }
  return sum_of_lanes(sums[0] + sums[1]);
}

constexpr int64_t kKeys = kVectors * kWidth;
inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

#include "window_attention.h"

namespace {

// Queries that go over the same keys and values together.
constexpr int64_t kTogether = 8;

int64_t over_cache_scratch(const OverCache &a) {
  return 4 * kTogether * (round_up(a.t, kWidth) + 2 * a.d_head);
}

// The product of a query with a key.
inline float dot(const float *q, const float *k, int64_t d_head) {
  Floats sum = {};
  int64_t i = 0;
  for (; i + kWidth <= d_head; i += kWidth) sum = multiply_add(load(q + i), load(k + i), sum);
  float total = sum_of_lanes(sum);
  for (; i < d_head; ++i) total += q[i] * k[i];
  return total;
}

// The same for a vector of keys; d_head is a number of whole vectors.
inline Floats dots(const float *q, const float *k, int64_t d_head) {
  Floats sums[kWidth];
  UNROLL
  for (int j = 0; j < kWidth; ++j) {
    const float *row = k + j * d_head;
    __builtin_prefetch(reinterpret_cast<const char *>(row) + kAhead);
    sums[j] = load(q) * load(row);
    for (int64_t i = kWidth; i < d_head; i += kWidth)
      sums[j] = multiply_add(load(q + i), load(row + i), sums[j]);
  }
  return sums_of_lanes(sums);
}

// Queries, one behind the other in q, with each key; scores of a query are ``padded`` apart.
inline void score(const float *q, int64_t queries, const float *k, int64_t n_keys, int64_t d_head,
                  float *scores, int64_t padded) {
  int64_t key = 0;
  // The width of all Whisper models, as a constant: sums stay in registers then.
  const auto products = [&](int64_t m, const float *keys) {
    return d_head == 64 ? dots(q + m * 64, keys, 64) : dots(q + m * d_head, keys, d_head);
  };
  if (d_head % kWidth == 0)
    for (; key + kWidth <= n_keys; key += kWidth)
      for (int64_t m = 0; m < queries; ++m)
        store(scores + m * padded + key, products(m, k + key * d_head));
  for (; key < n_keys; ++key)
    for (int64_t m = 0; m < queries; ++m)
      scores[m * padded + key] = dot(q + m * d_head, k + key * d_head, d_head);
}

// At most kTogether queries of one head, the first at ``query`` in q and out, over the keys and
// values of a cache.
void attend(const OverCache &a, int64_t query, int64_t queries, int64_t n_keys, const float *k,
            const float *v, float *scratch) {
  const int64_t padded = round_up(a.t, kWidth), width = a.n_head * a.d_head;
  float *scores = scratch, *q = scores + kTogether * padded, *mixed = q + kTogether * a.d_head;
  for (int64_t m = 0; m < queries; ++m)
    for (int64_t i = 0; i < a.d_head; ++i)
      q[m * a.d_head + i] = a.q[query + m * width + i] * a.scale;
  score(q, queries, k, n_keys, a.d_head, scores, padded);
  float inverse[kTogether];
  for (int64_t m = 0; m < queries; ++m)
    inverse[m] = 1.0f / exponentials(scores + m * padded, n_keys, round_up(n_keys, kWidth));
  int64_t at = 0;
  for (; at + kKeys <= a.d_head; at += kKeys)
    multiply_rows(queries, scores, padded, n_keys, v + at, a.d_head, mixed + at, a.d_head);
  for (int64_t m = 0; m < queries && at < a.d_head; ++m) {
    // Widths that are no whole number of blocks.
    float *row = mixed + m * a.d_head;
    for (int64_t i = at; i < a.d_head; ++i) row[i] = 0.0f;
    for (int64_t j = 0; j < n_keys; ++j)
      for (int64_t i = at; i < a.d_head; ++i)
        row[i] += scores[m * padded + j] * v[j * a.d_head + i];
  }
  for (int64_t m = 0; m < queries; ++m)
    for (int64_t i = 0; i < a.d_head; ++i)
      a.out[query + m * width + i] = mixed[m * a.d_head + i] * inverse[m];
}

void over_cache_rows(const OverCache &a, int64_t query, int64_t queries, int64_t n_keys,
                     int64_t from, float *scratch) {
  attend(a, query, queries, n_keys, a.k + from, a.v + from, scratch);
}

int64_t queries_together() { return kTogether; }

// Of each piece of each row, all the largest before all the sums.
inline float *largest_of_pieces(const TopLogprobs &a) {
  return reinterpret_cast<float *>(a.scratch->data);
}
inline float *sums_of_pieces(const TopLogprobs &a) {
  return largest_of_pieces(a) + a.m * pieces_of(a);
}

void sum_pieces(const TopLogprobs &a, int64_t first, int64_t last) {
  const float none = -__builtin_inff();
  for (int64_t piece = first; piece < last; ++piece) {
    const int64_t row = piece / pieces_of(a), start = piece % pieces_of(a) * kPiece;
    const float *x = a.x + row * a.n + start;
    const int64_t count = a.n - start < kPiece ? a.n - start : kPiece;
    float rest[kWidth];
    const int64_t whole = count / kWidth * kWidth;
    for (int64_t i = 0; i < kWidth; ++i) rest[i] = whole + i < count ? x[whole + i] : none;
    Floats tops = load(rest);
    for (int64_t i = 0; i < whole; i += kWidth) tops = larger(load(x + i), tops);
    const float top = largest_of_lanes(tops);
    // Where all is forbidden, or NaN, any number will do in place of the largest.
    const float from = top == none ? 0.0f : top;
    Floats sums[2] = {exponential(load(rest) - from), {}};
    for (int64_t i = 0; i < whole; i += kWidth)
      sums[i / kWidth % 2] += exponential(load(x + i) - from);
    largest_of_pieces(a)[piece] = top;
    sums_of_pieces(a)[piece] = sum_of_lanes(sums[0] + sums[1]);
  }
}

// Puts a token where it belongs among the best so far, of which there are ``count``, and those
// that are equal come first; at most k stay.
inline int64_t insert(int64_t token, float value, int64_t *tokens, float *values, int64_t count,
                      int64_t k) {
  int64_t place = count < k ? count : k - 1;
  if (count == k && !(value > values[place])) return count;
  for (; place > 0 && value > values[place - 1]; --place) {
    tokens[place] = tokens[place - 1];
    values[place] = values[place - 1];
  }
  tokens[place] = token;
  values[place] = value;
  return count < k ? count + 1 : k;
}

// The likeliest tokens of a row, and their logits in the place of logprobs, by the largest of its
// pieces. Gives the largest of all.
inline float find_likeliest(const TopLogprobs &a, int64_t row, const float *tops) {
  const int64_t pieces = pieces_of(a);
  int64_t *tokens = a.tokens + row * a.k;
  float *values = a.logprobs + row * a.k;
  // The k-th largest of the pieces' largest: no token below it is wanted.
  int64_t count = 0;
  for (int64_t i = 0; i < pieces; ++i) count = insert(i, tops[i], tokens, values, count, a.k);
  const float least = count == a.k ? values[a.k - 1] : -__builtin_inff(), top = values[0];
  count = 0;
  for (int64_t i = 0; i < pieces; ++i) {
    if (tops[i] < least) continue;
    const int64_t end = (i + 1) * kPiece < a.n ? (i + 1) * kPiece : a.n;
    for (int64_t token = i * kPiece; token < end; ++token) {
      const float value = a.x[row * a.n + token];
      if (value < least) continue;
      count = insert(token, value, tokens, values, count, a.k);
    }
  }
  return top;
}

void choose_tokens(const TopLogprobs &a, int64_t first, int64_t last) {
  const float none = -__builtin_inff();
  const int64_t pieces = pieces_of(a);
  for (int64_t row = first; row < last; ++row) {
    const float *tops = largest_of_pieces(a) + row * pieces;
    const float *sums = sums_of_pieces(a) + row * pieces;
    int64_t *tokens = a.tokens + row * a.k;
    float *values = a.logprobs + row * a.k;
    const float top = find_likeliest(a, row, tops);
    float sum = 0.0f;
    for (int64_t i = 0; i < pieces; ++i)
      sum += sums[i] * (tops[i] == none ? 1.0f : exponential(all(tops[i] - top))[0]);
    const float log_sum = __builtin_logf(sum);
    for (int64_t i = 0; i < a.k; ++i) values[i] = values[i] - top - log_sum;
    // Of numbers that are not finite there is no order.
    if (sum != sum)
      for (int64_t i = 0; i < a.k; ++i) tokens[i] = i;
  }
}

}  // namespace

#include "choice_int.h"

extern const FloatKernels JOIN(floats_, VARIANT) = {
    gelu_elements,    add_elements,       layer_norm_rows, &in_floats::kKernels,
    queries_together, over_cache_scratch, over_cache_rows, sum_pieces,           choose_tokens,
    find_tops,        weigh_pieces,       choose_tokens_int32,
};
