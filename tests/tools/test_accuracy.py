"""Accuracy: its cache, its numbers, its tables; no runtime is measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.support.real import speech
from tests.support.real.speech import Recording
from tools.accuracy import corpora, runner
from tools.accuracy.corpora import Corpus
from tools.accuracy.report import tables
from tools.accuracy.runner import Found, Ready, Setting, Words, measure
from tools.accuracy.systems import FLOAT32_PEERS, REFERENCE, SYSTEMS, System
from tools.accuracy.worker import compare, respond
from tools.bench.client import REPOSITORY
from tools.bench.runtime import Runtime

JFK = REPOSITORY / "samples" / "jfk.flac"


def recording(name: str, text: str = "One, two", n_files: int = 1) -> Recording:
    return Recording(name, "en", text, (JFK,) * n_files, 11.0 * n_files)


# The worker


def test_logits_are_compared() -> None:
    reference = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], np.float32))
    other = np.log(np.array([[0.2, 0.6, 0.2], [0.1, 0.8, 0.1]], np.float32)) + 3
    found = compare(other, reference)
    divergence = 0.5 * np.log(5 / 2) + 0.25 * np.log(5 / 12) + 0.25 * np.log(5 / 4)
    assert found == {"rows": 2, "same": 1, "divergence": pytest.approx(divergence, rel=1e-5)}
    with pytest.raises(ValueError, match=r"\(1, 3\), not \(2, 3\)"):
        compare(other[:1], reference)


class Fake:
    """What of a runtime is needed here."""

    def transcribe(
        self, path: Path, language: str, batch_size: int = 1, fallback: bool = True
    ) -> str:
        return f"{path} {language} {fallback}"

    def chosen(self, path: Path, language: str) -> tuple[list[int], list[int]]:
        return [1], [2, 3]

    def forced(self, path: Path, prompt: list[int], text: list[int]) -> Any:
        return np.array([[1.0, *prompt, *text]], np.float32)


def test_requests_of_a_worker(tmp_path: Path) -> None:
    fake = cast(Runtime, Fake())
    about = {"path": "a.wav", "language": "fr"}
    assert respond(fake, {"ask": "text", **about}) == {"text": "a.wav fr False"}
    tokens = respond(fake, {"ask": "tokens", **about})
    assert tokens == {"prompt": [1], "text": [2, 3]}
    file = str(tmp_path / "logits.npy")
    assert respond(fake, {"ask": "logits", **about, **tokens, "to": file}) == {}
    found = respond(fake, {"ask": "compare", **about, **tokens, "reference": file})
    assert found == {"rows": 1, "same": 1, "divergence": 0.0}


# Results are kept


class Worker:
    """Notes what it is asked; must be awake then."""

    def __init__(self, name: str, asked: list[str]) -> None:
        self._name, self._asked, self._awake = name, asked, True

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ready(self) -> str:
        return "version 1"

    def pause(self) -> None:
        self._awake = False

    def resume(self) -> None:
        self._awake = True

    def request(self, ask: str, path: str, language: str, **more: Any) -> dict[str, Any]:
        assert self._awake
        assert Path(path).is_file()
        self._asked.append(f"{self._name}: {ask}")
        if ask == "logits":
            Path(more["to"]).touch()
        if ask == "compare":
            assert Path(more["reference"]).is_file()
        answers: dict[str, dict[str, Any]] = {
            "text": {"text": "one too"},
            "tokens": {"prompt": [1], "text": [2]},
            "logits": {},
            "compare": {"rows": 2, "same": 1, "divergence": 0.5},
        }
        return answers[ask]


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def ready(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Ready]]:
    monkeypatch.setattr(Setting, "worker", lambda self, system, _: Worker(system.name, asked))
    setting = Setting(tmp_path / "cache", Path("ours"), Path("theirs"))
    with ExitStack() as stack:
        yield {
            name: Ready(System(name, "x", Path, {}), "tiny.en", "a hash", setting, stack)
            for name in (REFERENCE.name, "b")
        }


def test_what_was_found_is_not_asked_again(ready: dict[str, Ready], asked: list[str]) -> None:
    corpus = Corpus("prompts", (recording("a"), recording("b", n_files=2)), 2)
    found = measure(ready, corpus, 1)
    name = REFERENCE.name
    once = [f"{name}: text", "b: text", f"{name}: tokens", f"{name}: logits", "b: compare"]
    assert asked == 2 * once
    assert [words.found for words in found.words] == 2 * [
        {name: ["one", "too"], "b": ["one", "too"]}
    ]
    assert found.forced == {"b": {"rows": 4, "same": 2, "divergence": 1.0}}
    asked.clear()
    again = measure(ready, corpus, 2)
    assert asked == []
    assert (again.words, again.forced) == (found.words, found.forced)


def test_tokens_are_compared_in_the_first_recordings(
    ready: dict[str, Ready], asked: list[str]
) -> None:
    corpus = Corpus("prompts", (recording("a"), recording("b", n_files=2)), 1)
    assert measure(ready, corpus, 1).forced["b"]["rows"] == 2
    assert asked.count("b: text") == 2
    assert asked.count("b: compare") == 1


def test_other_audio_and_other_code_are_asked_again(
    ready: dict[str, Ready], asked: list[str]
) -> None:
    corpus = Corpus("prompts", (recording("a"),), 0)
    measure(ready, corpus, 1)
    asked.clear()
    measure(ready, Corpus("prompts", (recording("a", n_files=2),), 0), 1)
    assert asked == [f"{REFERENCE.name}: text", "b: text"]
    asked.clear()
    ready["b"].key[3] = "other code"
    measure(ready, corpus, 1)
    assert asked == ["b: text"]


def test_an_interrupted_run_gives_what_is_complete(
    ready: dict[str, Ready], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(runner.Audio):
        def __init__(self, recording: Recording, folder: Path) -> None:
            if recording.name == "second":
                raise KeyboardInterrupt
            super().__init__(recording, folder)

    monkeypatch.setattr(runner, "Audio", Interrupted)
    corpus = Corpus("prompts", (recording("first"), recording("second")), 2)
    found = measure(ready, corpus, 1)
    assert [words.recording.name for words in found.words] == ["first"]
    assert found.forced["b"]["rows"] == 2


def test_the_digest_is_of_sources(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    sources = runner.sources_digest([tmp_path])
    (tmp_path / "a.txt").write_text("2")
    assert runner.sources_digest([tmp_path]) == sources
    (tmp_path / "a.py").write_text("2")
    assert runner.sources_digest([tmp_path]) != sources


# The speech


def test_languages_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    def packs(code: str) -> tuple[Recording, ...]:
        count, n_files = (9, 50) if code == "fr" else (4, 200)
        return tuple(recording(f"{code} {i}", n_files=n_files) for i in range(count))

    monkeypatch.setattr(corpora, "packs", packs)
    monkeypatch.setattr(corpora, "sentences", lambda: (recording("sentence"),))
    assert corpora.PROMPTS == 305
    prompts, sentences = corpora.corpora("base")
    names = [each.name for each in prompts.recordings]
    assert names[:6] == ["en 0", "es 0", "fr 0", "it 0", "ru 0", "en 1"]
    # As many as hold 305: two of 200, seven of 50.
    assert [sum(name.startswith(code) for name in names) for code in speech.LANGUAGES] == [
        2, 2, 7, 2, 2
    ]  # fmt: skip
    assert (prompts.forced, sentences.forced) == (corpora.FORCED, 0)
    assert [each.name for each in corpora.corpora("tiny.en")[0].recordings][-1] == "en 3"


def test_systems_have_names_of_their_own() -> None:
    assert len({system.name for system in SYSTEMS}) == len(SYSTEMS) == 6
    assert [json.dumps(dict(system.options)) for system in SYSTEMS if system.ours] == [
        '{"precision": "float32", "cpu_kernels": false}',
        '{"precision": "float32", "cpu_kernels": true}',
        '{"precision": "int8", "cpu_kernels": true}',
    ]


# The tables


def words_of(name: str, reference: str, **found: str) -> Words:
    return Words(recording(name), reference.split(), {k: v.split() for k, v in found.items()})


def test_tables_of_what_was_found() -> None:
    first, second = (peer.name for peer in FLOAT32_PEERS)
    texts = {REFERENCE.name: "a b c d", first: "a b c x", second: "a b c y"}
    same = "e f g h i j"
    found = Found(
        Corpus("prompts", (), 1),
        [
            words_of("a", "a b c d", **texts),
            words_of("b", same, **dict.fromkeys(texts, same)),
        ],
        {first: {"rows": 8, "same": 6, "divergence": 0.4}},
    )
    lines = list(tables(found))
    assert lines[0] == (
        "prompts (en): 2 recordings in 2 of at most a window, 0 minutes, 10 words; "
        "of the first 1 of these 8 tokens:"
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:-2]]
    assert rows == [
        [REFERENCE.name, "0.00 %", "-", "-", "-", "-"],
        [first, "10.00 %", "+10.00 [+0.00, +25.00]", "10.00 %", "75.00 %", "5.0e-02"],
        [second, "10.00 %", "+10.00 [+0.00, +25.00]", "10.00 %", "-", "-"],
    ]
    assert lines[-1] == f"Between {first} and {second}: 10.00 % of the words."


def test_a_table_without_tokens_has_no_columns_for_them() -> None:
    found = Found(Corpus("LibriVox", (), 0), [words_of("a", "a b", **{REFERENCE.name: "a b"})])
    lines = list(tables(found))
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "",
        "word errors",
        "to our float32, points",
        "words changed",
    ]
    assert len(lines) == 5
    assert list(tables(Found(Corpus("nothing", (), 0)))) == []
