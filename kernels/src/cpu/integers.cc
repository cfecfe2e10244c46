// Quantisation of rows, and products of integers with their scaling, for one instruction set. All
// of it is exact or rounds as whisper_npu/ops/quant.py does: no fused multiply-add
// (-ffp-contract=off).
#include <string.h>

#include "integer_vectors.h"
#include "variant.h"

namespace {

inline void quantize_row(const float *x, int64_t k, int8_t *values, float *scale) {
  const float largest = largest_magnitude(x, k);
  *scale = largest / 127.0f;
  // Rows of zeros get zeros, and so do those with a NaN (which compares false) or an infinity.
  const float inverse = largest >= 1e-30f ? 127.0f / largest : 0.0f;
  if (inverse > 0.0f)
    round_to_int8(x, inverse, values, k);
  else
    memset(values, 0, static_cast<size_t>(k));
}

void quantize_rows(const QuantizeRows &a, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i)
    quantize_row(a.x + i * a.k, a.k, a.values + i * a.k, a.scale + i);
}

void quantize_positions(const QuantizeHeads &a, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i)
    for (int64_t head = 0; head < a.n_head; ++head) {
      const int64_t to = (i / a.t * a.n_head + head) * a.t + i % a.t;
      quantize_row(a.x + (i * a.n_head + head) * a.d_head, a.d_head, a.values + to * a.d_head,
                   a.scale + to);
    }
}

void embed_rows(const EmbedInt8 &a, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    const int64_t token = a.tokens[i];
    const int8_t *values = a.table + token * a.d;
    const float *place = a.positions + (*a.position + i % a.n) * a.d;
    const float scale = a.scale[token];
    float *out = a.out + i * a.d;
    for (int64_t j = 0; j < a.d; ++j) {
      const float value = static_cast<float>(values[j]) * scale;
      out[j] = value + place[j];
    }
  }
}

#if HAS_VECTORS

// Rows of w that make a block of outputs.
constexpr int kColumns = 4;
// Columns after which the next rows of x are taken: w is still in the first-level cache then.
constexpr int64_t kColumnGroup = 64;

// The first ``count`` floats of a block.
inline FourFloats load_four(const float *p, int count) {
  FourFloats x = {};
  // Where the number is a constant it is a single load.
  if (count == kColumns)
    memcpy(&x, p, sizeof x);
  else
    memcpy(&x, p, static_cast<size_t>(count) * sizeof(float));
  return x;
}

// All of k for M rows and kColumns columns; of the columns that are not there (beyond ``columns``)
// the first is read instead. ``offsets`` are what sums are too large by.
template <int M>
inline void dot_block(const LinearInt8 &a, int64_t row, int64_t column, int columns,
                      const int32_t *offsets) {
  const int8_t *x = a.x + row * a.k;
  Dot::Sum sums[M][kColumns];
  // One row of w after the other: memory is twice as fast where it is read from front to back as
  // where it is read from several places by turns.
  UNROLL
  for (int j = 0; j < kColumns; ++j) {
    const int8_t *w = a.w + (column + (j < columns ? j : 0)) * a.k;
    Dot::Sum part[M];
    UNROLL
    for (int i = 0; i < M; ++i) part[i] = Dot::zero();
    const auto multiply = [&](const auto &load_x, const auto &load_w, int64_t at) {
      const Dot::Weights w_part = load_w(w + at);
      UNROLL
      for (int i = 0; i < M; ++i) part[i] = Dot::add(part[i], w_part, load_x(x + i * a.k + at));
    };
    int64_t at = 0;
    for (; at + Dot::kStep <= a.k; at += Dot::kStep) multiply(Dot::load_x, Dot::load_w, at);
    if (at < a.k) {
      const int64_t rest = a.k - at;
      multiply([rest](const int8_t *p) { return Dot::load_x_part(p, rest); },
               [rest](const int8_t *p) { return Dot::load_w_part(p, rest); }, at);
    }
    UNROLL
    for (int i = 0; i < M; ++i) sums[i][j] = part[i];
  }
  const FourFloats w_scale = load_four(a.w_scale + column, columns);
  UNROLL
  for (int i = 0; i < M; ++i) {
    FourFloats y = __builtin_convertvector(Dot::reduce(sums[i]) - offsets[i], FourFloats);
    y *= a.x_scale[row + i];
    y *= w_scale;
    if (a.bias != nullptr) y += load_four(a.bias + column, columns);
    float *out = a.out + (row + i) * a.n + column;
    if (columns == kColumns)
      memcpy(out, &y, sizeof y);
    else
      memcpy(out, &y, static_cast<size_t>(columns) * sizeof(float));
  }
}

