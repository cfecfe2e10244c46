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
// Bytes of a line of a cache.
constexpr int64_t kLine = 64;

struct FourScales {
  FourDoubles scale, bias;
  FourScales(const ProductInt8 &a, int64_t column, int columns)
      : scale(wide<FourFloats>(a.w_scale + column, columns)), bias() {
    if (a.bias != nullptr) bias = wide<FourInts>(a.bias + column, columns);
  }
  // Zeros where there are no columns. Numbers that were stored one by one would be waited for until
  // they are in the cache, and with them all that is read from memory before.
  template <typename Four, typename Number>
  static FourDoubles wide(const Number *p, int columns) {
    Four x = {};
    // Where the number is a constant it is a single load.
    if (columns == kColumns)
      memcpy(&x, p, sizeof x);
    else
      memcpy(&x, p, static_cast<size_t>(columns) * sizeof *p);
    return __builtin_convertvector(x, FourDoubles);
  }
};

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Bytes of a plane of a placed row, with zeros beyond k, and of all planes.
template <typename Value>
int64_t plane_bytes(int64_t k) {
  return (k + Dot<Value>::kStep - 1) / Dot<Value>::kStep * Dot<Value>::kBytes;
}

template <typename Value>
int64_t placed_bytes(int64_t k) {
  return Dot<Value>::kPlanes * plane_bytes<Value>(k);
}

// M rows: the first, where they were placed, what their sums are too large by, and their scales.
template <int M>
struct RowBlock {
  int64_t row;
  const int8_t *x;
  uint32_t offset[M];
  double scale[M];
  RowBlock(const ProductInt8 &a, int64_t row, const int8_t *x, const uint32_t *offsets)
      : row(row), x(x) {
    for (int i = 0; i < M; ++i) {
      offset[i] = offsets[row + i];
      scale[i] = row_scale(a, row + i);
    }
  }
  void store(const ProductInt8 &a, int i, int64_t column, int columns, FourInts sums,
             const FourScales &scales) const {
    const FourInts exact = (FourInts)((FourWords)sums - offset[i]);
    const FourInts y = scale_four(exact, scale[i], scales.scale, scales.bias);
    int32_t *out = a.out + (row + i) * a.n + column;
    if (columns == kColumns)
      memcpy(out, &y, sizeof y);
    else
      memcpy(out, &y, static_cast<size_t>(columns) * sizeof *out);
  }
};

// All of k for M rows and kColumns columns; of the columns that are not there (beyond ``columns``)
// the first is read instead.
template <typename Value, int M>
__attribute__((always_inline)) inline void dot_block(const ProductInt8 &a, const RowBlock<M> &rows,
                                                     int64_t column, int columns) {
  using D = Dot<Value>;
  constexpr int kTogether = D::kTogether;
  typename D::Sum sums[M][kColumns];
  // Rows of w that are read by turns come from memory at half the speed of one that is read from
  // front to back, unless they are in the second-level cache before.
  const int8_t *ahead = a.w + column * a.k + D::kAhead;
  UNROLL
  for (int j = 0; j < kColumns; j += kTogether) {
    const int8_t *w[kTogether];
    typename D::Sum part[M][kTogether];
    UNROLL
    for (int c = 0; c < kTogether; ++c) {
      w[c] = a.w + (column + (j + c < columns ? j + c : 0)) * a.k;
      UNROLL
      for (int i = 0; i < M; ++i) part[i][c] = D::zero();
    }
    UNROLL
    for (int plane = 0; plane < D::kPlanes; ++plane) {
      const int8_t *x = rows.x + plane * plane_bytes<Value>(a.k);
      const auto add = [&](const typename D::Weights *w_part) {
        UNROLL
        for (int i = 0; i < M; ++i) {
          const typename D::Rows x_part = D::load_x(x + i * placed_bytes<Value>(a.k));
          UNROLL
          for (int c = 0; c < kTogether; ++c)
            part[i][c] = D::add(part[i][c], w_part[c], x_part, plane);
        }
        x += D::kBytes;
      };
      if constexpr (D::kPlanes > 1) {
        if (plane > 0) {
          UNROLL
          for (int i = 0; i < M; ++i) {
            UNROLL
            for (int c = 0; c < kTogether; ++c) part[i][c] = D::join(part[i][c], D::zero());
          }
        }
      }
      int64_t at = 0;
      for (; at + D::kStep <= a.k; at += D::kStep) {
        typename D::Weights w_part[kTogether];
        UNROLL
        for (int c = 0; c < kTogether; ++c) w_part[c] = D::load_w(w[c] + at);
        if (D::kAhead > 0 && plane == D::kPlanes - 1) {
          UNROLL
          for (int64_t line = 0; line < kTogether * D::kStep; line += kLine)
            __builtin_prefetch(ahead + line, 0, 2);
          ahead += kTogether * D::kStep;
        }
        add(w_part);
      }
      if (at < a.k) {
        typename D::Weights w_part[kTogether];
        UNROLL
        for (int c = 0; c < kTogether; ++c) w_part[c] = D::load_w_part(w[c] + at, a.k - at);
        add(w_part);
      }
    }
    UNROLL
    for (int c = 0; c < kTogether; ++c) {
      UNROLL
      for (int i = 0; i < M; ++i) sums[i][j + c] = part[i][c];
    }
  }
  const FourScales scales(a, column, columns);
  UNROLL
  for (int i = 0; i < M; ++i)
    rows.store(a, i, column, columns, D::reduce(sums[i]), scales);
}

