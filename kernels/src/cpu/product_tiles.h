// Products with many rows on the tile registers of AMX: 16 rows of 64 bytes each. Included by
// fixed_point.cc, with whose panels this shares the packing.
#pragma once

#include "products.h"

namespace {

// Bytes of a row of a tile, and rows of a tile.
constexpr int64_t kTileBytes = 64;
constexpr int64_t kTileRows = 16;
// Two tiles of rows of bytes times two of columns of w: four of sums.
constexpr int64_t kTiledRows = 2 * kTileRows;
constexpr int64_t kTiledColumns = 2 * kTileRows;

struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
  TileConfiguration() {
    for (int i = 0; i < 8; ++i) bytes_per_row[i] = kTileBytes, rows[i] = kTileRows;
  }
};

inline int64_t padded(int64_t k) { return (k + kTileBytes - 1) / kTileBytes * kTileBytes; }

int64_t tiled_scratch(int64_t k) {
  // A panel of w, rows of x, sums of both. Products of few rows need less.
  static_assert(2 * kSkinny <= kPanel);
  return kPanel * padded(k) + kTiledRows * padded(k) + 4 * kTiledRows * kPanel;
}

// How rows of x are bytes in tiles. Of int8 rows both tiles are rows of their own.
template <typename Value>
struct Tiles {
  static constexpr int64_t kRows = kTiledRows;
  // Rows as they lie, or copied with zeros where there are none.
  static const int8_t *rows(const ProductInt8 &a, int64_t row, int64_t rows, int8_t *room,
                            int64_t *stride) {
    const int8_t *x = row_of<int8_t>(a, row);
    *stride = a.k;
    if (rows == kRows && a.k % kTileBytes == 0) return x;
    *stride = padded(a.k);
    memset(room, 0, static_cast<size_t>(kTiledRows * *stride));
    for (int64_t i = 0; i < rows; ++i)
      memcpy(room + i * *stride, x + i * a.k, static_cast<size_t>(a.k));
    return room;
  }
  static __m512i sums(const int32_t *sums, int64_t row) {
    return _mm512_loadu_si512(sums + row * kPanel);
  }
};

// Of int16 rows the first tile is their high bytes, the second the low ones.
template <>
struct Tiles<int16_t> {
  static constexpr int64_t kRows = kTileRows;
  static const int8_t *rows(const ProductInt8 &a, int64_t row, int64_t rows, int8_t *room,
                            int64_t *stride) {
    *stride = padded(a.k);
    memset(room, 0, static_cast<size_t>(kTiledRows * *stride));
    for (int64_t i = 0; i < rows; ++i) {
      const int16_t *x = row_of<int16_t>(a, row + i);
      int8_t *high = room + i * *stride, *low = high + kTileRows * *stride;
      for (int64_t j = 0; j < a.k; ++j) {
        high[j] = high_byte(x[j]);
        low[j] = static_cast<int8_t>(x[j]);
      }
    }
    return room;
  }
  static __m512i sums(const int32_t *sums, int64_t row) {
    const __m512i high = _mm512_loadu_si512(sums + row * kPanel);
    const __m512i low = _mm512_loadu_si512(sums + (kTileRows + row) * kPanel);
    return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
  }
};

// sums [kTiledRows, kPanel] of which kTiledColumns columns are written; ``packed`` is
// [padded k / 4, kPanel] lanes of four bytes.
inline void multiply_tiles(const int8_t *x, int64_t stride, const int32_t *packed, int64_t k,
                           int32_t *sums) {
  constexpr int64_t kPackedStride = 4 * kPanel;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t at = 0; at < k; at += kTileBytes) {
    const int32_t *w = packed + at / 4 * kPanel;
    _tile_loadd(4, x + at, stride);
    _tile_loadd(6, w, kPackedStride);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, w + kTileRows, kPackedStride);
    _tile_dpbssd(1, 4, 7);
    _tile_loadd(5, x + kTileRows * stride + at, stride);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_stored(0, sums, kPackedStride);
  _tile_stored(1, sums + kTileRows, kPackedStride);
  _tile_stored(2, sums + kTileRows * kPanel, kPackedStride);
  _tile_stored(3, sums + kTileRows * kPanel + kTileRows, kPackedStride);
}

template <typename Value>
void tiled_panels(const ProductInt8 &a, int64_t first, int64_t last, int64_t first_row,
                  int64_t last_row, uint8_t *scratch) {
  using T = Tiles<Value>;
  int32_t *packed = reinterpret_cast<int32_t *>(scratch);
  int8_t *room = reinterpret_cast<int8_t *>(scratch + kPanel * padded(a.k));
  int32_t *sums = reinterpret_cast<int32_t *>(room + kTiledRows * padded(a.k));
  const TileConfiguration configuration;
  _tile_loadconfig(&configuration);
  for (int64_t panel = first; panel < last; panel += kPanel) {
    const int64_t end = panel + kPanel < last ? panel + kPanel : last;
    const PanelScales scales(a, panel, end);
    pack_columns<Bytes>(a, panel, end, kPanel, padded(a.k) / 4, packed);
    for (int64_t row = first_row; row < last_row; row += T::kRows) {
      const int64_t rows = last_row - row < T::kRows ? last_row - row : T::kRows;
      int64_t stride;
      const int8_t *x = T::rows(a, row, rows, room, &stride);
      for (int64_t column = 0; panel + column < end; column += kTiledColumns)
        multiply_tiles(x, stride, packed + column, a.k, sums + column);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t n = 0; panel + n < end; n += Lanes::kLanes)
          Lanes::store_scaled(T::sums(sums + n, i), row_scale(a, row + i), scales.scale + n,
                              scales.bias + n, a.out + (row + i) * a.n + panel + n,
                              end - panel - n);
    }
  }
  _tile_release();
}

}  // namespace
