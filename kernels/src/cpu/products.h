// Products of quantised rows with int8 weights, as product_int8 of whisper_npu/ops has them: sums
// are exact, and are scaled and rounded once.
#pragma once

#include "product_vectors.h"
#include "variant.h"

namespace {

template <typename Value>
inline const Value *row_of(const ProductInt8 &a, int64_t row) {
  return static_cast<const Value *>(a.x) + row * a.k;
}

// The scale of a row's sums in units of the outputs.
inline double row_scale(const ProductInt8 &a, int64_t row) {
  return static_cast<double>(a.x_scale[row]) * (1 << kFraction);
}

#if HAS_VECTORS

// Rows of w that make a block of outputs.
constexpr int kColumns = 4;
// Columns after which the next rows of x are taken: w is still in the first-level cache then.
constexpr int64_t kColumnGroup = 64;

struct FourScales {
  double scale[kColumns] = {}, bias[kColumns] = {};
  inline void load(const ProductInt8 &a, int64_t column, int columns) {
    for (int j = 0; j < columns; ++j) scale[j] = a.w_scale[column + j];
    if (a.bias == nullptr) return;
    for (int j = 0; j < columns; ++j) bias[j] = a.bias[column + j];
  }
};

// All of k for M rows and kColumns columns; of the columns that are not there (beyond ``columns``)
// the first is read instead. ``offsets`` are what sums are too large by.
template <typename Value, int M>
inline void dot_block(const ProductInt8 &a, int64_t row, int64_t column, int columns,
                      const int32_t *offsets) {
  using D = Dot<Value>;
  const Value *x = row_of<Value>(a, row);
  typename D::Sum sums[M][kColumns];
  // One row of w after the other: memory is twice as fast where it is read from front to back as
  // where it is read from several places by turns.
  UNROLL
  for (int j = 0; j < kColumns; ++j) {
    const int8_t *w = a.w + (column + (j < columns ? j : 0)) * a.k;
    typename D::Sum part[M];
    UNROLL
    for (int i = 0; i < M; ++i) part[i] = D::zero();
    int64_t at = 0;
    for (; at + D::kStep <= a.k; at += D::kStep) {
      const typename D::Weights w_part = D::load_w(w + at);
      UNROLL
      for (int i = 0; i < M; ++i) part[i] = D::add(part[i], w_part, D::load_x(x + i * a.k + at));
    }
    if (at < a.k) {
      const int64_t rest = a.k - at;
      const typename D::Weights w_part = D::load_w_part(w + at, rest);
      UNROLL
      for (int i = 0; i < M; ++i)
        part[i] = D::add(part[i], w_part, D::load_x_part(x + i * a.k + at, rest));
    }
    UNROLL
    for (int i = 0; i < M; ++i) sums[i][j] = part[i];
  }
  FourScales scales = {};
  // Where the number is a constant it is a single load.
  if (columns == kColumns)
    scales.load(a, column, kColumns);
  else
    scales.load(a, column, columns);
  UNROLL
  for (int i = 0; i < M; ++i) {
    const FourInts y = scale_four(D::reduce(sums[i]) - offsets[i], row_scale(a, row + i),
                                  scales.scale, scales.bias);
    int32_t *out = a.out + (row + i) * a.n + column;
    if (columns == kColumns)
      memcpy(out, &y, sizeof y);
    else
      memcpy(out, &y, static_cast<size_t>(columns) * sizeof *out);
  }
}

template <typename Value, int M>
inline void dot_rows(const ProductInt8 &a, int64_t row, int64_t first, int64_t last) {
  constexpr int32_t kOffset = Dot<Value>::kOffset;
  int32_t offsets[M] = {};
  if (kOffset != 0)
    for (int i = 0; i < M; ++i) offsets[i] = kOffset * sum_of(row_of<Value>(a, row + i), a.k);
  int64_t column = first;
  for (; column + kColumns <= last; column += kColumns)
    dot_block<Value, M>(a, row, column, kColumns, offsets);
  if (column < last) dot_block<Value, M>(a, row, column, static_cast<int>(last - column), offsets);
}

template <typename Value>
void product_columns(const ProductInt8 &a, int64_t first, int64_t last) {
  for (int64_t column = first; column < last; column += kColumnGroup) {
    const int64_t end = last - column < kColumnGroup ? last : column + kColumnGroup;
    int64_t row = 0;
    for (; row + kDotRows <= a.m; row += kDotRows) dot_rows<Value, kDotRows>(a, row, column, end);
    switch (a.m - row) {
      case 5: dot_rows<Value, (kDotRows > 5 ? 5 : 1)>(a, row, column, end); break;
      case 4: dot_rows<Value, (kDotRows > 4 ? 4 : 1)>(a, row, column, end); break;
      case 3: dot_rows<Value, (kDotRows > 3 ? 3 : 1)>(a, row, column, end); break;
      case 2: dot_rows<Value, (kDotRows > 2 ? 2 : 1)>(a, row, column, end); break;
      case 1: dot_rows<Value, 1>(a, row, column, end); break;
      default: break;
    }
  }
}

// The scales and biases of the columns of a panel, zeros where there are none.
struct PanelScales {
  double scale[kPanel], bias[kPanel];
  PanelScales(const ProductInt8 &a, int64_t column, int64_t last) : scale(), bias() {
    for (int64_t j = 0; j < last - column; ++j) scale[j] = a.w_scale[column + j];
    if (a.bias == nullptr) return;
    for (int64_t j = 0; j < last - column; ++j) bias[j] = a.bias[column + j];
  }
};

// ``width`` columns from ``column`` on as [groups, width] lanes; zeros where there are none, from
// ``last`` on and beyond k.
template <typename Group>
void pack_columns(const ProductInt8 &a, int64_t column, int64_t last, int64_t width,
                  int64_t groups, int32_t *packed) {
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

// What the blocks of a panel have in common.
template <typename Value>
struct PanelOf {
  using P = Panel<Value>;
  static constexpr int kBlock = P::kVectors * P::kLanes;
  static_assert(kPanel % kBlock == 0);
  // Bytes that are read beyond what a row has, in whole vectors.
  static constexpr int64_t kRowRoom = 64;

  static int64_t groups(int64_t k) { return (k + P::kGroup - 1) / P::kGroup; }
  static int64_t row_bytes(int64_t k) { return groups(k) * P::kGroupBytes + kRowRoom; }

  const ProductInt8 &a;
  const PanelScales &scales;
  int64_t start, end;

  // M rows of x, as groups ``stride`` bytes apart, and columns from ``column`` on. Inlined, it would
  // share the registers with what is constant around it.
  template <int M>
  __attribute__((noinline)) void block(int64_t row, int64_t column, const int32_t *packed, const char *x,
                    int64_t stride, const int32_t *offsets) const {
    typename P::Sums sums[M][P::kVectors];
    UNROLL
    for (int i = 0; i < M; ++i) {
      UNROLL
      for (int v = 0; v < P::kVectors; ++v) sums[i][v] = P::start(offsets[i]);
    }
    const int64_t count = groups(a.k);
    for (int64_t g = 0; g < count; ++g) {
      typename P::Weights w[P::kVectors];
      UNROLL
      for (int v = 0; v < P::kVectors; ++v) w[v] = P::load(packed + g * kBlock + v * P::kLanes);
      UNROLL
      for (int i = 0; i < M; ++i) {
        const typename P::Group group = P::broadcast(x + i * stride + g * P::kGroupBytes);
        UNROLL
        for (int v = 0; v < P::kVectors; ++v) sums[i][v] = P::add(sums[i][v], w[v], group);
      }
    }
    UNROLL
    for (int i = 0; i < M; ++i) {
      UNROLL
      for (int v = 0; v < P::kVectors; ++v) {
        const int64_t n = column + v * P::kLanes;
        if (n < end)
          P::store_scaled(P::finish(sums[i][v]), row_scale(a, row + i), scales.scale + n - start,
                          scales.bias + n - start, a.out + (row + i) * a.n + n, end - n);
      }
    }
  }
};

// Rows as groups: as they lie where that is possible, else in ``room``. Gives the bytes from one to
// the next.
template <typename Value>
const char *groups_of(const ProductInt8 &a, int64_t row, int64_t rows, char *room,
                      int64_t *stride) {
  using P = Panel<Value>;
  const Value *x = row_of<Value>(a, row);
  if (P::kAsTheyLie && a.k % P::kGroup == 0) {
    *stride = a.k * static_cast<int64_t>(sizeof(Value));
    return reinterpret_cast<const char *>(x);
  }
  *stride = PanelOf<Value>::row_bytes(a.k);
  for (int64_t i = 0; i < rows; ++i) P::unpack_row(x + i * a.k, a.k, room + i * *stride);
  return room;
}

template <typename Value>
int64_t product_scratch(int64_t k) {
  using Of = PanelOf<Value>;
  // A panel, a block of rows in the form that is multiplied, and what the sums of each row are too
  // large by.
  return 4 * kPanel * Of::groups(k) + Panel<Value>::kRows * Of::row_bytes(k) + 4 * kMostRows;
}

template <typename Value>
void product_panels(const ProductInt8 &a, int64_t first, int64_t last, int64_t first_row,
                    int64_t last_row, uint8_t *scratch) {
  using P = Panel<Value>;
  using Of = PanelOf<Value>;
  const int64_t groups = Of::groups(a.k);
  int32_t *packed = reinterpret_cast<int32_t *>(scratch);
  int32_t *offsets_of_rows = packed + kPanel * groups;
  char *room = reinterpret_cast<char *>(offsets_of_rows + kMostRows);
  for (int64_t row = first_row; row < last_row; ++row)
    offsets_of_rows[row - first_row] =
        P::kOffset == 0 ? 0 : -P::kOffset * sum_of(row_of<Value>(a, row), a.k);
  for (int64_t panel = first; panel < last; panel += kPanel) {
    const int64_t end = panel + kPanel < last ? panel + kPanel : last;
    const PanelScales scales(a, panel, end);
    const Of of = {a, scales, panel, end};
    for (int64_t column = panel; column < end; column += Of::kBlock)
      pack_columns<P>(a, column, end, Of::kBlock, groups, packed + (column - panel) * groups);
    for (int64_t row = first_row; row < last_row; row += P::kRows) {
      const int64_t rows = last_row - row < P::kRows ? last_row - row : P::kRows;
      int64_t stride;
      const char *x = groups_of<Value>(a, row, rows, room, &stride);
      const int32_t *offsets = offsets_of_rows + (row - first_row);
      for (int64_t column = panel; column < end; column += Of::kBlock) {
        const int32_t *w = packed + (column - panel) * groups;
        if (rows == P::kRows) {
          of.template block<P::kRows>(row, column, w, x, stride, offsets);
          continue;
        }
        for (int64_t i = 0; i < rows; ++i)
          of.template block<1>(row + i, column, w, x + i * stride, stride, offsets + i);
      }
    }
  }
}

#else

// Plain C, which compilers make vectors of.
template <typename Value>
inline int32_t dot(const Value *x, const int8_t *w, int64_t k) {
  int32_t sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += static_cast<int16_t>(x[i]) * static_cast<int16_t>(w[i]);
  return sum;
}

template <typename Value>
void product_columns(const ProductInt8 &a, int64_t first, int64_t last) {
  for (int64_t j = first; j < last; ++j)
    for (int64_t i = 0; i < a.m; ++i)
      a.out[i * a.n + j] = scaled(dot(row_of<Value>(a, i), a.w + j * a.k, a.k),
                                  row_scale(a, i) * a.w_scale[j],
                                  a.bias == nullptr ? 0.0 : a.bias[j]);
}

#endif

}  // namespace
