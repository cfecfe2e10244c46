"""The families of the published kernels: each of a fixed shape, with measures of its own."""

from __future__ import annotations

from whisper_npu.backends.npu import verdict_measures as measures
from whisper_npu.backends.npu.families.fixed import FixedShape
from whisper_npu.backends.npu.verdict_measures import Judgement


class Matmul(FixedShape):
    """Products of tiles that are requantised one by one."""

    def judge(self) -> Judgement:
        """See ``Family``."""
        return measures.judge_matmul(self.contract)


class Gelu(FixedShape):
    """GELU by a table."""

    def judge(self) -> Judgement:
        """See ``Family``."""
        return measures.judge_gelu(self.contract)


class LayerNorm(FixedShape):
    """Layer norm of one row."""

    def judge(self) -> Judgement:
        """See ``Family``."""
        return measures.judge_layer_norm(self.contract)


class Attention(FixedShape):
    """Attention of one head over a tile."""

    def judge(self) -> Judgement:
        """See ``Family``."""
        return measures.judge_attention(self.contract)


class Mel(FixedShape):
    """Mel features of one frame."""

    def judge(self) -> Judgement:
        """See ``Family``."""
        return measures.judge_mel(self.contract)
