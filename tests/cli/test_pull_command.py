"""``whisper-npu pull`` from a hub on this machine, and what can be done with the model then."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.support.audio_samples import encode
from tests.support.checkpoints import Recipe
from tests.support.signals import noise
from tests.unit.hub.fake_hub import COMMIT, REPOSITORY, FakeHub, cut_after, reached, read_folder
from whisper_npu import Transcriber
from whisper_npu.cli import main
from whisper_npu.errors import ModelError
from whisper_npu.hub import remote
from whisper_npu.hub.folders import model_directory
from whisper_npu.hub.store import Store

pytestmark = pytest.mark.usefixtures("uncalibrated")

WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(
    seeded_directory: Callable[[Recipe], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[FakeHub]:
    """With a model; the current folder has a recording."""
    monkeypatch.chdir(tmp_path)
    Path("a.wav").write_bytes(encode(noise(16000), 16000, "WAV"))
    fake = FakeHub(read_folder(seeded_directory(Recipe("nano"))), {WEIGHTS})
    with reached(fake, tmp_path_factory.mktemp("huggingface")):
        yield fake


def snapshot_folder() -> Path:
    return Path(constants.HF_HUB_CACHE) / "models--owner--nano/snapshots" / COMMIT


def process(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, as the library reads its environment once."""
    run = [sys.executable, "-c", code, *arguments]
    return subprocess.run(run, capture_output=True, text=True, env=os.environ | environment)


def segments(*arguments: str) -> list[dict[str, Any]]:
    options = ["--language=en", "--beam_size=None", "--temperature_increment_on_fallback=None"]
    assert main(["transcribe", "a.wav", "-f", "json", *options, *arguments]) == 0
    found: list[dict[str, Any]] = json.loads(Path("a.json").read_text())["segments"]
    return found


def test_pulled_and_transcribed_with(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], seeded_directory: Callable[[Recipe], Path]
) -> None:
    assert main(["pull", REPOSITORY, "--dtype", "float32"]) == 0
    out, error = capsys.readouterr()
    model = Store().find(REPOSITORY)
    assert model is not None
    assert out == (
        f"owner/nano (float32, {model.size / 1e6:.1f} MB) is in {model.path}\n"
        "Use it with: whisper-npu transcribe --model owner/nano\n"
    )
    assert error == ""
    named = segments("--model", REPOSITORY, "--verbose", "False")
    assert capsys.readouterr().err == ""
    assert named
    assert named == segments("--model", str(seeded_directory(Recipe("nano"))))
    assert Transcriber(REPOSITORY).dims.n_text_layer == 2


