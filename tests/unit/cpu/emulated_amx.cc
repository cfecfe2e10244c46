// The AMX variant of the kernels of fixed-point numbers with the tile instructions in C, as Intel's manual defines
// them, so that its addresses and layouts can be tested on a CPU without tiles (AVX-512 VNNI it needs).
// A tile instruction that finds no configuration, or a tile number that there is none of, aborts.
#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#define _tile_loadconfig emulated_configure
#define _tile_release emulated_release
#define _tile_zero emulated_zero
#define _tile_loadd emulated_load
#define _tile_stored emulated_store
#define _tile_dpbssd emulated_multiply

namespace {

struct Configuration {
  unsigned char palette, start_row, reserved[14];
  unsigned short bytes_per_row[16];
  unsigned char rows[16];
} configuration;

struct Tile {
  signed char bytes[16][64];
} tiles[8];

void check(int tile) {
  if (configuration.palette != 1 || tile < 0 || tile > 7) abort();
  if (configuration.rows[tile] > 16 || configuration.bytes_per_row[tile] > 64) abort();
}

void emulated_configure(const void *from) { memcpy(&configuration, from, sizeof configuration); }

void emulated_release() { memset(&configuration, 0, sizeof configuration); }

void emulated_zero(int tile) {
  check(tile);
  memset(&tiles[tile], 0, sizeof *tiles);
}

void emulated_load(int tile, const void *from, long stride) {
  emulated_zero(tile);
  for (int i = 0; i < configuration.rows[tile]; ++i)
    memcpy(tiles[tile].bytes[i], static_cast<const char *>(from) + i * stride,
           configuration.bytes_per_row[tile]);
}

void emulated_store(int tile, void *to, long stride) {
  check(tile);
  for (int i = 0; i < configuration.rows[tile]; ++i)
    memcpy(static_cast<char *>(to) + i * stride, tiles[tile].bytes[i],
           configuration.bytes_per_row[tile]);
}

void emulated_multiply(int c, int a, int b) {
  check(c);
  check(a);
  check(b);
  for (int m = 0; m < configuration.rows[c]; ++m)
    for (int n = 0; n < configuration.bytes_per_row[c] / 4; ++n) {
      int sum;
      memcpy(&sum, &tiles[c].bytes[m][4 * n], 4);
      for (int k = 0; k < configuration.bytes_per_row[a] / 4; ++k)
        for (int i = 0; i < 4; ++i)
          sum += tiles[a].bytes[m][4 * k + i] * tiles[b].bytes[k][4 * n + i];
      memcpy(&tiles[c].bytes[m][4 * n], &sum, 4);
    }
}

}  // namespace

#define __AMX_INT8__ 1
#define VARIANT amx
#include "fixed_point.cc"

namespace {

const ProductKernels &products(const ProductInt8 *a) {
  return a->bits == 8 ? fixed_amx.products8 : fixed_amx.products16;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) long amx_scratch(const ProductInt8 *a) {
  return products(a).scratch(a->k);
}

extern "C" __attribute__((visibility("default"))) void amx_product(const ProductInt8 *a, long first,
                                                                    long last, long first_row,
                                                                    long last_row) {
  products(a).panels(*a, first, last, first_row, last_row, a->scratch->data);
}
