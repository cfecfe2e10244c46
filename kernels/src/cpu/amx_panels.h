// Products with many rows on the tile registers of AMX: 16 rows of 64 bytes each. Included by
// integers.cc, with whose panels this shares the packing.
#pragma once

#include "integer_vectors.h"
#include "variant.h"

namespace {

// Bytes of a row of a tile, and rows of a tile.
constexpr int64_t kTileBytes = 64;
constexpr int64_t kTileRows = 16;
// Two tiles of rows of x times two of columns of w: four of sums.
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
  // A panel of w, rows of x, sums of both.
  return kPanel * padded(k) + kTiledRows * padded(k) + 4 * kTiledRows * kPanel;
}

// Rows of x that can be read in whole tiles: as they lie, or copied with zeros where there are
// none.
inline const int8_t *tiled_rows(const LinearInt8 &a, int64_t row, int64_t rows, int8_t *room,
                                int64_t *stride) {
  const int8_t *x = a.x + row * a.k;
  *stride = a.k;
  if (rows == kTiledRows && a.k % kTileBytes == 0) return x;
  *stride = padded(a.k);
  memset(room, 0, static_cast<size_t>(kTiledRows * *stride));
  for (int64_t i = 0; i < rows; ++i)
    memcpy(room + i * *stride, x + i * a.k, static_cast<size_t>(a.k));
  return room;
}

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

void tiled_panels(const LinearInt8 &a, int64_t first, int64_t last, int64_t first_row,
                  int64_t last_row, uint8_t *scratch) {
  int32_t *packed = reinterpret_cast<int32_t *>(scratch);
  int8_t *room = reinterpret_cast<int8_t *>(scratch + kPanel * padded(a.k));
  int32_t *sums = reinterpret_cast<int32_t *>(room + kTiledRows * padded(a.k));
  const TileConfiguration configuration;
  _tile_loadconfig(&configuration);
  for (int64_t panel = first; panel < last; panel += kPanel) {
    const int64_t end = panel + kPanel < last ? panel + kPanel : last;
    pack_columns<Bytes>(a, panel, end, kPanel, padded(a.k) / 4, packed);
    for (int64_t row = first_row; row < last_row; row += kTiledRows) {
      const int64_t rows = last_row - row < kTiledRows ? last_row - row : kTiledRows;
      int64_t stride;
      const int8_t *x = tiled_rows(a, row, rows, room, &stride);
      for (int64_t column = 0; panel + column < end; column += kTiledColumns)
        multiply_tiles(x, stride, packed + column, a.k, sums + column);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t n = panel; n < end; n += Lanes512::kLanes)
          Lanes512::store_scaled(Lanes512::load(sums + i * kPanel + n - panel), a.x_scale[row + i],
                                 a.w_scale + n, a.bias == nullptr ? nullptr : a.bias + n,
                                 a.out + (row + i) * a.n + n, end - n);
    }
  }
  _tile_release();
}

}  // namespace
