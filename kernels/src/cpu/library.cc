// The C functions of api.h: which instruction set, and how a call is shared by the threads.
#include <stddef.h>
#include <string.h>

#include <initializer_list>

#include "isa.h"
#include "pool.h"
#include "variant.h"

namespace {

struct Variant {
  const char *name;
  bool (*is_there)();
  const FixedKernels *fixed;
  const FloatKernels *floats;
  const IntegerAttention *attention;
  const MelKernels *mel;
};

const Variant kVariants[] = {
#define ROW(name, floats, options) \
  {#name, has_##name, &fixed_##name, &floats_##floats, &integer_attention_##floats, &mel_##floats},
    ISAS(ROW)
#undef ROW
};

struct State {
  const Variant *chosen = kVariants;
  char names[256] = "";
  char cpu[64] = "";

  State() {
    find_cpu_name(cpu, sizeof cpu);
    for (const Variant &variant : kVariants)
      if (variant.is_there()) chosen = &variant;
  }
};

State &state() {
  static State only;
  return only;
}

const FixedKernels &fixed() { return *state().chosen->fixed; }
const FloatKernels &floats() { return *state().chosen->floats; }
const IntegerAttention &attention() { return *state().chosen->attention; }

// Work below this is done by the caller alone: to share it costs a microsecond or two.
constexpr int64_t kSharedProducts = 1 << 16;
constexpr int64_t kSharedNumbers = 1 << 13;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The part of [0, n) that item i of ``items`` has; a multiple of ``unit`` but at the end.
struct Part {
  int64_t first, last;
  Part(int64_t n, int64_t items, int64_t unit, int64_t i) {
    const int64_t units = ceil_div(n, unit);
    first = units * i / items * unit;
    last = units * (i + 1) / items * unit;
    if (last > n) last = n;
  }
};

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Bytes of packed weights that may lie in a second-level cache.
constexpr int64_t kPackedBytes = 256 * 1024;
// Items for each thread, so that one that is held up leaves its share to others.
constexpr int64_t kItemsPerThread = 4;

// Bytes of weights for an item of few rows, so that all threads read what lies close together.
constexpr int64_t kItemBytes = 1 << 18;

// function(first, last, scratch) for parts of the columns of a product of few rows.
template <typename Function>
void share_columns(int64_t m, int64_t k, int64_t n, const Scratch &scratch,
                   const Function &function) {
  constexpr int64_t kUnit = 16;
  const int threads = static_cast<int>(least(get_threads(), scratch.threads));
  const bool shared = m * n * k >= kSharedProducts;
  const int64_t enough = threads == 1 ? 1 : most(threads * kItemsPerThread, n * k / kItemBytes);
  const int64_t items = shared ? least(ceil_div(n, kUnit), enough) : 1;
  parallel(items, threads, [&](int64_t item, int thread) {
    const Part part(n, items, kUnit, item);
    function(part.first, part.last, scratch.data + thread * scratch.bytes);
  });
}

// function(first, last, first_row, last_row, scratch) for parts of a product of many rows: whole
// panels of columns, and at most kMostRows rows.
template <typename Function>
void share_panels(int64_t m, int64_t k, int64_t n, const Scratch &scratch,
                  const Function &function) {
  const int threads = static_cast<int>(least(get_threads(), scratch.threads));
  const int64_t panels = ceil_div(n, kPanel);
  // As many panels to an item as there is room for, and no more than leave one for every thread.
  const int64_t fitting = most(1, kPackedBytes / (kPanel * k));
  const int64_t columns = ceil_div(panels, least(fitting, ceil_div(panels, threads)));
  // Columns alone may not make enough items: then rows are cut too, though not so short that
  // packing the weights again would show.
  const int64_t enough = threads == 1 ? 1 : threads * kItemsPerThread;
  // Parts are of whole units, so that one may be larger than its share.
  constexpr int64_t kUnit = 12;
  const int64_t rows =
      most(ceil_div(m, kMostRows - 2 * kUnit), least(ceil_div(enough, columns), m / 256));
  parallel(columns * rows, threads, [&](int64_t item, int thread) {
    const Part column(n, columns, kPanel, item % columns);
    const Part row(m, rows, kUnit, item / columns);
    function(column.first, column.last, row.first, row.last,
             scratch.data + thread * scratch.bytes);
  });
}

// Whether there is scratch of so many bytes for every thread.
bool has_scratch(const Scratch *scratch, int64_t bytes) {
  return scratch != nullptr && scratch->threads >= 1 && scratch->bytes >= bytes;
}

bool is_row_type(int64_t bits) { return bits == 8 || bits == 16; }

// function(first, last) for parts of [0, n) that are shared if there are enough numbers in all.
template <typename Function>
void share(int64_t n, int64_t unit, int64_t numbers, const Function &function) {
  const int threads = get_threads();
  const int64_t items = numbers >= kSharedNumbers && threads > 1
                            ? least(ceil_div(n, unit), threads * kItemsPerThread)
                            : 1;
  parallel(items, threads, [&](int64_t item, int) {
    const Part part(n, items, unit, item);
    function(part.first, part.last);
  });
}

template <typename Args, typename Word>
int32_t attend(const Args &a, const WindowKernels<Args, Word> *kernels) {
  if (kernels == nullptr) return 4;
  const int64_t shared = ceil_div(kernels->shared(a), 64) * 64;
  const int64_t own = ceil_div(kernels->scratch(a), 64) * 64;
  if (a.scratch == nullptr || a.scratch->bytes * a.scratch->threads < shared + own) return 2;
  const int64_t room = (a.scratch->bytes * a.scratch->threads - shared) / own;
  const int threads = static_cast<int>(least(get_threads(), room));
  const int64_t heads = a.b * a.n_head, blocks = kernels->blocks(a);
  Word *packed = reinterpret_cast<Word *>(a.scratch->data);
  parallel(heads, threads, [&](int64_t head, int) { kernels->pack(a, head, packed); });
  parallel(heads * blocks, threads, [&](int64_t item, int thread) {
    kernels->block(a, item / blocks, item % blocks, packed,
                   reinterpret_cast<Word *>(a.scratch->data + shared + thread * own));
  });
  return 0;
}

// Bytes for each of ``threads`` with which attend() can compute.
template <typename Args, typename Word>
int64_t window_scratch(const Args &a, int64_t threads, const WindowKernels<Args, Word> &kernels) {
  const int64_t shared = ceil_div(kernels.shared(a), 64) * 64;
  const int64_t own = ceil_div(kernels.scratch(a), 64) * 64;
  return ceil_div(ceil_div(shared, threads) + own, 64) * 64;
}

// The windows of a call, and where each of them lies. Sequences are numbered window by window.
class Windows {
 public:
  template <typename Args>
  Windows(const Args &a, const int64_t *position)
      : slot_(a.slot), position_(position), count_(a.b / a.group), group_(a.group) {}

  // Whether all of them lie in ``slots`` slots, and n tokens from their positions on within t.
  bool lie_within(int64_t slots, int64_t n, int64_t t) const {
    for (int64_t i = 0; i < count_; ++i) {
      if (slot_[i] < 0 || slot_[i] >= slots) return false;
      if (position_ != nullptr && (position_[i] < 0 || position_[i] > t - n)) return false;
    }
    return true;
  }

  int64_t slot(int64_t window) const { return slot_[window]; }
  int64_t position(int64_t sequence) const { return position_[sequence / group_]; }

  // Which of the caches of all slots, ``members`` each, a sequence has.
  int64_t cache(int64_t sequence, int64_t members) const {
    return slot_[sequence / group_] * members + sequence % group_;
  }

  // Keys that the last of n queries of each window sees, added up.
  int64_t keys(int64_t n) const {
    int64_t sum = 0;
    for (int64_t i = 0; i < count_; ++i) sum += position_[i] + n;
    return sum;
  }

 private:
  const int64_t *slot_, *position_;
  int64_t count_, group_;
};

int32_t attend_over_cache(const OverCache &a) {
  const int64_t need = floats().over_cache_scratch(a);
  if (a.scratch == nullptr || a.scratch->threads < 1 || a.scratch->bytes < need) return 2;
  const bool causal = a.position != nullptr;
  const Windows windows(a, a.position);
  if (!windows.lie_within(a.slots, a.n, a.t) || (causal && a.members < a.group)) return 3;
  const int64_t width = a.n_head * a.d_head;
  const int64_t keys = causal ? windows.keys(a.n) * a.group : a.b * a.t;
  const bool shared = a.n * width * keys >= kSharedProducts;
  const int threads = shared ? static_cast<int>(least(get_threads(), a.scratch->threads)) : 1;
  // Over one cache go the queries of all sequences that share it; but where each has its own keys,
  // one by one.
  const int64_t group = causal ? 1 : a.group, queries = group * a.n;
  const int64_t together = causal ? 1 : least(queries, floats().queries_together());
  const int64_t parts = causal ? 1 : ceil_div(queries, together);
  parallel(a.b / group * a.n_head * parts, threads, [&](int64_t item, int thread) {
    const int64_t part = item % parts, head = item / parts % a.n_head;
    const int64_t owner = item / parts / a.n_head;
    const int64_t cache = causal ? windows.cache(owner, a.members) : windows.slot(owner);
    const int64_t from = (cache * a.n_head + head) * a.t * a.d_head;
    float *scratch = reinterpret_cast<float *>(a.scratch->data + thread * a.scratch->bytes);
    const int64_t first = part * together,
                  last = causal ? queries : least(first + together, queries);
    for (int64_t i = first; i < last; i += together)
      floats().over_cache_rows(a, (owner * queries + i) * width + head * a.d_head,
                               least(together, last - i),
                               causal ? windows.position(owner) + i + 1 : a.t, from, scratch);
  });
  return 0;
}

}  // namespace

extern "C" {

int64_t cpu_run(const Call *calls, int64_t first, int64_t count) {
  int64_t i = first;
  while (i < count && calls[i].kernel(calls[i].args) == 0) ++i;
  return i;
}

int32_t cpu_quantize_int32(const QuantizeInt32 *args) {
  const QuantizeInt32 &a = *args;
  if (!is_row_type(a.bits)) return 1;
  share(a.m, 1, a.m * a.k,
        [&](int64_t first, int64_t last) { fixed().quantize_rows(a, first, last); });
  return 0;
}

int32_t cpu_rms_norm(const RmsNorm *args) {
  const RmsNorm &a = *args;
  if (!is_row_type(a.bits)) return 1;
  share(a.m, 1, a.m * a.d,
        [&](int64_t first, int64_t last) { fixed().rms_norm_rows(a, first, last); });
  return 0;
}

int32_t cpu_product_int8(const ProductInt8 *args) {
  const ProductInt8 &a = *args;
  // A sum of more products than these could leave int32.
  if (!is_row_type(a.bits) || a.k < 1 || a.k > 65536) return 1;
  const ProductKernels &kernels = a.bits == 8 ? fixed().products8 : fixed().products16;
  if (!has_scratch(a.scratch, kernels.scratch == nullptr ? 0 : kernels.scratch(a.k))) return 2;
  if (a.m <= kSkinny || kernels.panels == nullptr)
    share_columns(a.m, a.k, a.n, *a.scratch, [&](auto... part) { kernels.columns(a, part...); });
  else
    share_panels(a.m, a.k, a.n, *a.scratch, [&](auto... part) { kernels.panels(a, part...); });
  return 0;
}

int32_t cpu_gelu_int32(const GeluInt32 *args) {
  const GeluInt32 &a = *args;
  share(a.count, 64, a.count,
        [&](int64_t first, int64_t last) { fixed().gelu_elements(a, first, last); });
  return 0;
}

int32_t cpu_add_int32(const AddInt32 *args) {
  const AddInt32 &a = *args;
  *a.cut = 0;
  share(a.count, 64, a.count,
        [&](int64_t first, int64_t last) { fixed().add_elements(a, first, last); });
  return 0;
}

int32_t cpu_embed_int32(const EmbedInt32 *args) {
  const EmbedInt32 &a = *args;
  for (int64_t i = 0; i < a.rows / (a.n * a.group); ++i)
    if (a.position[i] < 0 || a.position[i] > a.ctx - a.n) return 3;
  share(a.rows, 1, a.rows * a.d,
        [&](int64_t first, int64_t last) { fixed().embed_rows(a, first, last); });
  return 0;
}

int32_t cpu_store_int16(const StoreInt16 *args) {
  const StoreInt16 &a = *args;
  if (!Windows(a, a.position).lie_within(a.slots, a.n, a.t) || a.members < a.group) return 3;
  share(a.b * a.n, 1, a.b * a.n * a.n_head * a.d_head,
        [&](int64_t first, int64_t last) { fixed().store_rows(a, first, last); });
  return 0;
}

int32_t cpu_quantize_columns(const QuantizeColumns *args) {
  const QuantizeColumns &a = *args;
  share(a.b * a.n_head, 1, a.b * a.t * a.n_head * a.d_head,
        [&](int64_t first, int64_t last) { fixed().quantize_columns_heads(a, first, last); });
  return 0;
}

int32_t cpu_logits_float(const LogitsFloat *args) {
  const LogitsFloat &a = *args;
  share(a.count, 64, a.count,
        [&](int64_t first, int64_t last) { fixed().logits_elements(a, first, last); });
  return 0;
}

int32_t cpu_store_cache(const StoreCache *args) {
  const StoreCache &a = *args;
  const Windows windows(a, a.position);
  if (!windows.lie_within(a.slots, a.n, a.t) || a.members < a.group) return 3;
  for (int64_t i = 0; i < a.b * a.n; ++i) {
    const int64_t cache = windows.cache(i / a.n, a.members);
    const int64_t place = windows.position(i / a.n) + i % a.n;
    for (int64_t head = 0; head < a.n_head; ++head)
      memcpy(a.cache + ((cache * a.n_head + head) * a.t + place) * a.d_head,
             a.x + (i * a.n_head + head) * a.d_head, static_cast<size_t>(a.d_head) * sizeof(float));
  }
  return 0;
}

int32_t cpu_split_heads(const SplitHeads *args) {
  const SplitHeads &a = *args;
  share(a.b * a.t, 1, a.b * a.t * a.n_head * a.d_head, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      for (int64_t head = 0; head < a.n_head; ++head)
        memcpy(a.out + ((i / a.t * a.n_head + head) * a.t + i % a.t) * a.d_head,
               a.x + (i * a.n_head + head) * a.d_head,
               static_cast<size_t>(a.d_head) * sizeof(float));
  });
  return 0;
}

int32_t cpu_im2col(const Im2Col *args) {
  const Im2Col &a = *args;
  const int64_t steps = a.t / a.step;
  share(a.b * steps, 1, a.b * steps * 3 * a.c, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      // The frame of the first tap.
      const int64_t frame = i % steps * a.step - 1;
      const float *x = a.x + (i / steps * a.t + frame) * a.c;
      float *out = a.out + i * 3 * a.c;
      const int64_t before = frame < 0 ? a.c : 0;
      const int64_t behind = frame + 3 > a.t ? a.c : 0;
      memset(out, 0, static_cast<size_t>(before) * sizeof(float));
      memcpy(out + before, x + before,
             static_cast<size_t>(3 * a.c - before - behind) * sizeof(float));
      memset(out + 3 * a.c - behind, 0, static_cast<size_t>(behind) * sizeof(float));
    }
  });
  return 0;
}

