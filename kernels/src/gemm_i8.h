// INT8 GEMM on one tile, int32 sums. The layout of b is described in README.md.
#pragma once

#include "tiles.h"

namespace tiles {

// The shape of the int8 product of AIE2's matrix unit: [4, 8] x [8, 8] -> [4, 8].
constexpr int kBlockM = 4;
constexpr int kBlockK = 8;
constexpr int kBlockN = 8;

// c[4, 8] += a[4, K] * b[K, 8]: the blocks of b for eight columns follow each other, so that row k
// of all of them is at 8 k. The rows of c are N apart.
template <int K, int N>
inline void multiply_column(const int8_t *RESTRICT a, const int8_t *RESTRICT b,
                            int32_t *RESTRICT c) {
  // One array per row of c: compilers keep these in registers, an array of arrays they do not.
  static_assert(kBlockM == 4);
  int32_t sums0[kBlockN] = {}, sums1[kBlockN] = {}, sums2[kBlockN] = {}, sums3[kBlockN] = {};
  for (int k = 0; k < K; ++k)
    for (int n = 0; n < kBlockN; ++n) {
      // A product is at most 2^14, so 16 bits hold it: that is what a CPU's vectors multiply.
      const int16_t w = b[k * kBlockN + n];
      sums0[n] += static_cast<int16_t>(a[k] * w);
      sums1[n] += static_cast<int16_t>(a[k + K] * w);
      sums2[n] += static_cast<int16_t>(a[k + 2 * K] * w);
      sums3[n] += static_cast<int16_t>(a[k + 3 * K] * w);
    }
  for (int n = 0; n < kBlockN; ++n) {
    c[n] += sums0[n];
    c[n + N] += sums1[n];
    c[n + 2 * N] += sums2[n];
    c[n + 3 * N] += sums3[n];
  }
}

template <int M, int K, int N>
inline void gemm(const int8_t *RESTRICT a, const int8_t *RESTRICT b, int32_t *RESTRICT c) {
  static_assert(M % kBlockM == 0 && K % kBlockK == 0 && N % kBlockN == 0);
  // a, b and c twice each: the DMA fills or drains one while the core works on the other.
  static_assert(2 * (M * K + K * N + 4 * M * N) + kStackBytes <= kDataMemoryBytes);
  for (int m = 0; m < M; m += kBlockM)
    for (int n = 0; n < N; n += kBlockN)
      multiply_column<K, N>(a + m * K, b + n * K, c + m * N + n);
}

template <int M, int N>
inline void zero(int32_t *RESTRICT c) {
  for (int i = 0; i < M * N; ++i) c[i] = 0;
}

}  // namespace tiles