template <int M>
inline void dot_rows(const LinearInt8 &a, int64_t row, int64_t first, int64_t last) {
  int32_t offsets[M] = {};
  if (Dot::kOffset != 0)
    for (int i = 0; i < M; ++i) offsets[i] = Dot::kOffset * sum_of(a.x + (row + i) * a.k, a.k);
  int64_t column = first;
  for (; column + kColumns <= last; column += kColumns)
    dot_block<M>(a, row, column, kColumns, offsets);
  if (column < last) dot_block<M>(a, row, column, static_cast<int>(last - column), offsets);
}

void linear_columns(const LinearInt8 &a, int64_t first, int64_t last) {
  for (int64_t column = first; column < last; column += kColumnGroup) {
    const int64_t end = last - column < kColumnGroup ? last : column + kColumnGroup;
    int64_t row = 0;
    for (; row + kDotRows <= a.m; row += kDotRows) dot_rows<kDotRows>(a, row, column, end);
    switch (a.m - row) {
      case 5: dot_rows<(kDotRows > 5 ? 5 : 1)>(a, row, column, end); break;
      case 4: dot_rows<(kDotRows > 4 ? 4 : 1)>(a, row, column, end); break;
      case 3: dot_rows<(kDotRows > 3 ? 3 : 1)>(a, row, column, end); break;
      case 2: dot_rows<(kDotRows > 2 ? 2 : 1)>(a, row, column, end); break;
      case 1: dot_rows<1>(a, row, column, end); break;
      default: break;
    }
  }
}

// ``width`` columns from ``column`` on as [groups, width] lanes; zeros where there are none, from
// ``last`` on and beyond k.
template <typename Group>
void pack_columns(const LinearInt8 &a, int64_t column, int64_t last, int64_t width, int64_t groups,
                  int32_t *packed) {
  const int64_t whole = a.k / Group::kGroup, rest = a.k % Group::kGroup;
  for (int64_t j = 0; j < width; ++j) {
    int64_t g = 0;
    if (column + j < last) {
      const int8_t *w = a.w + (column + j) * a.k;
      for (; g < whole; ++g)
        packed[g * width + j] = Group::pack(w + g * Group::kGroup, Group::kGroup);
      if (rest > 0) packed[g++ * width + j] = Group::pack(w + whole * Group::kGroup, rest);
    }
    for (; g < groups; ++g) packed[g * width + j] = Group::pack(nullptr, 0);
  }
}

// A lane of 32 bits holds the integers of one column for Panel::kGroup consecutive k: that is what
// an instruction multiplies and adds up.
constexpr int64_t kGroup = Panel::kGroup;
constexpr int kLanes = Panel::kLanes;
constexpr int kPanelVectors = Panel::kVectors;
constexpr int kBlock = Panel::kVectors * kLanes;
constexpr int kPanelRows = Panel::kRows;
static_assert(kPanel % kBlock == 0);

inline int64_t groups_of(int64_t k) { return (k + kGroup - 1) / kGroup; }

int64_t linear_scratch(int64_t k) {
  // A panel, a block of rows in the form that is multiplied, each row with room to be read in whole
  // vectors, and what the sums of each row are too large by.
  const int64_t groups = groups_of(k);
  return 4 * (kPanel * groups + kPanelRows * (groups + 16) + kMostRows);
}

template <int M>
inline void panel_block(const LinearInt8 &a, int64_t row, int64_t column, int64_t last,
                        const int32_t *packed, const int32_t *x, int64_t stride,
                        const int32_t *offsets) {
  typename Panel::Vector sums[M][kPanelVectors];
  UNROLL
  for (int i = 0; i < M; ++i) {
    UNROLL
    for (int v = 0; v < kPanelVectors; ++v) sums[i][v] = Panel::broadcast(offsets[i]);
  }
  const int64_t groups = groups_of(a.k);
  for (int64_t g = 0; g < groups; ++g) {
    typename Panel::Vector w[kPanelVectors];
    UNROLL
    for (int v = 0; v < kPanelVectors; ++v) w[v] = Panel::load(packed + g * kBlock + v * kLanes);
    UNROLL
    for (int i = 0; i < M; ++i) {
      int32_t lane;
      memcpy(&lane, reinterpret_cast<const char *>(x) + i * stride + g * sizeof lane, sizeof lane);
      const typename Panel::Vector group = Panel::broadcast(lane);
      UNROLL
      for (int v = 0; v < kPanelVectors; ++v) sums[i][v] = Panel::add(sums[i][v], w[v], group);
    }
  }
  UNROLL
  for (int i = 0; i < M; ++i) {
    UNROLL
    for (int v = 0; v < kPanelVectors; ++v) {
      const int64_t n = column + v * kLanes;
      if (n < last)
        Panel::store_scaled(sums[i][v], a.x_scale[row + i], a.w_scale + n,
                            a.bias == nullptr ? nullptr : a.bias + n, a.out + (row + i) * a.n + n,
                            last - n);
    }
  }
}