int32_t cpu_gelu(const Gelu *args) {
  const Gelu &a = *args;
  share(a.count, 64, a.count,
        [&](int64_t first, int64_t last) { floats().gelu_elements(a, first, last); });
  return 0;
}

int32_t cpu_add(const Add *args) {
  const Add &a = *args;
  share(a.count, 64, a.count,
        [&](int64_t first, int64_t last) { floats().add_elements(a, first, last); });
  return 0;
}

int32_t cpu_layer_norm(const LayerNorm *args) {
  const LayerNorm &a = *args;
  share(a.m, 1, a.m * a.d,
        [&](int64_t first, int64_t last) { floats().layer_norm_rows(a, first, last); });
  return 0;
}

int32_t cpu_attention(const Attention *args) { return attend(*args, floats().attention); }

int32_t cpu_attention_int32(const AttentionInt32 *args) {
  if (args->t > kMostKeys) return 1;
  return attend(*args, attention().window);
}

int32_t cpu_attention_int8(const AttentionInt32 *args) {
  if (args->t > kMostKeysInt8 || args->d_head > kMostColumns) return 1;
  return attend(*args, attention().window_int8);
}

int32_t cpu_cached_attention(const OverCache *args) { return attend_over_cache(*args); }

int32_t cpu_cross_attention(const OverCache *args) { return attend_over_cache(*args); }

