"""Real weights, and a window of real speech with the tokens of its text."""

from __future__ import annotations

import numpy as np

from tests.support.real import data
from tests.support.real.speech import president
from tools.tables.peers.outputs import Inputs
from whisper_npu import Transcriber
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.decoding.options import DecodingOptions
from whisper_npu.decoding.task import decode
from whisper_npu.runtime.model import Model

LANGUAGE = "en"


def real_model(name: str, dtype: str, precision: str, cpu_kernels: bool = False) -> Model:
    """One of ``data.MODELS`` with weights of a dtype of ``data.DTYPES``. Raises KernelError where
    there are no CPU kernels."""
    folder = data.converted(name, dtype)
    return Transcriber(folder, precision=precision, cpu_kernels=cpu_kernels)._model


def inputs(name: str) -> Inputs:
    """Eleven seconds of a President, and the text that this model in float32 makes of them."""
    folder = data.converted(name, "float16")
    transcriber = Transcriber(folder, precision="float32", cpu_kernels=False)
    model, tokenizer = transcriber._model, transcriber._tokenizer
    with compute_log_mel([president().samples()], model.dims.n_mels, model.log_mel) as log_mel:
        features = np.ascontiguousarray(log_mel.window(0))
    options = DecodingOptions(language=LANGUAGE, without_timestamps=True)
    (result,) = decode(model, tokenizer, model.encode(features[None]), options)
    prompt = tokenizer.for_task(LANGUAGE, "transcribe").sot_sequence_including_notimestamps
    return Inputs(features, list(prompt), list(result.tokens))
