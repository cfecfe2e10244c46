"""Seeded checkpoints: always the same, in the format that others read, and worth decoding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.parity.tolerances import TOLERANCES
from tests.support import checkpoints, synthetic_audio
from tests.support.checkpoints import Recipe, write_checkpoint
from whisper_npu import Transcriber
from whisper_npu.backends.opening import numpy_model
from whisper_npu.model.checkpoint import load_checkpoint

NANO = Recipe("nano")


def test_weights_are_the_same_bits_everywhere() -> None:
    digest = hashlib.sha256()
    for name, array in NANO.weights():
        # Sines may differ in their last bit between machines.
        if name != "model.encoder.embed_positions.weight":
            digest.update(name.encode() + array.tobytes())
    assert digest.hexdigest()[:16] == "dda5e432f09c92b3"


def test_seeds_change_every_random_tensor() -> None:
    other = dict(Recipe("nano", seed=1).weights())
    same = [name for name, array in NANO.weights() if np.array_equal(array, other[name])]
    assert same == ["model.encoder.embed_positions.weight"]


def test_positions_are_openais_sinusoids() -> None:
    table = dict(NANO.weights())["model.encoder.embed_positions.weight"]
    assert table.shape == (1500, 64)
    assert table[0].tolist() == [0.0] * 32 + [1.0] * 32
    assert table[7, 0] == pytest.approx(np.sin(7), abs=1e-7)
    assert table[1499, 63] == pytest.approx(np.cos(1499 / 10000), abs=1e-6)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_written_loads_again(tmp_path: Path, dtype: str, shards: int) -> None:
    write_checkpoint(NANO, tmp_path, dtype, shards)
    assert len(list(tmp_path.glob("*.safetensors"))) == shards
    loaded = load_checkpoint(tmp_path)
    assert loaded.dims == NANO.dimensions()
    for name, array in NANO.weights():
        found = loaded.weights[name]
        if dtype == "float32":
            assert np.array_equal(found, array)
        elif dtype == "float16":
            assert np.array_equal(found, array.astype(np.float16).astype(np.float32))
        else:
            # Eight bits of significand: within half a unit in the last place.
            assert (np.abs(found - array) <= np.abs(array) * 2**-8).all()


def test_bfloat16_rounds_ties_to_even() -> None:
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1.0], np.float32)
    raw = np.frombuffer(checkpoints._encoded(values, "bfloat16"), "<u2")
    rounded = (raw.astype(np.uint32) << 16).view(np.float32)
    assert rounded.tolist() == [1.0, 1 + 2**-6, 1 + 2**-7, -1.0]


def test_tensors_out_of_order_are_refused(tmp_path: Path) -> None:
    weights = list(NANO.weights())[::-1]
    with pytest.raises(ValueError, match=r"came where model\.encoder\.conv1\.weight was due"):
        checkpoints.write_weights(NANO.dimensions(), weights, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "huge"}, "'huge' is not one of tiny, "),
        ({"vocab": "large"}, "'large' is not one of small, "),
    ],
)
def test_names_that_do_not_exist_are_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**arguments)


def test_a_published_vocabulary_needs_its_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the en vocabulary needs openai-whisper's \.tiktoken"):
        write_checkpoint(Recipe("tiny.en", "en"), tmp_path)


def test_a_file_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    ranks = tmp_path / "other.tiktoken"
    ranks.write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(ValueError, match="is not the multilingual vocabulary"):
        write_checkpoint(Recipe("tiny", "multilingual", tiktoken=ranks), tmp_path)


def test_models_of_all_sizes_have_their_published_dimensions() -> None:
    large = Recipe("large-v3", "multilingual")
    assert (large.dimensions().n_vocab, large.languages[-1]) == (51866, "yue")
    assert Recipe("base", "multilingual").dimensions().n_vocab == 51865
    assert not Recipe("small.en", "en").multilingual
    assert not Recipe("tiny.en").multilingual
    assert Recipe("turbo").dimensions().n_text_layer == 4


def test_seeded_models_have_something_to_say(seeded_directory: Callable[[Recipe], Path]) -> None:
    """Different models and recordings give different, varied transcripts with timestamps."""
    recordings = [synthetic_audio.speech(25, seed) for seed in (1, 2)]
    found = set()
    for seed in (1, 3):
        transcriber = Transcriber(seeded_directory(Recipe("nano", seed=seed)), precision="float32")
        for samples in recordings:
            result = transcriber.transcribe(samples, temperature=0.0, language="en")
            tokens = [token for segment in result.segments for token in segment.tokens]
            text = [token for token in tokens if token < 756]
            assert len(tokens) > len(text) > 5
            assert len(set(text)) > len(text) / 5
            found.add(result.text)
    assert len(found) == 4


@pytest.mark.reference
@pytest.mark.parametrize("shards", [1, 2])
def test_transformers_reads_every_tensor(tmp_path: Path, shards: int) -> None:
    """Names and shapes are Hugging Face's: nothing missing, nothing left over, same logits."""
    import torch
    import transformers

    write_checkpoint(Recipe("odd", seed=1), tmp_path, shards=shards)
    theirs, report = transformers.WhisperForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values()), report
    loaded = load_checkpoint(tmp_path)
    features = np.random.RandomState(0).random_sample((1, 80, 3000)).astype(np.float32)
    tokens = np.array([[757, 758, 859, 400, 12]])
    with torch.no_grad():
        expected = theirs.eval()(
            torch.from_numpy(features), decoder_input_ids=torch.from_numpy(tokens)
        ).logits.numpy()
    ours = numpy_model(loaded, "float32")
    logits = ours.decoder(ours.encode(features)).prefill(tokens, range(5))
    assert np.abs(logits - expected).max() <= TOLERANCES["logits"] * np.abs(expected).max()


@pytest.mark.reference
def test_transformers_reads_the_tokenizer(seeded_directory: Callable[[Recipe], Path]) -> None:
    import transformers

    folder = seeded_directory(NANO)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    ours = Recipe("nano").vocabulary()
    assert theirs("the river")["input_ids"] == [
        ours.special("<|startoftranscript|>"),
        ours.special("<|notimestamps|>"),
        *theirs("the river", add_special_tokens=False)["input_ids"],
        ours.special("<|endoftext|>"),
    ]


@pytest.mark.reference
def test_suppressed_tokens_are_openais(tmp_path: Path) -> None:
    import whisper
    from whisper.tokenizer import get_tokenizer

    assets = Path(whisper.__file__).parent / "assets"
    recipe = Recipe("odd", "multilingual", tiktoken=assets / "multilingual.tiktoken")
    write_checkpoint(recipe, tmp_path)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    theirs = get_tokenizer(True)
    control = {theirs.transcribe, theirs.translate, theirs.sot, theirs.sot_prev, theirs.sot_lm}
    expected = {*theirs.non_speech_tokens, *control, theirs.no_speech}
    assert set(generation["suppress_tokens"]) == expected
    assert generation["begin_suppress_tokens"] == [*theirs.encode(" "), theirs.eot]
    assert generation["lang_to_id"]["<|de|>"] == theirs.to_language_token("de")
    assert generation["no_timestamps_token_id"] == theirs.no_timestamps