int32_t cpu_cached_attention_int16(const CachedAttentionInt16 *args) {
  const CachedAttentionInt16 &a = *args;
  const int64_t width = a.n_head * a.d_head;
  if (a.d_head > kMostColumns || a.t > kMostKeys) return 1;
  if (a.scratch == nullptr || a.scratch->threads < 1 ||
      a.scratch->bytes < attention().cached_scratch(a))
    return 2;
  const Windows windows(a, a.position);
  if (!windows.lie_within(a.slots, a.n, a.t) || a.members < a.group) return 3;
  const bool shared = a.n * width * windows.keys(a.n) * a.group >= kSharedProducts;
  const int threads = shared ? static_cast<int>(least(get_threads(), a.scratch->threads)) : 1;
  parallel(a.b * a.n_head, threads, [&](int64_t item, int thread) {
    const int64_t sequence = item / a.n_head, head = item % a.n_head;
    const int64_t cache = windows.cache(sequence, a.members);
    const int64_t from = (cache * a.n_head + head) * a.t * a.d_head;
    const int64_t together = attention().queries_together();
    for (int64_t i = 0; i < a.n; i += together)
      attention().cached_rows(a, (sequence * a.n + i) * width + head * a.d_head,
                              least(together, a.n - i), windows.position(sequence) + i + 1, from,
                              a.scratch->data + thread * a.scratch->bytes);
  });
  return 0;
}

