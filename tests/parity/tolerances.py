"""The tolerances of the layer comparison: the only place where they are.

``MEASURED`` holds, for each kind of tensor, the largest error seen over all shapes and steps
(openai-whisper on torch against ours on OpenBLAS, both float32), as ``tools.tables.parity``
prints it: the largest difference over the largest value of the tensor. The allowance is for other
processors and libraries, which add up products in another order.
"""

from __future__ import annotations

ALLOWANCE = 4

MEASURED = {
    "mel": 6.9e-6,
    "conv1": 1.0e-6,
    "conv1.gelu": 1.1e-6,
    "conv2": 8.3e-7,
    "conv2.gelu": 8.3e-7,
    "embedded": 7.5e-7,
    "encoder.attn_ln": 1.1e-6,
    "encoder.q": 1.2e-6,
    "encoder.k": 1.2e-6,
    "encoder.v": 1.2e-6,
    "encoder.attn": 1.2e-6,
    "encoder.attn_out": 1.4e-6,
    "encoder.attn_residual": 8.0e-7,
    "encoder.mlp_ln": 1.1e-6,
    "encoder.fc1": 1.3e-6,
    "encoder.gelu": 1.2e-6,
    "encoder.fc2": 1.3e-6,
    "encoder.residual": 8.1e-7,
    "states": 8.7e-7,
    "cross.k": 1.2e-6,
    "cross.v": 1.3e-6,
    "decoder.attn_ln": 2.1e-6,
    "decoder.q": 1.9e-6,
    "decoder.k": 2.0e-6,
    "decoder.v": 1.9e-6,
    "decoder.attn": 5.6e-6,
    "decoder.attn_out": 3.5e-6,
    "decoder.attn_residual": 2.4e-6,
    "decoder.cross_ln": 2.3e-6,
    "decoder.cross_q": 2.0e-6,
    "decoder.cross": 8.2e-6,
    "decoder.cross_out": 4.0e-6,
    "decoder.cross_residual": 2.4e-6,
    "decoder.mlp_ln": 2.6e-6,
    "decoder.fc1": 2.0e-6,
    "decoder.gelu": 2.2e-6,
    "decoder.fc2": 3.2e-6,
    "decoder.residual": 2.3e-6,
    "final_ln": 2.1e-6,
    "logits": 1.0e-6,
}

# The log-mel spectrogram is promised to this.
MEL = 1e-5

TOLERANCES = {kind: ALLOWANCE * error for kind, error in MEASURED.items()} | {"mel": MEL}

# Log-probabilities, probabilities and compression ratios of transcripts, absolute. Tokens, texts
# and times have no tolerance.
RESULT_MEASURED = 4e-6

RESULT = ALLOWANCE * RESULT_MEASURED

# The same for published weights and real speech (tests/real).
REAL_RESULT_MEASURED = 2.3e-5

REAL_RESULT = ALLOWANCE * REAL_RESULT_MEASURED