def test_pulled_as_int8_and_used_unnamed(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    """Without touching the network again."""
    assert main(["pull", REPOSITORY]) == 0
    assert "owner/nano (int8, " in capsys.readouterr().out
    hub.requests.clear()
    unnamed = segments("--verbose", "False")
    assert capsys.readouterr().err == (
        "whisper-npu: using owner/nano (int8), the model pulled last; --model names another\n"
    )
    assert unnamed == segments("--model", REPOSITORY)
    assert main(["transcribe", "a.wav", "--model", "tiny"]) == 3
    capsys.readouterr()
    segments("--quiet")
    assert capsys.readouterr().err == ""
    assert hub.requests == []


def test_again(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", REPOSITORY]) == 0
    capsys.readouterr()
    assert main(["pull", REPOSITORY]) == 0
    assert " is already in " in capsys.readouterr().out
    assert main(["pull", REPOSITORY, "--force", "--keep"]) == 0
    assert " is already in " not in capsys.readouterr().out
    assert len(hub.asked(WEIGHTS)) == 1


COMMAND = "import sys; from whisper_npu.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("how", ["--offline", "1", "true", "YES", "on"])
def test_offline(hub: FakeHub, how: str) -> None:
    option = [how] if how == "--offline" else []
    variable = {} if option else {"HF_HUB_OFFLINE": how}
    done = process(COMMAND, "pull", REPOSITORY, *option, **variable)
    message = (
        "owner/nano: was not pulled, is not in the Hugging Face cache, and nothing is downloaded "
        "offline"
    )
    assert (done.returncode, done.stderr) == (3, f"whisper-npu: error: {message}\n")
    assert hub.requests == []


@pytest.mark.parametrize("value", ["0", "", "no"])
def test_not_offline(hub: FakeHub, value: str) -> None:
    assert process(COMMAND, "pull", "owner/nono", HF_HUB_OFFLINE=value).returncode == 3
    assert len(hub.requests) == 1


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_the_variables_of_the_library(hub: FakeHub, tmp_path: Path, variable: str) -> None:
    """Of a process that sets nothing else."""
    cache = tmp_path / "cache" if variable == "HF_HUB_CACHE" else tmp_path / "cache" / "hub"
    known = {variable: str(tmp_path / "cache"), "HF_TOKEN": "hf_secret"}
    assert process(COMMAND, "pull", REPOSITORY, **known).returncode == 0
    assert hub.asked("api")[0]["Authorization"] == "Bearer hf_secret"
    weights = cache / "models--owner--nano/snapshots" / COMMIT / WEIGHTS
    assert weights.read_bytes() == hub.files[WEIGHTS]


def test_a_pulled_model_is_used_offline(hub: FakeHub) -> None:
    """Also when only the download is left of it."""
    assert process(COMMAND, "pull", REPOSITORY).returncode == 0
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:1"}
    assert process(COMMAND, "pull", REPOSITORY, "--offline", **nowhere).returncode == 0
    Store().remove(REPOSITORY)
    transcribe = ["transcribe", "a.wav", "--model", REPOSITORY, "-f", "txt", "--language", "en"]
    assert process(COMMAND, *transcribe, **nowhere).returncode == 0
    assert Store().all() == []
    for damage in (False, True):
        if damage:
            (Store().all()[0].path / WEIGHTS).unlink()
        done = process(COMMAND, "pull", REPOSITORY, "--offline", **nowhere)
        assert done.returncode == 0, done.stderr
        assert [model.commit for model in Store().all()] == [COMMIT]
        assert Store().all()[0].is_whole()


def test_a_loaded_model_may_be_that_of_the_hugging_face_cache(
    hub: FakeHub, seeded_directory: Callable[[Recipe], Path]
) -> None:
    """Files there are links."""
    assert main(["pull", REPOSITORY]) == 0
    Store().remove(REPOSITORY)
    hub.requests.clear()
    hub.heads.clear()
    folder = model_directory(REPOSITORY)
    assert folder == snapshot_folder()
    assert (folder / WEIGHTS).is_symlink()
    cached = segments("--model", REPOSITORY)
    assert cached == segments("--model", str(seeded_directory(Recipe("nano"))))
    assert Transcriber(REPOSITORY).dims.n_text_layer == 2
    assert (hub.requests, hub.heads) == ([], [])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_but_not_a_part_of_one(hub: FakeHub, name: str) -> None:
    assert main(["pull", REPOSITORY]) == 0
    Store().remove(REPOSITORY)
    (snapshot_folder() / name).unlink()
    with pytest.raises(ModelError, match=r"was not pulled yet; run: whisper-npu pull owner/nano"):
        Transcriber(REPOSITORY)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tinny"], 2, "'tinny' is neither a repository (owner/name) nor one of tiny, tiny.en"),
        ([REPOSITORY, "--revision="], 2, "--revision: must not be empty"),
        ([REPOSITORY, "--revision=v9"], 3, "owner/nano: has no revision 'v9'; it has 'main', 'v1'"),
        (["owner/nono"], 3, "owner/nono: there is no such repository at http://127.0.0.1:"),
        (["tiny"], 3, "openai/whisper-tiny: there is no such repository at http://127.0.0.1:"),
    ],
)
def test_errors(
    hub: FakeHub,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    assert main(["pull", *arguments]) == code
    error = capsys.readouterr().err
    assert error.startswith(f"whisper-npu: error: {message}")
    assert error.count("\n") == 1


def test_ctrl_c(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = remote._Part.write

    def interrupted(file: remote._Part, content: bytes) -> int:
        if file.tell() > 100_000:
            raise KeyboardInterrupt
        return write(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(remote._Part, "write", interrupted)
        assert main(["pull", REPOSITORY]) == 130
    assert capsys.readouterr().err == "whisper-npu: interrupted\n"
    assert Store().all() == []
    parts = (snapshot_folder().parents[1] / "blobs").glob("*.incomplete")
    assert max(part.stat().st_size for part in parts) > 100_000
    assert main(["pull", REPOSITORY]) == 0


def test_troubles_that_pass_are_not_told(hub: FakeHub) -> None:
    hub.faults[WEIGHTS] = [cut_after(100_000)]
    done = process(COMMAND, "pull", REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(hub.asked(WEIGHTS)) == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_progress_bar_on_a_terminal(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults[WEIGHTS] = [cut_after(100_000)]
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["pull", REPOSITORY]) == 0
    last = [line.split("\r")[-1] for line in terminal.getvalue().splitlines()]
    bars = [line for line in last if line.startswith(f"{WEIGHTS}: 100%")]
    assert bars


LOADED = (
    "import sys, contextlib\n"
    "from whisper_npu.cli import main\n"
    "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):\n"
    "    main(sys.argv[1:])\n"
    "print(*sys.modules)"
)
NETWORK = {"huggingface_hub", "httpx", "httpx2", "requests", "urllib3"}


@pytest.mark.parametrize("command", [["transcribe", "--help"], ["pull", "--help"], ["models"]])
def test_nothing_heavy_is_imported_before_it_is_needed(command: list[str]) -> None:
    loaded = process(LOADED, *command).stdout.split()
    assert ("whisper_npu.hub.store" in loaded) == (command[0] != "transcribe")
    assert NETWORK.isdisjoint(loaded)
    assert {"filelock", "tqdm"}.isdisjoint(loaded)
    assert ("numpy" in loaded) == (command[0] == "models")


@pytest.mark.parametrize("named", ["tiny", "owner/nano", "a folder", "none"])
def test_nothing_of_the_network_is_imported_to_transcribe(
    hub: FakeHub, seeded_directory: Callable[[Recipe], Path], named: str
) -> None:
    folder = seeded_directory(Recipe("nano"))
    store = Store()
    for repository in ("openai/whisper-tiny", "owner/nano"):
        with store.incoming(repository) as made:
            shutil.copytree(folder, made)
            store.install(made, repository, "main", COMMIT, "float32")
    model = {"a folder": ["--model", str(folder)], "none": []}.get(named, ["--model", named])
    done = process(LOADED, "transcribe", "a.wav", "-f", "txt", "--quiet", *model)
    loaded = done.stdout.split()
    assert Path("a.txt").exists(), done.stderr
    assert "whisper_npu.runtime.model" in loaded
    assert NETWORK.isdisjoint(loaded)


def test_nor_by_the_package() -> None:
    loaded = process("import sys, whisper_npu; whisper_npu.Transcriber; print(*sys.modules)")
    assert "whisper_npu.transcriber" in loaded.stdout
    assert NETWORK.isdisjoint(loaded.stdout.split())


class TestNames:
    """What ``--model`` and ``Transcriber`` take."""

    @pytest.mark.parametrize("name", ["tiny", "turbo", "distil-large-v3"])
    def test_a_known_name_that_was_not_pulled(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
    ) -> None:
        assert main(["transcribe", "a.wav", "--model", name, "-o", str(tmp_path / "out")]) == 3
        message = f"{name}: was not pulled yet; run: whisper-npu pull {name}"
        assert capsys.readouterr().err == f"whisper-npu: error: {message}\n"

    def test_a_repository_that_was_not_pulled(self) -> None:
        with pytest.raises(
            ModelError, match=r"^owner/nano: is no file or folder, and as a model was not"
        ):
            Transcriber(REPOSITORY)

    def test_a_folder_comes_first(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = Path(REPOSITORY)
        folder.mkdir(parents=True)
        with pytest.raises(ModelError, match=r"^owner/nano: has neither model.safetensors"):
            Transcriber(REPOSITORY)
        for name, content in hub.files.items():
            (folder / name).write_bytes(content)
        Transcriber(REPOSITORY)

    def test_but_not_one_that_is_no_model(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "tiny").mkdir()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelError, match=r"run: whisper-npu pull tiny$"):
            Transcriber("tiny")

    def test_a_path_is_a_folder(self) -> None:
        with pytest.raises(ModelError, match=r"^tiny: does not exist"):
            Transcriber(Path("tiny"))
