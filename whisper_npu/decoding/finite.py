"""The check that what comes of the network's logits is a number.

It looks at what is there anyway, a few log-probabilities a step, and not at the logits: a NaN or an
infinity in a row of logits makes the log-probabilities of that row NaN.
"""

from __future__ import annotations

from whisper_npu.errors import ModelError


def require_numbers(value: float) -> None:
    """Raise ModelError if ``value``, of which some logits were made, is NaN."""
    if value != value:
        raise ModelError(
            "the model gives logits that are not finite numbers: its weights are damaged, or a "
            "kernel computes wrongly; convert or pull the model again, or try --cpu_kernels False"
        )
