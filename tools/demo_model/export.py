"""Write a trained checkpoint as a Hugging Face Whisper directory, in float16.

Any Whisper loader must take it, so names, files and fields are Hugging Face's. The alignment heads
are measured: speech of known timing goes through the model, and the heads whose attention follows
the audio best are listed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
import vocab
from data import N_CTC, RATE, Composer
from mel import N_MELS
from model import Dims, Whisper
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

N_ALIGNMENT_HEADS = 3
_NAMES = [
    (r"^", "model."),
    (r"\.blocks\.", ".layers."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.attn\.", ".self_attn."),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    (r"\.out\.", ".out_proj."),
    (r"\.ln_post\.", ".layer_norm."),
    (r"^(model\.decoder)\.ln\.", r"\1.layer_norm."),
    (r"\.token_embedding\.", ".embed_tokens."),
    (r"\.positional_embedding$", ".embed_positions.weight"),
]


def hugging_face_name(name: str) -> str:
    """openai-whisper's name of a tensor to Hugging Face's."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def load_model(checkpoint: Path) -> Whisper:
    """The trained model, in float32."""
    model = Whisper(Dims(n_vocab=vocab.VOCAB_SIZE), N_CTC)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    return model.eval()


def config(dims: Dims) -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "activation_dropout": 0.0,
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "is_encoder_decoder": True,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "init_std": 0.02,
        "num_mel_bins": dims.n_mels,
        "d_model": dims.n_audio_state,
        "encoder_layers": dims.n_audio_layer,
        "num_hidden_layers": dims.n_audio_layer,
        "encoder_attention_heads": dims.n_audio_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "decoder_layers": dims.n_text_layer,
        "decoder_attention_heads": dims.n_text_head,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "max_source_positions": dims.n_audio_ctx,
        "max_target_positions": dims.n_text_ctx,
        "max_length": dims.n_text_ctx,
        "vocab_size": dims.n_vocab,
        "bos_token_id": vocab.EOT,
        "eos_token_id": vocab.EOT,
        "pad_token_id": vocab.EOT,
        "decoder_start_token_id": vocab.SOT,
        "begin_suppress_tokens": [220, vocab.EOT],
        "torch_dtype": "float16",
    }


def suppressed() -> list[int]:
    """What openai-whisper suppresses with "-1": symbols that are not speech, and the controls."""
    symbols = '"#()*+/:;<=>@[\\]^_`{|}~'
    # One-character symbols are byte tokens, in the order of GPT-2's alphabet; 220 is a bare space,
    # the first token of " -", " '" and of the music signs, as 158 is of the signs themselves.
    single = {ord(symbol) - ord("!") for symbol in symbols}
    music = {byte_token(0xE2), 220}
    controls = {
        vocab.SOT, vocab.TRANSLATE, vocab.TRANSCRIBE, vocab.SOT_LM, vocab.SOT_PREV,
        vocab.NO_SPEECH,
    }  # fmt: skip
    return sorted(single | music | controls)


def byte_token(byte: int) -> int:
    """Id of the token of one byte."""
    return list(vocab.byte_decoder().values()).index(byte)


def generation_config(dims: Dims, heads: list[list[int]]) -> dict[str, Any]:
    """generation_config.json."""
    return {
        "alignment_heads": heads,
        "begin_suppress_tokens": [220, vocab.EOT],
        "bos_token_id": vocab.EOT,
        "decoder_start_token_id": vocab.SOT,
        "eos_token_id": vocab.EOT,
        "pad_token_id": vocab.EOT,
        "prev_sot_token_id": vocab.SOT_PREV,
        "is_multilingual": True,
        "lang_to_id": {f"<|{code}|>": vocab.ENGLISH + i for i, code in enumerate(vocab.LANGUAGES)},
        "task_to_id": {"transcribe": vocab.TRANSCRIBE, "translate": vocab.TRANSLATE},
        "no_timestamps_token_id": vocab.NO_TIMESTAMPS,
        "max_initial_timestamp_index": 50,
        "max_length": dims.n_text_ctx,
        "return_timestamps": False,
        "suppress_tokens": suppressed(),
    }


PREPROCESSOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "processor_class": "WhisperProcessor",
    "chunk_length": 30,
    "feature_size": N_MELS,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
    "sampling_rate": RATE,
}
TOKENIZER_CONFIG = {
    "tokenizer_class": "WhisperTokenizer",
    "processor_class": "WhisperProcessor",
    "add_prefix_space": False,
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "errors": "replace",
    "model_max_length": 1024,
}


@torch.no_grad()
def measure_heads(model: Whisper, work_dir: Path, windows: int = 40) -> dict[str, float]:
    """How closely each cross-attention head follows the audio, on held-out windows.

    A window of several utterances has known starts and ends; within an utterance its tokens are
    taken to be spread evenly. The figure is the mean distance in seconds between a token's share
    of the utterance and the centre of the head's attention.
    """
    tokenizer = Tokenizer.from_file(str(work_dir / "tokenizer.json"))
    composer = Composer(work_dir, tokenizer, 5, "heldout", clean=True)
    totals: dict[str, float] = {}
    count = 0
    while count < windows:
        window = composer.window(30.0, 0.0)
        said = window.readings[0].tokens
        stamps = [i for i, t in enumerate(said) if t >= vocab.TIMESTAMP_BEGIN]
        if len(stamps) < 4 or vocab.SOT_PREV in said:
            continue
        count += 1
        tokens = torch.tensor([said])
        features = model.encoder(composer.features([window]))
        wanted = torch.full((len(said),), -1.0)
        for first, last in zip(stamps[::2], stamps[1::2], strict=False):
            t0, t1 = ((said[i] - vocab.TIMESTAMP_BEGIN) * 0.02 for i in (first, last))
            size = last - first - 1
            for i in range(size):
                # The attention at a position serves to predict the token that follows.
                wanted[first + i] = t0 + (t1 - t0) * (i + 0.5) / size
        rows = wanted >= 0
        for name, weights in cross_attention(model, tokens, features).items():
            peak = weights[0].argmax(-1) * 0.02
            error = (peak[rows] - wanted[rows]).abs().clamp(max=5.0).mean()
            totals[name] = totals.get(name, 0.0) + float(error) / windows
    return dict(sorted(totals.items(), key=lambda item: item[1]))


def cross_attention(model: Whisper, tokens: Tensor, features: Tensor) -> dict[str, Tensor]:
    """The cross-attention of every decoder head, by "layer.head"."""
    decoder, found = model.decoder, {}
    x = decoder.token_embedding(tokens) + decoder.positional_embedding[: tokens.shape[1]]
    for layer, block in enumerate(decoder.blocks):
        x = x + block.attn(block.attn_ln(x), causal=True)
        weights = block.cross_attn.weights(block.cross_attn_ln(x), features)
        for head in range(weights.shape[1]):
            found[f"{layer}.{head}"] = weights[:, head]
        x = x + block.cross_attn(block.cross_attn_ln(x), features)
        x = x + block.mlp(block.mlp_ln(x))
    return found


def export(work_dir: Path, folder: Path) -> dict[str, float]:
    """Write the directory; returns the heads' distances."""
    model = load_model(work_dir / "checkpoint.pt")
    dims = Dims(n_vocab=vocab.VOCAB_SIZE)
    distances = measure_heads(model, work_dir)
    best = [[int(part) for part in name.split(".")] for name in distances][:N_ALIGNMENT_HEADS]
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        hugging_face_name(name): value.to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith("ctc")
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    for name, content in (
        ("config.json", config(dims)),
        ("generation_config.json", generation_config(dims, sorted(best))),
        ("preprocessor_config.json", PREPROCESSOR),
        ("tokenizer_config.json", TOKENIZER_CONFIG),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    shutil.copy(work_dir / "tokenizer.json", folder / "tokenizer.json")
    return distances


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    for head, distance in export(chosen.work_dir, chosen.out).items():
        print(f"layer.head {head}: {distance:.2f} s from the even spread")