int32_t cpu_cross_attention_int32(const CrossAttentionInt32 *args) {
  const CrossAttentionInt32 &a = *args;
  const int64_t width = a.n_head * a.d_head;
  if (a.d_head > kMostColumns || a.t > kMostKeys) return 1;
  if (a.kept != nullptr && (a.b != 1 || a.n_head > 63)) return 1;
  if (a.scratch == nullptr || a.scratch->threads < 1 ||
      a.scratch->bytes < attention().cross_scratch(a))
    return 2;
  const Windows windows(a, nullptr);
  if (!windows.lie_within(a.slots, a.n, a.t)) return 3;
  const bool shared = a.b * a.n * width * a.t >= kSharedProducts;
  const int threads = shared ? static_cast<int>(least(get_threads(), a.scratch->threads)) : 1;
  // The queries of all sequences that share keys and values go over them together.
  const int64_t queries = a.group * a.n, together = least(queries, attention().queries_together());
  const int64_t parts = ceil_div(queries, together);
  parallel(a.b / a.group * a.n_head * parts, threads, [&](int64_t item, int thread) {
    const int64_t head = item / parts, first = item % parts * together;
    const int64_t window = head / a.n_head, row = window * queries + first;
    attention().cross_rows(a, row * width + head % a.n_head * a.d_head,
                           least(together, queries - first),
                           windows.slot(window) * a.n_head + head % a.n_head,
                           a.scratch->data + thread * a.scratch->bytes);
  });
  return 0;
}

