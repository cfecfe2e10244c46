"""ggml files that whisper.cpp would not have written."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.support.micro import micro_model
from whisper_npu.convert.source import open_source
from whisper_npu.errors import ModelError

MODEL = micro_model()
FILTERS = 4 + 11 * 4
VOCABULARY = FILTERS + 8 + 4 * MODEL.dims.n_mels * 201
TENSORS = VOCABULARY + 4 + sum(4 + len(token) for token in MODEL.text_tokens)
FIRST = b"encoder.conv1.weight"


def damaged(path: Path, at: int, layout: str, *values: int) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{layout}", content, at, *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (4, -1, "vocab_size must be a positive integer, not -1"),
        (4, 1 << 30, "vocab_size must be a positive integer"),
        (4, MODEL.dims.n_vocab + 1, "decoder.embed_tokens.weight is"),
        (12, 4, "n_audio_state 4 and n_text_state 2 differ"),
        (16, 3, "d_model 2 is not a multiple of 3 encoder heads"),
        (20, 1 << 20, "too few for 1048577 layers"),
        (20, 2, "missing: model.encoder.layers.1.self_attn.q_proj.weight"),
        (40, 80, r"mel filters \[3, 201\], not \[80, 201\]"),
        (FILTERS + 4, 1 << 30, r"mel filters \[3, 1073741824\]"),
        (VOCABULARY, 0, "has 0 tokens"),
        (VOCABULARY, -1, "has -1 tokens"),
        (VOCABULARY, 1 << 30, "has 1073741824 tokens; the model has"),
        (VOCABULARY + 4, -1, "4294967295 bytes does not fit into"),
        (VOCABULARY, len(MODEL.text_tokens) - 1, "does not fit into"),
        (TENSORS, 0, "no tensor begins"),
        (TENSORS, 5, "no tensor begins"),
        (TENSORS + 4, 1 << 30, "1073741824 bytes does not fit into"),
        (TENSORS + 4, -5, "-5 bytes does not fit into"),
        (TENSORS + 8, 2, "encoder.conv1.weight is q4_0; f32, f16 and q8_0 are read"),
        (TENSORS + 8, 7, "encoder.conv1.weight is q5_1; f32"),
        (TENSORS + 8, 99, "encoder.conv1.weight is of type 99; f32"),
        (TENSORS + 8, 8, r"encoder.conv1.weight cannot be q8_0 \[2, 3, 3\]"),
        (TENSORS + 12, 0, r"encoder.conv1.weight cannot be float32 \[2, 3, 0\]"),
        (TENSORS + 12, -3, r"encoder.conv1.weight cannot be float32 \[2, 3, -3\]"),
        (TENSORS + 12, 1 << 30, "tensor .* does not fit into"),
    ],
)
def test_damaged_fields(micro: dict[str, Path], at: int, value: int, message: str) -> None:
    with pytest.raises(ModelError, match=rf"f32\.bin: .*{message}"):
        open_source(damaged(micro["f32.bin"], at, "i", value))


@pytest.mark.parametrize("keep", [5, 47, FILTERS + 7, VOCABULARY + 3, TENSORS - 1, TENSORS + 5, -1])
def test_truncated_files(micro: dict[str, Path], keep: int) -> None:
    micro["f32.bin"].write_bytes(micro["f32.bin"].read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"f32\.bin: byte \d+ .* does not fit into the \d+ bytes"):
        open_source(micro["f32.bin"])


def test_tensors_twice_missing_or_misnamed(micro: dict[str, Path]) -> None:
    content = micro["f32.bin"].read_bytes()
    (length,) = (12 + 3 * 4 + len(FIRST) + 4 * 2 * 3 * 3,)
    first = content[TENSORS : TENSORS + length]
    for changed, message in (
        (content + first, "encoder.conv1.weight is there twice"),
        (content[:TENSORS] + content[TENSORS + length :], "1 missing: model.encoder.conv1.weight"),
        (content[:TENSORS], "has 0 tensors, too few"),
        (content.replace(FIRST, b"encoder.conv1.wei\ngt"), r"has the name 'encoder.conv1.wei\\n"),
        (content.replace(b"conv1.w", b"conv3.w"), "1 unexpected: encoder.conv3.weight"),
    ):
        micro["f32.bin"].write_bytes(changed)
        with pytest.raises(ModelError, match=message):
            open_source(micro["f32.bin"])


def test_a_first_special_token_may_be_written_along(micro: dict[str, Path]) -> None:
    # Vocabularies of Hugging Face's older files have it among the text tokens.
    text = open_source(micro["f32.bin"]).tokenizer
    content = bytearray(micro["f32.bin"].read_bytes())
    struct.pack_into("<i", content, VOCABULARY, MODEL.n_text + 1)
    content[TENSORS:TENSORS] = struct.pack("<I", 13) + b"<|endoftext|>"
    micro["f32.bin"].write_bytes(content)
    assert open_source(micro["f32.bin"]).tokenizer == text
