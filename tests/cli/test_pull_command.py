"""``whisper-npu pull`` from a hub on this machine, and what can be done with the model then."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.audio_samples import encode
from tests.support.checkpoints import Recipe
from tests.support.signals import noise
from tests.unit.hub.fake_hub import COMMIT, REPOSITORY, FakeHub, cut_after, read_folder, serving
from whisper_npu import Transcriber
from whisper_npu.cli import main
from whisper_npu.errors import ModelError
from whisper_npu.hub import download
from whisper_npu.hub.store import Store

WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(
    seeded_directory: Callable[[Recipe], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[FakeHub]:
    """With a model; the current folder has a recording."""
    for name in (
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("a.wav").write_bytes(encode(noise(16000), 16000, "WAV"))
    with serving(FakeHub(read_folder(seeded_directory(Recipe("nano"))), {WEIGHTS})) as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.endpoint)
        yield fake


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
    named = segments("--model", REPOSITORY)
    assert capsys.readouterr().err == ""
    assert named
    assert named == segments("--model", str(seeded_directory(Recipe("nano"))))
    assert Transcriber(REPOSITORY).dims.n_text_layer == 2


def test_pulled_as_int8_and_used_unnamed(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    """Without touching the network again."""
    assert main(["pull", REPOSITORY]) == 0
    assert "owner/nano (int8, " in capsys.readouterr().out
    hub.requests.clear()
    unnamed = segments()
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
    assert (Store().downloads(REPOSITORY) / COMMIT / WEIGHTS).is_file()


@pytest.mark.parametrize("how", ["--offline", "1", "true", "YES", "on"])
def test_offline(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    option = [how] if how == "--offline" else []
    if not option:
        monkeypatch.setenv("HF_HUB_OFFLINE", how)
    assert main(["pull", REPOSITORY, *option]) == 3
    message = "owner/nano: is not in the cache, and nothing is downloaded offline"
    assert capsys.readouterr().err == f"whisper-npu: error: {message}\n"
    assert hub.requests == []


@pytest.mark.parametrize("value", ["0", "", "no"])
def test_not_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert main(["pull", "owner/nono"]) == 3
    assert len(hub.requests) == 1


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
    def interrupt(bar: Any, position: int) -> None:
        if bar.total == len(hub.files[WEIGHTS]):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "_show", interrupt)
        assert main(["pull", REPOSITORY]) == 130
    assert capsys.readouterr().err == "whisper-npu: interrupted\n"
    assert Store().all() == []
    assert (Store().downloads(REPOSITORY) / COMMIT / f"{WEIGHTS}.part").exists()
    assert main(["pull", REPOSITORY]) == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_progress_bar_on_a_terminal(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults[WEIGHTS] = [cut_after(100_000)]
    monkeypatch.setattr("time.sleep", lambda _: None)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["pull", REPOSITORY]) == 0
    last = [line.split("\r")[-1] for line in terminal.getvalue().splitlines()]
    bars = [line for line in last if line.startswith(f"{WEIGHTS}: 100%")]
    assert bars


@pytest.mark.parametrize("command", [["transcribe", "--help"], ["pull", "--help"], ["models"]])
def test_nothing_heavy_is_imported_before_it_is_needed(command: list[str]) -> None:
    code = (
        "import sys, contextlib\n"
        "from whisper_npu.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):\n"
        "    main(sys.argv[1:])\n"
        "print(*sys.modules)"
    )
    run = [sys.executable, "-c", code, *command]
    loaded = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    assert ("whisper_npu.hub.store" in loaded) == (command[0] != "transcribe")
    assert {"requests", "urllib3", "huggingface_hub", "filelock", "tqdm"}.isdisjoint(loaded)


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
        with pytest.raises(ModelError, match=r"^owner/nano: is no folder, and as a model was not"):
            Transcriber(REPOSITORY)

    def test_a_folder_comes_first(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = Path(REPOSITORY)
        folder.mkdir(parents=True)
        with pytest.raises(ModelError, match=r"^owner/nano/config.json: no such file"):
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