template <typename Value, int M>
void dot_rows(const ProductInt8 &a, const RowBlock<M> &rows, int64_t first, int64_t last) {
  int64_t column = first;
  for (; column + kColumns <= last; column += kColumns)
    dot_block<Value, M>(a, rows, column, kColumns);
  if (column < last) dot_block<Value, M>(a, rows, column, static_cast<int>(last - column));
}

// One row of kSteps steps, all of which stay in registers, or of any k if that is 0. To keep up
// with memory, w is read from front to back, and as little as possible beside it.
template <typename Value, int kSteps>
void dot_row(const ProductInt8 &a, const RowBlock<1> &rows, int64_t first, int64_t last) {
  using D = Dot<Value>;
  constexpr int kPlanes = D::kPlanes;
  typename D::Rows kept[kSteps + 1][kPlanes];
  UNROLL
  for (int s = 0; s < kSteps; ++s) {
    UNROLL
    for (int plane = 0; plane < kPlanes; ++plane)
      kept[s][plane] = D::load_x(rows.x + plane * plane_bytes<Value>(a.k) + s * D::kBytes);
  }
  for (int64_t column = first; column < last; column += kColumns) {
    const int columns = static_cast<int>(least(last - column, kColumns));
    typename D::Sum sums[kColumns];
    UNROLL
    for (int j = 0; j < kColumns; ++j) {
      const int8_t *w = a.w + (column + (j < columns ? j : 0)) * a.k;
      typename D::Sum part[kPlanes];
      UNROLL
      for (int plane = 0; plane < kPlanes; ++plane) part[plane] = D::zero();
      UNROLL
      for (int s = 0; s < kSteps; ++s) {
        const typename D::Weights w_part = D::load_w(w + s * D::kStep);
        UNROLL
        for (int plane = 0; plane < kPlanes; ++plane)
          part[plane] = D::add(part[plane], w_part, kept[s][plane], plane);
      }
      if (kSteps == 0) {
        const int8_t *x = rows.x;
        const auto add = [&](const typename D::Weights &w_part) {
          UNROLL
          for (int plane = 0; plane < kPlanes; ++plane) {
            const typename D::Rows x_part = D::load_x(x + plane * plane_bytes<Value>(a.k));
            part[plane] = D::add(part[plane], w_part, x_part, plane);
          }
          x += D::kBytes;
        };
        int64_t at = 0;
        for (; at + D::kStep <= a.k; at += D::kStep) add(D::load_w(w + at));
        if (at < a.k) add(D::load_w_part(w + at, a.k - at));
      }
      sums[j] = part[0];
      if constexpr (kPlanes > 1) sums[j] = D::join(sums[j], part[1]);
    }
    rows.store(a, 0, column, columns, D::reduce(sums), FourScales(a, column, columns));
  }
}