// Rows as lanes: as they lie where that is possible, else in ``room``. Gives the bytes from one to
// the next.
const int32_t *lanes_of(const LinearInt8 &a, int64_t row, int64_t rows, int32_t *room,
                        int64_t *stride) {
  const int8_t *x = a.x + row * a.k;
  if (Panel::kAsTheyLie && a.k % kGroup == 0) {
    *stride = a.k;
    return reinterpret_cast<const int32_t *>(x);
  }
  const int64_t lanes = groups_of(a.k) + 16;
  for (int64_t i = 0; i < rows; ++i) Panel::unpack_row(x + i * a.k, a.k, room + i * lanes);
  *stride = lanes * static_cast<int64_t>(sizeof(int32_t));
  return room;
}

void linear_panels(const LinearInt8 &a, int64_t first, int64_t last, int64_t first_row,
                   int64_t last_row, uint8_t *scratch) {
  int32_t *packed = reinterpret_cast<int32_t *>(scratch);
  const int64_t groups = groups_of(a.k);
  int32_t *room = packed + kPanel * groups;
  int32_t *offsets_of_rows = room + kPanelRows * (groups + 16);
  for (int64_t row = first_row; row < last_row; ++row)
    offsets_of_rows[row - first_row] =
        Panel::kOffset == 0 ? 0 : -Panel::kOffset * sum_of(a.x + row * a.k, a.k);
  for (int64_t panel = first; panel < last; panel += kPanel) {
    const int64_t panel_end = panel + kPanel < last ? panel + kPanel : last;
    for (int64_t column = panel; column < panel_end; column += kBlock)
      pack_columns<Panel>(a, column, panel_end, kBlock, groups, packed + (column - panel) * groups);
    for (int64_t row = first_row; row < last_row; row += kPanelRows) {
      const int64_t rows = last_row - row < kPanelRows ? last_row - row : kPanelRows;
      int64_t stride;
      const int32_t *x = lanes_of(a, row, rows, room, &stride);
      const int32_t *offsets = offsets_of_rows + (row - first_row);
      for (int64_t column = panel; column < panel_end; column += kBlock) {
        const int32_t *w = packed + (column - panel) * groups;
        if (rows == kPanelRows) {
          panel_block<kPanelRows>(a, row, column, panel_end, w, x, stride, offsets);
          continue;
        }
        const char *lanes = reinterpret_cast<const char *>(x);
        for (int64_t i = 0; i < rows; ++i)
          panel_block<1>(a, row + i, column, panel_end, w,
                         reinterpret_cast<const int32_t *>(lanes + i * stride), stride,
                         offsets + i);
      }
    }
  }
}

#else

// Plain C, which compilers make vectors of.
inline int32_t dot(const int8_t *x, const int8_t *w, int64_t k) {
  int32_t sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += static_cast<int16_t>(x[i]) * static_cast<int16_t>(w[i]);
  return sum;
}

void linear_columns(const LinearInt8 &a, int64_t first, int64_t last) {
  for (int64_t j = first; j < last; ++j)
    for (int64_t i = 0; i < a.m; ++i) {
      float y = static_cast<float>(dot(a.x + i * a.k, a.w + j * a.k, a.k));
      y *= a.x_scale[i];
      y *= a.w_scale[j];
      if (a.bias != nullptr) y += a.bias[j];
      a.out[i * a.n + j] = y;
    }
}

constexpr void (*linear_panels)(const LinearInt8 &, int64_t, int64_t, int64_t, int64_t,
                                uint8_t *) = nullptr;
constexpr int64_t (*linear_scratch)(int64_t) = nullptr;

#endif

}  // namespace

#if defined(__AMX_INT8__)
#include "amx_panels.h"
#define PANELS tiled_panels
#define SCRATCH tiled_scratch
#else
#define PANELS linear_panels
#define SCRATCH linear_scratch
#endif

extern const IntegerKernels JOIN(integers_, VARIANT) = {quantize_rows, embed_rows, quantize_positions,
                                                        linear_columns, PANELS, SCRATCH};
