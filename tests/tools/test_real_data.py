"""What the cache of real weights and speech promises, without fetching any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.real import data, speech

PACKAGES = {"sounds-en": {"version": "1-1", "sha256": "0" * 64}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(data.ENVIRONMENT, str(tmp_path / "cache"))
    return tmp_path / "cache"


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.suffix != ".lock")


def test_half_done_work_is_not_there(cache: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "first").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.made_folder("models/one", broken)
    assert contents(cache) == ["models"]
    made = data.made_folder("models/one", lambda folder: (folder / "first").touch())
    assert contents(cache) == ["first", "models", "one"]
    # What is there is not made again.
    assert data.made_folder("models/one", broken) == made == cache / "models" / "one"


def test_speech_of_another_hash(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned, tools = tmp_path / "speech.json", tmp_path / "tools"
    pinned.write_text(json.dumps({"suite": "any", "packages": PACKAGES}))
    tools.mkdir()
    script = tools / "debian_packages"
    script.write_text('#!/bin/sh\necho "$2" "$3" >"$1/sounds-en_1-1_all.deb"\n')
    script.chmod(0o755)
    monkeypatch.setattr(data, "REPOSITORY", tmp_path)
    monkeypatch.setattr(data, "_SPEECH", pinned)
    with pytest.raises(ValueError, match=r"sounds-en_1-1_all\.deb: sha256 is 4ada.*, not 0000"):
        data.speech_folder()
    assert contents(cache) == []


def prompt(seconds: float) -> speech.Recording:
    return speech.Recording("", "en", "", (), seconds)


def test_packs_are_full_and_no_longer_than_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [20, 6.5, 0.1, 27, 27.1, 13, 13]
    monkeypatch.setattr(speech, "prompts", lambda language: tuple(map(prompt, lengths)))
    packs = speech.packs("en")
    assert [pack.seconds for pack in packs] == pytest.approx([27, 0.1, 27, 26.5])
    assert [pack.name for pack in packs] == [f"en/pack {i}" for i in range(4)]


@pytest.mark.parametrize("text", ["[ascending tones]", "<beep>", "(beep)", "a [tone]"])
def test_what_is_no_speech(text: str) -> None:
    assert speech._SOUND.match(text)
    assert not speech._SOUND.match("(Press) one")
