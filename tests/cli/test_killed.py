"""kill -9 at every change of files: the next run leaves nothing stale, and no name is ever gone.

In CI at a few of them; ``-m long`` is at all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.audio_samples import encode
from tests.support.checkpoints import Recipe
from tests.support.cpu_library import require_compiler
from tests.support.killing import Killable, killable
from tests.support.signals import noise
from tests.unit.hub.fake_hub import REPOSITORY, FakeHub, reached, read_folder
from whisper_npu.backends.cpu.library_file import check_library_file
from whisper_npu.hub.store import Store
from whisper_npu.model.safetensors_file import SafetensorsFile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and memfd_create")

# How many of the events, when not all.
_FEW = 3
# Names of what is not finished, but for downloads, which are continued.
_LEFT = re.compile(r"^tmp/|^home/(?!locks/).*/\.|^out/\.|\.whisper-npu-")

MAIN = """
import whisper_npu.cli.program, whisper_npu.transcriber, whisper_npu.convert.pull
import whisper_npu.cli.transcribe, whisper_npu.cli.convert, whisper_npu.cli.models
import soundfile, tokenizers, safetensors.numpy, filelock, tqdm, ctypes, tempfile
import whisper_npu.convert.conversion
from whisper_npu.cli import main
# Calibration writes nothing, and takes its time.
whisper_npu.convert.conversion.shipped_windows = lambda *_: []
# Python tries the folder with a file of its own.
tempfile.gettempdir()
def action():
    return main({arguments!r})
"""

BUILD = """
from pathlib import Path
from whisper_npu.backends.cpu import build
build.shipped_file = lambda name: Path("sources/api.h").absolute()
def action():
    build.build_library(force={force})
    return 0
"""

SOURCE = """
extern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }
"""


@dataclass(frozen=True)
class Scenario:
    """An action; what is there before it; what must be whole whenever it is killed.

    ``codes`` are the exit codes of the next run. Other actions have run ``before``.
    """

    code: str
    prepare: Callable[[Path, Path], None]
    whole: Callable[[Path], None] | None = None
    codes: tuple[int, ...] = (0,)
    before: tuple[str, ...] = ()


def _model(root: Path, model: Path) -> None:
    shutil.copytree(model, root / "model")


def _recording(root: Path, model: Path) -> None:
    _model(root, model)
    (root / "a.wav").write_bytes(encode(noise(16000), 16000, "WAV"))


def _sources(root: Path, model: Path) -> None:
    folder = root / "sources"
    folder.mkdir()
    (folder / "api.h").write_text("")
    (folder / "isas.h").write_text('#define ISAS_EVERYWHERE(X) X(one, one, "-DANSWER=1")\n')
    (folder / "fixed_point.cc").write_text(SOURCE)


def _nothing(root: Path, model: Path) -> None:
    pass


def _model_folder(folder: Path) -> None:
    assert SafetensorsFile(folder / "model.safetensors").entries
    json.loads((folder / "config.json").read_text())
    json.loads((folder / "tokenizer.json").read_text())


def _converted(root: Path) -> None:
    _model_folder(root / "out" / "int8")


def _pulled(root: Path) -> None:
    model = Store(root / "home").find(REPOSITORY)
    assert model is not None
    assert model.is_whole()
    _model_folder(model.path)


def _packed(root: Path) -> None:
    assert len(list((root / "home" / "packed").glob("[!.]*.weights"))) == 1
    names = [name for name in os.listdir(root / "out") if not name.startswith(".")]
    assert sorted(names) == ["a.json", "a.srt", "a.tsv", "a.txt", "a.vtt"]
    json.loads((root / "out" / "a.json").read_text())


def _library(root: Path) -> None:
    folder = root / "home" / "cpu"
    record = json.loads((folder / "library.json").read_text())
    check_library_file(folder / record["library"], record["sha256"])


_CONVERT = ["convert", "model", "out/int8", "--quiet"]
_TRANSCRIBE = ["transcribe", "a.wav", "--model", "model", "-o", "out", "--language", "en"]
_TRANSCRIBE += ["--precision", "int8", "--cpu_kernels", "False", "--temperature", "0"]
_TRANSCRIBE += ["--temperature_increment_on_fallback", "None", "--beam_size", "1"]
_PULL = ["pull", REPOSITORY]


def _cli(arguments: list[str]) -> str:
    return MAIN.format(arguments=arguments)


SCENARIOS = {
    "convert": Scenario(_cli(_CONVERT), _model, codes=(0, 4)),
    "convert --force": Scenario(
        _cli([*_CONVERT, "--force"]), _model, _converted, before=(_cli(_CONVERT),)
    ),
    "pull": Scenario(_cli(_PULL), _nothing),
    "pull --force": Scenario(_cli([*_PULL, "--force"]), _nothing, _pulled, before=(_cli(_PULL),)),
    "models remove": Scenario(
        _cli(["models", "remove", REPOSITORY]), _nothing, codes=(0, 3), before=(_cli(_PULL),)
    ),
    "transcribe, weights new": Scenario(_cli(_TRANSCRIBE), _recording),
    # A copy of a model is another one: the weights that were packed are not of it.
    "transcribe, weights forced": Scenario(
        _cli(_TRANSCRIBE), _recording, _packed, before=(_cli(_TRANSCRIBE),)
    ),
    "kernels build": Scenario(BUILD.format(force=False), _sources),
    "kernels build --force": Scenario(
        BUILD.format(force=True), _sources, _library, before=(BUILD.format(force=False),)
    ),
}


@pytest.fixture
def hub(
    seeded_directory: Callable[[Recipe], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeHub]:
    fake = FakeHub(read_folder(seeded_directory(Recipe("nano"))), {"model.safetensors"})
    with reached(fake, tmp_path_factory.mktemp("huggingface")):
        yield fake


def _listing(root: Path) -> list[str]:
    """All files and folders; what time and place make of packed names and sizes is left out."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@contextmanager
