#include "gemm_i8.h"

extern "C" {

void gemm_i8_i32_64x64x64(const int8_t *RESTRICT a, const int8_t *RESTRICT b, int32_t *RESTRICT c) {
  tiles::gemm<64, 64, 64>(a, b, c);
}

void gemm_i8_i32_16x64x64(const int8_t *RESTRICT a, const int8_t *RESTRICT b, int32_t *RESTRICT c) {
  tiles::gemm<16, 64, 64>(a, b, c);
}

void zero_i32_64x64(int32_t *RESTRICT c) { tiles::zero<64, 64>(c); }

void zero_i32_16x64(int32_t *RESTRICT c) { tiles::zero<16, 64>(c); }
}
