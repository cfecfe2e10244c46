"""config.json and generation_config.json for formats that have none of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from whisper_npu.errors import ModelError
from whisper_npu.files.temporary import temporary_folder
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.folder import TOKENIZER
from whisper_npu.text.tokenizer import Tokenizer

# Published vocabularies: n_vocab -> the id of <|endoftext|>, the first special token.
_END_OF_TEXT = {51864: 50256, 51865: 50257, 51866: 50257}


def load_tokenizer(
    text: str, n_vocab: int, generation: Mapping[str, Any], source: Path
) -> Tokenizer:
    """The tokenizer of a tokenizer.json's text, which came from or was built from ``source``.

    Raises ModelError, naming ``source``, if it is not a Whisper's with ``n_vocab`` tokens.
    """
    begin = generation.get("no_timestamps_token_id", 0)
    if not isinstance(begin, int) or not 0 <= begin < n_vocab:
        raise ModelError(f"{source}: no_timestamps_token_id is not a token id below {n_vocab}")
    with temporary_folder(Path(gettempdir(), "tokenizer"), 0o700) as folder:
        file = folder / TOKENIZER
        try:
            file.write_text(text, encoding="utf-8")
            tokenizer = Tokenizer.from_dir(folder, n_vocab, generation)
            # What only encoding needs is read at the first text: a model that is made has it all.
            tokenizer.encode(" ")
            return tokenizer
        except UnicodeEncodeError as error:
            raise ModelError(f"{source}: the vocabulary is not Unicode text") from error
        except ModelError as error:
            # Its message names a file of this folder, which only exists for the moment.
            problem = str(error).removeprefix(str(folder)).partition(": ")[2]
            raise ModelError(f"{source}: {problem}") from error


def made_config(dims: ModelDimensions, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The content of config.json, with all that transformers' WhisperConfig cannot default.

    Without a tokenizer, token ids are those of the published vocabularies, or left out.
    """
    config: dict[str, Any] = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "d_model": dims.n_text_state,
        "decoder_attention_heads": dims.n_text_head,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "decoder_layers": dims.n_text_layer,
        "encoder_attention_heads": dims.n_audio_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "encoder_layers": dims.n_audio_layer,
        "is_encoder_decoder": True,
        "max_source_positions": dims.n_audio_ctx,
        "max_target_positions": dims.n_text_ctx,
        "num_hidden_layers": dims.n_audio_layer,
        "num_mel_bins": dims.n_mels,
        "scale_embedding": False,
        "use_cache": True,
        "vocab_size": dims.n_vocab,
    }
    end_of_text = _END_OF_TEXT.get(dims.n_vocab) if tokenizer is None else tokenizer.eot
    if end_of_text is not None:
        config.update(_boundary_tokens(end_of_text))
    return config


def made_generation(dims: ModelDimensions, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The content of generation_config.json; empty without a tokenizer.

    ``alignment_heads`` are left out: what is not known from a file is all heads of the upper half.
    """
    if tokenizer is None:
        return {}
    control = (
        tokenizer.transcribe,
        tokenizer.translate,
        tokenizer.sot,
        tokenizer.sot_prev,
        tokenizer.sot_lm,
        tokenizer.no_speech,
    )
    suppressed = {*tokenizer.non_speech_tokens, *(id for id in control if id is not None)}
    generation: dict[str, Any] = {
        **_boundary_tokens(tokenizer.eot),
        "begin_suppress_tokens": [*tokenizer.encode(" "), tokenizer.eot],
        "is_multilingual": tokenizer.is_multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": dims.n_text_ctx,
        "no_timestamps_token_id": tokenizer.no_timestamps,
        "prev_sot_token_id": tokenizer.sot_prev,
        "return_timestamps": False,
        "suppress_tokens": sorted(suppressed),
    }
    if tokenizer.is_multilingual:
        languages = zip(tokenizer.all_language_codes, tokenizer.all_language_tokens, strict=True)
        generation["lang_to_id"] = {f"<|{code}|>": id for code, id in languages}
        tasks = {"transcribe": tokenizer.transcribe, "translate": tokenizer.translate}
        generation["task_to_id"] = {task: id for task, id in tasks.items() if id is not None}
    return generation


def _boundary_tokens(end_of_text: int) -> dict[str, int]:
    # <|startoftranscript|> follows <|endoftext|> in every vocabulary.
    return {
        "bos_token_id": end_of_text,
        "decoder_start_token_id": end_of_text + 1,
        "eos_token_id": end_of_text,
        "pad_token_id": end_of_text,
    }
