"""Folders that transformers and training programs write are one and the same model."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import Recipe
from tests.support.micro import micro_model, write_int8
from tests.support.model_folders import (
    OF_TRANSFORMERS,
    WRAPPED,
    Tensors,
    copy_with,
    edit,
    renamed,
    rewrite,
    write_folder,
)
from tests.support.signals import noise
from whisper_npu import Transcriber
from whisper_npu.convert.source import open_source
from whisper_npu.errors import ModelError
from whisper_npu.model import stored
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.model.dims import dimensions_from_config
from whisper_npu.model.weight_names import TIED_OUTPUT, named, plain_name
from whisper_npu.model.weight_shapes import ENCODER_POSITIONS, TOKEN_EMBEDDING
from whisper_npu.ops.quant import Quantized

Read = Callable[[Path], Mapping[str, np.ndarray]]

FIRST = "model.encoder.conv1.weight"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "model"
    write_folder(folder)
    return folder


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    shutil.copytree(plain, tmp_path / "model")
    return tmp_path / "model"


def loaded(folder: Path) -> Mapping[str, np.ndarray]:
    weights = load_checkpoint(folder).weights
    arrays = {}
    for name in weights:
        weight = weights[name]
        arrays[name] = weight.dequantize() if isinstance(weight, Quantized) else weight
    return arrays


def converted(folder: Path) -> Mapping[str, np.ndarray]:
    source = open_source(folder)
    return {name: np.concatenate(list(source.blocks(name))) for name in source.shapes}


READERS = pytest.mark.parametrize("read", [loaded, converted])


@READERS
@pytest.mark.parametrize("kind", [*OF_TRANSFORMERS, *WRAPPED])
def test_the_same_weights(plain: Path, tmp_path: Path, kind: str, read: Read) -> None:
    change = {**OF_TRANSFORMERS, **WRAPPED}[kind]
    expected = loaded(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if kind == "surplus" else "error")
        found = read(copy_with(plain, tmp_path / "model", change))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == np.float32
        if kind == "no encoder positions" and name == ENCODER_POSITIONS:
            np.testing.assert_allclose(array, expected[name], atol=1e-6)
        elif kind == "float16, float32 and float64":
            np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-6)
        else:
            np.testing.assert_array_equal(array, expected[name])


@READERS
def test_surplus_tensors_are_named(plain: Path, tmp_path: Path, read: Read) -> None:
    surplus = {f"extra.{i}": np.zeros(1, np.float32) for i in range(7)}
    folder = copy_with(plain, tmp_path / "model", lambda tensors: tensors | surplus)
    with pytest.warns(UserWarning, match="ignored") as caught:
        read(folder)
    names = "extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more"
    text = f"{folder}: 7 tensors are no weights of a Whisper and ignored: {names}"
    assert [str(warning.message) for warning in caught] == [text]


def test_a_name_that_is_no_text_is_shown_escaped(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors | {"a\x1b[2J\nb": np.zeros(1, np.float32)})
    with pytest.warns(UserWarning, match=r"ignored: 'a\\x1b\[2J\\nb'$"):
        load_checkpoint(folder)


@READERS
def test_missing_weights_are_counted_and_five_are_named(folder: Path, read: Read) -> None:
    rewrite(folder, renamed(lambda name: f"net.{name}"))
    with pytest.raises(ModelError) as caught:
        read(folder)
    message = str(caught.value)
    assert "49 missing: model.encoder.conv1.weight, model.encoder.conv1.bias, " in message
    assert message.count(" and 44 more") == 1
    assert "50 unexpected: net.model." in message
    assert message.count("\n") == 0
    assert len(message) < 800


@READERS
def test_a_weight_under_two_names(folder: Path, read: Read) -> None:
    again = FIRST.removeprefix("model.")
    rewrite(folder, lambda tensors: tensors | {again: tensors[FIRST] + 1})
    with pytest.raises(ModelError, match=rf"2 that are the same weight: .*{again}"):
        read(folder)


@READERS
def test_an_output_layer_that_differs(folder: Path, read: Read) -> None:
    def differs(tensors: Tensors) -> Tensors:
        output = tensors[TOKEN_EMBEDDING].copy()
        output[-1, -1] += 1
        return {**tensors, f"module.{TIED_OUTPUT}": output}

    rewrite(folder, differs)
    with pytest.raises(ModelError, match=rf"module.{TIED_OUTPUT} differs from {TOKEN_EMBEDDING}"):
        read(folder)


@READERS
def test_adapters_are_to_be_merged_first(folder: Path, read: Read) -> None:
    query = "layers.0.self_attn.q_proj"

    def unmerged(name: str) -> str:
        name = name.replace(f"{query}.weight", f"{query}.base_layer.weight")
        return f"base_model.model.{name}"

    rewrite(folder, renamed(unmerged))
    with pytest.raises(ModelError, match=r"adapter that is not merged .*merge_and_unload\(\)"):
        read(folder)


@READERS
@pytest.mark.parametrize("width", [2, 6])
def test_positions_of_a_width_that_has_none(tmp_path: Path, width: int, read: Read) -> None:
    model = micro_model(state=width, timestamps=1)
    write_int8(model, tmp_path / "model")
    rewrite(tmp_path / "model", lambda t: {n: a for n, a in t.items() if n != ENCODER_POSITIONS})
    if width > 2:
        read(tmp_path / "model")
    else:
        with pytest.raises(ModelError, match="d_model 2 cannot be computed"):
            read(tmp_path / "model")


@READERS
def test_int8_weights_without_a_prefix(tmp_path: Path, read: Read) -> None:
    write_int8(micro_model(timestamps=1), tmp_path / "plain")
    expected = loaded(tmp_path / "plain")
    bare = renamed(lambda name: name.removeprefix("model."))
    found = read(copy_with(tmp_path / "plain", tmp_path / "bare", bare))
    assert load_checkpoint(tmp_path / "bare").has_int8_weights
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@READERS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_no_weight_is_nan_or_infinite(folder: Path, value: float, dtype: type, read: Read) -> None:
    def spoiled(tensors: Tensors) -> Tensors:
        tensors[FIRST] = tensors[FIRST].astype(dtype)
        tensors[FIRST][-1, 0, 1] = value
        return tensors

    rewrite(folder, spoiled)
    if read is loaded:
        with pytest.raises(ModelError, match=rf"{folder}: tensor {FIRST} holds NaN or infinity"):
            loaded(folder)
    else:
        # A conversion looks at what it writes.
        assert not np.isfinite(converted(folder)[FIRST]).all()


@pytest.mark.parametrize("place", [0, 6, 7, 9])
def test_every_part_of_a_tensor_is_looked_at(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    monkeypatch.setattr(stored, "_CHECKED", 7)
    array = np.zeros((5, 2), np.float32)
    assert stored.is_finite(array)
    array.reshape(-1)[place] = np.nan
    assert not stored.is_finite(array)


def test_a_float64_beyond_float32(folder: Path) -> None:
    def spoiled(tensors: Tensors) -> Tensors:
        return {**tensors, FIRST: tensors[FIRST].astype(np.float64) * 1e300}

    rewrite(folder, spoiled)
    with pytest.raises(ModelError, match=rf"{FIRST} holds NaN or infinity"):
        loaded(folder)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1e-3, 3e38, 2.7e36])
def test_scales_that_are_none(tmp_path: Path, scale: float) -> None:
    write_int8(micro_model(timestamps=1), tmp_path / "model")

    def spoiled(tensors: Tensors) -> Tensors:
        tensors[f"{FIRST}_scale"][0] = scale
        return tensors

    rewrite(tmp_path / "model", spoiled)
    with pytest.raises(ModelError, match=rf"tensor {FIRST}_scale holds a scale that is negative"):
        loaded(tmp_path / "model")


def test_a_row_of_zeros_may_have_the_scale_zero(tmp_path: Path) -> None:
    write_int8(micro_model(timestamps=1), tmp_path / "model")

    def zeros(tensors: Tensors) -> Tensors:
        tensors[FIRST][0] = 0
        tensors[f"{FIRST}_scale"][0] = 0
        return tensors

    rewrite(tmp_path / "model", zeros)
    assert not loaded(tmp_path / "model")[FIRST][0].any()


def test_decoders_that_are_not_as_deep_as_the_encoder(folder: Path) -> None:
    # config.json decides; a teacher's other layers are surplus.
    edit(folder / "config.json", encoder_layers=1, decoder_layers=1)
    deeper = "model.encoder.layers.1."

    def with_more(tensors: Tensors) -> Tensors:
        more = {n.replace("layers.0.", "layers.1."): a + 1 for n, a in tensors.items()}
        return {**{n: a for n, a in more.items() if n.startswith(deeper)}, **tensors}

    rewrite(folder, with_more)
    edit(folder / "config.json", encoder_layers=2)
    assert load_checkpoint(folder).dims.n_audio_layer == 2
    assert load_checkpoint(folder).dims.n_text_layer == 1
    edit(folder / "config.json", encoder_layers=1)
    with pytest.warns(UserWarning, match=rf"15 tensors .* ignored: {deeper}"):
        load_checkpoint(folder)


def test_plain_names() -> None:
    for tensor, name in {
        "encoder.conv1.weight": FIRST,
        "model.encoder.conv1.weight": FIRST,
        "base_model.model.model.encoder.conv1.weight": FIRST,
        "proj_out.weight": TIED_OUTPUT,
        "module.proj_out.weight": TIED_OUTPUT,
        "_orig_mod.model.encoder._orig_mod.conv1.weight": FIRST,
        "teacher.encoder.conv1.weight": "teacher.encoder.conv1.weight",
        "model": "",
    }.items():
        assert plain_name(tensor) == name


def test_names_in_messages() -> None:
    assert named(["a"]) == "a"
    assert named(list("abcde")) == "a, b, c, d, e"
    assert named(list("abcdef")) == "a, b, c, d, e and 1 more"
    assert named(["x" * 300]) == repr("x" * 200)


def test_what_config_leaves_out_is_as_in_transformers(folder: Path) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config |= {"max_target_positions": 448, "vocab_size": 51865, "num_mel_bins": 80}
    for name in ("max_target_positions", "vocab_size", "num_mel_bins"):
        del config[name]
    dims = dimensions_from_config(config, str(file))
    assert (dims.n_text_ctx, dims.n_vocab, dims.n_mels) == (448, 51865, 80)
    with pytest.raises(ModelError, match=r"config\.json: model_type is 'bert', not 'whisper'"):
        dimensions_from_config({"model_type": "bert"}, str(file))


def test_added_tokens_are_never_produced(
    seeded_directory: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    """Eight more rows of the embedding, one of them a name, all likelier than what is said."""
    original = seeded_directory(Recipe("nano", seed=1))
    folder = tmp_path / "model"
    shutil.copytree(original, folder)
    n_vocab = load_checkpoint(original).dims.n_vocab

    def padded(tensors: Tensors) -> Tensors:
        # A row and its opposite: whatever is to be said, one of them has a large logit.
        row = 1e3 * np.ones((1, tensors[TOKEN_EMBEDDING].shape[1]), np.float32)
        row[0, ::2] *= -3
        more = np.concatenate([row, -row] * 4)
        return {**tensors, TOKEN_EMBEDDING: np.concatenate([tensors[TOKEN_EMBEDDING], more])}

    rewrite(folder, padded)
    edit(folder / "config.json", vocab_size=n_vocab + 8)
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    more = {**added[-1], "id": n_vocab, "content": "[noise]"}
    edit(folder / "tokenizer.json", added_tokens=[*added, more])
    options = {"language": "en", "temperature": 0.0, "sample_len": 30}
    audio = noise(16000 * 20)
    expected = Transcriber(original).transcribe(audio, **options)
    assert expected.text
    for more in ({}, {"beam_size": 2}, {"suppress_tokens": "", "without_timestamps": True}):
        expected = Transcriber(original).transcribe(audio, **options, **more)
        found = Transcriber(folder).transcribe(audio, **options, **more)
        assert [s.tokens for s in found.segments] == [s.tokens for s in expected.segments]