int32_t cpu_top_logprobs(const TopLogprobs *args) {
  const TopLogprobs &a = *args;
  if (a.k < 1 || a.k > a.n) return 1;
  if (a.scratch == nullptr || a.scratch->bytes * a.scratch->threads < cpu_top_logprobs_scratch(args))
    return 2;
  share(a.m * pieces_of(a), 1, a.m * a.n,
        [&](int64_t first, int64_t last) { floats().sum_pieces(a, first, last); });
  share(a.m, 1, a.m * a.n,
        [&](int64_t first, int64_t last) { floats().choose_tokens(a, first, last); });
  return 0;
}

int32_t cpu_log_mel_int16(const LogMelInt16 *args) {
  const LogMelInt16 &a = *args;
  // Frames side by side in the widest vectors.
  constexpr int64_t kUnit = 8;
  share(a.t, kUnit, a.t * a.n_mels,
        [&](int64_t first, int64_t last) { state().chosen->mel->frames(a, first, last); });
  return 0;
}

int32_t cpu_top_logprobs_int32(const TopLogprobs *args) {
  const TopLogprobs &a = *args;
  if (a.k < 1 || a.k > a.n) return 1;
  if (a.scratch == nullptr ||
      a.scratch->bytes * a.scratch->threads < cpu_top_logprobs_int32_scratch(args))
    return 2;
  share(a.m * pieces_of(a), 1, a.m * a.n,
        [&](int64_t first, int64_t last) { floats().find_tops(a, first, last); });
  share(a.m * pieces_of(a), 1, a.m * a.n,
        [&](int64_t first, int64_t last) { floats().weigh_pieces(a, first, last); });
  share(a.m, 1, a.m * a.n,
        [&](int64_t first, int64_t last) { floats().choose_tokens_int32(a, first, last); });
  return 0;
}

