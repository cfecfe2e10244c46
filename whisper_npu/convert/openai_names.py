"""Names of tensors in openai-whisper's checkpoints, which whisper.cpp keeps."""

from __future__ import annotations

import re

from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.weight_shapes import weight_specification

_WHOLE = {
    "model.encoder.embed_positions.weight": "encoder.positional_embedding",
    "model.decoder.embed_positions.weight": "decoder.positional_embedding",
    "model.decoder.embed_tokens.weight": "decoder.token_embedding.weight",
}
_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
_PARTS = {
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "self_attn": "attn",
    "encoder_attn": "cross_attn",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
}
# The last norm of each side.
_FINAL = {"model.encoder.layer_norm": "encoder.ln_post", "model.decoder.layer_norm": "decoder.ln"}


def openai_name(name: str) -> str:
    """openai-whisper's name of a weight that Hugging Face calls ``name``."""
    if name in _WHOLE:
        return _WHOLE[name]
    if match := _LAYER.fullmatch(name):
        side, layer, parts, kind = match.groups()
        path = ".".join(_PARTS[part] for part in parts.split("."))
        return f"{side}.blocks.{layer}.{path}.{kind}"
    module, _, kind = name.rpartition(".")
    return f"{_FINAL.get(module, module.removeprefix('model.'))}.{kind}"


def names_from_openai(dims: ModelDimensions) -> dict[str, str]:
    """openai-whisper's name -> Hugging Face's, for every weight of these dimensions."""
    return {openai_name(name): name for name in weight_specification(dims)}
