// What the library of CPU kernels offers to C. A kernel takes a pointer to its arguments, allocates
// nothing, and returns 0, or a number that is not 0 if it cannot compute what it was given: then it
// has written nothing. What each computes is specified by the function of the same name in
// whisper_npu/ops; README.md says how close it comes.
#pragma once

#include <stdint.h>

#pragma GCC visibility push(default)
extern "C" {

// Memory for the threads of a call: ``bytes`` for each of ``threads``, one behind the other from
// ``data``, which is a multiple of 64. Calls at the same time need one each.
struct Scratch {
  uint8_t *data;
  int64_t bytes;
  int64_t threads;
};

// x [count] -> out [count], which may be x.
struct Gelu {
  const float *x;
  float *out;
  int64_t count;
};

// x [count] + y [period], repeated -> out [count], which may be x.
struct Add {
  const float *x, *y;
  float *out;
  int64_t count, period;
};

// x [m, d], gain [d], bias [d] -> out [m, d].
struct LayerNorm {
  const float *x, *gain, *bias;
  float *out;
  int64_t m, d;
};

// q, k, v, out [b, t, n_head * d_head]; scores are multiplied by scale.
struct Attention {
  const float *q, *k, *v;
  float *out;
  int64_t b, t, n_head, d_head;
  float scale;
  const Scratch *scratch;
};

// q, k, v, out [b, t, n_head * d_head].
struct AttentionInt32 {
  const int32_t *q, *k, *v;
  int32_t *out;
  int64_t b, t, n_head, d_head;
  const Scratch *scratch;
};

// A cache has ``slots``. Each window has one of them: window i has slot[i]. A window has ``group``
// sequences, and its slot has room for ``members``. The first new token of its sequences is at
// position[i].

// q, out [b, n, n_head * d_head]; k, v [slots, members, n_head, t, d_head], of each sequence. Query
// i sees the first position + i + 1 keys. Without ``position`` the sequences of a window share one
// member, and queries see all keys.
struct OverCache {
  const float *q, *k, *v;
  float *out;
  const int64_t *position, *slot;
  int64_t b, n, group, t, n_head, d_head, slots, members;
  float scale;
  const Scratch *scratch;
};

// q, out [b, n, n_head * d_head]; k, v [slots, members, n_head, t, d_head], none of them -32768.
// Query i sees the first position + i + 1 keys.
struct CachedAttentionInt16 {
  const int32_t *q;
  const int16_t *k, *v;
  const int64_t *position, *slot;
  int32_t *out;
  int64_t b, n, group, t, n_head, d_head, slots, members;
  const Scratch *scratch;
};

// q, out [b, n, n_head * d_head]; k, v [slots, n_head, t, d_head]; k_scale, v_scale [slots,
// n_head, d_head], powers of two of at least 2^-12. Of one sequence (b = 1) the scores of those heads
// whose bits are set in ``heads`` are written to kept [such heads, n, t], unless that is null.
struct CrossAttentionInt32 {
  const int32_t *q;
  const int8_t *k, *v;
  const float *k_scale, *v_scale;
  const int64_t *slot;
  int32_t *out;
  float *kept;
  int64_t b, n, group, t, n_head, d_head, slots, heads;
  const Scratch *scratch;
};

// x [b, t, n_head * d_head] -> out [b, n_head, t, d_head].
struct SplitHeads {
  const float *x;
  float *out;
  int64_t b, t, n_head, d_head;
};

// x [b, n, n_head * d_head] -> cache [slots, members, n_head, t, d_head] from the position on.
struct StoreCache {
  const float *x;
  float *cache;
  const int64_t *position, *slot;
  int64_t b, n, group, t, n_head, d_head, slots, members;
};

// x [m, k] -> values [m, k], int8 or int16 by ``bits``, scale [m]; x has ``fraction`` fraction bits.
struct QuantizeInt32 {
  const int32_t *x;
  void *values;
  float *scale;
  int64_t bits, fraction, m, k;
};

// x [m, d] -> values [m, d], int8 or int16 by ``bits``, scale [m].
struct RmsNorm {
  const int32_t *x;
  void *values;
  float *scale;
  int64_t bits, m, d;
};

// x [m, k], int8 or int16 by ``bits``, x_scale [m], w [n, k], w_scale [n], bias [n] or null ->
// out [m, n].
struct ProductInt8 {
  const void *x;
  const float *x_scale;
  const int8_t *w;
  const float *w_scale;
  const int32_t *bias;
  int32_t *out;
  int64_t bits, m, k, n;
  const Scratch *scratch;
};

// x [count] -> out [count], which may be x.
struct GeluInt32 {
  const int32_t *x;
  int32_t *out;
  int64_t count;
};

// x [count] + y [period], repeated -> out [count], which may be x; *cut: 1 if a term or a sum is at
// the limit or beyond it, else 0.
struct AddInt32 {
  const int32_t *x, *y;
  int32_t *out, *cut;
  int64_t count, period;
};

// tokens [rows], n for each sequence, each below the length of the table; table [v, d], scale [v],
// positions [ctx, d] -> out [rows, d]. ``group`` sequences begin at the same position.
struct EmbedInt32 {
  const int64_t *tokens;
  const int8_t *table;
  const float *scale;
  const int32_t *positions;
  const int64_t *position;
  int32_t *out;
  int64_t rows, n, group, d, ctx;
};

// x [b, n, n_head * d_head] -> cache [slots, members, n_head, t, d_head] from the position on.
struct StoreInt16 {
  const int32_t *x;
  int16_t *cache;
  const int64_t *position, *slot;
  int64_t b, n, group, t, n_head, d_head, slots, members;
};

// x [b, t, n_head * d_head] -> values [b, n_head, t, d_head], scale [b, n_head, d_head].
struct QuantizeColumns {
  const int32_t *x;
  int8_t *values;
  float *scale;
  int64_t b, t, n_head, d_head;
};

// x [count] -> out [count].
struct LogitsFloat {
  const int32_t *x;
  float *out;
  int64_t count;
};

// x [b, t, c] -> out [b, t / step, 3 c]: three frames side by side, zeros before the first and
// behind the last. Of int32 as of floats.
struct Im2Col {
  const float *x;
  float *out;
  int64_t b, t, c, step;
};

// x [m, n] -> the tokens [m, k] of the largest of each row, the first of equal ones before the
// others, and their logprobs [m, k], which are NaN in a row that has one.
struct TopLogprobs {
  const float *x;
  int64_t *tokens;
  float *logprobs;
  int64_t m, n, k;
  const Scratch *scratch;
};

// samples [160 (t - 1) + 400] -> log10 of the mel spectrum, out [n_mels, t], by the tables of
// mel_tables in whisper_npu/ops/mel_tables.py, and no others: their symmetries are relied on.
struct LogMelInt16 {
  const float *samples;
  const int32_t *window, *short_waves, *long_waves, *filters, *shifts, *logarithms;
  int16_t *out;
  int64_t t, n_mels;
};

// A kernel with what it is to be called with.
struct Call {
  int32_t (*kernel)(const void *args);
  const void *args;
};

// Calls one after the other, from ``first`` on; gives the number of the first that could not be
// computed, ``count`` if there was none.
int64_t cpu_run(const Call *calls, int64_t first, int64_t count);

int32_t cpu_store_cache(const StoreCache *args);
int32_t cpu_split_heads(const SplitHeads *args);
int32_t cpu_quantize_int32(const QuantizeInt32 *args);
int32_t cpu_rms_norm(const RmsNorm *args);
int32_t cpu_product_int8(const ProductInt8 *args);
int32_t cpu_gelu_int32(const GeluInt32 *args);
int32_t cpu_add_int32(const AddInt32 *args);
int32_t cpu_embed_int32(const EmbedInt32 *args);
int32_t cpu_store_int16(const StoreInt16 *args);
int32_t cpu_quantize_columns(const QuantizeColumns *args);
int32_t cpu_logits_float(const LogitsFloat *args);
int32_t cpu_im2col(const Im2Col *args);
int32_t cpu_gelu(const Gelu *args);
int32_t cpu_add(const Add *args);
int32_t cpu_layer_norm(const LayerNorm *args);
int32_t cpu_attention(const Attention *args);
int32_t cpu_attention_int32(const AttentionInt32 *args);
int32_t cpu_attention_int8(const AttentionInt32 *args);
int32_t cpu_cached_attention(const OverCache *args);
int32_t cpu_cross_attention(const OverCache *args);
int32_t cpu_cached_attention_int16(const CachedAttentionInt16 *args);
int32_t cpu_cross_attention_int32(const CrossAttentionInt32 *args);
int32_t cpu_top_logprobs(const TopLogprobs *args);
int32_t cpu_top_logprobs_int32(const TopLogprobs *args);
int32_t cpu_log_mel_int16(const LogMelInt16 *args);

// Bytes of scratch for each thread: of a product over k, and of the attentions, the pointers of
// which do not matter here.
int64_t cpu_product_int8_scratch(int64_t k);
int64_t cpu_attention_scratch(const Attention *args, int64_t threads);
int64_t cpu_attention_int32_scratch(const AttentionInt32 *args, int64_t threads);
int64_t cpu_attention_int8_scratch(const AttentionInt32 *args, int64_t threads);
int64_t cpu_over_cache_scratch(const OverCache *args);
int64_t cpu_cached_attention_int16_scratch(const CachedAttentionInt16 *args);
int64_t cpu_cross_attention_int32_scratch(const CrossAttentionInt32 *args);
// And of all threads together.
int64_t cpu_top_logprobs_scratch(const TopLogprobs *args);
int64_t cpu_top_logprobs_int32_scratch(const TopLogprobs *args);

// The instruction sets that there are here, ';' between them, the best one last; it is in use until
// ``choose`` is given another: 0 if it took it. Not to be called while a kernel runs.
const char *cpu_isas();
const char *cpu_isa();
int32_t cpu_choose_isa(const char *name);
// The processor's own name for itself.
const char *cpu_name();

// Threads that kernels use, the caller's included.
void cpu_set_threads(int32_t threads);
int32_t cpu_threads();
// Whether they stay awake between the steps of a decoder, for a fraction of a millisecond. To be
// asked for where nothing but kernels uses the processor.
void cpu_stay_awake(int32_t longer);
}
#pragma GCC visibility pop