int64_t cpu_attention_scratch(const Attention *args, int64_t threads) {
  int64_t bytes = 64;
  for (const Variant &variant : kVariants)
    bytes = most(bytes, window_scratch(*args, threads, *variant.floats->attention));
  return bytes;
}

int64_t cpu_attention_int32_scratch(const AttentionInt32 *args, int64_t threads) {
  int64_t bytes = 64;
  for (const Variant &variant : kVariants)
    bytes = most(bytes, window_scratch(*args, threads, *variant.attention->window));
  return bytes;
}

int64_t cpu_attention_int8_scratch(const AttentionInt32 *args, int64_t threads) {
  int64_t bytes = 64;
  for (const Variant &variant : kVariants)
    bytes = most(bytes, window_scratch(*args, threads, *variant.attention->window_int8));
  return bytes;
}

int64_t cpu_over_cache_scratch(const OverCache *args) {
  int64_t bytes = 64;
  for (const Variant &variant : kVariants)
    bytes = most(bytes, ceil_div(variant.floats->over_cache_scratch(*args), 64) * 64);
  return bytes;
}

int64_t cpu_cached_attention_int16_scratch(const CachedAttentionInt16 *args) {
  int64_t bytes = 64;
  for (const Variant &variant : kVariants)
    bytes = most(bytes, ceil_div(variant.attention->cached_scratch(*args), 64) * 64);
  return bytes;
}

int64_t cpu_cross_attention_int32_scratch(const CrossAttentionInt32 *args) {
  int64_t bytes = 64;
  for (const Variant &variant : kVariants)
    bytes = most(bytes, ceil_div(variant.attention->cross_scratch(*args), 64) * 64);
  return bytes;
}

int64_t cpu_top_logprobs_scratch(const TopLogprobs *args) {
  return args->m * pieces_of(*args) * 2 * static_cast<int64_t>(sizeof(float));
}

int64_t cpu_top_logprobs_int32_scratch(const TopLogprobs *args) {
  return args->m * pieces_of(*args) * static_cast<int64_t>(sizeof(uint64_t) + sizeof(float));
}

int64_t cpu_product_int8_scratch(int64_t k) {
  int64_t bytes = 64;
  for (const Variant &variant : kVariants)
    for (const ProductKernels *kernels : {&variant.fixed->products8, &variant.fixed->products16})
      if (kernels->scratch != nullptr) bytes = most(bytes, kernels->scratch(k));
  return ceil_div(bytes, 64) * 64;
}

const char *cpu_isas() {
  State &s = state();
  s.names[0] = '\0';
  for (const Variant &variant : kVariants) {
    if (!variant.is_there()) continue;
    if (s.names[0] != '\0') strcat(s.names, ";");
    strcat(s.names, variant.name);
  }
  return s.names;
}

const char *cpu_isa() { return state().chosen->name; }

int32_t cpu_choose_isa(const char *name) {
  for (const Variant &variant : kVariants)
    if (strcmp(variant.name, name) == 0) {
      if (!variant.is_there()) return 2;
      state().chosen = &variant;
      return 0;
    }
  return 1;
}

const char *cpu_name() { return state().cpu; }

void cpu_set_threads(int32_t threads) { set_threads(threads); }

int32_t cpu_threads() { return get_threads(); }

void cpu_stay_awake(int32_t longer) { stay_awake(longer != 0); }
}
