"""The files of the published inventory of 30 October 2025, as it names and counts them."""

from __future__ import annotations

ENCODER_FILES = [
    "matmul_16x16.xclbin",
    "matmul_simple.xclbin",
    "gelu_2048.xclbin",
    "gelu_simple.xclbin",
    "layernorm_simple.xclbin",
    "attention_simple.xclbin",
    "attention_64x64.xclbin",
    "attention_multicore.xclbin",
]
# And "13 more variants", not named.
MEL_FILES = [
    "mel_fixed_v3_PRODUCTION_v1.0.xclbin",
    "mel_fixed_v3.xclbin",
    "mel_int8_final.xclbin",
    "mel_fft_final.xclbin",
    "mel_fixed_new.xclbin",
    "mel_optimized_new.xclbin",
]
# Six by its heading, five by name.
TEST_FILES = [
    "passthrough_complete.xclbin",
    "passthrough_minimal.xclbin",
    "final.xclbin",
    "final_passthrough.xclbin",
    "final_passthrough_with_pdi.xclbin",
]
AMD_FILES = ["17f0_10/gemm.xclbin", "17f0_11/gemm.xclbin", "17f0_20/gemm.xclbin"]

# Of the headings. The 36 test the driver.
COUNTED = {"encoder": 8, "mel": 19, "test": 6, "validation": 36}
