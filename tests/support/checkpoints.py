"""Make a seeded random Whisper checkpoint as a Hugging Face directory.

    python -m tests.support.checkpoints DIR --size tiny --seed 1

writes config.json, generation_config.json, tokenizer.json and model.safetensors (or shards with
their index). The same arguments give the same bytes on every machine; needs no torch.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.random_weights import TokenLayout, random_weights
from tests.support.vocabulary import LANGUAGES, Vocabulary, small_vocabulary, tiktoken_vocabulary
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.model.dims import KNOWN_DIMENSIONS, ModelDimensions
from whisper_npu.model.weight_shapes import weight_specification
from whisper_npu.text.tokenizer import Tokenizer

# Shapes that no published model has, for tests: by what they stress. The vocabulary sets n_vocab.
TEST_DIMENSIONS: Mapping[str, ModelDimensions] = {
    # Heads of 12 and 20, different numbers of layers, a short text context.
    "odd": ModelDimensions(80, 1500, 60, 5, 3, 0, 200, 60, 3, 2),
    # The widest published layers, once.
    "wide": ModelDimensions(128, 1500, 1280, 20, 1, 0, 448, 1280, 20, 1),
    # A deep encoder with a shallow decoder, as turbo's.
    "uneven": ModelDimensions(128, 1500, 384, 6, 8, 0, 448, 384, 6, 2),
    # As small as it gets: for tests of what surrounds the network.
    "nano": ModelDimensions(80, 1500, 64, 2, 2, 0, 448, 64, 2, 2),
}
SIZES = (*KNOWN_DIMENSIONS, *TEST_DIMENSIONS)
VOCABULARIES = ("small", "multilingual", "en")
# Text tokens of the published vocabularies, for weights that are made without a tokenizer.
TEXT_TOKENS = {"multilingual": 50257, "en": 50256}
TASKS = ("transcribe", "translate")
CONTROL_TOKENS = ("startoftranscript", "startoflm", "startofprev")
N_OTHER_SPECIALS = 8  # special tokens that are neither languages nor timestamps
DTYPES = {"float32": 4, "float16": 2, "bfloat16": 2}
SPELLING = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class Recipe:
    """What decides a checkpoint. Raises ValueError for names that do not exist."""

    size: str = "tiny"
    vocab: str = "small"
    seed: int = 0
    tiktoken: Path | None = None  # ranks for the vocabularies other than small
    alignment_heads: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        for value, allowed in ((self.size, SIZES), (self.vocab, VOCABULARIES)):
            if value not in allowed:
                raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")

    @property
    def multilingual(self) -> bool:
        return self.vocab != "en" and not self.size.endswith(".en")

    @property
    def languages(self) -> list[str]:
        # Models with 128 mels came with Cantonese.
        return LANGUAGES if self._shape.n_mels == 128 else LANGUAGES[:-1]

    @property
    def _shape(self) -> ModelDimensions:
        return KNOWN_DIMENSIONS.get(self.size) or TEST_DIMENSIONS[self.size]

    def vocabulary(self) -> Vocabulary:
        """The vocabulary; the published ones need ``tiktoken``."""
        if self.vocab == "small":
            return small_vocabulary(self.languages)
        if self.tiktoken is None:
            raise ValueError(f"the {self.vocab} vocabulary needs openai-whisper's .tiktoken file")
        return tiktoken_vocabulary(self.tiktoken, self.languages)

    def layout(self) -> TokenLayout:
        """Where the special tokens are; needs no ``tiktoken``."""
        if self.vocab == "small":
            n_text = len(small_vocabulary([]).tokens)
        else:
            n_text = TEXT_TOKENS[self.vocab]
        timestamp_begin = n_text + len(self.languages) + N_OTHER_SPECIALS
        return TokenLayout(
            end_of_text=n_text,
            no_speech=timestamp_begin - 2,
            timestamp_begin=timestamp_begin,
            n_vocab=timestamp_begin + 1501,
        )

    def dimensions(self) -> ModelDimensions:
        return replace(self._shape, n_vocab=self.layout().n_vocab)

    def weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor as (Hugging Face name, float32 array), one at a time."""
        return random_weights(self.dimensions(), self.layout(), self.seed)


def checkpoint(recipe: Recipe) -> Checkpoint:
    """A checkpoint in memory, without a tokenizer or a directory behind it."""
    dims = recipe.dimensions()
    return Checkpoint(Path("seeded"), dims, config_json(recipe), {}, dict(recipe.weights()))


def config_json(recipe: Recipe, dtype: str = "float32") -> dict[str, Any]:
    """The content of ``config.json``."""
    dims, end_of_text = recipe.dimensions(), recipe.layout().end_of_text
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "bos_token_id": end_of_text,
        "d_model": dims.n_text_state,
        "decoder_attention_heads": dims.n_text_head,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "decoder_layers": dims.n_text_layer,
        "decoder_start_token_id": end_of_text + 1,
        "encoder_attention_heads": dims.n_audio_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "encoder_layers": dims.n_audio_layer,
        "eos_token_id": end_of_text,
        "is_encoder_decoder": True,
        "max_source_positions": dims.n_audio_ctx,
        "max_target_positions": dims.n_text_ctx,
        "num_hidden_layers": dims.n_audio_layer,
        "num_mel_bins": dims.n_mels,
        "pad_token_id": end_of_text,
        "scale_embedding": False,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": dims.n_vocab,
    }


