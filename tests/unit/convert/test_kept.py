"""Models of other formats that are given to be loaded: converted once, and kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.formats.seeded import SeededModel, load_seeded
from tests.support.formats.torch_pt import write_pickled, write_pt
from tests.support.micro import micro_model, write_tokenizer
from tests.support.model_folders import split_tokenizer
from tests.support.signals import noise
from whisper_npu import Transcriber
from whisper_npu.convert import convert, kept
from whisper_npu.convert.kept import converted_folder
from whisper_npu.convert.safetensors_writer import SafetensorsWriter
from whisper_npu.convert.source import Source, open_source
from whisper_npu.errors import ModelError, OutputError
from whisper_npu.files.temporary import sweep
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.model.safetensors_file import SafetensorsFile
from whisper_npu.model.weight_shapes import TOKEN_EMBEDDING
from whisper_npu.ops.quant import Quantized

EXACT = (
    *("float32.pt", "float16.pt", "ggml-f32.bin", "ggml-f16.bin"),
    *("ctranslate2-float32", "ctranslate2-float16", "ctranslate2-int8"),
)


@pytest.fixture
def given(formats: dict[str, Path], nano: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a model in another format, with the vocabulary beside it that .pt files lack."""

    def copied(name: str) -> Path:
        (tmp_path / "given").mkdir(exist_ok=True)
        path = tmp_path / "given" / name
        (shutil.copytree if formats[name].is_dir() else shutil.copy)(formats[name], path)
        if path.suffix == ".pt":
            shutil.copy(nano / "tokenizer.json", path.parent)
        return path

    return copied


def made(path: Path) -> Path:
    with pytest.warns(UserWarning, match="it is converted to"):
        return converted_folder(path)


@pytest.mark.parametrize("name", EXACT)
def test_tensors_stay_what_they_are(given: Callable[[str], Path], name: str) -> None:
    source = open_source(given(name))
    folder = made(source.path)
    weights = load_checkpoint(folder).weights
    entries = SafetensorsFile(folder / "model.safetensors").entries
    types = {"float32": "F32", "float16": "F16", "int8": "I8"}
    for tensor, stored in source.tensors.items():
        values = np.concatenate(list(source.blocks(tensor)))
        weight = weights[tensor]
        assert entries[tensor].dtype == types[stored.stored.name]
        if isinstance(weight, Quantized):
            # CTranslate2 divides by scales, so that the last bit of a product may differ.
            np.testing.assert_allclose(weight.dequantize(), values, rtol=3e-7)
            again = np.rint(values / weight.scale.reshape(-1, *[1] * (values.ndim - 1)))
            np.testing.assert_array_equal(weight.values, again)
        else:
            np.testing.assert_array_equal(weight, values)


def test_formats_that_only_others_have(given: Callable[[str], Path], tmp_path: Path) -> None:
    source = open_source(given("ggml-q8_0.bin"))
    weights = load_checkpoint(made(source.path)).weights
    embedding = np.concatenate(list(source.blocks(TOKEN_EMBEDDING)))
    np.testing.assert_array_equal(
        weights[TOKEN_EMBEDDING], embedding.astype(np.float16).astype(np.float32)
    )
    model = micro_model(timestamps=1)
    for dtype, type in (("bfloat16", "BF16"), ("float64", "F32")):
        (tmp_path / dtype).mkdir()
        write_pt(model, tmp_path / dtype / "model.pt", dtype)
        write_tokenizer(model, tmp_path / dtype)
        folder = made(tmp_path / dtype / "model.pt")
        assert SafetensorsFile(folder / "model.safetensors").entries[TOKEN_EMBEDDING].dtype == type
        array = model.weights[TOKEN_EMBEDDING]
        if dtype == "bfloat16":
            array = (array.view(np.uint32) & 0xFFFF0000).view(np.float32)
        np.testing.assert_array_equal(load_checkpoint(folder).weights[TOKEN_EMBEDDING], array)


@pytest.mark.parametrize("name", ["float16.pt", "ggml-f16.bin", "ctranslate2-int8"])
def test_a_transcriber_takes_them(
    given: Callable[[str], Path], nano: Path, tmp_path: Path, name: str
) -> None:
    path = given(name)
    options = {"language": "en", "temperature": 0.0, "sample_len": 20}
    with pytest.warns(UserWarning, match=r"it is converted to .*\), which later runs use"):
        found = Transcriber(str(path)).transcribe(noise(16000 * 5), **options)
    dtype = "int8" if "int8" in name else "float32"
    convert(path, tmp_path / "folder", dtype=dtype, calibrate=False)
    expected = Transcriber(tmp_path / "folder").transcribe(noise(16000 * 5), **options)
    assert [s.tokens for s in found.segments] == [s.tokens for s in expected.segments]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = Transcriber(path).transcribe(noise(16000 * 5), **options)
    assert again.segments == found.segments


