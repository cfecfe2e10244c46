"""Model dimensions: openai-whisper's ten integers, read from a Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whisper_npu.errors import ModelError


@dataclass(frozen=True)
class ModelDimensions:
    """Everything that decides the shapes of a Whisper network (openai-whisper's names)."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    @property
    def n_frames(self) -> int:
        """Mel frames of one window: the second convolution halves them to ``n_audio_ctx``."""
        return 2 * self.n_audio_ctx


def _sizes(state: int, head: int, layer: int, n_vocab: int, n_mels: int = 80) -> ModelDimensions:
    return ModelDimensions(n_mels, 1500, state, head, layer, n_vocab, 448, state, head, layer)


_TURBO = ModelDimensions(128, 1500, 1280, 20, 32, 51866, 448, 1280, 20, 4)

# The published models. Used by tools that make checkpoints and tables; loading reads config.json.
KNOWN_DIMENSIONS: Mapping[str, ModelDimensions] = {
    "tiny": _sizes(384, 6, 4, 51865),
    "tiny.en": _sizes(384, 6, 4, 51864),
    "base": _sizes(512, 8, 6, 51865),
    "base.en": _sizes(512, 8, 6, 51864),
    "small": _sizes(768, 12, 12, 51865),
    "small.en": _sizes(768, 12, 12, 51864),
    "medium": _sizes(1024, 16, 24, 51865),
    "medium.en": _sizes(1024, 16, 24, 51864),
    "large": _sizes(1280, 20, 32, 51865),
    "large-v2": _sizes(1280, 20, 32, 51865),
    "large-v3": _sizes(1280, 20, 32, 51866, n_mels=128),
    "large-v3-turbo": _TURBO,
    "turbo": _TURBO,
}

# Fields of config.json, our names for them, and what they are where a Whisper's file leaves them
# out, as in transformers.
_CONFIG_FIELDS = {
    "num_mel_bins": ("n_mels", 80),
    "max_source_positions": ("n_audio_ctx", 1500),
    "encoder_attention_heads": ("n_audio_head", 6),
    "encoder_layers": ("n_audio_layer", 4),
    "vocab_size": ("n_vocab", 51865),
    "max_target_positions": ("n_text_ctx", 448),
    "decoder_attention_heads": ("n_text_head", 6),
    "decoder_layers": ("n_text_layer", 4),
}
_D_MODEL = 384
_MODEL_TYPE = "whisper"

# Sizes beyond any Whisper are a damaged file; refusing them keeps a hostile config.json from
# making the graph builders or the arena allocate without bound.
_LARGEST = 1 << 20


def dimensions_from_config(config: Mapping[str, Any], source: str) -> ModelDimensions:
    """Dimensions from the fields of a Hugging Face ``config.json``.

    ``source`` names the file in errors. Raises ModelError if a field is missing, is not a
    positive integer, or describes a network that is not Whisper's.
    """

    kind = config.get("model_type", _MODEL_TYPE)
    if kind != _MODEL_TYPE:
        raise ModelError(f"{source}: model_type is {str(kind)[:100]!r}, not {_MODEL_TYPE!r}")

    def integer(name: str, default: int) -> int:
        # A file that does not say that it is a Whisper's has to say all.
        value = config.get(name, default if "model_type" in config else None)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST:
            raise ModelError(f"{source}: {name} must be a positive integer, not {value!r}")
        return value

    state = integer("d_model", _D_MODEL)
    values = {ours: integer(name, default) for name, (ours, default) in _CONFIG_FIELDS.items()}
    for side, heads in (("encoder", values["n_audio_head"]), ("decoder", values["n_text_head"])):
        if state % heads:
            raise ModelError(f"{source}: d_model {state} is not a multiple of {heads} {side} heads")
        ffn = config.get(f"{side}_ffn_dim", 4 * state)
        if ffn != 4 * state:
            raise ModelError(f"{source}: {side}_ffn_dim is {ffn!r}; Whisper's is 4 x d_model")
    activation = config.get("activation_function", "gelu")
    if activation != "gelu":
        raise ModelError(f"{source}: activation_function is {activation!r}; Whisper's is 'gelu'")
    if config.get("scale_embedding", False):
        raise ModelError(f"{source}: scale_embedding is set; Whisper does not scale embeddings")
    return ModelDimensions(n_audio_state=state, n_text_state=state, **values)