def _begun(
    scenario: Scenario, root: Path, model: Path, hub: FakeHub
) -> Iterator[tuple[Killable, Callable[[], None]]]:
    """The scenario's action, and what puts everything back to where it begins."""
    environment = {
        "WHISPER_NPU_HOME": str(root / "home"),
        "HF_HOME": str(root / "hf"),
        "HF_ENDPOINT": hub.endpoint,
        "TMPDIR": str(root / "tmp"),
    }
    template = root.with_name("template")
    (template / "tmp").mkdir(parents=True)
    scenario.prepare(template, model)

    def begin() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root, symlinks=True)

    begin()
    for code in scenario.before:
        with killable(code, root, environment) as other:
            assert other.run()[0] == 0
    shutil.rmtree(template)
    shutil.copytree(root, template, symlinks=True)
    with killable(scenario.code, root, environment) as action:
        yield action, begin


def _each_event(
    scenario: Scenario, root: Path, model: Path, hub: FakeHub, limit: int | None = None
) -> int:
    """Kill at each event, or at ``limit`` of them; gives how many there were."""
    with _begun(scenario, root, model, hub) as (action, begin):
        begin()
        status, total = action.run()
        assert status == 0
        expected = _listing(root)
        stale = []
        for at in range(total, 0, -1 if limit is None else -max(1, total // limit)):
            begin()
            status, events = action.run(at)
            # Threads and answers of a hub may make one event more or less.
            assert status == -signal.SIGKILL or events < at
            if scenario.whole is not None:
                scenario.whole(root)
            for probe in root.glob("hf/hub/*/tmp*"):
                # The library's, which has no lock: removed when it is older than a second.
                os.utime(probe, (1, 1))
            status, _ = action.run()
            assert status in scenario.codes, f"after a kill at event {at} of {total}"
            if _listing(root) != expected:
                stale.append((at, {*_listing(root)} ^ {*expected}))
        assert not stale
    return total


def _each_signal(
    scenario: Scenario, root: Path, model: Path, hub: FakeHub, limit: int | None = None
) -> int:
    """Terminate at each event, or at ``limit`` of them: nothing is left at once."""
    with _begun(scenario, root, model, hub) as (action, begin):
        begin()
        _, total = action.run()
        left = []
        for at in range(total, 0, -1 if limit is None else -max(1, total // limit)):
            begin()
            status, events = action.run(at, signal.SIGTERM)
            assert status == 143 or events < at, f"at event {at} of {total}"
            if scenario.whole is not None:
                scenario.whole(root)
            left += [(at, name) for name in _listing(root) if _LEFT.search(name)]
        assert not left
    return total


@pytest.mark.parametrize("name", ["convert --force", "pull --force", "kernels build --force"])
def test_a_kill_at_some_events(
    name: str, tmp_path: Path, seeded_directory: Callable[[Recipe], Path], hub: FakeHub
) -> None:
    if "build" in name:
        require_compiler()
    model = seeded_directory(Recipe("nano"))
    assert _each_event(SCENARIOS[name], tmp_path / "root", model, hub, _FEW) >= _FEW


def test_sigterm_at_some_events(
    tmp_path: Path, seeded_directory: Callable[[Recipe], Path], hub: FakeHub
) -> None:
    model = seeded_directory(Recipe("nano"))
    scenario = SCENARIOS["convert --force"]
    assert _each_signal(scenario, tmp_path / "root", model, hub, _FEW) >= _FEW


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in SCENARIOS if "build" not in name])
def test_sigterm_at_every_event(
    name: str, tmp_path: Path, seeded_directory: Callable[[Recipe], Path], hub: FakeHub
) -> None:
    model = seeded_directory(Recipe("nano"))
    _each_signal(SCENARIOS[name], tmp_path / "root", model, hub)


@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_every_event(
    name: str,
    tmp_path: Path,
    seeded_directory: Callable[[Recipe], Path],
    hub: FakeHub,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "build" in name:
        require_compiler()
    model = seeded_directory(Recipe("nano"))
    total = _each_event(SCENARIOS[name], tmp_path / "root", model, hub)
    with capsys.disabled():
        print(f"\n{name}: killed at {total} events")