def fails(*_: object) -> None:
    raise AssertionError("converted again")


def test_a_conversion_is_used_until_its_source_changes(
    given: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = given("float32.pt")
    folder = made(path)
    before = (folder / "source.json").stat()
    with warnings.catch_warnings(), monkeypatch.context() as patched:
        warnings.simplefilter("error")
        patched.setattr(kept, "convert_source", fails)
        assert converted_folder(path) == folder
        # The same file by another way.
        assert converted_folder(path.parent / ".." / path.parent.name / path.name) == folder
    os.utime(path)
    assert made(path) == folder
    assert (folder / "source.json").stat().st_ino != before.st_ino
    # Beside the file it replaces the vocabulary that was used.
    content = json.loads((path.parent / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][-1], "id": 5000, "content": "[x]"})
    (path.parent / "tokenizer.json").write_text(json.dumps(content))
    made(path)
    assert "[x]" in (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").unlink()
    assert load_checkpoint(made(path)).weights
    os.truncate(folder / "model.safetensors", 1000)
    assert load_checkpoint(made(path)).weights


def test_a_vocabulary_that_comes_later(given: Callable[[str], Path], nano: Path) -> None:
    path = given("ggml-f32.bin")
    folder = made(path)
    assert "[x]" not in (folder / "tokenizer.json").read_text()
    shutil.copy(nano / "tokenizer.json", path.parent)
    made(path)


def test_a_file_without_a_vocabulary(given: Callable[[str], Path]) -> None:
    path = given("float32.pt")
    (path.parent / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"put its tokenizer\.json beside it, or name one"):
        converted_folder(path)


def test_a_conversion_that_breaks_off_leaves_nothing(
    given: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, cache_home: Path
) -> None:
    path = given("ggml-f32.bin")

    def interrupted(source: object, dest: Path, dtype: str) -> None:
        (dest / "model.safetensors").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(kept, "convert_source", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made(path)
    assert list((cache_home / "converted").iterdir()) == []
    assert load_checkpoint(made(path)).weights


def test_a_conversion_is_held_until_it_has_its_name(
    given: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, cache_home: Path
) -> None:
    record = kept._record

    def swept(source: Source) -> dict[str, Any]:
        # As another process does that converts another model now.
        sweep(cache_home / "converted")
        return record(source)

    monkeypatch.setattr(kept, "_record", swept)
    assert load_checkpoint(made(given("ggml-f32.bin"))).weights


def test_a_disk_that_is_full(
    given: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, cache_home: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = given("ggml-f32.bin")
    monkeypatch.setattr(SafetensorsWriter, "write", full)
    place = rf"^{cache_home}/converted/ggml-f32-[0-9a-f]{{16}}"
    with pytest.raises(OutputError, match=rf"{place}: cannot be written \(.*\); WHISPER_NPU_HOME"):
        made(path)
    assert list((cache_home / "converted").iterdir()) == []


def test_a_source_that_changes_meanwhile(
    given: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, cache_home: Path
) -> None:
    path = given("ggml-f32.bin")
    with monkeypatch.context() as patched:
        patched.setattr(kept, "convert_source", lambda *_: os.utime(path))
        with pytest.raises(ModelError, match="was changed while it was converted; try again"):
            made(path)
    assert list((cache_home / "converted").iterdir()) == []


def test_two_processes_convert_once(given: Callable[[str], Path], cache_home: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom whisper_npu.convert.kept import "
        "converted_folder\nprint(converted_folder(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(given("ctranslate2-float32"))]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outcomes = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert len({out for out, _ in outcomes}) == 1
    assert sum(error.count("it is converted to") for _, error in outcomes) == 1


def test_conversions_of_what_is_gone_are_removed(given: Callable[[str], Path]) -> None:
    first, second = given("ggml-f32.bin"), given("ctranslate2-float32")
    folder = made(first)
    first.unlink()
    assert made(second).is_dir()
    assert not folder.exists()


def test_a_conversion_of_another_user_stays(given: Callable[[str], Path], cache_home: Path) -> None:
    first, second = given("ggml-f32.bin"), given("ctranslate2-float32")
    folder = made(first)
    first.unlink()
    lock = cache_home / "locks" / f"converted-{folder.name}.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()  # nor can this be held
    assert made(second).is_dir()
    assert folder.is_dir()


def test_a_conversion_that_is_made_again_meanwhile_stays(
    given: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = given("ggml-f32.bin"), given("ctranslate2-float32")
    folder = made(first)
    is_current, lock = kept._is_current, kept._lock

    @contextmanager
    def made_before(place: Path, *, wait: bool = True) -> Iterator[None]:
        if place == folder:
            record = json.loads((folder / "source.json").read_text())
            record |= kept._record(open_source(first))
            (folder / "source.json").write_text(json.dumps(record))
        with lock(place, wait=wait):
            yield

    os.utime(first)
    assert not is_current(folder)
    monkeypatch.setattr(kept, "_lock", made_before)
    made(second)
    assert is_current(folder)


def test_who_waits_for_a_conversion_says_so(
    given: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = given("ggml-f32.bin")
    folder = made(path)
    path.touch()
    said = threading.Event()
    note = kept.note
    monkeypatch.setattr(kept, "note", lambda text: (note(text), said.set()))
    with ThreadPoolExecutor() as pool:
        with kept._lock(folder):
            other = pool.submit(converted_folder, path)
            assert said.wait(timeout=60)
        with pytest.warns(UserWarning, match="it is converted to"):
            assert other.result(timeout=60) == folder
    expected = f"whisper-npu: waiting for another process that converts {folder}\n"
    assert capsys.readouterr().err == expected


@pytest.mark.skipif(sys.platform != "linux", reason="has names that are text")
def test_a_name_that_is_no_text(given: Callable[[str], Path]) -> None:
    path = given("ggml-f32.bin")
    path = path.rename(path.with_name(os.fsdecode(b"\xff.bin")))
    folder = made(path)
    assert load_checkpoint(folder).weights
    assert converted_folder(path) == folder


def test_a_cache_that_cannot_be_written(given: Callable[[str], Path], cache_home: Path) -> None:
    cache_home.write_text("a file")
    with pytest.raises(OutputError, match="WHISPER_NPU_HOME names another place for it"):
        converted_folder(given("ggml-f32.bin"))


# pytorch_model.bin


@pytest.fixture
def model(nano: Path) -> SeededModel:
    return load_seeded(nano)


def pickled(nano: Path, folder: Path, model: SeededModel, **how: object) -> Path:
    shutil.copytree(nano, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    write_pickled(model, folder, **how)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_pickled_weights(nano: Path, tmp_path: Path, model: SeededModel, shards: int) -> None:
    folder = pickled(nano, tmp_path / "bin", model, shards=shards)
    source = open_source(folder)
    assert source.kind == "huggingface"
    names = {file.name for file in source.files}
    assert ("pytorch_model.bin.index.json" in names) == (shards > 1)
    assert len([name for name in names if name.endswith(".bin")]) == shards
    found, expected = load_checkpoint(made(folder)), load_checkpoint(nano)
    assert found.generation == expected.generation
    for name in expected.weights:
        np.testing.assert_array_equal(found.weights[name], expected.weights[name])
    if shards > 1:
        # As a whole folder is meant by one of its files.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Transcriber(folder / "pytorch_model-00002-of-00003.bin")


def test_pickled_weights_without_a_prefix_and_with_split_tokenizer(
    nano: Path, tmp_path: Path, model: SeededModel
) -> None:
    bare = {name.removeprefix("model."): array for name, array in model.weights.items()}
    folder = pickled(nano, tmp_path / "bin", replace(model, weights=bare))
    split_tokenizer(folder)
    weights = load_checkpoint(made(folder)).weights
    np.testing.assert_array_equal(weights[TOKEN_EMBEDDING], model.weights[TOKEN_EMBEDDING])


def test_safetensors_come_first(nano: Path, tmp_path: Path) -> None:
    shutil.copytree(nano, tmp_path / "both")
    (tmp_path / "both/pytorch_model.bin").write_text("damaged")
    Transcriber(tmp_path / "both")
    assert open_source(tmp_path / "both").files


def test_a_shard_with_a_path(nano: Path, tmp_path: Path, model: SeededModel) -> None:
    folder = pickled(nano, tmp_path / "bin", model, shards=2)
    index = folder / "pytorch_model.bin.index.json"
    for name in ("../x.bin", "x.safetensors", 7):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ModelError, match=r"is not the plain name of a bin file"):
            converted_folder(folder)
    index.write_text(json.dumps({"weight_map": {"a": "x.bin"}}))
    with pytest.raises(ModelError, match=r"x\.bin: shard named in pytorch_model.bin.index.json is"):
        converted_folder(folder)


def test_pickled_weights_that_are_damaged(nano: Path, tmp_path: Path, model: SeededModel) -> None:
    folder = pickled(nano, tmp_path / "bin", model, shards=2)
    first, second = sorted(folder.glob("*.bin"))
    kept_first = first.read_bytes()
    shutil.copy(second, first)
    with pytest.raises(ModelError, match=rf"{second.name}: tensor model\.\S+ is also in another"):
        converted_folder(folder)
    first.write_bytes(b"\x80\x02}.")
    with pytest.raises(ModelError, match=rf"{first.name}: is a torch file in the format before"):
        converted_folder(folder)
    first.write_bytes(kept_first[:-500])
    with pytest.raises(ModelError, match=rf"{first.name}: as a zip archive, has no end"):
        converted_folder(folder)
    write_pt(model, first)
    with pytest.raises(ModelError, match=rf"{first.name}: dims is not a tensor"):
        converted_folder(folder)
