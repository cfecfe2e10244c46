"""The formats as the programs they come from write and read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.checkpoints import Recipe
from tests.support.formats.ggml import write_ggml
from tests.support.formats.seeded import SeededModel, load_seeded
from tests.support.formats.torch_pt import write_pt
from tests.support.micro import micro_model
from whisper_npu.convert.openai_names import openai_name
from whisper_npu.convert.source import Source, open_source
from whisper_npu.convert.tokenizer_files import read_tokenizer
from whisper_npu.model.weight_shapes import TOKEN_EMBEDDING
from whisper_npu.text.tokenizer import Tokenizer

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def nano(seeded_directory: Callable[[Recipe], Path]) -> Path:
    return seeded_directory(Recipe("nano"))


@pytest.fixture(scope="module")
def model(nano: Path) -> SeededModel:
    return load_seeded(nano)


def whole(source: Source, name: str) -> np.ndarray:
    return np.concatenate(list(source.blocks(name)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_torch_reads_our_pt(model: SeededModel, tmp_path: Path, dtype: str) -> None:
    import torch
    import whisper

    write_pt(model, tmp_path / "model.pt", dtype)
    loaded = torch.load(tmp_path / "model.pt", weights_only=True)
    assert loaded["dims"] == vars(model.dims)
    for name, array in model.weights.items():
        tensor = loaded["model_state_dict"][openai_name(name)]
        assert str(tensor.dtype) == f"torch.{dtype}"
        expected = array
        if dtype == "bfloat16":
            expected = (array.view(np.uint32) & 0xFFFF0000).view(np.float32)
        elif dtype == "float16":
            expected = array.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(tensor.float().numpy(), expected)
    openai = whisper.load_model(str(tmp_path / "model.pt"), device="cpu")
    assert openai.dims.n_vocab == model.dims.n_vocab


@pytest.mark.parametrize("half", [False, True])
def test_a_pt_of_openai_whisper(tmp_path: Path, half: bool) -> None:
    import torch
    from whisper.model import ModelDimensions, Whisper

    dims = ModelDimensions(80, 20, 32, 2, 2, 300, 12, 32, 4, 1)
    torch.manual_seed(0)
    network = Whisper(dims)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    if half:
        network = network.half()
    state = network.state_dict()
    if half:
        # A view that is not contiguous, which torch saves as such.
        state["decoder.blocks.0.mlp.0.weight"] = state["decoder.blocks.0.mlp.0.weight"].T.clone().T
    torch.save({"dims": vars(dims), "model_state_dict": state}, tmp_path / "model.pt")
    source = open_source(tmp_path / "model.pt")
    assert vars(source.dims) == vars(dims)
    assert source.dtype == ("float16" if half else "float32")
    assert len(source.shapes) == len(state)
    for name in source.shapes:
        np.testing.assert_array_equal(whole(source, name), state[openai_name(name)].float().numpy())


def test_a_pt_in_the_old_format_is_refused(tmp_path: Path) -> None:
    import torch

    from whisper_npu.errors import ModelError

    path = tmp_path / "old.pt"
    torch.save({"dims": {}}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"before torch 1\.6: load and save it with a newer"):
        open_source(path)


@pytest.mark.parametrize("name", ["multilingual", "gpt2"])
def test_tokens_of_the_published_vocabularies(tmp_path: Path, name: str) -> None:
    from whisper.tokenizer import get_tokenizer

    multilingual = name == "multilingual"
    reference = get_tokenizer(multilingual, num_languages=99)
    import whisper

    assets = Path(whisper.__file__).parent / "assets"
    n_vocab = 51865 if multilingual else 51864
    text, _ = read_tokenizer(assets / f"{name}.tiktoken", n_vocab)
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    ours = Tokenizer.from_dir(tmp_path, n_vocab, {})
    corpus = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    corpus += "naïve 今日は天気がいい。 Привет 🎵🎵  \n\n\t  1234 ﷽ ----------------"
    assert ours.encode(corpus) == reference.encode(corpus)
    assert ours.decode(reference.encode(corpus)) == corpus
    assert ours.is_multilingual == multilingual
    for field in ("sot", "eot", "sot_prev", "no_speech", "no_timestamps", "timestamp_begin"):
        assert getattr(ours, field) == getattr(reference, field), field
    languages = dict(zip(ours.all_language_codes, ours.all_language_tokens, strict=True))
    assert languages == {code: reference.to_language_token(code) for code in languages}
    assert len(languages) == len(reference.all_language_codes)
    assert ours.non_speech_tokens == reference.non_speech_tokens


@pytest.mark.parametrize(("n_vocab", "name"), [(51864, "gpt2"), (51866, "multilingual")])
def test_the_vocabulary_of_an_installed_openai_whisper(
    tmp_path: Path, n_vocab: int, name: str
) -> None:
    import whisper

    small = micro_model()
    random = np.random.RandomState(0).standard_normal((n_vocab, 2)).astype(np.float32)
    small.weights[TOKEN_EMBEDDING] = random
    write_pt(replace(small, dims=replace(small.dims, n_vocab=n_vocab)), tmp_path / "model.pt")
    source = open_source(tmp_path / "model.pt")
    file = Path(whisper.__file__).parent / "assets" / f"{name}.tiktoken"
    assert source.files[1] == file
    assert source.tokenizer == read_tokenizer(file, n_vocab)[0]


@pytest.fixture
def converted(nano: Path, tmp_path: Path) -> Callable[[str], Path]:
    """The seeded checkpoint as CTranslate2's own converter writes it."""
    converters: Any = pytest.importorskip("ctranslate2.converters")

    def convert(quantization: str) -> Path:
        folder = tmp_path / quantization
        converters.TransformersConverter(str(nano)).convert(str(folder), quantization=quantization)
        return folder

    return convert


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_ctranslate2s_own_converter(
    nano: Path, converted: Callable[[str], Path], tmp_path: Path, dtype: str
) -> None:
    from tests.support.formats.ctranslate2 import write_ctranslate2

    write_ctranslate2(load_seeded(nano), tmp_path / "ours", dtype)
    theirs, ours = open_source(converted(dtype)), open_source(tmp_path / "ours")
    assert theirs.dims == ours.dims
    # The converter joins scales in float32 throughout, so all is equal to the bit.
    for name in theirs.shapes:
        assert whole(theirs, name).tobytes() == whole(ours, name).tobytes(), name
    assert theirs.tokenizer == ours.tokenizer
    assert (theirs.config, theirs.generation) == (ours.config, ours.generation)
    if dtype == "float32":
        for name, array in load_file(nano / "model.safetensors").items():
            assert whole(theirs, name).tobytes() == array.tobytes()


@pytest.mark.parametrize(("dtype", "file_type"), [("f32", 0), ("f16", 1), ("q8_0", 7)])
def test_whisper_cpp_loads_our_ggml(
    model: SeededModel, tmp_path: Path, dtype: str, file_type: int
) -> None:
    # It compares names, shapes, types and sizes of all tensors with what it expects.
    binding: Any = pytest.importorskip("_pywhispercpp")
    path = tmp_path / "model.bin"
    write_ggml(model, path, dtype)
    parameters = binding.whisper_context_default_params()
    parameters.use_gpu = False
    context = binding.whisper_init_from_file_with_params(str(path), parameters)
    assert context is not None
    assert binding.whisper_model_ftype(context) == file_type
    assert binding.whisper_n_vocab(context) == model.dims.n_vocab
    for token, content in enumerate(model.text_tokens):
        # A string of C: the token of the byte 0 is empty.
        read = binding.whisper_token_to_bytes(context, token)
        assert read == content.partition(b"\0")[0]
