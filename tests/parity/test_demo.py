"""The built-in model in other runtimes: the same tokens on every sample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whisper_npu.audio import load_audio
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.backends.opening import numpy_model
from whisper_npu.convert import convert
from whisper_npu.hub.folders import built_in_directory
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.text.tokenizer import Tokenizer
from whisper_npu.transcriber import Transcriber

SAMPLES = Path(__file__).parents[2] / "samples" / "synthetic"
NAMES = sorted(json.loads((SAMPLES / "texts.json").read_text()))
OPTIONS = {"language": "en", "temperature": 0.0}


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber("demo", precision="float32")


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model with its INT8 weights as floats, which other runtimes can load."""
    folder = tmp_path_factory.mktemp("demo") / "float32"
    convert(built_in_directory(), folder, dtype="float32")
    return folder


@pytest.mark.reference
@pytest.mark.parametrize("name", NAMES)
def test_openai_whisper(transcriber: Transcriber, plain_folder: Path, name: str) -> None:
    from tests.support.reference.transcribe import transcribe

    audio = load_audio(str(SAMPLES / name))
    ours = transcriber.transcribe(audio, raw_timestamps=True, **OPTIONS)
    theirs = transcribe(plain_folder, audio, OPTIONS, 0)[0]
    assert ours.text == theirs["text"]
    assert [list(s.tokens) for s in ours.segments] == [s["tokens"] for s in theirs["segments"]]


@pytest.mark.reference
@pytest.mark.parametrize("name", NAMES)
def test_transformers(transcriber: Transcriber, plain_folder: Path, name: str) -> None:
    """Its network with our features: its own extractor pads a window with silence, not zeros."""
    import torch
    from transformers import WhisperForConditionalGeneration

    audio = load_audio(str(SAMPLES / name))
    plain = {"without_timestamps": True, "suppress_tokens": "", "suppress_blank": False}
    ours = transcriber.transcribe(audio, **OPTIONS, **plain)
    checkpoint = load_checkpoint(plain_folder)
    with compute_log_mel(
        [audio], checkpoint.dims.n_mels, numpy_model(checkpoint, "float32").log_mel
    ) as log_mel:
        features = torch.from_numpy(log_mel.window(0)[None])
    tokenizer = Tokenizer.from_dir(plain_folder, checkpoint.dims.n_vocab, checkpoint.generation)
    start = tokenizer.for_task("en", "transcribe").sot_sequence_including_notimestamps
    tokens = torch.tensor([start])
    model = WhisperForConditionalGeneration.from_pretrained(plain_folder).eval()
    with torch.no_grad():
        states = model.model.encoder(features).last_hidden_state
        while tokens.shape[1] < checkpoint.dims.n_text_ctx // 2:
            logits = model(decoder_input_ids=tokens, encoder_outputs=(states,)).logits[:, -1]
            best = logits.argmax(-1, keepdim=True)
            if int(best) == tokenizer.eot:
                break
            tokens = torch.cat([tokens, best], dim=1)
    found = [token for segment in ours.segments for token in segment.tokens]
    assert found == tokens[0, len(start) :].tolist()
