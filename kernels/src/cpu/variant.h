// The kernels of one instruction set of isas.h. fixed_point.cc is compiled once for each,
// floats.cc, integer_attention.cc and log_mel.cc for each that has floats of its own, with
// the compiler's options for it and VARIANT defined as its name: nothing in them may be shared with
// another (no inline function with a name that the linker sees), or the linker would keep one.
#pragma once

#include "api.h"
#include "isas.h"

// How a product with many rows is cut: columns are packed in panels of this width.
constexpr int64_t kPanel = 64;
// Products with at most this many rows read the weights as they lie, once.
constexpr int64_t kSkinny = 12;

// Rows that are multiplied with many columns in one go.
constexpr int64_t kMostRows = 2048;

// Products with int8 weights, of rows of one type.
struct ProductKernels {
  // Columns first ... last - 1 of a product of kSkinny rows at most, of any number where ``panels``
  // is null.
  void (*columns)(const ProductInt8 &, int64_t first, int64_t last, uint8_t *scratch);
  // The same for rows from first_row, kMostRows at most; null, as ``scratch`` then is, if the
  // variant has nothing better than the above.
  void (*panels)(const ProductInt8 &, int64_t first, int64_t last, int64_t first_row,
                 int64_t last_row, uint8_t *scratch);
  int64_t (*scratch)(int64_t k);
};

// Each for rows, or elements, first ... last - 1.
struct FixedKernels {
  void (*quantize_rows)(const QuantizeInt32 &, int64_t first, int64_t last);
  void (*rms_norm_rows)(const RmsNorm &, int64_t first, int64_t last);
  void (*gelu_elements)(const GeluInt32 &, int64_t first, int64_t last);
  void (*add_elements)(const AddInt32 &, int64_t first, int64_t last);
  void (*embed_rows)(const EmbedInt32 &, int64_t first, int64_t last);
  // Rows of all sequences.
  void (*store_rows)(const StoreInt16 &, int64_t first, int64_t last);
  // Heads of all windows.
  void (*quantize_columns_heads)(const QuantizeColumns &, int64_t first, int64_t last);
  void (*logits_elements)(const LogitsFloat &, int64_t first, int64_t last);
  // Of int8 and of int16 rows.
  ProductKernels products8, products16;
};

// Attention of the encoder: bytes that its threads share and that each has, then a part for every
// head of every window, then one for each block of queries of each of these.
template <typename Args, typename Word>
struct WindowKernels {
  int64_t (*shared)(const Args &);
  int64_t (*scratch)(const Args &);
  void (*pack)(const Args &, int64_t head, Word *shared);
  int64_t (*blocks)(const Args &);
  void (*block)(const Args &, int64_t head, int64_t block, const Word *shared, Word *scratch);
};
using AttentionKernels = WindowKernels<Attention, float>;

// Logits that are looked at together.
constexpr int64_t kPiece = 512;
inline int64_t pieces_of(const TopLogprobs &a) { return (a.n + kPiece - 1) / kPiece; }

struct FloatKernels {
  // Elements, or rows, first ... last - 1.
  void (*gelu_elements)(const Gelu &, int64_t first, int64_t last);
  void (*add_elements)(const Add &, int64_t first, int64_t last);
  void (*layer_norm_rows)(const LayerNorm &, int64_t first, int64_t last);
  const AttentionKernels *attention;
  // Some queries of one head, at most so many, the first at ``query`` in q and out, over the first
  // n_keys keys and values that are at ``from`` in k and v.
  int64_t (*queries_together)();
  int64_t (*over_cache_scratch)(const OverCache &);
  void (*over_cache_rows)(const OverCache &, int64_t query, int64_t queries, int64_t n_keys,
                          int64_t from, float *scratch);
  // Pieces first ... last - 1 of all rows, kPiece of a row each: the largest, and the sum of
  // e^(x - largest), into their places in scratch; then, once all are there, rows.
  void (*sum_pieces)(const TopLogprobs &, int64_t first, int64_t last);
  void (*choose_tokens)(const TopLogprobs &, int64_t first, int64_t last);
  // The same in integers: the largest of each piece; once all are there, the sums of weights; then
  // rows.
  void (*find_tops)(const TopLogprobs &, int64_t first, int64_t last);
  void (*weigh_pieces)(const TopLogprobs &, int64_t first, int64_t last);
  void (*choose_tokens_int32)(const TopLogprobs &, int64_t first, int64_t last);
};

// Attention in integers. Over caches it is for heads of at most so many columns, and all of it for
// so many keys: beyond them, sums could leave int32.
constexpr int64_t kMostColumns = 256;
constexpr int64_t kMostKeys = 1 << 17;
// In products of 8 bits, over a window of up to so many keys, rounding is exact.
constexpr int64_t kMostKeysInt8 = 1 << 13;

struct IntegerAttention {
  const WindowKernels<AttentionInt32, int32_t> *window, *window_int8;
  // Some consecutive queries of one head, at most queries_together(), the first at ``query`` in q
  // and out. That one sees the first n_keys of the keys and values at ``from`` in k and v, each
  // other one more than the one before it.
  int64_t (*queries_together)();
  int64_t (*cached_scratch)(const CachedAttentionInt16 &);
  void (*cached_rows)(const CachedAttentionInt16 &, int64_t query, int64_t queries, int64_t n_keys,
                      int64_t from, uint8_t *scratch);
  // The same over all keys and values of ``head`` of all audios'.
  int64_t (*cross_scratch)(const CrossAttentionInt32 &);
  void (*cross_rows)(const CrossAttentionInt32 &, int64_t query, int64_t queries, int64_t head,
                     uint8_t *scratch);
};

struct MelKernels {
  // Frames first ... last - 1.
  void (*frames)(const LogMelInt16 &, int64_t first, int64_t last);
};

#define DECLARE(name, floats, options)                      \
  extern const FixedKernels fixed_##name;                   \
  extern const FloatKernels floats_##floats;                \
  extern const IntegerAttention integer_attention_##floats; \
  extern const MelKernels mel_##floats;
ISAS(DECLARE)
#undef DECLARE

// Before a loop of few, constant steps over an array: only without the loop is it kept in
// registers.
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