// The widths of the smaller models, for which whole rows fit into the registers of AVX-512.
template <typename Value>
void dot_single(const ProductInt8 &a, const RowBlock<1> &rows, int64_t first, int64_t last) {
  using D = Dot<Value>;
  constexpr auto steps = [](int64_t k) {
    return k / D::kStep * D::kPlanes <= D::kKept ? static_cast<int>(k / D::kStep) : 0;
  };
  switch (a.k) {
    case 384: dot_row<Value, steps(384)>(a, rows, first, last); break;
    case 512: dot_row<Value, steps(512)>(a, rows, first, last); break;
    case 768: dot_row<Value, steps(768)>(a, rows, first, last); break;
    default: dot_row<Value, 0>(a, rows, first, last); break;
  }
}

// A row as Dot takes it.
template <typename Value>
void place_row(const Value *x, int64_t k, int8_t *to) {
  using D = Dot<Value>;
  int64_t at = 0;
  for (; at + D::kStep <= k; at += D::kStep, to += D::kBytes)
    D::place(x + at, to, plane_bytes<Value>(k));
  if (at == k) return;
  Value rest[D::kStep] = {};
  memcpy(rest, x + at, static_cast<size_t>(k - at) * sizeof *x);
  D::place(rest, to, plane_bytes<Value>(k));
}

// M rows from ``row`` on, or as many as there are.
template <typename Value, int M>
void dot_group(const ProductInt8 &a, int64_t row, const int8_t *x, const uint32_t *offsets,
               int64_t first, int64_t last) {
  if constexpr (M > 1) {
    if (a.m - row < M)
      dot_group<Value, M - 1>(a, row, x, offsets, first, last);
    else
      dot_rows<Value, M>(a, RowBlock<M>(a, row, x, offsets), first, last);
  } else {
    dot_single<Value>(a, RowBlock<1>(a, row, x, offsets), first, last);
  }
}

template <typename Value>
void product_columns(const ProductInt8 &a, int64_t first, int64_t last, uint8_t *scratch) {
  constexpr uint32_t kOffset = Dot<Value>::kOffset;
  int8_t *placed = reinterpret_cast<int8_t *>(scratch);
  uint32_t offsets[kSkinny];
  for (int64_t row = 0; row < a.m; ++row) {
    int8_t *to = placed + row * placed_bytes<Value>(a.k);
    place_row(row_of<Value>(a, row), a.k, to);
    offsets[row] = kOffset == 0 ? 0 : kOffset * static_cast<uint32_t>(sum_of(to, a.k));
  }
  for (int64_t column = first; column < last; column += kColumnGroup) {
    const int64_t end = least(column + kColumnGroup, last);
    for (int64_t row = 0; row < a.m; row += kDotRows)
      dot_group<Value, kDotRows>(a, row, placed + row * placed_bytes<Value>(a.k), offsets, column,
                                 end);
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
  const int64_t panels =
      4 * kPanel * Of::groups(k) + Panel<Value>::kRows * Of::row_bytes(k) + 4 * kMostRows;
  const int64_t few_rows = kSkinny * placed_bytes<Value>(k);
  return panels > few_rows ? panels : few_rows;
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
void product_columns(const ProductInt8 &a, int64_t first, int64_t last, uint8_t *) {
  for (int64_t j = first; j < last; ++j)
    for (int64_t i = 0; i < a.m; ++i)
      a.out[i * a.n + j] = scaled(dot(row_of<Value>(a, i), a.w + j * a.k, a.k),
                                  row_scale(a, i) * a.w_scale[j],
                                  a.bias == nullptr ? 0.0 : a.bias[j]);
}

#endif

}  // namespace