def generation_config_json(
    recipe: Recipe, vocabulary: Vocabulary, tokenizer: Tokenizer
) -> dict[str, Any]:
    """The content of ``generation_config.json``; ``tokenizer`` is that of the vocabulary."""
    dims = recipe.dimensions()
    special = vocabulary.special
    end_of_text = special("<|endoftext|>")
    heads = recipe.alignment_heads or tuple(
        (layer, head)
        for layer in range(dims.n_text_layer // 2, dims.n_text_layer)
        for head in range(dims.n_text_head)
    )
    control = [special(f"<|{name}|>") for name in (*TASKS, *CONTROL_TOKENS)]
    control.append(recipe.layout().no_speech)  # spelled in two ways
    config: dict[str, Any] = {
        "alignment_heads": [list(head) for head in heads],
        "begin_suppress_tokens": [*tokenizer.encode(" "), end_of_text],
        "bos_token_id": end_of_text,
        "decoder_start_token_id": special("<|startoftranscript|>"),
        "eos_token_id": end_of_text,
        "is_multilingual": recipe.multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": dims.n_text_ctx,
        "no_timestamps_token_id": special("<|notimestamps|>"),
        "pad_token_id": end_of_text,
        "prev_sot_token_id": special("<|startofprev|>"),
        "return_timestamps": False,
        "suppress_tokens": sorted({*tokenizer.non_speech_tokens, *control}),
    }
    if recipe.multilingual:
        names = [f"<|{language}|>" for language in recipe.languages]
        config["lang_to_id"] = {name: special(name) for name in names}
        config["task_to_id"] = {task: special(f"<|{task}|>") for task in TASKS}
    return config


def write_checkpoint(recipe: Recipe, folder: Path, dtype: str = "float32", shards: int = 1) -> None:
    """Write the Hugging Face directory; files of the same names are overwritten."""
    vocabulary = recipe.vocabulary()
    if vocabulary.n_vocab != recipe.layout().n_vocab:
        raise ValueError(f"{recipe.tiktoken} is not the {recipe.vocab} vocabulary")
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config_json(recipe, dtype))
    _write_json(folder / "tokenizer.json", vocabulary.tokenizer_json())
    tokenizer = Tokenizer.from_dir(folder, vocabulary.n_vocab, {})
    generation = generation_config_json(recipe, vocabulary, tokenizer)
    _write_json(folder / "generation_config.json", generation)
    write_weights(recipe.dimensions(), recipe.weights(), folder, dtype, shards)


def write_weights(
    dims: ModelDimensions,
    weights: Iterable[tuple[str, np.ndarray]],
    folder: Path,
    dtype: str = "float32",
    shards: int = 1,
) -> None:
    """Write the tensors of a model, in the order of its specification, as safetensors.

    Tensors are written as they come. (The library's own writer wants them all at once, has no
    bfloat16 for NumPy arrays, and its byte-level interface differs between versions.)
    """
    shapes = list(weight_specification(dims).items())
    tensors = iter(weights)
    weight_map = {}
    for i in range(shards):
        part = dict(shapes[len(shapes) * i // shards : len(shapes) * (i + 1) // shards])
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else WEIGHTS_FILE
        _write_safetensors(folder / file, part, tensors, dtype)
        weight_map.update(dict.fromkeys(part, file))
    if shards > 1:
        total = sum(DTYPES[dtype] * math.prod(shape) for _, shape in shapes)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / f"{WEIGHTS_FILE}.index.json", index)


def _write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterator[tuple[str, np.ndarray]],
    dtype: str,
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + DTYPES[dtype] * math.prod(shape)
        header[name] = {"dtype": SPELLING[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for expected in shapes:
            name, array = next(tensors)
            if name != expected:
                raise ValueError(f"tensor {name} came where {expected} was due")
            file.write(_encoded(array, dtype))


def _encoded(array: np.ndarray, dtype: str) -> bytes:
    if dtype == "bfloat16":
        bits = array.view(np.uint32).astype(np.uint64)
        # The upper half of a float32, rounded to nearest with ties to even.
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()
    return array.astype({"float32": "<f4", "float16": "<f2"}[dtype]).tobytes()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.checkpoints",
        description="Make a seeded random Whisper checkpoint.",
    )
    parser.add_argument("folder", type=Path, help="the directory to write")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--vocab", choices=VOCABULARIES, default="small")
    parser.add_argument("--tiktoken", type=Path, help="openai-whisper's ranks (not for small)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--shards", type=int, default=1, help="number of weight files")
    args = parser.parse_args()
    recipe = Recipe(args.size, args.vocab, args.seed, args.tiktoken)
    try:
        write_checkpoint(recipe, args.folder, args.dtype, args.shards)
    except (OSError, ValueError) as error:
        raise SystemExit(f"checkpoints: {error}") from error
    print(f"{args.folder}: {args.size}, {args.vocab} vocabulary, seed {args.seed}")


if __name__ == "__main__":
    main()
